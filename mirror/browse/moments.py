"""Reading a repo at any moment: its refs, commits, folders and files, differences, and lost commits.

A read joins the database, which knows where every ref was, with the pool, which has every object.
A pool that is behind is first filled from the vault, which may take a while and is shown by
`services.progress`. Nothing but that cache is changed. A reader process reads the objects, when
`services.who` gets a slot.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from mirror.backup import hydrate
from mirror.core import refs
from mirror.core.errors import Corrupt, Crowded, LimitReached, NotFound, TooOften
from mirror.core.formats import objects
from mirror.core.formats.objects import Changes, Commit, Entry, LfsPointer, RefKind
from mirror.core.model import HEAD, Kind, RefName, Repo, Snapshot, Target
from mirror.git.reader import views
from mirror.git.reader.processes import Reading
from mirror.git.reader.questions import (
    Ancestry,
    ChangesBetween,
    CommitAndChanges,
    CommitsOf,
    Content,
    Ends,
    FileAt,
    FolderAt,
    Log,
    ObjectAsItIs,
    Question,
    WhatIsLost,
    WhatLies,
    Whole,
)
from mirror.git.view import View
from mirror.services.open import Services, together
from mirror.store.backup.history import Logged
from mirror.store.browse import refs_shown

T = TypeVar("T")

PATIENCE: Final = 30.0  # seconds to wait while another reader fills the pool
PAGE: Final = 100  # rows, unless the caller says how many
PATH_BYTES: Final = 8192  # of a path that a person gives
SHOWN_BYTES: Final = 1 << 20  # of a file that is shown
RAW_BYTES: Final = 1 << 30  # of a file that can be downloaded
LEAVING: Final = 20_000  # moves that are searched for lost commits
SPARED: Final = 5  # moves that lost nothing, which are told
SMALL_BYTES: Final = 1 << 20  # of a file that is sent at once; a larger one is streamed
_REMEMBERED: Final = 100  # answers about lost commits that are kept
_REMEMBERED_BODIES: Final = 1 << 18  # characters of messages in one that is kept


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many."""

    items: tuple[T, ...]
    next: T | None = None  # the last one, where more follow it; None: this is the end


@dataclass(frozen=True, slots=True)
class RefRow:
    """A ref at a moment, with its commit."""

    name: RefName
    kind: RefKind
    target: Target  # an id, or symbolic
    oid: Target | None  # the object it resolves to; None: none
    commit: Commit | None  # None: it holds none, or one that is not kept


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
    lfs: LfsPointer | None  # None: it is not a Git LFS pointer

    @property
    def whole(self) -> bool:
        """Whether `data` is all of it."""
        return len(self.data) == self.size


@dataclass(frozen=True, slots=True)
class Raw:
    """A file's bytes, for a download."""

    name: bytes
    size: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Opened:
    """A moment while it is open, with the reader process that reads it."""

    view: View
    reading: Reading

    @property
    def path(self) -> str:
        """The path of the view, for a question."""
        return str(self.view.path)

    async def ask(self, question: Question[T]) -> T:
        """The reader's answer."""
        return await self.reading.ask(question)


@asynccontextmanager
async def opened(services: Services, repo: Repo, snapshot: Snapshot) -> AsyncIterator[Opened]:
    """A view that holds every object of this moment, for as long as this is open; safe beside any sync.

    Waits for a slot of `services.who`. Raises TooOften, Crowded.
    """
    async with _viewed(services, repo, snapshot) as view, services.readers.slot(services.who) as reading_:
        yield Opened(view, reading_)


@asynccontextmanager
async def _viewed(services: Services, repo: Repo, snapshot: Snapshot) -> AsyncIterator[View]:
    services.readers.slots.check(services.who)  # before anything is created for it
    room = services.disk.root / "reading"
    await views.sweep(room)
    async with hydrate.view_of(services, repo, snapshot, room, PATIENCE) as view:
        try:
            yield view
        except Corrupt:
            await hydrate.doubt(services, repo, snapshot)
            raise


async def resolve(services: Services, repo: Repo, snapshot: Snapshot, rev: bytes) -> Target:
    """The object that a ref's name (full or short) or a full object id means; empty: HEAD.

    An id is not checked for existence. Raises NotFound.
    """
    text = rev.decode("ascii", "replace").lower()
    if objects.is_id(text, snapshot.object_format):
        return Target(text.encode())
    names = objects.candidates(rev) if b"\0" not in rev else []
    found = await refs_shown.targets_at(services.db, repo.id, names, snapshot.number, snapshot.moment)
    for name in names:
        if name in found:
            return await _followed(services, repo, snapshot, name, found[name])
    what = f"no ref {refs.shown_text(rev)}" if rev else "no HEAD that leads to a commit"
    raise NotFound(f"{repo.name} at {snapshot.label} has {what}")


async def _followed(
    services: Services, repo: Repo, snapshot: Snapshot, name: RefName, target: Target
) -> Target:
    for _ in range(refs.SYMBOLIC_DEPTH + 1):
        if not refs.is_symbolic(target):
            return target
        to = refs.symbolic_target(target)
        found = await refs_shown.targets_at(services.db, repo.id, [to], snapshot.number, snapshot.moment)
        if to not in found:
            break
        target = found[to]
    raise NotFound(
        f"{refs.shown_text(name)} of {repo.name} at {snapshot.label} leads to a ref that does not exist"
    )


async def refs_at(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    *,
    after: bytes = b"",
    limit: int = PAGE,
    globs: Sequence[str] = (),
) -> Page[RefRow]:
    """A page of the refs of a moment in name order, starting after this name, each with its commit."""
    rows = await refs_shown.refs_page(
        services.db, repo.id, snapshot.number, snapshot.moment, after=after, globs=globs, limit=limit + 1
    )
    more, rows = len(rows) > limit, rows[:limit]
    ids: dict[RefName, Target | None] = {}
    for name, target in rows:
        try:
            ids[name] = await _followed(services, repo, snapshot, name, target)
        except NotFound:
            ids[name] = None
    async with opened(services, repo, snapshot) as there:
        wanted = tuple({oid for oid in ids.values() if oid})
        found = await there.ask(CommitsOf(there.path, wanted))
    items = tuple(
        RefRow(name, objects.ref_kind(name), target, oid, found.get(oid) if oid else None)
        for name, target in rows
        for oid in (ids[name],)
    )
    return Page(items, items[-1] if more else None)


async def commits(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    rev: bytes = b"",
    *,
    path: bytes = b"",
    skip: int = 0,
    limit: int = 50,
) -> tuple[tuple[Commit, ...], bool]:
    """The commits from a ref or id backwards, newest first, and whether more follow.

    With a path, only those that changed it. `skip`: how many earlier pages had.
    """
    _check_path(repo, path)
    start = await resolve(services, repo, snapshot, rev)
    async with opened(services, repo, snapshot) as there:
        found = await there.ask(Log(there.path, start, _clean(path), max(skip, 0), limit + 1))
    if found is None:
        raise _no_commit(repo, start, rev)
    return found[:limit], len(found) > limit


async def commit(services: Services, repo: Repo, snapshot: Snapshot, rev: bytes) -> CommitShown:
    """One commit with what it changed against its first parent."""
    oid = await resolve(services, repo, snapshot, rev)
    async with opened(services, repo, snapshot) as there:
        found = await there.ask(CommitAndChanges(there.path, oid))
    if found is None:
        raise _no_commit(repo, oid, rev)
    return CommitShown(*found)


async def tree(
    services: Services,
    repo: Repo,
    snapshot: Snapshot,
    rev: bytes = b"",
    path: bytes = b"",
    *,
    limit: int = 2000,
) -> Folder:
    """A folder of a ref or commit, folders first, with sizes."""
    _check_path(repo, path)
    oid = await resolve(services, repo, snapshot, rev)
    async with opened(services, repo, snapshot) as there:
        found = await there.ask(FolderAt(there.path, oid, path, limit))
    if found is None:
        raise _nothing(repo, snapshot, rev, path)
    if found.entry.kind != "folder":
        raise NotFound(f"{refs.shown_text(path)} is not a folder in {_of(repo, snapshot, rev)}")
    return Folder(_clean(path), found.entry.oid, found.entries, found.total, _readme(found.entries))


def _readme(entries: Sequence[Entry]) -> Entry | None:
    """The file that introduces a folder: README.md before README.rst, README.txt and README."""
    wanted = (b"readme.md", b"readme.markdown", b"readme.rst", b"readme.txt", b"readme")
    found = {one.name.lower(): one for one in reversed(entries) if one.kind in ("file", "executable")}
    return next((found[name] for name in wanted if name in found), None)


async def blob(
    services: Services, repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes, *, limit: int = SHOWN_BYTES
) -> Blob:
    """A file, link or submodule of a ref or commit; of a large file the beginning."""
    found, size = await _file(services, repo, snapshot, rev, path, limit)
    return Blob(
        path=_clean(path),
        entry=found.entry,
        size=size,
        data=found.data,
        text=found.text,
        encoding=found.encoding,
        lfs=found.lfs,
    )


async def made(services: Services, question: Question[T]) -> T | None:
    """What a reader process renders from a text for a page; None: the text is too large for it."""
    try:
        async with services.readers.slot(services.who) as reading_:
            return await reading_.ask(question)
    except (TooOften, Crowded):
        raise
    except (LimitReached, Corrupt):
        return None


async def _file(
    services: Services, repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes, limit: int
) -> tuple[Content, int]:
    """The content at a path that is not a folder, and its size. Raises NotFound."""
    _check_path(repo, path)
    oid = await resolve(services, repo, snapshot, rev)
    async with opened(services, repo, snapshot) as there:
        found = await there.ask(FileAt(there.path, oid, path, limit))
    return _checked(repo, snapshot, rev, path, found)


def _checked(
    repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes, found: Content | None
) -> tuple[Content, int]:
    if found is None:
        raise _nothing(repo, snapshot, rev, path)
    if found.entry.kind == "folder":
        raise NotFound(f"{refs.shown_text(path) or 'this'} is a folder in {_of(repo, snapshot, rev)}")
    if found.entry.kind == "submodule":
        return found, 0
    if found.size is None:
        raise NotFound(f"the content of {refs.shown_text(path)} is missing from the backup of {repo.name}")
    return found, found.size


@asynccontextmanager
async def raw(
    services: Services, repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes
) -> AsyncIterator[Raw]:
    """A file's bytes as a stream, to read while this is open."""
    _check_path(repo, path)
    oid = await resolve(services, repo, snapshot, rev)
    async with AsyncExitStack() as stack:
        view = await stack.enter_async_context(_viewed(services, repo, snapshot))
        async with services.readers.slot(services.who) as reading_:
            asked = FileAt(str(view.path), oid, path, SMALL_BYTES, is_text=False)
            found, size = _checked(repo, snapshot, rev, path, await reading_.ask(asked))
        if found.entry.kind == "submodule":
            raise NotFound(f"{refs.shown_text(path)} is a submodule: its content is in another repository")
        chunks = await _bytes(services, stack, view, Whole("blob", size, found.data), found.entry.oid)
        yield Raw(found.entry.name, size, chunks)


@asynccontextmanager
async def raw_object(services: Services, repo: Repo, snapshot: Snapshot, oid: str) -> AsyncIterator[Raw]:
    """Any object as git stores it, also a tree or commit, to read while this is open."""
    if not objects.is_id(oid.lower(), snapshot.object_format):
        raise NotFound(f"{repo.name} has no object like that; use its full id")
    target = Target(oid.lower().encode())
    async with AsyncExitStack() as stack:
        view = await stack.enter_async_context(_viewed(services, repo, snapshot))
        async with services.readers.slot(services.who) as reading_:
            found = await reading_.ask(ObjectAsItIs(str(view.path), target, SMALL_BYTES))
        if found is None:
            raise NotFound(f"{oid} is not an object in the backup of {repo.name}")
        chunks = await _bytes(services, stack, view, found, target)
        yield Raw(f"{oid.lower()}.{found.kind}".encode(), found.size, chunks)


async def _bytes(
    services: Services, stack: AsyncExitStack, view: View, found: Whole, oid: Target
) -> AsyncIterator[bytes]:
    """All bytes of an object: at once where a reader has sent them, else streamed by git, within a slot."""
    if found.size > RAW_BYTES:
        raise NotFound(f"{oid.decode()} has {found.size} bytes; restore the moment to get it")
    if len(found.data) == found.size:
        return _once(found.data)
    await stack.enter_async_context(services.readers.streams.slot(services.who))
    chunks = views.stream(services.readers.streaming, view, found.kind, oid)
    stack.push_async_callback(chunks.aclose)
    return chunks


async def _once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


def _nothing(repo: Repo, snapshot: Snapshot, rev: bytes, path: bytes) -> NotFound:
    return NotFound(f"{_of(repo, snapshot, rev)} has no {refs.shown_text(path) or 'files'}")


def _of(repo: Repo, snapshot: Snapshot, rev: bytes) -> str:
    return f"{refs.shown_text(rev) or 'HEAD'} of {repo.name} at {snapshot.label}"


def _clean(path: bytes) -> bytes:
    """A path without empty components."""
    return b"/".join(name for name in path.split(b"/") if name)


def _check_path(repo: Repo, path: bytes) -> None:
    if len(path) > PATH_BYTES or b"\0" in path:
        raise NotFound(f"{repo.name} has no path like that")


def _no_commit(repo: Repo, oid: Target, rev: bytes) -> NotFound:
    said = refs.shown_text(rev) or "HEAD"
    return NotFound(f"{said} is not a commit in the backup of {repo.name}")


@dataclass(frozen=True, slots=True)
class RefDifference:
    """What became of one ref between two moments."""

    name: RefName
    kind: Kind
    old: Target | None
    new: Target | None
    lost: int | None  # commits that only the old target reaches; None: not counted
    gained: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two moments."""

    refs: tuple[RefDifference, ...]  # what was taken away first
    total: int
    ref: RefName | None  # whose files are compared; None: it exists at neither moment
    files: Changes | None


COUNTED: Final = 10  # refs whose commits are counted
JUDGED: Final = 1000  # moved refs that are classified as forced or fast-forwarded


async def difference(
    services: Services, repo: Repo, a: Snapshot, b: Snapshot, *, ref: bytes | None = None, limit: int = 200
) -> Difference:
    """What differs at `b` from `a`: refs with commits gained and lost, and the files of one ref.

    The ref is HEAD's branch unless one is given. `a` may be the later moment.
    """
    moves = await _moves(services, repo, a, b)
    newer = a if a.log > b.log else b
    name, ends = await _ends(services, repo, a, b, ref)
    async with opened(services, repo, newer) as there:
        forward, commits_ = await there.ask(Ancestry(there.path, tuple(moves[:JUDGED])))
        told = refs.classify(moves, forward, commits_)
        told.sort(key=lambda change: (change.kind not in (Kind.FORCED, Kind.DELETED), change.name))
        counted = [one for one in told[:COUNTED] if one.name in commits_ and one.old and one.new]
        between = await there.ask(WhatLies(there.path, tuple((one.old, one.new) for one in counted)))
        files: Changes | None = None
        if ends:
            files = await there.ask(ChangesBetween(there.path, *ends))
    apart = {one.name: (lies.lost, lies.gained) for one, lies in zip(counted, between, strict=True)}
    rows = tuple(
        RefDifference(one.name, one.kind, one.old, one.new, *apart.get(one.name, (None, None)))
        for one in told[:limit]
    )
    return Difference(rows, len(moves), name, files)


async def _moves(services: Services, repo: Repo, a: Snapshot, b: Snapshot) -> list[refs.Move]:
    first, last = sorted((a.number, b.number))
    first -= any(one.moment and one.number == first for one in (a, b))  # a moment lies before its snapshot
    names = await refs_shown.moved_between(services.db, repo.id, first, last)
    if not names:
        return []
    old = await refs_shown.targets_at(services.db, repo.id, names, a.number, a.moment)
    new = await refs_shown.targets_at(services.db, repo.id, names, b.number, b.moment)
    return refs.diff(old, new)


async def _ends(
    services: Services, repo: Repo, a: Snapshot, b: Snapshot, ref: bytes | None
) -> tuple[RefName | None, Ends | None]:
    """The ref whose files are compared, and its two targets; None where it exists at neither moment."""
    chosen = ref
    if chosen is None:
        head = await refs_shown.targets_at(services.db, repo.id, [HEAD], b.number, b.moment)
        target = head.get(HEAD)
        chosen = refs.symbolic_target(target) if target and refs.is_symbolic(target) else HEAD
    ends: list[Target | None] = []
    for snapshot in (a, b):
        try:
            ends.append(await resolve(services, repo, snapshot, chosen))
        except NotFound:
            ends.append(None)
    if ends == [None, None]:
        if ref is not None:
            raise NotFound(f"{repo.name} has no ref {refs.shown_text(ref)} at {a.label} or {b.label}")
        return None, None
    return RefName(chosen), (ends[0], ends[1])


@dataclass(frozen=True, slots=True)
class LostCommits:
    """A move that took commits away, and the commits that no ref has held since."""

    logged: Logged
    tip: Target  # the commit that the ref held before
    count: int
    commits: tuple[Commit, ...]  # the newest of them


@dataclass(frozen=True, slots=True)
class Losses:
    """The commits that only the vault holds at a moment."""

    items: tuple[LostCommits, ...]  # newest move first
    total: int  # moves that lost commits, also those beyond the limit
    commits: int  # that no ref holds, each counted once
    whole: bool  # False: the history has more moves, or more lost commits, than were searched
    spared: tuple[Logged, ...] = ()  # moves whose commits are all on another ref, the newest of them


async def lost(
    services: Services,
    repo: Repo,
    at: Snapshot,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    ref: bytes | None = None,
    limit: int = 50,
    shown: int = 10,
) -> Losses:
    """For each forced, deleted or moved ref, exactly the commits that no ref held any more at this moment.

    Searches every move up to `at`; commits that were restored by then are not lost. The answer for a
    moment is remembered, as a snapshot never changes.
    """
    key = f"{repo.id} {at.manifest_sha256} {at.moment} {since} {until} {ref!r} {limit} {shown}"
    if (known := _losses.get(key)) is not None:
        _losses.move_to_end(key)
        return known
    logged, held_then = await together(
        refs_shown.leaving(services.db, repo.id, at.number, LEAVING + 1),
        refs_shown.held_at(services.db, repo.id, at.number, at.moment),
    )
    moves = [one for one in logged[:LEAVING] if one.change.old]
    chosen = [
        one
        for one in moves
        if (since is None or one.at >= since)
        and (until is None or one.at <= until)
        and (ref is None or one.change.name in objects.candidates(ref))
    ]
    async with opened(services, repo, at) as there:
        found = await there.ask(
            WhatIsLost(there.path, _olds(moves), tuple(held_then), _olds(chosen), limit, shown)
        )
    taken = [(one, found.told.get(old)) for one in chosen if (old := one.change.old) in found.lost and old]
    items = tuple(LostCommits(one, told.tip, told.count, told.commits) for one, told in taken[:limit] if told)
    losses = Losses(
        items=items,
        total=len(taken),
        commits=found.commits,
        whole=found.whole and len(logged) <= LEAVING,
        spared=tuple(one for one in chosen if one.change.old not in found.lost)[:SPARED],
    )
    if sum(len(commit.body) for one in items for commit in one.commits) < _REMEMBERED_BODIES:
        _losses[key] = losses
    while len(_losses) > _REMEMBERED:
        _losses.popitem(last=False)
    return losses


_losses: OrderedDict[str, Losses] = OrderedDict()  # by repo and manifest: neither ever changes


def _olds(moves: Sequence[Logged]) -> tuple[Target, ...]:
    return tuple(one.change.old for one in moves if one.change.old)


def bring_back_name(logged: Logged) -> RefName:
    """The branch to restore lost commits to: named after the ref and the time of the loss."""
    name = logged.change.name
    for start in (b"refs/heads/", b"refs/tags/", b"refs/"):
        if name.startswith(start):
            name = RefName(name.removeprefix(start))
            break
    return RefName(b"refs/heads/restored/%b-%b" % (name, f"{logged.at:%Y%m%d-%H%M%S}".encode()))
