"""How a reader process answers: commits, folders, files, differences and losses, as far as limits allow.

All of it runs in `mirror.git.reader`, a process that has nothing to lose: content that
is written to be a bomb costs only that process and the person who asked. Objects are
checked by header first; git is started for walks, as a child with even less memory.
"""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import pygit2

from mirror.core import refs
from mirror.core.errors import Corrupt, LimitReached, TooLarge
from mirror.core.formats import objects
from mirror.core.formats.objects import (
    FOLDER,
    SUBMODULE,
    Changes,
    Commit,
    Entry,
    FileChange,
    Hunk,
    Line,
    Sign,
)
from mirror.core.model import ObjectFormat, RefName, Target
from mirror.git import read
from mirror.git.read import COMMIT, TAG, Objects, opened, peeled, too_large
from mirror.git.reader.questions import (
    FILES,
    LINES,
    SECONDS,
    Ancestry,
    Between,
    ChangesBetween,
    CommitAndChanges,
    CommitsOf,
    Content,
    FileAt,
    FolderAt,
    FoundRefs,
    Log,
    Losses,
    LostThere,
    ObjectAsItIs,
    WhatIsLost,
    WhatLies,
    Whole,
)
from mirror.git.run import GitFailed, explain, redact
from mirror.git.tree import entries
from mirror.git.view import config_text

TREE: Final = 2  # object types as packs number them: gitformat-pack(5)
BLOB: Final = 3
KINDS: Final = {COMMIT: "commit", TREE: "tree", BLOB: "blob", TAG: "tag"}

DEEP: Final = 1000  # folders in folders
COMMIT_BYTES: Final = 1 << 20  # of a commit or tag, whose message may be beyond
TREE_BYTES: Final = 8 << 20  # of one folder's tree
TREES_BYTES: Final = 64 << 20  # of the folders that one question reads
TREES: Final = 50_000  # folders read for one comparison
FILES_COUNTED: Final = 20_000
AHEAD: Final = 100_000  # folders that a comparison has still to read
FILE_BYTES: Final = 512 << 10  # of a file whose lines are compared
SHOWN_BYTES: Final = 2 << 20  # of the lines that one comparison shows
LINE_BYTES: Final = 5_000  # shown of a line
NAMES_BYTES: Final = 512 << 10  # of the names that one folder or comparison shows
SUMMARY: Final = 1_000  # characters of a message's first paragraph, where commits are listed
BODY: Final = 8_000  # characters of the rest of it
LOST_AT_MOST: Final = 200_000  # commits told of one walk
GIT_BYTES: Final = 128 << 20  # of memory that git has for a walk
TOLD_BYTES: Final = 64 << 20  # that git says of one walk

_CONTEXT: Final = 3  # lines around a change


class OpenedRepository:
    """A view, as a reader reads it."""

    def __init__(self, path: str, git: str) -> None:
        self.path = Path(path)
        self.git = git  # the program
        self.object_format: ObjectFormat = (
            "sha256" if (self.path / "config").read_text() == config_text("sha256") else "sha1"
        )

    @contextmanager
    def walk(
        self, *args: str | bytes, stdin: bytes = b"", seconds: float | None = None
    ) -> Iterator[IO[bytes]]:
        """What git says, to be read as it comes. Raises LimitReached where it takes more than it may."""
        child = subprocess.Popen(
            [self.git, f"--git-dir={self.path}", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdin and child.stdout and child.stderr
        with child:
            try:
                resource.prlimit(child.pid, resource.RLIMIT_DATA, (GIT_BYTES, GIT_BYTES))
                if seconds is not None:
                    left = max(1, round(seconds))
                    resource.prlimit(child.pid, resource.RLIMIT_CPU, (left, left))
                with suppress(BrokenPipeError):
                    child.stdin.write(stdin)
                    child.stdin.close()
                yield child.stdout
                child.stdout.close()
                words = child.stderr.read(1 << 16)
                code = child.wait()
            finally:
                child.kill()
        if code in (0, -signal.SIGPIPE):
            return
        error = explain(GitFailed(os.fsdecode(args[0]), code, redact(words, [])))
        if code < 0 or isinstance(error, LimitReached):
            raise LimitReached("something in this history is too large to be read here")
        raise error


def commit_of(held: Objects, oid: Target) -> Commit | None:
    """The commit of this id, or that the tag of this id comes to; None: there is none here."""
    found = peeled(held, oid)
    return objects.commit(found, read.head(held, found, COMMIT_BYTES)) if found else None


def _if_small(held: Objects, oid: Target) -> Commit | None:
    """The same where many are asked for: a too large one leaves the others be, long messages are cut."""
    with suppress(TooLarge):
        one = commit_of(held, oid)
        return one and replace(one, summary=one.summary[:SUMMARY], body=one.body[:BODY])
    return None


def tree_of(held: Objects, oid: Target) -> Target | None:
    """The tree of a commit, of a tag, or this tree itself; None: there is none here."""
    for _ in range(DEEP):
        kind = held.kind(oid)
        if kind not in (COMMIT, TAG):
            return oid if kind == TREE else None
        begins = held.beginning(oid, 200)
        step = objects.tree_of(begins) if kind == COMMIT else objects.tagged(begins)
        if step is None:
            return None
        oid = step
    return None


class Folders:
    """The folders that one question reads, as many as it may."""

    def __init__(self, held: Objects, object_format: ObjectFormat) -> None:
        self.held = held
        self.left = TREES_BYTES
        self._format = object_format

    def folder(self, tree: Target) -> list[Entry]:
        """The lines of a tree. Raises Corrupt when it is not held, TooLarge when it is too large."""
        size = self.held.size(tree) or 0
        if size > TREE_BYTES:
            raise too_large(tree, size, TREE_BYTES)
        self.left -= size
        if self.left < 0:
            raise LimitReached("the folders here are too large to be read one after the other")
        found = self.held.read(tree)
        if found is None or found[0] != TREE:
            raise Corrupt(f"the folder {tree.decode()} is missing from the backup")
        return list(entries(found[1], self._format))

    def find(self, tree: Target, path: bytes) -> Entry | None:
        """What is at this path below a tree; the tree itself where the path is empty. None: nothing is."""
        entry = Entry(b"", "folder", FOLDER, tree)
        names = [name for name in path.split(b"/") if name]
        if len(names) > DEEP:
            return None
        for name in names:
            if entry.kind != "folder":
                return None
            found = next((one for one in self.folder(entry.oid) if one.name == name), None)
            if found is None:
                return None
            entry = found
        return entry

    def at(self, oid: Target, path: bytes) -> Entry | None:
        """What is at this path of a commit, tag or tree."""
        root = tree_of(self.held, oid)
        return self.find(root, path) if root else None


def commits_of(there: OpenedRepository, asked: CommitsOf) -> dict[Target, Commit]:
    """Answer CommitsOf."""
    with opened(there.path) as held:
        return {oid: one for oid in asked.oids if (one := _if_small(held, oid))}


def log(there: OpenedRepository, asked: Log) -> tuple[Commit, ...] | None:
    """Answer Log."""
    with opened(there.path) as held:
        tip = commit_of(held, asked.start)
        if tip is None:
            return None
        args: list[str | bytes] = [
            "rev-list",
            f"--max-count={asked.limit}",
            f"--skip={asked.skip}",
            "--end-of-options",
            tip.oid,
            "--",
            *([asked.path] if asked.path else []),
        ]
        with there.walk(*args) as said:
            ids = [Target(line) for line in said.read(1 << 20).splitlines()]
        return tuple(one for oid in ids if (one := _if_small(held, oid)))


def commit_and_changes(there: OpenedRepository, asked: CommitAndChanges) -> tuple[Commit, Changes] | None:
    """Answer CommitAndChanges."""
    with opened(there.path) as held:
        one = commit_of(held, asked.oid)
        if one is None:
            return None
        before = tree_of(held, one.parents[0]) if one.parents else None
        return one, _changes(there, held, before, one.tree)


def changes_between(there: OpenedRepository, asked: ChangesBetween) -> Changes:
    """Answer ChangesBetween."""
    with opened(there.path) as held:
        ends = [tree_of(held, oid) if oid else None for oid in (asked.old, asked.new)]
        return _changes(
            there, held, *ends, path=asked.path, files=asked.files, lines=asked.lines, seconds=asked.patience
        )


def folder_at(there: OpenedRepository, asked: FolderAt) -> FoundRefs | None:
    """Answer FolderAt."""
    with opened(there.path) as held:
        folders = Folders(held, there.object_format)
        entry = folders.at(asked.oid, asked.path)
        if entry is None or entry.kind != "folder":
            return FoundRefs(entry) if entry else None
        found = sorted(folders.folder(entry.oid), key=lambda one: (one.kind != "folder", one.name))
        count = _as_many((one.name for one in found), asked.limit)
        return FoundRefs(entry, tuple(_sized(held, one) for one in found[:count]), len(found))


def _as_many(names: Iterable[bytes], limit: int) -> int:
    """How many of these are shown: so many at most, and no more of names than a page bears."""
    left = NAMES_BYTES
    count = 0
    for name in names:
        left -= len(name)
        if count == limit or left < 0:
            break
        count += 1
    return count


def _sized(held: Objects, entry: Entry) -> Entry:
    if entry.kind in ("folder", "submodule"):
        return entry
    return replace(entry, size=held.size(entry.oid))


def file_at(there: OpenedRepository, asked: FileAt) -> Content | None:
    """Answer FileAt."""
    with opened(there.path) as held:
        entry = Folders(held, there.object_format).at(asked.oid, asked.path)
        if entry is None or entry.kind in ("folder", "submodule"):
            return Content(entry, None) if entry else None
        size = held.size(entry.oid)
        if size is None or (size > asked.limit and not asked.is_text):
            return Content(entry, size)
        data = _beginning(there, held, entry.oid, asked.limit)
    if not asked.is_text:
        return Content(entry, size, data)
    text, encoding = objects.text_of(data) or (None, None)
    lfs = objects.lfs_pointer(data) if len(data) == size else None
    return Content(entry, size, data, text, encoding, lfs)


def _beginning(there: OpenedRepository, held: Objects, oid: Target, limit: int) -> bytes:
    """A file's beginning, also of one that is too large to be read."""
    try:
        return held.beginning(oid, limit)
    except TooLarge:
        with there.walk("cat-file", "blob", oid) as said:  # it is a difference: git may have the memory
            return said.read(limit)


def object_as_it_is(there: OpenedRepository, asked: ObjectAsItIs) -> Whole | None:
    """Answer ObjectAsItIs."""
    with opened(there.path) as held:
        kind, size = held.kind(asked.oid), held.size(asked.oid)
        if kind is None or size is None:
            return None
        found = held.read(asked.oid) if size <= asked.limit else None
        return Whole(KINDS[kind], size, found[1] if found else b"")


def ancestry(there: OpenedRepository, asked: Ancestry) -> tuple[frozenset[RefName], frozenset[RefName]]:
    """Answer Ancestry."""
    found = read.judge(there.path, asked.moves)
    return found.forward, found.commits


def what_lies(there: OpenedRepository, asked: WhatLies) -> tuple[Between, ...]:
    """Answer WhatLies."""
    deadline = time.monotonic() + asked.patience
    found = []
    with opened(there.path) as held:
        for move in asked.moves:
            old, new = (_if_small(held, one) if one and not refs.is_symbolic(one) else None for one in move)
            between = Between(old, new, None, None)
            if old and new and (left := deadline - time.monotonic()) > 0:
                with suppress(LimitReached):
                    between = _between(there, held, old, new, asked, left)
            elif new and not move[0] and asked.held and (left := deadline - time.monotonic()) > 0:
                with suppress(LimitReached):
                    between = _created(there, held, new, asked, left)
            found.append(between)
    return tuple(found)


def _between(
    there: OpenedRepository, held: Objects, old: Commit, new: Commit, asked: WhatLies, seconds: float
) -> Between:
    """What lies between two commits that are held."""
    lost, gained = _count_apart(there, old.oid, new.oid, seconds)
    dropped = _newest(there, held, old.oid, new.oid, asked.shown, seconds) if lost and asked.shown else ()
    brought = _newest(there, held, new.oid, old.oid, asked.shown, seconds) if gained and asked.shown else ()
    base = _common(there, held, old.oid, new.oid, seconds) if asked.base else None
    return Between(old, new, lost, gained, dropped, brought, base)


def _created(there: OpenedRepository, held: Objects, new: Commit, asked: WhatLies, seconds: float) -> Between:
    """What a new ref at this commit brings beside `asked.held`, of which some may not be here."""
    without = b"".join(b"^%b\n" % oid for oid in asked.held)
    args = ("rev-list", f"--max-count={LOST_AT_MOST}", "--ignore-missing", "--stdin")
    ids: list[Target] = []
    number = 0
    with there.walk(*args, stdin=b"%b\n%b" % (new.oid, without), seconds=seconds) as said:
        for line in said:
            number += 1
            if len(ids) < asked.shown:
                ids.append(Target(line.strip()))
    return Between(None, new, None, number, (), tuple(one for oid in ids if (one := _if_small(held, oid))))


def _newest(
    there: OpenedRepository, held: Objects, tip: Target, other: Target, limit: int, seconds: float
) -> tuple[Commit, ...]:
    """The newest commits that `tip` reaches and `other` does not."""
    args = ("rev-list", f"--max-count={limit}", "--stdin")
    with there.walk(*args, stdin=b"%b\n^%b\n" % (tip, other), seconds=seconds) as said:
        ids = [Target(line) for line in said.read(1 << 20).splitlines()]
    return tuple(one for oid in ids if (one := _if_small(held, oid)))


def _common(
    there: OpenedRepository, held: Objects, old: Target, new: Target, seconds: float
) -> Commit | None:
    """The newest commit that both reach. None: their histories have nothing in common."""
    try:
        with there.walk("merge-base", "--end-of-options", old, new, seconds=seconds) as said:
            oid = said.read(100).strip()
    except GitFailed:  # it says nothing and ends with 1 where there is none: git-merge-base(1)
        return None
    return _if_small(held, Target(oid)) if oid else None


def _count_apart(there: OpenedRepository, old: Target, new: Target, seconds: float) -> tuple[int, int]:
    """How many commits only the old one reaches, and how many only the new one does."""
    args = ("rev-list", "--count", "--left-right", "--stdin")
    with there.walk(*args, stdin=b"%b...%b\n" % (old, new), seconds=seconds) as said:
        left, _, right = said.read(100).strip().partition(b"\t")
    return int(left or 0), int(right or 0)


@dataclass(frozen=True, slots=True)
class _Apart:
    """The commits that some ids reach and others do not."""

    parents: dict[Target, tuple[Target, ...]]  # by commit, newest first; parents outside are left out
    whole: bool  # False: there are more than could be told


def _apart(there: OpenedRepository, tips: Iterable[Target], held: Iterable[Target]) -> _Apart:
    """The commits that `tips` reach and `held` do not, as `git rev-list TIPS --not HELD` tells them."""
    asked = b"".join([b"%b\n" % tip for tip in tips] + [b"^%b\n" % tip for tip in held])
    args = ("rev-list", "--parents", f"--max-count={LOST_AT_MOST + 1}", "--ignore-missing", "--stdin")
    parents: dict[Target, tuple[Target, ...]] = {}
    known: dict[bytes, Target] = {}  # each id is kept once
    told = 0
    with there.walk(*args, stdin=asked) as said:
        while line := said.readline(TOLD_BYTES):
            told += len(line)
            if len(parents) == LOST_AT_MOST or told >= TOLD_BYTES:
                return _Apart(parents, False)
            first, *rest = (known.setdefault(oid, Target(oid)) for oid in line.split())
            parents[first] = tuple(rest)
    return _Apart(parents, True)


def what_is_lost(there: OpenedRepository, asked: WhatIsLost) -> Losses:
    """Answer WhatIsLost."""
    with opened(there.path) as held:
        tips = {old: tip for old in dict.fromkeys(asked.olds) if (tip := peeled(held, old))}
        apart = _apart(there, set(tips.values()), asked.held) if tips else _Apart({}, True)
        rank = {oid: place for place, oid in enumerate(apart.parents)}
        lost = frozenset(old for old, tip in tips.items() if tip in rank)
        told: dict[Target, LostThere] = {}
        for old in [one for one in asked.told if one in lost][: asked.limit]:
            if old not in told:
                reach = _reach(apart, rank, tips[old])
                newest = (_if_small(held, oid) for oid in reach[: asked.shown])
                told[old] = LostThere(tips[old], len(reach), tuple(one for one in newest if one))
    return Losses(lost, told, len(rank), apart.whole)


def _reach(apart: _Apart, rank: dict[Target, int], tip: Target) -> list[Target]:
    """The lost commits that this one reaches, itself among them, newest first."""
    reached = {tip}
    ahead = [tip]
    while ahead:
        for parent in apart.parents[ahead.pop()]:
            if parent in rank and parent not in reached:
                reached.add(parent)
                ahead.append(parent)
    return sorted(reached, key=rank.__getitem__)


def _changes(
    there: OpenedRepository,
    held: Objects,
    old: Target | None,
    new: Target | None,
    *,
    path: bytes = b"",
    files: int = FILES,
    lines: int = LINES,
    seconds: float = SECONDS,
) -> Changes:
    """What differs between two trees (None: the empty one), at or below `path` where one is given.

    The files are all counted, as far as time and the limits above allow; of the
    first `files` the lines are compared.
    """
    deadline = time.monotonic() + seconds
    walk = _Comparison(held, there.object_format, deadline)
    if path:
        walk.entries(path, *(walk.folders.find(tree, path) if tree else None for tree in (old, new)))
    else:
        walk.trees(b"", old, new)
    found = _with_renames(walk.found)
    left = _Left(lines, SHOWN_BYTES)
    shown = found[: _as_many((one.path for one in found), files)]
    return Changes(tuple(_with_lines(held, one, left, deadline) for one in shown), len(found), walk.whole)


@dataclass(slots=True)
class _Left:
    """What a comparison may still show."""

    lines: int
    bytes: int


class _Comparison:
    """A walk through two trees at once, into what differs only."""

    def __init__(self, held: Objects, object_format: ObjectFormat, deadline: float) -> None:
        self.found: list[FileChange] = []
        self.whole = True
        self.folders = Folders(held, object_format)
        self._deadline = deadline
        self._read = 0

    def trees(self, prefix: bytes, old: Target | None, new: Target | None) -> None:
        """What differs below two folders of one path."""
        ahead = [(prefix, old, new)]  # a list, as trees can be deeper than Python's stack
        while ahead:
            prefix, old, new = ahead.pop()
            try:
                before, after = self._folder(old), self._folder(new)
            except LimitReached:  # this one is too large, or all of them are
                self.whole = False
                if self.folders.left < 0:
                    return
                continue
            for name in sorted(before.keys() | after.keys()):
                if self._is_over() or len(ahead) > AHEAD:
                    self.whole = False
                    return
                ahead += self._pair(prefix + name, before.get(name), after.get(name))

    def entries(self, path: bytes, old: Entry | None, new: Entry | None) -> None:
        """What differs between what two trees have at one path."""
        for below, before, after in self._pair(path, old, new):
            self.trees(below, before, after)

    def _pair(
        self, path: bytes, old: Entry | None, new: Entry | None
    ) -> list[tuple[bytes, Target | None, Target | None]]:
        """Note what differs; the folders to go on with."""
        if old and new and (old.oid, old.mode) == (new.oid, new.mode):
            return []
        old_folder = old.oid if old and old.kind == "folder" else None
        new_folder = new.oid if new and new.kind == "folder" else None
        old_file = old if not old_folder else None
        new_file = new if not new_folder else None
        if old_file or new_file:
            self.found.append(_change(path, old_file, new_file))
        if old_folder == new_folder:
            return []
        return [(path + b"/", old_folder, new_folder)]

    def _folder(self, tree: Target | None) -> dict[bytes, Entry]:
        if tree is None:
            return {}
        self._read += 1
        return {entry.name: entry for entry in self.folders.folder(tree)}

    def _is_over(self) -> bool:
        return self._read >= TREES or len(self.found) >= FILES_COUNTED or time.monotonic() > self._deadline


def _change(path: bytes, old: Entry | None, new: Entry | None) -> FileChange:
    return FileChange(
        path=path,
        status="modified" if old and new else "added" if new else "deleted",
        old_path=path if old else None,
        old_mode=old.mode if old else None,
        new_mode=new.mode if new else None,
        old_oid=old.oid if old else None,
        new_oid=new.oid if new else None,
    )


def _with_renames(found: Sequence[FileChange]) -> list[FileChange]:
    """In the order of paths; a file that went and came with the same content is one that was renamed."""
    gone: dict[Target, list[FileChange]] = {}
    for one in found:
        if one.status == "deleted" and one.old_oid:
            gone.setdefault(one.old_oid, []).append(one)
    kept, used = [], set()
    for one in found:
        if one.status == "added" and one.new_oid and gone.get(one.new_oid):
            before = gone[one.new_oid].pop(0)
            used.add(before.path)
            one = replace(
                one,
                status="renamed",
                old_path=before.path,
                old_mode=before.old_mode,
                old_oid=before.old_oid,
            )
        kept.append(one)
    return sorted(
        (one for one in kept if not (one.status == "deleted" and one.path in used)), key=lambda one: one.path
    )


def _blobs(change: FileChange) -> list[Target]:
    """The objects whose lines are to be compared."""
    if change.old_oid == change.new_oid:
        return []
    ends = ((change.old_oid, change.old_mode), (change.new_oid, change.new_mode))
    return [oid for oid, mode in ends if oid and mode and mode & 0o170000 != SUBMODULE]


def _with_lines(held: Objects, change: FileChange, left: _Left, deadline: float) -> FileChange:
    """The same change with its lines, as far as the limits allow."""
    known = [held.size(oid) for oid in _blobs(change)]
    if change.old_oid == change.new_oid:
        return replace(change, additions=0, deletions=0)
    if any(size is None for size in known):
        return replace(change, why="its content is missing from the backup")
    if any(size and size > FILE_BYTES for size in known):
        return replace(change, why="it is too large for its lines to be compared here")
    if time.monotonic() > deadline:
        return replace(change, why="there is too much here to compare it")
    old = _bytes_of(held, change.old_oid, change.old_mode)
    new = _bytes_of(held, change.new_oid, change.new_mode)
    if objects.is_binary(old) or objects.is_binary(new):
        return replace(change, binary=True)
    try:
        patch = pygit2.Patch.create_from(old, new, context_lines=_CONTEXT)
        _, additions, deletions = patch.line_stats
        told = [_hunk(hunk) for hunk in patch.hunks] if min(left.lines, left.bytes) > 0 else []
    except (pygit2.GitError, ValueError) as error:
        raise Corrupt(f"a file cannot be compared: {error}") from None
    shown, why = _bounded(told, left)
    if not told and (additions or deletions):
        why = "it has too many lines to show here"
    return replace(change, additions=additions, deletions=deletions, hunks=shown, why=why)


def _bytes_of(held: Objects, oid: Target | None, mode: int | None) -> bytes:
    if oid is None or mode is None:
        return b""
    if mode & 0o170000 == SUBMODULE:
        return b"Subproject commit %b\n" % oid  # as git shows it
    found = held.read(oid)
    return found[1] if found else b""


def _hunk(hunk: pygit2.DiffHunk) -> Hunk:
    lines: list[Line] = []
    for line in hunk.lines:
        if line.origin in "<>=":  # git's remark that the line before ends the file
            if lines:
                lines[-1] = replace(lines[-1], ends=False)
            continue
        text = line.raw_content.removesuffix(b"\n")
        sign: Sign = "+" if line.origin == "+" else "-" if line.origin == "-" else " "
        old = line.old_lineno if line.old_lineno > 0 else None
        new = line.new_lineno if line.new_lineno > 0 else None
        lines.append(Line(sign, old, new, text))
    return Hunk(hunk.old_start, hunk.old_lines, hunk.new_start, hunk.new_lines, tuple(lines))


def _bounded(hunks: Sequence[Hunk], left: _Left) -> tuple[tuple[Hunk, ...], str | None]:
    """As many lines of these as may still be shown, each at most so long; and why it is not all of them."""
    kept: list[Hunk] = []
    why = None
    for hunk in hunks:
        lines: list[Line] = []
        for line in hunk.lines:
            if left.lines <= 0 or left.bytes <= 0:
                break
            if len(line.text) > LINE_BYTES:
                why = why or "its long lines are shortened here"
                line = replace(line, text=line.text[:LINE_BYTES])
            lines.append(line)
            left.lines -= 1
            left.bytes -= len(line.text)
        if lines:
            kept.append(replace(hunk, lines=tuple(lines)))
        if len(lines) < len(hunk.lines):
            return tuple(kept), "it has too many lines to show them all here"
    return tuple(kept), why
