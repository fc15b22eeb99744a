"""A repo at any moment, read: its refs, commits, folders, files, what differs, and what was lost.

Reads join the database, which knows where every ref was, with the pool, which
has every object. A pool that is behind is filled from the vault first, which may
take a while; `edges.progress` is told. Nothing is changed but that cache.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

from mirror import objects, refs
from mirror.errors import Busy, Corrupt, NotFound
from mirror.flows import hydrate
from mirror.flows.edges import Edges, together
from mirror.git import browse, read
from mirror.git.browse import Apart
from mirror.git.pool import Pool
from mirror.git.read import Objects
from mirror.git.view import View
from mirror.model import HEAD, Kind, RefName, Repo, Snapshot, Target
from mirror.objects import Changes, Commit, Entry, LfsPointer, RefKind
from mirror.store import reading
from mirror.store.history import Logged

T = TypeVar("T")

PATIENCE: Final = 30.0  # seconds that a reader waits for another one who fills the pool
PAGE: Final = 100  # rows where nobody says how many
PATH_BYTES: Final = 8192  # of a path that a person asks for
SHOWN_BYTES: Final = 1 << 20  # of a file that is shown
RAW_BYTES: Final = 1 << 30  # of a file that is handed out
LEAVING: Final = 20_000  # moves that are looked at for lost commits
_REMEMBERED: Final = 32  # walks for lost commits whose answer is kept


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many."""

    items: tuple[T, ...]
    next: T | None = None  # the last one, where more follow it; None: this is the end


@dataclass(frozen=True, slots=True)
class RefRow:
    """A ref at a moment, with the commit that it comes to."""

    name: RefName
    kind: RefKind
    target: Target  # an id, or symbolic
    oid: Target | None  # what it comes to; None: nothing
    commit: Commit | None  # None: it holds none, or none that is kept


@dataclass(frozen=True, slots=True)
class CommitShown:
    """A commit and what it changed against its first parent."""

    commit: Commit
    changes: Changes


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder at a moment."""

    path: bytes
    oid: Target
    entries: tuple[Entry, ...]  # folders first
    total: int  # entries in it, also those beyond the limit
    readme: Entry | None  # the file to show below; None: it has none


@dataclass(frozen=True, slots=True)
class Blob:
    """A file at a moment."""

    path: bytes
    entry: Entry
    size: int
    data: bytes  # the beginning, up to a limit
    text: str | None  # of `data`; None: it is binary, or no file
    encoding: str | None
    lfs: LfsPointer | None  # None: it is what it seems

    @property
    def whole(self) -> bool:
        """Whether `data` is all of it."""
        return len(self.data) == self.size


@dataclass(frozen=True, slots=True)
class Raw:
    """A file's bytes, to be handed out."""

    name: bytes
    size: int
    chunks: AsyncIterator[bytes]


@asynccontextmanager
async def opened(edges: Edges, repo: Repo, snapshot: Snapshot) -> AsyncIterator[View]:
    """A view that holds every object of this moment, for as long as this is open; safe beside any sync."""
    room = edges.disk.root / "reading"
    await browse.sweep(room)
    async with hydrate.view_of(edges, repo, snapshot, room, PATIENCE) as view:
        try:
            yield view
        except Corrupt:
            await _doubt(edges, repo, snapshot)
            raise


_doubted: dict[Path, browse.Mark] = {}  # pools that were read whole, by the marks that they had


async def _doubt(edges: Edges, repo: Repo, snapshot: Snapshot) -> None:
    """Throw the pool away if this disk has damaged it; it is read whole for that once, not for each look."""
    pool = Pool(edges.git, edges.disk.pool(repo.id), snapshot.object_format)
    mark = await pool.mark()
    if mark and _doubted.get(pool.path) != mark:
        _doubted[pool.path] = mark
        with suppress(Busy):  # a sync is at work on it, and finds it out as well
            if await hydrate.drop_broken(edges, repo, patience=0):
                del _doubted[pool.path]


async def resolve(edges: Edges, repo: Repo, snapshot: Snapshot, rev: bytes) -> Target:
    """The object that a ref's name (whole or short) or a whole object id means; nothing means HEAD.

    Whether an id is held is not looked at. Raises NotFound.
    """
    text = rev.decode("ascii", "replace").lower()
    if objects.is_id(text, snapshot.object_format):
        return Target(text.encode())
    names = objects.candidates(rev) if b"\0" not in rev else []
    found = await reading.targets_at(edges.db, repo.id, names, snapshot.number, snapshot.moment)
    for name in names:
        if name in found:
            return await _followed(edges, repo, snapshot, name, found[name])
    what = f"no ref {refs.shown_text(rev)}" if rev else "no HEAD that leads anywhere"
    raise NotFound(f"{repo.name} at {snapshot.label} has {what}")


async def _followed(edges: Edges, repo: Repo, snapshot: Snapshot, name: RefName, target: Target) -> Target:
    for _ in range(refs.SYMBOLIC_DEPTH + 1):
        if not refs.is_symbolic(target):
            return target
        to = refs.symbolic_target(target)
        found = await reading.targets_at(edges.db, repo.id, [to], snapshot.number, snapshot.moment)
        if to not in found:
            break
        target = found[to]
    raise NotFound(
        f"{refs.shown_text(name)} of {repo.name} at {snapshot.label} leads to no ref that is there"
    )


async def refs_at(
    edges: Edges,
    repo: Repo,
    snapshot: Snapshot,
    *,
    after: bytes = b"",
    limit: int = PAGE,
    globs: Sequence[str] = (),
) -> Page[RefRow]:
    """The refs of a moment in name order, a page that begins after this name, each with its commit."""
    rows = await reading.refs_page(
        edges.db, repo.id, snapshot.number, snapshot.moment, after=after, globs=globs, limit=limit + 1
    )
    more, rows = len(rows) > limit, rows[:limit]
    ids: dict[RefName, Target | None] = {}
    for name, target in rows:
        try:
            ids[name] = await _followed(edges, repo, snapshot, name, target)
        except NotFound:
            ids[name] = None
    async with opened(edges, repo, snapshot) as view:
        wanted = set(ids.values())
        found = await browse.look(
            view, lambda held: {o: browse.commit_of(held, o) if o else None for o in wanted}
        )
    items = tuple(
        RefRow(name, objects.ref_kind(name), target, ids[name], found.get(ids[name])) for name, target in rows
    )
    return Page(items, items[-1] if more else None)


async def commits(
    edges: Edges,
    repo: Repo,
    snapshot: Snapshot,
    rev: bytes = b"",
    *,
    path: bytes = b"",
    skip: int = 0,
    limit: int = 50,
) -> tuple[tuple[Commit, ...], bool]:
    """The commits from a ref or id backwards, newest first, and whether more follow.

    With a path, those that changed it. `skip` leaves out as many as earlier pages had.
    """
    _check_path(repo, path)
    start = await resolve(edges, repo, snapshot, rev)
    async with opened(edges, repo, snapshot) as view:
        tip = await browse.look(view, lambda held: browse.commit_of(held, start))
        if tip is None:
            raise _no_commit(repo, start, rev)
        found = await browse.commits(
            edges.git, view, tip.oid, path=_clean(path), skip=max(skip, 0), limit=limit + 1
        )
    return tuple(found[:limit]), len(found) > limit


async def commit(edges: Edges, repo: Repo, snapshot: Snapshot, rev: bytes) -> CommitShown:
    """One commit with what it changed against its first parent."""
    oid = await resolve(edges, repo, snapshot, rev)
    async with opened(edges, repo, snapshot) as view:

        def ask(held: Objects) -> tuple[Commit, Target | None] | None:
            found = browse.commit_of(held, oid)
            if found is None:
                return None
            before = browse.tree_of(held, found.parents[0]) if found.parents else None
            return found, before

        found = await browse.look(view, ask)
        if found is None:
            raise _no_commit(repo, oid, rev)
        one, before = found
        return CommitShown(one, await browse.changes(edges.git, view, before, one.tree))


async def tree(
    edges: Edges,
    repo: Repo,
    snapshot: Snapshot,
    rev: bytes = b"",
    path: bytes = b"",
    *,
    limit: int = 2000,
) -> Folder:
    """A folder of a ref or commit, folders first, with sizes."""
    async with opened(edges, repo, snapshot) as view:
        entry = await _entry(edges, repo, snapshot, view, rev, path)
        if entry.kind != "folder":
            raise NotFound(f"{refs.shown_text(path)} is no folder in {_of(repo, snapshot, rev)}")

        def ask(held: Objects) -> list[Entry]:
            found = browse.folder(held, entry.oid, view.object_format)
            return sorted(found, key=lambda one: (one.kind != "folder", one.name))

        held = await browse.look(view, ask)
        shown = held[:limit]
        files = {one.oid for one in shown if one.kind in ("file", "executable", "link")}
        known = await browse.sizes(edges.git, view, files)
    sized = tuple(
        Entry(one.name, one.kind, one.mode, one.oid, known.get(one.oid) if one.oid in files else None)
        for one in shown
    )
    return Folder(_clean(path), entry.oid, sized, len(held), _readme(sized))


def _readme(entries: Sequence[Entry]) -> Entry | None:
    """The file that introduces a folder: README.md before README.rst, README.txt and README."""
    wanted = (b"readme.md", b"readme.markdown", b"readme.rst", b"readme.txt", b"readme")
    found = {one.name.lower(): one for one in reversed(entries) if one.kind in ("file", "executable")}
    return next((found[name] for name in wanted if name in found), None)


async def blob(
    edges: Edges, repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes, *, limit: int = SHOWN_BYTES
) -> Blob:
    """A file, link or submodule of a ref or commit; of a large file the beginning."""
    async with opened(edges, repo, snapshot) as view:
        entry, size = await _file(edges, repo, snapshot, view, rev, path)
        if entry.kind == "submodule":
            return Blob(_clean(path), entry, 0, b"", None, None, None)
        data = await browse.content(edges.git, view, entry.oid, limit)
    text = objects.text_of(data)
    return Blob(
        path=_clean(path),
        entry=entry,
        size=size,
        data=data,
        text=text[0] if text else None,
        encoding=text[1] if text else None,
        lfs=objects.lfs_pointer(data) if len(data) == size else None,
    )


@asynccontextmanager
async def raw(edges: Edges, repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes) -> AsyncIterator[Raw]:
    """A file's bytes as a stream, to be read while this is open."""
    async with opened(edges, repo, snapshot) as view:
        entry, size = await _file(edges, repo, snapshot, view, rev, path)
        if entry.kind == "submodule":
            raise NotFound(f"{refs.shown_text(path)} is a submodule: its content is in another repository")
        if size > RAW_BYTES:
            raise NotFound(f"{refs.shown_text(path)} has {size} bytes; restore the moment to get it")
        chunks = browse.stream(edges.git, view, entry.oid)
        try:
            yield Raw(entry.name, size, chunks)
        finally:
            await chunks.aclose()


async def _file(
    edges: Edges, repo: Repo, snapshot: Snapshot, view: View, rev: bytes, path: bytes
) -> tuple[Entry, int]:
    """What is at a path that is no folder, and its size. Raises NotFound."""
    entry = await _entry(edges, repo, snapshot, view, rev, path)
    if entry.kind == "folder":
        raise NotFound(f"{refs.shown_text(path) or 'this'} is a folder in {_of(repo, snapshot, rev)}")
    if entry.kind == "submodule":
        return entry, 0
    size = (await browse.sizes(edges.git, view, [entry.oid])).get(entry.oid)
    if size is None:
        raise NotFound(f"the content of {refs.shown_text(path)} is missing from what is kept of {repo.name}")
    return entry, size


async def _entry(edges: Edges, repo: Repo, snapshot: Snapshot, view: View, rev: bytes, path: bytes) -> Entry:
    _check_path(repo, path)
    oid = await resolve(edges, repo, snapshot, rev)

    def ask(held: Objects) -> Entry | None:
        root = browse.tree_of(held, oid)
        return browse.find(held, root, path, view.object_format) if root else None

    found = await browse.look(view, ask)
    if found is None:
        raise NotFound(f"{_of(repo, snapshot, rev)} has no {refs.shown_text(path) or 'files'}")
    return found


def _of(repo: Repo, snapshot: Snapshot, rev: bytes) -> str:
    return f"{refs.shown_text(rev) or 'HEAD'} of {repo.name} at {snapshot.label}"


def _clean(path: bytes) -> bytes:
    """A path without what stands for nothing in it."""
    return b"/".join(name for name in path.split(b"/") if name)


def _check_path(repo: Repo, path: bytes) -> None:
    if len(path) > PATH_BYTES or b"\0" in path:
        raise NotFound(f"{repo.name} has no path like that")


def _no_commit(repo: Repo, oid: Target, rev: bytes) -> NotFound:
    said = refs.shown_text(rev) or "HEAD"
    return NotFound(f"{said} is no commit that is kept of {repo.name}")


@dataclass(frozen=True, slots=True)
class RefDifference:
    """What became of one ref between two moments."""

    name: RefName
    kind: Kind
    old: Target | None
    new: Target | None
    lost: int | None  # commits that only the old one reaches; None: not counted
    gained: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two moments."""

    refs: tuple[RefDifference, ...]  # what was taken away first
    total: int
    ref: RefName | None  # whose files are compared; None: there is none at both moments
    files: Changes | None


COUNTED: Final = 10  # refs whose commits are counted
JUDGED: Final = 1000  # moved refs that are told forced from forwarded


async def difference(
    edges: Edges, repo: Repo, a: Snapshot, b: Snapshot, *, ref: bytes | None = None, limit: int = 200
) -> Difference:
    """What differs at `b` from `a`: refs with commits gained and lost, and the files of one ref.

    The ref is HEAD's branch where none is chosen. `a` may be the later one.
    """
    moves = await _moves(edges, repo, a, b)
    newer = a if a.log > b.log else b
    async with opened(edges, repo, newer) as view:
        forward, commits_ = await read.ancestry(view.path, moves[:JUDGED])
        told = refs.classify(moves, forward, commits_)
        told.sort(key=lambda change: (change.kind not in (Kind.FORCED, Kind.DELETED), change.name))
        rows: list[RefDifference] = []
        for change in told[:limit]:
            lost = gained = None
            if change.name in commits_ and change.old and change.new and len(rows) < COUNTED:
                lost, gained = await browse.count_apart(edges.git, view, change.old, change.new)
            rows.append(RefDifference(change.name, change.kind, change.old, change.new, lost, gained))
        name, files = await _files_between(edges, repo, a, b, view, ref)
    return Difference(tuple(rows), len(moves), name, files)


async def _moves(edges: Edges, repo: Repo, a: Snapshot, b: Snapshot) -> list[refs.Move]:
    first, last = sorted((a.number, b.number))
    first -= any(one.moment and one.number == first for one in (a, b))  # it lies before the snapshot
    names = await reading.moved_between(edges.db, repo.id, first, last)
    if not names:
        return []
    old = await reading.targets_at(edges.db, repo.id, names, a.number, a.moment)
    new = await reading.targets_at(edges.db, repo.id, names, b.number, b.moment)
    return refs.diff(old, new)


async def _files_between(
    edges: Edges, repo: Repo, a: Snapshot, b: Snapshot, view: View, ref: bytes | None
) -> tuple[RefName | None, Changes | None]:
    chosen = ref
    if chosen is None:
        head = await reading.targets_at(edges.db, repo.id, [HEAD], b.number, b.moment)
        target = head.get(HEAD)
        chosen = refs.symbolic_target(target) if target and refs.is_symbolic(target) else HEAD
    ends: list[Target | None] = []
    for snapshot in (a, b):
        try:
            ends.append(await resolve(edges, repo, snapshot, chosen))
        except NotFound:
            ends.append(None)
    if ends == [None, None]:
        if ref is not None:
            raise NotFound(f"{repo.name} has no ref {refs.shown_text(ref)} at {a.label} or {b.label}")
        return None, None
    trees = await browse.look(view, lambda held: [browse.tree_of(held, oid) if oid else None for oid in ends])
    return RefName(chosen), await browse.changes(edges.git, view, *trees)


@dataclass(frozen=True, slots=True)
class Lost:
    """A move that took commits away, and the commits that no ref has held since."""

    logged: Logged
    tip: Target  # the commit that the ref held before
    count: int
    commits: tuple[Commit, ...]  # the newest of them


@dataclass(frozen=True, slots=True)
class Losses:
    """What only the vault holds at a moment."""

    items: tuple[Lost, ...]  # newest move first
    total: int  # moves that lost something, also those beyond the limit
    commits: int  # that no ref holds, each once
    whole: bool  # False: the history has more moves, or more lost commits, than were looked at


async def lost(
    edges: Edges,
    repo: Repo,
    at: Snapshot,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    ref: bytes | None = None,
    limit: int = 50,
    shown: int = 10,
) -> Losses:
    """After each forced, deleted or moved ref, exactly the commits that no ref held any more at this moment.

    Looks at every move up to `at`; what was brought back by then is not lost. The
    walk of a moment is remembered, as a snapshot never changes.
    """
    walk = await _losses(edges, repo, at)
    chosen = [
        (logged, tip)
        for logged, tip in walk.moves
        if (since is None or logged.at >= since)
        and (until is None or logged.at <= until)
        and (ref is None or logged.change.name in objects.candidates(ref))
    ]
    told = [(logged, tip, _reach(walk, tip)) for logged, tip in chosen[:limit]]
    wanted = {oid for _, _, reach in told for oid in reach[:shown]}
    found: dict[Target, Commit | None] = {}
    if wanted:
        async with opened(edges, repo, at) as view:
            found = await browse.look(view, lambda held: {oid: browse.commit_of(held, oid) for oid in wanted})
    items = tuple(
        Lost(logged, tip, len(reach), tuple(one for oid in reach[:shown] if (one := found[oid])))
        for logged, tip, reach in told
    )
    return Losses(items, len(chosen), len(walk.apart.parents), walk.whole)


async def lost_moves(edges: Edges, repo: Repo, at: Snapshot) -> frozenset[tuple[bytes, int]]:
    """Every move that `lost` tells of, by ref and snapshot: where the picture has a dotted line."""
    return frozenset((one.change.name, one.snapshot) for one, _ in (await _losses(edges, repo, at)).moves)


@dataclass(frozen=True, slots=True)
class _Walk:
    """What `lost` found of one moment."""

    moves: tuple[tuple[Logged, Target], ...]  # that lost something, with the commit that was held before
    apart: Apart
    rank: dict[Target, int]  # of each lost commit: 0 is the newest
    whole: bool


_walks: OrderedDict[str, _Walk] = OrderedDict()  # by repo and manifest: neither ever changes


async def _losses(edges: Edges, repo: Repo, at: Snapshot) -> _Walk:
    key = f"{repo.id} {at.manifest_sha256}"
    if (known := _walks.get(key)) is not None:
        _walks.move_to_end(key)
        return known
    logged, held_then = await together(
        reading.leaving(edges.db, repo.id, at.number, LEAVING + 1),
        reading.held_at(edges.db, repo.id, at.number, at.moment),
    )
    considered = logged[:LEAVING]
    async with opened(edges, repo, at) as view:
        olds = {one.change.old for one in considered if one.change.old}
        tips = await browse.look(view, lambda held: {old: read.peeled(held, old) for old in olds})
        wanted = {tip for tip in tips.values() if tip}
        found = await browse.apart(edges.git, view, wanted, held_then) if wanted else Apart({}, True)
    moves = tuple(
        (one, tip)
        for one in considered
        if one.change.old and (tip := tips[one.change.old]) and tip in found.parents
    )
    rank = {oid: place for place, oid in enumerate(found.parents)}
    walk = _Walk(moves, found, rank, found.whole and len(logged) <= LEAVING)
    _walks[key] = walk
    while len(_walks) > 1 and (
        len(_walks) > _REMEMBERED or sum(len(one.rank) for one in _walks.values()) > browse.LOST_AT_MOST
    ):
        _walks.popitem(last=False)
    return walk


def _reach(walk: _Walk, tip: Target) -> list[Target]:
    """The lost commits that this one reaches, itself among them, newest first."""
    reached = {tip}
    ahead = [tip]
    while ahead:
        for parent in walk.apart.parents[ahead.pop()]:
            if parent in walk.rank and parent not in reached:
                reached.add(parent)
                ahead.append(parent)
    return sorted(reached, key=walk.rank.__getitem__)


def bring_back_name(logged: Logged) -> RefName:
    """A name for the branch that brings back what a move took away: of the ref, and of when it went."""
    name = logged.change.name
    for start in (b"refs/heads/", b"refs/tags/", b"refs/"):
        if name.startswith(start):
            name = RefName(name.removeprefix(start))
            break
    return RefName(b"refs/heads/restored/%b-%b" % (name, f"{logged.at:%Y%m%d-%H%M%S}".encode()))
