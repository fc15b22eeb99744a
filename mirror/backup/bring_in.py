"""Bringing in a bundle, a repository, or an archive of one: it becomes a repo, or a snapshot of one.

Who calls: the command `everref import FILE|DIR`, and jobs/run for what was uploaded. It reads and proves what
it is given in scratch space, and what is sound goes the way of a push (backup/receive). So what is refused
has left nothing behind.
"""

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.backup import hydrate, pushing, receive
from mirror.backup.sync import Synced
from mirror.core.errors import Corrupt, Damaged, Origin, Refused, UsageError
from mirror.core.formats import bare, bundle
from mirror.core.formats.bare import Container
from mirror.core.formats.bundle import Header
from mirror.core.model import HEAD, ObjectFormat, Reason, Refs, Repo, Snapshot, Target, has_remote
from mirror.core.refs import is_symbolic
from mirror.git import pack, read, unpack, view
from mirror.git.disk import finish
from mirror.git.pack import Indexing
from mirror.git.reserve import Room
from mirror.git.run import CHUNK, GitFailed, explain
from mirror.git.view import View
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.backup import lfs, snapshots

PATIENCE: Final = 60.0  # seconds for the repo's pool and its lease
_MOST_NAMED: Final = 5  # missing commits that a message names


@dataclass(frozen=True, slots=True)
class Proved:
    """A repository that was read and proved: its objects and refs are in a view of ours."""

    view: View
    refs: Refs  # HEAD among them, where it is known
    boundary: tuple[Target, ...] = ()  # commits that the repo has, on which it builds

    @property
    def adds(self) -> bool:
        """Whether it is the later part of a history: refs that it does not have stay as they are then."""
        return bool(self.boundary)


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of it."""

    synced: Synced
    refs: int  # that it has, without HEAD
    commits: int  # that they reach; of the later part of a history, those that it adds
    large_files: int  # that Git LFS keeps outside git, so that they are not saved


@asynccontextmanager
async def proved(services: Services, source: Path, repo: Repo | None = None) -> AsyncIterator[Proved]:
    """Read what is at `source` into scratch space and prove it, for as long as the block lasts.

    `repo` is what it is to become a snapshot of: a bundle may build on what that has. None: it must be whole.

    1. Its files are chosen by a list, and all else of it is left (git/unpack).
    2. git unpacks every object and finds its name, so that a byte that was changed is found.
    3. git walks from every ref to the last object, so that one that is missing is found.

    Raises UsageError, Refused and Corrupt (origin SOURCE), with git's own words where it has some, and
    LimitReached where it is larger than may be fetched at once or than the disk holds. Nothing is left
    when the block ends, however that ends.
    """
    room = services.disk.root / "incoming" / secrets.token_hex(8)
    reserve = Room([services.disk.root], services.disk.make_way)
    try:
        async with AsyncExitStack() as stack:
            async with reserve.kept():
                with _in_gits_words(services):
                    found = await _proved(services, stack, source, repo, room)
            yield found
    finally:
        await finish(lambda: shutil.rmtree(room, ignore_errors=True))


@contextmanager
def _in_gits_words(services: Services) -> Iterator[None]:
    """What is corrupt is what was brought in, unless the vault is; no path of this machine is told."""
    try:
        yield
    except Damaged:
        raise
    except Corrupt as error:
        text = re.sub(r" \(stored in [^)]*\)|" + re.escape(str(services.disk.root)) + r"\S*", "", str(error))
        raise Corrupt(text, origin=Origin.SOURCE) from None


async def bring_in(
    services: Services, repo: Repo, found: Proved, *, by: str | None = None, keep_others: bool = False
) -> Brought:
    """Take a snapshot of what was proved, in a repo without a remote; `by` brought it in.

    Refs that it does not have are deleted in that snapshot, unless it `adds` or they are to be kept: earlier
    snapshots have them in any case. Safe to run twice: the second run finds the refs as they should be.
    Raises UsageError where the repo has a remote, Refused where it is paused and this is new, and what
    backup/receive raises.
    """
    check_no_remote(repo)
    is_paused = await pushing.is_paused(services, repo)
    await view.write_refs(found.view.path, found.refs, durable=False)
    failpoints.reached("bring in: proved")

    def decide(old: Refs, _: ObjectFormat | None) -> Refs:
        wanted = {**old, **found.refs} if found.adds or keep_others else found.refs
        if is_paused and wanted != old:
            raise pushing.paused(repo)
        return wanted

    count = await _commits(services, found)
    done = await receive.take(
        services, repo, found.view, decide, by=by, reason=Reason.MANUAL, patience=PATIENCE
    )
    failpoints.reached("bring in: taken")
    known = await lfs.known(services.db, repo.id, done.snapshot.number, 1)
    return Brought(done, len(found.refs) - (HEAD in found.refs), count, known.files)


async def _commits(services: Services, found: Proved) -> int:
    """How many commits the refs reach; of the later part of a history, those that it adds."""
    lines = b"".join(b"%b\n" % one for one in (*_tips(found.refs), *(b"^" + one for one in found.boundary)))
    args = ("rev-list", "--count", "--ignore-missing", "--stdin")
    return int(await services.git.run(*args, git_dir=str(found.view.path), stdin=lines))


async def check_takes(services: Services, repo: Repo) -> None:
    """Raise UsageError where a repo has a remote, Refused where it is paused."""
    check_no_remote(repo)
    await pushing.check_not_paused(services, repo)


def check_no_remote(repo: Repo) -> None:
    """Raise UsageError where a repo is backed up from a remote: its snapshots are what that has."""
    if has_remote(repo.url):
        raise UsageError(
            f"{repo.name} is backed up from a remote, so it cannot have a snapshot of a file; choose another"
            " name",
            field="repo",
        )


def name_of(file: str) -> str:
    """What a repo is called that is brought in from a file of this name."""
    name = re.split(r"[/\\]", file.strip().rstrip("/"))[-1]
    name = re.sub(r"(?i)(\.(bundle|tar\.gz|tgz|tar|zip|git))+$", "", name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "repository"


async def _proved(
    services: Services, stack: AsyncExitStack, source: Path, repo: Repo | None, room: Path
) -> Proved:
    git, most = services.git, services.settings.fetch_bytes
    last = await snapshots.latest(services.db, repo.id) if repo else None
    if await asyncio.to_thread(source.is_dir):
        members = await asyncio.to_thread(unpack.folder, source)
    elif (kind := await asyncio.to_thread(_kind, source)) is Container.BUNDLE:
        return await _of_bundle(services, stack, source, repo, last, room)
    else:
        members = unpack.members_of(source, kind)
    await finish(lambda: room.mkdir(mode=0o700, parents=True))
    unpacked = await unpack.unpack(members, room, unpack.Bound(most), services.progress)
    _check_format(repo, last, unpacked.refs.object_format)
    place = await stack.enter_async_context(
        view.scratch_view(None, room, object_format=unpacked.refs.object_format)
    )
    await unpack.index(git, place, unpacked, most, services.progress)
    await _walk(services, place, unpacked.refs.refs, ())
    return Proved(place, unpacked.refs.refs)


def _kind(source: Path) -> Container:
    try:
        with source.open("rb") as file:
            return bare.container(file.read(bare.START))
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from None


async def _of_bundle(
    services: Services,
    stack: AsyncExitStack,
    source: Path,
    repo: Repo | None,
    last: Snapshot | None,
    room: Path,
) -> Proved:
    header, begins, size = await asyncio.to_thread(_header, source)
    if not header.refs:
        raise Refused("the bundle has no refs, so there is nothing to bring in")
    _check_format(repo, last, header.object_format)
    if not header.prerequisites:
        place = await stack.enter_async_context(
            view.scratch_view(None, room, object_format=header.object_format)
        )
    elif repo is None or last is None:
        raise _lacking(header.prerequisites, None)
    else:
        place = await stack.enter_async_context(hydrate.view_of(services, repo, last, room, PATIENCE))
        if missing := await read.missing(place.path, header.prerequisites):
            raise _lacking(sorted(missing), repo)
    services.progress.phase("checking the bundle", size, "bytes")
    how = Indexing(
        header.object_format,
        fix_thin=bool(header.prerequisites),
        source=unpack.SOURCE,
        longest=services.settings.fetch_bytes,
    )
    await pack.index(
        services.git, place.path, unpack.counted(pack.file_chunks(source, begins), services.progress), how
    )
    refs = dict(header.refs)
    told = bare.head_of(refs, refs.pop(HEAD, None))
    if told is not None and not header.prerequisites:
        refs[HEAD] = told
    await _walk(services, place, refs, header.prerequisites)
    return Proved(place, refs, header.prerequisites)


def _header(source: Path) -> tuple[Header, int, int]:
    """A bundle's header, where its pack begins, and the size of that."""
    start = b""
    with source.open("rb") as file:
        while (found := bundle.decode(start)) is None:
            more = file.read(max(CHUNK, len(start)))  # twice as much each time
            if not more:
                raise Corrupt("the bundle ends within its header")
            start += more
        header, begins = found
        return header, begins, os.fstat(file.fileno()).st_size - begins


def _lacking(missing: tuple[Target, ...] | list[Target], repo: Repo | None) -> Refused:
    shown = ", ".join(target.decode() for target in missing[:_MOST_NAMED])
    more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    if repo is None:
        return Refused(
            f"the bundle builds on commits that it does not have ({shown}{more}); bring it into the"
            " repository that has them, or make a whole one: git bundle create FILE --all",
            origin=Origin.SOURCE,
        )
    return Refused(
        f"{repo.name} lacks these prerequisite commits of the bundle: {shown}{more}; bring in the earlier"
        " bundles first, or make a whole one: git bundle create FILE --all",
        origin=Origin.SOURCE,
    )


def _check_format(repo: Repo | None, last: Snapshot | None, object_format: ObjectFormat) -> None:
    """Raise Refused, before hours of work, where a repo has objects of the other format."""
    if repo and last and last.log_entries and last.object_format != object_format:
        raise Refused(
            f"{repo.name} is a {last.object_format} repository, and this is a {object_format} one; bring it"
            " in under another name",
            origin=Origin.SOURCE,
        )


async def _walk(services: Services, place: View, refs: Refs, boundary: tuple[Target, ...]) -> None:
    """Let git walk from every ref to the last object. Raises Corrupt with what it misses."""
    services.progress.phase("checking that nothing is missing")
    lines = b"".join(line + b"\n" for line in (*_tips(refs), *(b"^" + one for one in boundary)))
    args = ("rev-list", "--objects", "--no-object-names", "--stdin")
    try:
        async with services.git.process(*args, git_dir=str(place.path)) as child:
            await child.feed(lines)
            async for _ in child.stdout:
                pass
    except GitFailed as failed:
        meaning = explain(failed)
        if meaning is failed:
            raise Corrupt(f"git says: {failed.line}", origin=Origin.SOURCE) from None
        raise meaning from None


def _tips(refs: Refs) -> list[Target]:
    """The objects that the refs point at."""
    return sorted({target for target in refs.values() if not is_symbolic(target)})
