"""Looks into a moment: commits, folders, files and what differs, read from the pool without a checkout.

Packs are read by pygit2 (sha256: dulwich) in threads; git is started only for
walks that it bounds better than we would. Nothing here holds the pool's lock: a
reader links the packs into a view of its own, which no sync can pull away.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import pygit2

from mirror import objects
from mirror.errors import Busy, Corrupt, LimitReached
from mirror.git.disk import disk_error, finish
from mirror.git.pool import MARK, Pool
from mirror.git.read import COMMIT, TAG, Objects, opened, peeled
from mirror.git.run import CHUNK, Git, GitFailed, explain
from mirror.git.view import View, scratch_view
from mirror.model import ObjectFormat, Target
from mirror.objects import FOLDER, SUBMODULE, Changes, Commit, Entry, FileChange, Hunk, Line, Sign

T = TypeVar("T")
Mark = tuple[int, int, str]  # epoch, snapshot, its manifest's SHA-256: see Pool.mark
Stamp = tuple[int, int]  # which mark file it is

TREE: Final = 2  # object types as packs number them: gitformat-pack(5)
BLOB: Final = 3

DEEP: Final = 1000  # folders in folders
TREE_BYTES: Final = 64 << 20  # of one folder's tree
TREES: Final = 50_000  # folders read for one comparison
FILES_COUNTED: Final = 20_000
FILES: Final = 300  # whose lines are compared
FILE_BYTES: Final = 512 << 10  # of a file whose lines are compared
LINES: Final = 10_000  # shown of one comparison
LINE_BYTES: Final = 5_000  # shown of a line
SECONDS: Final = 5.0  # for one comparison
WALK_SECONDS: Final = 20.0  # for one walk of git's
LOST_AT_MOST: Final = 200_000  # commits told of one walk

_ABANDONED: Final = 6 * 3600.0  # seconds after which a view is what a killed process left
_TRIES: Final = 40
_LOOK: Final = 0.025  # seconds between two of them
_CONTEXT: Final = 3  # lines around a change


@asynccontextmanager
async def reading(pool: Pool, room: Path) -> AsyncIterator[tuple[View, Mark | None]]:
    """A view of the pool's packs as they are now, and the pool's mark, which it holds at least.

    The packs are hard links. A sync may grow, repack or empty the pool meanwhile.
    Without a mark nobody knows what is in the pool, and the view is empty.
    Raises Busy when the pool changes faster than it can be looked at.
    """
    async with scratch_view(None, room, object_format=pool.object_format) as view:
        for _ in range(_TRIES):
            mark = await _mark(pool)
            if mark is None:
                yield view, None
                return
            try:
                settled = await finish(lambda: _link(pool.path, view.objects / "pack"))
            except OSError as error:
                raise disk_error(room, error) from None
            if settled and await _mark(pool) == mark:
                yield view, mark
                return
            await asyncio.sleep(_LOOK)
        raise Busy(f"{pool.path.name} is changing right now; look again in a moment")


_marks: dict[Path, tuple[Stamp, Mark]] = {}


async def _mark(pool: Pool) -> Mark | None:
    """The pool's mark. After a restart of the machine all packs are read for it: once, not for each page."""
    stamp = await finish(lambda: _stamp(pool.path))
    if stamp is None:
        return None
    known = _marks.get(pool.path)
    if known and known[0] == stamp:
        return known[1]
    mark = await pool.mark()
    if mark and await finish(lambda: _stamp(pool.path)) == stamp:
        _marks[pool.path] = stamp, mark
    return mark


async def sweep(room: Path) -> None:
    """Remove the views of processes that were killed long ago."""
    await finish(lambda: _sweep(room))


def _sweep(room: Path) -> None:
    try:
        with os.scandir(room) as found:
            old = [one.path for one in found if one.stat().st_mtime < time.time() - _ABANDONED]
    except OSError:
        return
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def _link(pool: Path, here: Path) -> bool:
    """Link every pack that is there and not yet here; tells if the pool stayed as it is meanwhile."""
    packs = pool / "objects/pack"
    Pool.note_use(pool)
    stamp, before = _stamp(pool), _indexes(packs)
    for stem in before:
        for suffix in (".pack", ".idx"):  # the index last, as when they arrive
            try:
                os.link(packs / (stem + suffix), here / (stem + suffix))
            except FileExistsError:
                pass
            except FileNotFoundError:
                return False
    return stamp is not None and stamp == _stamp(pool) and before == _indexes(packs)


def _stamp(pool: Path) -> Stamp | None:
    """Which mark this is: a pool that was emptied and filled again gets a new one, also of the same words."""
    try:
        found = os.stat(pool / MARK)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


async def packs(view: View) -> set[str]:
    """The names of the packs that a view has, without their endings."""
    return await finish(lambda: _indexes(view.objects / "pack"))


def _indexes(packs: Path) -> set[str]:
    try:
        return {name[:-4] for name in os.listdir(packs) if name.startswith("pack-") and name.endswith(".idx")}
    except FileNotFoundError:
        return set()


async def look(view: View, ask: Callable[[Objects], T]) -> T:
    """Ask the objects of a view, in a thread."""

    def asked() -> T:
        with opened(view.path) as objects_:
            return ask(objects_)

    return await finish(asked)


def commit_of(held: Objects, oid: Target) -> Commit | None:
    """The commit of this id, or that the tag of this id comes to; None: there is none here."""
    found = peeled(held, oid)
    content = held.read(found) if found else None
    return objects.commit(found, content[1]) if found and content else None


def tree_of(held: Objects, oid: Target) -> Target | None:
    """The tree of a commit, of a tag, or this tree itself; None: there is none here."""
    for _ in range(DEEP):
        found = held.read(oid) if held.kind(oid) in (COMMIT, TAG) else None
        if found is None:
            return oid if held.kind(oid) == TREE else None
        step = objects.tree_of(found[1]) if found[0] == COMMIT else objects.tagged(found[1])
        if step is None:
            return None
        oid = step
    return None


def folder(held: Objects, tree: Target, object_format: ObjectFormat) -> list[Entry]:
    """The lines of a tree. Raises Corrupt when it is not held, LimitReached when it is too large."""
    size = held.size(tree)
    if size is not None and size > TREE_BYTES:
        raise LimitReached(f"the folder {tree.decode()} has {size} bytes of names, too many to show")
    found = held.read(tree)
    if found is None or found[0] != TREE:
        raise Corrupt(f"the folder {tree.decode()} is missing from what is kept")
    return list(objects.entries(found[1], object_format))


def find(held: Objects, tree: Target, path: bytes, object_format: ObjectFormat) -> Entry | None:
    """What is at this path below a tree; the tree itself where the path is empty. None: nothing is."""
    entry = Entry(b"", "folder", FOLDER, tree)
    names = [name for name in path.split(b"/") if name]
    if len(names) > DEEP:
        return None
    for name in names:
        if entry.kind != "folder":
            return None
        below = (one for one in folder(held, entry.oid, object_format) if one.name == name)
        found = next(below, None)
        if found is None:
            return None
        entry = found
    return entry


async def sizes(git: Git, view: View, ids: Collection[Target]) -> dict[Target, int]:
    """How large these objects are; what is not held is left out. No content is read."""
    if view.object_format == "sha1":
        return await look(view, lambda held: {oid: n for oid in ids if (n := held.size(oid)) is not None})
    if not ids:
        return {}
    asked = b"".join(oid + b"\n" for oid in ids)
    said = await _run(git, view, "cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked)
    lines = [line.split(b" ") for line in said.splitlines()]
    return {Target(line[0]): int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


async def stream(git: Git, view: View, blob: Target) -> AsyncGenerator[bytes, None]:
    """A file's content in chunks, whatever its size."""
    try:
        async with git.process(
            "cat-file", "blob", blob, git_dir=str(view.path), stdin=False, timeout=_ABANDONED
        ) as child:
            async for chunk in child.stdout:
                yield chunk
    except GitFailed as failed:
        raise explain(failed) from None


async def content(git: Git, view: View, blob: Target, limit: int) -> bytes:
    """At most so many bytes of a file's beginning."""
    size = (await sizes(git, view, [blob])).get(blob, 0)
    if size <= max(limit, CHUNK):
        found = await look(view, lambda held: held.read(blob))
        return found[1][:limit] if found else b""
    data = bytearray()
    try:
        async with git.process(
            "cat-file", "blob", blob, git_dir=str(view.path), stdin=False, timeout=WALK_SECONDS
        ) as child:
            while len(data) < limit and (chunk := await child.stdout.read()):
                data += chunk
            child.kill()
    except GitFailed as failed:
        if len(data) < limit:
            raise explain(failed) from None
    return bytes(data[:limit])


async def commits(
    git: Git, view: View, start: Target, *, path: bytes = b"", skip: int = 0, limit: int = 50
) -> list[Commit]:
    """The commits from here backwards, those that changed `path` only where one is given."""
    args: list[str | bytes] = [
        "rev-list",
        f"--max-count={limit}",
        f"--skip={skip}",
        "--end-of-options",
        start,
        "--",
        *([path] if path else []),
    ]
    ids = [Target(line) for line in (await _run(git, view, *args)).splitlines()]
    return await look(view, lambda held: [one for oid in ids if (one := commit_of(held, oid))])


async def count_apart(git: Git, view: View, old: Target, new: Target) -> tuple[int, int]:
    """How many commits only the old one reaches, and how many only the new one does."""
    said = await _run(
        git, view, "rev-list", "--count", "--left-right", "--stdin", stdin=b"%b...%b\n" % (old, new)
    )
    left, _, right = said.strip().partition(b"\t")
    return int(left), int(right)


@dataclass(frozen=True, slots=True)
class Apart:
    """The commits that some ids reach and others do not."""

    parents: dict[Target, tuple[Target, ...]]  # by commit, newest first; parents outside are named too
    whole: bool  # False: there are more than could be told


async def apart(git: Git, view: View, tips: Iterable[Target], held: Iterable[Target]) -> Apart:
    """The commits that `tips` reach and `held` do not, as `git rev-list TIPS --not HELD` tells them."""
    asked = b"".join([b"%b\n" % tip for tip in tips] + [b"^%b\n" % tip for tip in held])
    args = ("rev-list", "--parents", f"--max-count={LOST_AT_MOST + 1}", "--ignore-missing", "--stdin")
    lines = (await _run(git, view, *args, stdin=asked)).splitlines()
    parents: dict[Target, tuple[Target, ...]] = {}
    for line in lines[:LOST_AT_MOST]:
        first, *rest = line.split(b" ")
        parents[Target(first)] = tuple(map(Target, rest))
    return Apart(parents, len(lines) <= LOST_AT_MOST)


async def _run(git: Git, view: View, *args: str | bytes, stdin: bytes | None = None) -> bytes:
    try:
        return await git.run(*args, git_dir=str(view.path), stdin=stdin, timeout=WALK_SECONDS)
    except GitFailed as failed:
        raise explain(failed) from None


async def changes(
    git: Git,
    view: View,
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

    def compare(held: Objects) -> tuple[list[FileChange], bool]:
        walk = _Comparison(held, view.object_format, deadline)
        if path:
            ends = [find(held, tree, path, view.object_format) if tree else None for tree in (old, new)]
            walk.entries(path, *ends)
        else:
            walk.trees(b"", old, new)
        return _with_renames(walk.found), walk.whole

    found, whole = await look(view, compare)
    shown = found[:files]
    wanted = {oid for one in shown for oid in _blobs(one)}
    known = await sizes(git, view, wanted)

    def fill(held: Objects) -> list[FileChange]:
        left = lines
        filled = []
        for one in shown:
            filled.append(_with_lines(held, one, known, left, deadline))
            left -= sum(len(hunk.lines) for hunk in filled[-1].hunks)
        return filled

    return Changes(tuple(await look(view, fill)), len(found), whole)


class _Comparison:
    """A walk through two trees at once, into what differs only."""

    def __init__(self, held: Objects, object_format: ObjectFormat, deadline: float) -> None:
        self.found: list[FileChange] = []
        self.whole = True
        self._held = held
        self._format = object_format
        self._deadline = deadline
        self._read = 0

    def trees(self, prefix: bytes, old: Target | None, new: Target | None) -> None:
        """What differs below two folders of one path."""
        ahead = [(prefix, old, new)]  # a list, as trees can be deeper than Python's stack
        while ahead:
            prefix, old, new = ahead.pop()
            if self._is_over():
                self.whole = False
                return
            before, after = self._folder(old), self._folder(new)
            for name in sorted(before.keys() | after.keys()):
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
        return {entry.name: entry for entry in folder(self._held, tree, self._format)}

    def _is_over(self) -> bool:
        return (
            self._read >= TREES
            or len(self.found) >= FILES_COUNTED
            or self._read % 100 == 0
            and time.monotonic() > self._deadline
        )


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


def _with_lines(
    held: Objects, change: FileChange, known: dict[Target, int], left: int, deadline: float
) -> FileChange:
    """The same change with its lines, as far as the limits allow."""
    blobs = _blobs(change)
    if change.old_oid == change.new_oid:
        return replace(change, additions=0, deletions=0)
    if any(oid not in known for oid in blobs):
        return replace(change, why="its content is missing from what is kept")
    if any(known[oid] > FILE_BYTES for oid in blobs):
        return replace(change, why="it is too large for its lines to be compared here")
    if time.monotonic() > deadline:
        return replace(change, why="there is too much to compare it here")
    old = _bytes_of(held, change.old_oid, change.old_mode)
    new = _bytes_of(held, change.new_oid, change.new_mode)
    if objects.is_binary(old) or objects.is_binary(new):
        return replace(change, binary=True)
    try:
        patch = pygit2.Patch.create_from(old, new, context_lines=_CONTEXT)
        _, additions, deletions = patch.line_stats
        told = [_hunk(hunk) for hunk in patch.hunks] if left > 0 else []
    except (pygit2.GitError, ValueError) as error:
        raise Corrupt(f"a file cannot be compared: {error}") from None
    shown, why = _bounded(told, left)
    if left <= 0 and (additions or deletions):
        why = "there are too many lines to show them here"
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


def _bounded(hunks: Sequence[Hunk], left: int) -> tuple[tuple[Hunk, ...], str | None]:
    """At most so many lines of these, each at most so long; and why it is not all of them."""
    kept: list[Hunk] = []
    why = None
    for hunk in hunks:
        if left <= 0:
            return tuple(kept), "there are too many lines to show them all here"
        if len(hunk.lines) > left:
            why = "there are too many lines to show them all here"
        lines = hunk.lines[:left]
        left -= len(lines)
        if any(len(line.text) > LINE_BYTES for line in lines):
            why = why or "its long lines are cut here"
            lines = tuple(replace(line, text=line.text[:LINE_BYTES]) for line in lines)
        kept.append(replace(hunk, lines=lines))
    return tuple(kept), why
