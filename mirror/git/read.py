"""What git's objects say: which are new, where the new history joins the old, and which refs went forward.

Between the fetch and the part. Objects are read in this process, by pygit2 or,
in sha256 repositories, which its libgit2 does not know, by dulwich: starting
git costs more than most of these questions.
"""

import asyncio
import logging
import re
import time
from abc import abstractmethod
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from heapq import heappop, heappush
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pygit2
from dulwich.object_format import SHA256
from dulwich.objects import ObjectID
from dulwich.pack import Pack

from mirror.core.errors import Corrupt, LimitReached, Origin, TooLarge
from mirror.core.model import HEAD, RefName, Target
from mirror.core.refs import Move, is_symbolic
from mirror.git import entry
from mirror.git.disk import finish
from mirror.git.pack import IdxFile, absent_from, holds_none
from mirror.git.run import Git, GitFailed, explain
from mirror.git.view import config_text, object_folders

COMMIT: Final = 1  # object types as packs number them: gitformat-pack(5)
TAG: Final = 4

READ_BYTES: Final = 16 << 20  # the largest object that is read whole; of others only the beginning
FSCK_BYTES: Final = 1 << 20  # of what git finds broken, in all
FINDINGS: Final = 100  # lines that are kept of what it merely dislikes

# What a sync may spend on looking at one repository's objects, in this process, before it does without.
LOOK_BYTES: Final = 512 << 20  # unpacked for objects that cost more than FREE_BYTES, in one look
FREE_BYTES: Final = (
    256 << 10
)  # that one object may cost without being counted; commits are a thousandth of it
LOOK_SECONDS: Final = 300.0  # of this machine's time, in one look
PARENTS: Final = 65_536  # different ones that a commit may name
WALKED: Final = 1_000_000  # commits that are kept of the walk through what is new: some 250 MiB
JUDGED: Final = 600_000  # commits and their parents that are kept to tell what went forward: some 300 MiB
FAR_SECONDS: Final = 120.0  # for git to tell it of what lies farther apart; a million commits take it nine

_TAGS_IN_A_ROW: Final = 64  # tags of tags that are followed
_DEEP_TIPS: Final = 4  # the ancestors of so many tips are told too
_GENERATIONS: Final = 512  # commits that are read for that, in all
_AT_ONCE: Final = 1024  # moves judged in one walk: so many bits are kept for every commit on the way

# What `git fsck` says of an object that is as its author made it, only not as git likes it:
# https://git-scm.com/docs/git-fsck#_fsck_messages
_ODDITY: Final = re.compile(rb"(error|warning) in \w+ [0-9a-f]+: [A-Za-z0-9]+: ")
_NO_DAMAGE: Final = (b"notice:", b"warning:", b"dangling ", b"unreachable ", b"Checking ")

log = logging.getLogger("mirror.read")


class Ancestry(NamedTuple):
    """Where refs went."""

    forward: frozenset[RefName]  # whose old commit is an ancestor of the new one
    commits: frozenset[RefName]  # that hold commits at both ends
    untold: frozenset[RefName] = frozenset()  # that may have gone forward: looking costs too much
    far: frozenset[RefName] = frozenset()  # those of the untold that only have too many commits between


class Look:
    """What may still be spent on one look at a repository's objects; begun in the thread that looks."""

    def __init__(self, seconds: float = LOOK_SECONDS) -> None:
        self._bytes = LOOK_BYTES
        self._times = 0
        self._until = time.thread_time() + seconds

    def spend(self, size: int) -> None:
        """Count what is unpacked. Raises LimitReached."""
        self._times += 1
        if size > FREE_BYTES:
            self._bytes -= size - FREE_BYTES
        elif self._times & 63:  # asking for the time costs as much as a small commit
            return
        if self._bytes < 0 or time.thread_time() > self._until:
            raise LimitReached("this history takes too much time or memory to read", origin=Origin.OURS)


async def missing(path: Path, ids: Iterable[Target]) -> set[Target]:
    """Which of these objects no pack of the repository (or its alternates) holds.

    The packs are looked up anew at each call. 100,000 ids take a few tenths of a second.
    """

    def look() -> set[Target]:
        known = {bytes.fromhex(oid.decode()): oid for oid in ids}
        folders = [folder / "pack" for folder in object_folders(path)]
        return {known[oid] for oid in absent_from(folders, known)}

    return await finish(look)


async def mainline(git: Git, path: Path, tip: Target, old: Target | None, parts: int) -> list[Target]:
    """Commits that cut the history before this one into so many parts, the oldest first, or fewer.

    They are on its line of first parents, and not reached by `old`, where the repository has that.
    """
    known = old is not None and not await missing(path, [old])
    words = ["rev-list", "--first-parent", "--reverse", "--end-of-options", tip.decode()]
    line = (
        await git.run(*words, *([f"^{old.decode()}"] if old and known else []), git_dir=str(path))
    ).split()
    cuts = sorted({len(line) * number // parts for number in range(1, parts)} - {0})
    return [Target(line[cut - 1]) for cut in cuts if line[cut - 1] != tip]


async def everything(path: Path) -> set[Target]:
    """Every object that a pack of the repository (or its alternates) holds."""

    def look() -> set[Target]:
        found: set[Target] = set()
        for folder in object_folders(path):
            for file in (folder / "pack").glob("pack-*.idx"):
                with IdxFile(file) as idx:
                    found.update(Target(oid.hex().encode()) for oid in idx.ids())
        return found

    return await finish(look)


async def is_apart(path: Path, idx: Path, own_end: int) -> bool:
    """Whether none of a pack's own objects (those that begin before byte `own_end`) is in the pool.

    `path` is the view that the pack is in; its alternate is the pool, whose lock the caller holds.
    """

    def look() -> bool:
        pool = [folder / "pack" for folder in object_folders(path)[1:]]
        with IdxFile(idx) as found:
            return holds_none(pool, found, own_end)

    return await finish(look)


async def new_commits_boundary(path: Path, tips: Collection[Target], incoming: Path) -> set[Target]:
    """The commits of the pool on which the new ones stand: the prerequisites of the next part.

    `path` is a view whose alternate is the pool, `incoming` the index of the pack
    that came into it. Walks from the tips through the commits that came in and that
    the pool lacks; their parents outside, and tips that are no new commits, are the
    boundary. Tags are followed to their commits; trees and blobs have no part in it.
    Raises LimitReached where that costs too much: any commits of the pool may be the boundary then.
    """

    def walk() -> set[Target]:
        pool = [folder / "pack" for folder in object_folders(path)[1:]]
        with IdxFile(incoming) as came, opened(path, Look()) as objects:
            commits = [commit for tip in tips if (commit := peeled(objects, tip))]
            visited, boundary = _walk(objects, commits, came)
            new = absent_from(pool, visited)
            if len(new) < len(visited):  # the remote sent some that we have
                _, boundary = _walk(objects, commits, new)
            return boundary

    return await finish(walk)


def _walk(
    objects: "Objects", commits: Iterable[Target], inside: Container[bytes]
) -> tuple[set[bytes], set[Target]]:
    """The commits that these reach on a way that stays inside, and the first ones outside."""
    visited: set[bytes] = set()
    outside: set[bytes] = set()
    ahead = {_raw(commit) for commit in commits}
    while ahead:
        oid = ahead.pop()
        if oid not in inside:
            outside.add(oid)
            continue
        visited.add(oid)
        for parent in objects.commit(Target(oid.hex().encode()))[1]:
            raw = _raw(parent)
            if raw not in visited and raw not in outside:
                ahead.add(raw)
        if len(visited) + len(outside) + len(ahead) > WALKED:
            raise LimitReached(f"more than {WALKED:,} commits came at once", origin=Origin.OURS)
    return visited, {Target(oid.hex().encode()) for oid in outside}


def _raw(oid: Target) -> bytes:
    try:
        return bytes.fromhex(oid.decode())
    except ValueError:  # a commit says whatever it likes
        raise Corrupt("a commit here names a parent by an invalid id") from None


async def ancestry(git: Git, path: Path, moves: Sequence[Move]) -> Ancestry:
    """Of these moves, the refs that went forward, and the refs that hold commits at both ends.

    Forward: the old commit is an ancestor of the new one. HEAD, tags and symbolic
    refs are in neither. One walk answers for many refs; it goes no further back
    than where old and new meet. Refs that jumped over more than JUDGED commits are left to git, whose
    process has bounds of its own. What cannot be told within a Look did not go forward: that is the
    worse thing to have overlooked.
    """
    found = await finish(lambda: judge(path, moves, Look()))
    if found.far:
        found = await _judged_by_git(git, path, moves, found)
    if found.untold:
        log.warning(
            "telling whether %d refs went forward or were overwritten costs too much in %s:"
            " they count as overwritten",
            len(found.untold),
            path.name,
        )
    return found


async def _judged_by_git(git: Git, path: Path, moves: Sequence[Move], found: Ancestry) -> Ancestry:
    """The same, with what git tells of the refs that jumped far, all of them together in FAR_SECONDS."""
    forward, told = set(found.forward), set[RefName]()
    with suppress(TimeoutError):
        async with asyncio.timeout(FAR_SECONDS):
            for name, old, new in moves:
                if name in found.far and old and new:
                    is_forward = await _is_ancestor(git, path, old, new)
                    forward.update([name] if is_forward else [])
                    told.update([name] if is_forward is not None else [])
    return Ancestry(frozenset(forward), found.commits, found.untold - told, found.far - told)


async def _is_ancestor(git: Git, path: Path, old: Target, new: Target) -> bool | None:
    """Whether git finds one commit behind the other. None: it could not tell within its bounds."""
    words = ("merge-base", "--is-ancestor", "--end-of-options", old.decode(), new.decode())
    try:
        await git.run(*words, git_dir=str(path))
    except GitFailed as failed:
        return False if failed.returncode == 1 else None
    return True


def judge(path: Path, moves: Sequence[Move], look: Look | None = None) -> Ancestry:
    """`ancestry`, in this thread. Without a Look it is a process of its own that is bounded."""
    with opened(path, look) as objects:
        known = [
            (name, old, new)
            for name, old, new in moves
            if old
            and new
            and _has_a_kind(name, old, new)
            and objects.kind(old) == objects.kind(new) == COMMIT
        ]
        graph = _Graph(objects)
        forward: set[RefName] = set()
        untold: set[RefName] = set()
        far: set[RefName] = set()
        for start in range(0, len(known), _AT_ONCE):
            some = known[start : start + _AT_ONCE]
            bits, unsure = _forward(graph, [(old, new) for _, old, new in some])
            forward.update(name for bit, (name, _, _) in enumerate(some) if bits >> bit & 1)
            left = {name for bit, (name, _, _) in enumerate(some) if unsure >> bit & 1}
            untold |= left
            far |= left if graph.is_full and not graph.unread else set()
        commits = frozenset(name for name, _, _ in known)
        return Ancestry(frozenset(forward), commits, frozenset(untold), frozenset(far))


def _has_a_kind(name: RefName, old: Target, new: Target) -> bool:
    return (
        name != HEAD and not name.startswith(b"refs/tags/") and not is_symbolic(old) and not is_symbolic(new)
    )


class _Graph:
    """The commits that a walk has read: when each was made, and its parents."""

    def __init__(self, objects: "Objects") -> None:
        self._objects = objects
        self._known: dict[Target, tuple[int, tuple[Target, ...]]] = {}
        self._left = JUDGED
        self.unread: set[Target] = set()  # they end the walk, as if they had no parents
        self.is_full = False

    def __getitem__(self, commit: Target) -> tuple[int, tuple[Target, ...]]:
        found = self._known.get(commit)
        if found is None:
            try:
                found = self._objects.commit(commit)
            except TooLarge:
                self.unread.add(commit)
                found = 0, ()
            self._left -= 1 + len(found[1])
            if self._left < 0:
                self.is_full = True
                raise LimitReached("there is too much history between these commits", origin=Origin.OURS)
            self._known[commit] = found
        return found


def _forward(graph: _Graph, moves: Sequence[tuple[Target, Target]]) -> tuple[int, int]:
    """A number whose bit i tells whether move i's old commit is an ancestor of its new one.

    Where bit i of the second number is set, that could not be told.

    Paints downwards from all commits at once, younger ones first: bit i of
    `from_new` on what new i reaches, of `from_old` on what old i reaches. What
    only a new commit reaches is `open`: an old one may still be below it.
    Dates decide how far the walk goes, never what it answers.
    """
    from_new: dict[Target, int] = {}
    from_old: dict[Target, int] = {}
    olds: dict[Target, int] = {}
    queue: list[tuple[int, Target]] = []
    queued: set[Target] = set()
    open_: set[Target] = set()
    found = 0

    def paint(commit: Target, by_new: int, by_old: int) -> None:
        nonlocal found, open_
        new, old = from_new.get(commit, 0) | by_new, from_old.get(commit, 0) | by_old
        if (new, old) == (from_new.get(commit), from_old.get(commit)):
            return
        from_new[commit], from_old[commit] = new, old
        if reached := new & olds.get(commit, 0) & ~found:
            found |= reached
            open_ = {other for other in open_ if from_new[other] & ~from_old[other] & ~found}
        if new & ~old & ~found:
            open_.add(commit)
        else:
            open_.discard(commit)
        if commit not in queued:
            queued.add(commit)
            heappush(queue, (-graph[commit][0], commit))

    def walk() -> None:
        for bit, (old, new) in enumerate(moves):
            olds[old] = olds.get(old, 0) | 1 << bit
            paint(old, 0, 1 << bit)
            paint(new, 1 << bit, 0)
        while open_:
            _, commit = heappop(queue)
            queued.discard(commit)
            open_.discard(commit)
            by_new, by_old = from_new[commit] & ~found, from_old[commit] & ~found
            if by_new | by_old:
                for parent in graph[commit][1]:
                    paint(parent, by_new, by_old)

    try:
        walk()
    except LimitReached:
        return found, ((1 << len(moves)) - 1) & ~found
    unsure = 0
    for commit in graph.unread:
        unsure |= from_new.get(commit, 0)
    return found, unsure & ~found


async def commits_among(path: Path, ids: Collection[Target]) -> set[Target]:
    """Those of these objects that are commits."""

    def look() -> set[Target]:
        with opened(path) as objects:
            return {oid for oid in ids if objects.kind(oid) == COMMIT}

    return await finish(look)


async def are_related(git: Git, path: Path, one: Target, other: Target) -> bool:
    """Whether two commits have history in common."""
    try:
        await git.run("merge-base", "--end-of-options", one.decode(), other.decode(), git_dir=str(path))
    except GitFailed as failed:
        if failed.returncode == 1:
            return False
        raise explain(failed) from None
    return True


async def haves(path: Path, tips: Iterable[Target], limit: int) -> list[Target]:
    """The commits to tell a remote that the pool has: the tips in their order, at most `limit` in all.

    Of the first few tips, also the ancestors 1, 2, 4, 8... generations back along
    first parents: after a force-push the remote may not know the tip any more.
    What the pool does not hold is left out, and what costs too much to be looked into.
    """

    def choose() -> list[Target]:
        with opened(path, Look()) as objects:
            commits = (commit for tip in tips if (commit := _if_affordable(objects, tip)))
            chosen: dict[Target, None] = {}
            for number, commit in enumerate(commits):
                chosen[commit] = None
                if number < _DEEP_TIPS:
                    chosen |= dict.fromkeys(_back(objects, commit, _GENERATIONS // _DEEP_TIPS))
                if len(chosen) >= limit:
                    break
            return list(chosen)[:limit]

    return await finish(choose)


async def held_commits(path: Path, tips: Iterable[Target]) -> set[Target]:
    """The commits that these come to, as far as they are here and can be looked at."""

    def look() -> set[Target]:
        with opened(path, Look()) as objects:
            return {commit for tip in tips if (commit := _if_affordable(objects, tip))}

    return await finish(look)


def _if_affordable(objects: "Objects", tip: Target) -> Target | None:
    with suppress(LimitReached):
        return peeled(objects, tip)
    return None


def _back(objects: "Objects", commit: Target, generations: int) -> Iterator[Target]:
    """The ancestors 1, 2, 4, 8... generations back along first parents."""
    for generation in range(1, generations + 1):
        parents: tuple[Target, ...] = ()
        with suppress(LimitReached):
            parents = objects.commit(commit)[1]
        if not parents:
            return
        commit = parents[0]
        if generation & (generation - 1) == 0:
            yield commit


async def for_each_ref(git: Git, path: Path) -> dict[RefName, Target]:
    """Every ref as git lists it: by name the object id it comes to. HEAD is not among them."""
    try:
        answer = await git.run("for-each-ref", "--format=%(objectname) %(refname)", git_dir=str(path))
    except GitFailed as failed:
        raise explain(failed) from None
    lines = (line.partition(b" ") for line in answer.split(b"\n") if line)
    return {RefName(name): Target(oid) for oid, _, name in lines}


async def fsck(git: Git, path: Path) -> list[str]:
    """What git finds broken or missing in a whole repository, a line each; empty when it is sound.

    Objects that are merely not as git likes them (a bad time zone, say) are no damage:
    they are kept as they are.
    """
    return (await fsck_strict(git, path))[0]


async def fsck_strict(git: Git, path: Path) -> tuple[list[str], list[str]]:
    """What git finds broken or missing, and what `--strict` merely dislikes in objects, a line each.

    An object has the id that its remote knows it by, so what git dislikes in one is so at the remote too.
    """
    said, complained = _Verdict(), _Verdict()
    args = ("fsck", "--full", "--strict", "--no-dangling", "--no-progress", "--no-reflogs")
    try:
        async with git.process(*args, git_dir=str(path), stdin=False, on_stderr=complained.add) as child:
            async for chunk in child.stdout:
                said.add(chunk)
    except GitFailed as failed:
        meaning = explain(failed)
        if not 0 < failed.returncode < 128 and not isinstance(meaning, Corrupt):  # else it is a verdict
            raise meaning from None
    said.add(b"\n")
    complained.add(b"\n")
    return [*said.damage, *complained.damage], [*said.odd, *complained.odd]


class _Verdict:
    """What git fsck says on one stream, sorted as it arrives; each sort is bounded by itself."""

    def __init__(self) -> None:
        self.damage: list[str] = []
        self.odd: list[str] = []
        self._rest = b""
        self._damage_bytes = 0

    def add(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest[:FSCK_BYTES] + chunk).split(b"\n")
        for line in lines:
            if _ODDITY.match(line):
                if len(self.odd) < FINDINGS:
                    self.odd.append(line.decode(errors="replace"))
            elif line and not line.startswith(_NO_DAMAGE) and self._damage_bytes < FSCK_BYTES:
                self._damage_bytes += len(line)
                self.damage.append(line.decode(errors="replace"))


class Objects(Protocol):
    """A repository's objects, looked at by header before they are read.

    Raises Corrupt on what cannot be read, TooLarge on what is more than READ_BYTES.
    """

    def kind(self, oid: Target) -> int | None:
        """The object's type; None: it is not there."""

    def size(self, oid: Target) -> int | None:
        """How many bytes its content has; None: it is not there."""

    def read(self, oid: Target) -> tuple[int, bytes] | None:
        """The object's type and content; None: it is not there."""

    def beginning(self, oid: Target, limit: int = READ_BYTES) -> bytes:
        """The first bytes of an object that is there, as many as there are up to a limit."""
        found = self.read(oid)
        return found[1][:limit] if found else b""

    def commit(self, oid: Target) -> tuple[int, tuple[Target, ...]]:
        """When a commit was made (in seconds, 0: it does not say) and its parents."""
        if self.kind(oid) != COMMIT:
            return 0, ()
        return _parsed(head(self, oid, READ_BYTES))


class _Stored(Objects):
    """The objects of the packs in some folders."""

    def __init__(self, folders: Sequence[Path], stack: ExitStack, look: Look | None) -> None:
        self._folders = folders
        self._stack = stack
        self._look = look
        self._opened: list[IdxFile] | None = None
        self._costs: entry.Costs | None = None

    @property
    def _indexes(self) -> list[IdxFile]:
        if self._opened is None:
            found = (idx for folder in self._folders for idx in sorted(folder.glob("pack/pack-*.idx")))
            self._opened = [self._stack.enter_context(IdxFile(idx)) for idx in found]
        return self._opened

    def header(self, oid: Target) -> tuple[int, int] | None:
        """The object's type and size; None: it is not there."""
        return entry.header(self._indexes, oid)

    def kind(self, oid: Target) -> int | None:
        found = self.header(oid)
        return found[0] if found else None

    def size(self, oid: Target) -> int | None:
        found = self.header(oid)
        return found[1] if found else None

    def read(self, oid: Target) -> tuple[int, bytes] | None:
        found = self.header(oid)
        if found is None:
            return None
        if found[1] > READ_BYTES:
            raise too_large(oid, found[1], READ_BYTES)
        self._afford(oid)
        return self._whole(oid)

    def _afford(self, oid: Target) -> None:
        """Raise TooLarge, LimitReached where reading it whole takes more than it may."""
        if self._look is None:
            return
        if self._costs is None:
            self._costs = entry.Costs(self._indexes, self._stack)
        cost = self._costs.of(oid)
        if cost.largest > READ_BYTES:
            raise TooLarge(
                f"object {oid.decode()} is stored as a delta of something of {cost.largest:,} bytes,"
                f" more than the {READ_BYTES >> 20} MiB that Everref reads; download the object instead",
                oid,
                cost.largest,
            )
        self._look.spend(cost.all)

    @abstractmethod
    def _whole(self, oid: Target) -> tuple[int, bytes] | None:
        """The object's type and content, which it may have; None: it is not there."""

    def commit(self, oid: Target) -> tuple[int, tuple[Target, ...]]:
        found = self.header(oid)
        if found is None or found[0] != COMMIT:
            return 0, ()
        if found[1] >= READ_BYTES:
            return _parsed(head(self, oid, READ_BYTES))
        self._afford(oid)
        whole = self._whole(oid)
        return _parsed(whole[1]) if whole else (0, ())

    def beginning(self, oid: Target, limit: int = READ_BYTES) -> bytes:
        found = self.header(oid)
        if found is None:
            return b""
        if found[1] > READ_BYTES:
            if self._look:
                self._look.spend(limit)
            begins = entry.beginning(self._indexes, oid, limit)
            if begins is None:
                raise too_large(oid, found[1], READ_BYTES)
            return begins
        self._afford(oid)
        whole = self._whole(oid)
        return whole[1][:limit] if whole else b""


class _Sha1(_Stored):
    def __init__(self, folders: Sequence[Path], stack: ExitStack, look: Look | None) -> None:
        super().__init__(folders, stack, look)
        self._odb = pygit2.Odb(str(folders[0]))

    def close(self) -> None:
        """Let go of the packs, which libgit2 shares by name, even while an error still holds this."""
        del self._odb

    def header(self, oid: Target) -> tuple[int, int] | None:
        try:
            kind, size = self._odb.read_header(oid.decode())
            return int(kind), size
        except KeyError:
            return None
        except (pygit2.GitError, ValueError) as error:
            raise Corrupt(f"object {oid.decode()} cannot be read: {error}") from None

    def _whole(self, oid: Target) -> tuple[int, bytes] | None:
        try:
            kind, data = self._odb.read(oid.decode())
        except KeyError:
            return None
        except (pygit2.GitError, ValueError) as error:
            raise Corrupt(f"object {oid.decode()} cannot be read: {error}") from None
        return int(kind), data


class _Sha256(_Stored):
    def __init__(
        self, folders: Sequence[Path], stack: ExitStack, look: Look | None, packs: Sequence[Pack]
    ) -> None:
        super().__init__(folders, stack, look)
        self._packs = packs

    def _whole(self, oid: Target) -> tuple[int, bytes] | None:
        for pack in self._packs:
            try:
                return pack.get_raw(ObjectID(oid))
            except KeyError:
                continue
            except Exception:  # dulwich raises whatever it stumbles over in broken bytes
                break
        else:
            return None
        raise Corrupt(f"object {oid.decode()} cannot be read")  # here, as its error would keep the file open


def too_large(oid: Target, size: int, limit: int) -> TooLarge:
    """The error for an object that is too large to read."""
    return TooLarge(
        f"object {oid.decode()} has {size:,} bytes, more than the {limit >> 20} MiB that Everref reads;"
        " download the object instead",
        oid,
        size,
    )


def head(held: Objects, oid: Target, limit: int) -> bytes:
    """A commit or a tag as far as a limit, which its message may be beyond. Raises TooLarge."""
    found = held.beginning(oid, limit)
    if len(found) == limit and b"\n\n" not in found:
        raise too_large(oid, held.size(oid) or limit, limit)
    return found


@contextmanager
def opened(path: Path, look: Look | None = None) -> Iterator[Objects]:
    """The objects of a repository of ours and of its alternates; a look bounds what reading them costs."""
    with ExitStack() as stack:
        folders = object_folders(path)
        if (path / "config").read_text() != config_text("sha256"):
            objects = _Sha1(folders, stack, look)
            stack.callback(objects.close)
            yield objects
            return
        packs = []
        for folder in folders:
            for idx in sorted(folder.glob("pack/pack-*.idx")):
                packs.append(Pack(str(idx.with_suffix("")), object_format=SHA256))
                stack.callback(packs[-1].close)
        yield _Sha256(folders, stack, look, packs)


def _parsed(commit: bytes) -> tuple[int, tuple[Target, ...]]:
    """The committer's time and the parents: git-commit-tree(1). Takes as much of one as is read.

    Each parent once, as often as it is named. Raises TooLarge.
    """
    parents: dict[Target, None] = {}
    at = commit.find(b"\n") + 1
    while commit.startswith(b"parent ", at) and (end := commit.find(b"\n", at)) >= 0:
        parents[Target(commit[at + 7 : end])] = None
        at = end + 1
        if len(parents) > PARENTS:
            raise TooLarge(f"a commit names more than {PARENTS:,} parents", b"", len(commit))
    head_end = commit.find(b"\n\n", max(0, at - 1))
    found = commit.find(b"\ncommitter ", max(0, at - 1), head_end if head_end >= 0 else len(commit))
    made = 0
    if found >= 0:
        end = commit.find(b"\n", found + 1)
        words = commit[found + 1 : end if end >= 0 else len(commit)][-100:].rsplit(b" ", 2)
        made = int(words[1]) if len(words) == 3 and words[1].isdigit() else 0
    return made, tuple(parents)


def peeled(objects: Objects, oid: Target) -> Target | None:
    """The commit that an object is or that a tag comes to; None: there is none here."""
    for _ in range(_TAGS_IN_A_ROW):
        kind = objects.kind(oid)
        if kind != TAG:
            return oid if kind == COMMIT else None
        oid = Target(objects.beginning(oid, 200).partition(b"\n")[0].removeprefix(b"object "))
    return None
