"""From the vault to a bare repository: filling a pool, and turning a moment into a directory."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mirror.backup import damage, dropped
from mirror.backup.part import read_index
from mirror.core.errors import Busy, Corrupt, Damaged, DiskFull, NoSuchObject
from mirror.core.formats import layout, splice
from mirror.core.model import ObjectFormat, Part, Repo, Sealed, Snapshot
from mirror.core.rules.history import plan
from mirror.core.rules.history.plan import Step
from mirror.git import pack
from mirror.git import view as view_
from mirror.git.pool import Pool
from mirror.git.reader import views
from mirror.git.reader.slots import NOBODY
from mirror.git.reader.views import Mark
from mirror.git.view import View
from mirror.services.open import Services
from mirror.services.reading import reading
from mirror.store.backup import epochs, snapshots
from mirror.vault import streams

T = TypeVar("T")


async def warm(services: Services, repo: Repo, pool: Pool, last: Snapshot | None) -> None:
    """Make the pool hold exactly the pack log up to `last`; the caller holds the pool's lock.

    Safe to run twice: the pool's mark is written after the packs are in, and a
    pool whose contents do not match its mark is thrown away.
    """
    await pool.clean()
    mark = await pool.mark()
    if mark and last and mark == (last.epoch, last.number, last.manifest_sha256):
        return
    if last is None:
        await pool.empty()
        return
    after, steps, last = await _lacking(services, repo, mark, last)
    if not after:
        await pool.empty()
    await fill(services, pool.path, last.object_format, steps)
    await pool.set_mark(last.epoch, last.number, last.manifest_sha256)


async def _lacking(
    services: Services, repo: Repo, mark: Mark | None, last: Snapshot
) -> tuple[int, list[Step], Snapshot]:
    """The snapshot after which a pool of this mark lacks the log up to `last`, and its parts; 0: all.

    And `last` in the epoch that it is of now.
    """
    after = 0
    now = await epochs.log(services.db, repo.id, last.number, last.number)
    if now is None:
        raise Corrupt(f"snapshot #{last.number} of {repo.name} is no longer recorded; run everref rebuild")
    last = replace(last, epoch=now.epoch)
    if mark and mark[0] == last.epoch and mark[1] < last.number:
        # By its manifest, as a vault that was itself brought back can have another snapshot of that number.
        held = await snapshots.get(services.db, repo.id, mark[1])
        after = mark[1] if held is not None and held.manifest_sha256 == mark[2] else 0
    steps = plan.parts_after(now.live, now.segments, after, last.number, log_entries=last.log_entries)
    if after and plan.starts_over(steps, after):
        return 0, steps, last  # the log was recut below what is there: take it whole
    return after, steps, last


@asynccontextmanager
async def view_of(
    services: Services, repo: Repo, snapshot: Snapshot, room: Path, patience: float
) -> AsyncIterator[View]:
    """A view under `room` of the pack log up to this snapshot or further, for as long as this is open.

    It has links to the pool's packs, and nothing is held that a sync needs, neither
    while it is open nor while the vault is read. What the pool lacks is read from the
    vault into the view, by one reader at a time, and lent to the pool.
    Raises Busy if another one reads it for longer than `patience` seconds, Crowded or
    TooOften if `services.who` gets no slot for as long.
    """
    pool = Pool(services.git, services.disk.pool(repo.id), snapshot.object_format)
    async with views.reading(pool, room) as (view, mark):
        if mark and await _holds(services, repo, snapshot, mark):
            yield view
            return
    async with AsyncExitStack() as stack, AsyncExitStack() as filling:
        services.progress.phase("filling the pool")
        if services.who != NOBODY:  # a worker has slots of its own; here somebody waits for a page
            await filling.enter_async_context(services.readers.fills.slot(services.who))
        async with filling, pool.filling(patience):
            view, mark = await stack.enter_async_context(views.reading(pool, room))
            if not (mark and await _holds(services, repo, snapshot, mark)):  # nobody has filled it meanwhile
                last = await snapshots.latest(services.db, repo.id) or snapshot
                after, steps, last = await _lacking(services, repo, mark, last)
                if mark and not after:
                    empty = view_.scratch_view(None, room, object_format=snapshot.object_format)
                    view = await stack.enter_async_context(empty)
                before = await views.packs(view)
                try:
                    await fill(services, view.path, last.object_format, steps)
                except Damaged:
                    if last.number == snapshot.number:
                        raise
                    # What came later is damaged; this moment may be whole.
                    empty = view_.scratch_view(None, room, object_format=snapshot.object_format)
                    view = await stack.enter_async_context(empty)
                    await fill(
                        services, view.path, snapshot.object_format, await steps_to(services, repo, snapshot)
                    )
                else:
                    await _lend(pool, view, before, mark, last, whole=not after)
        yield view


async def is_pooled(services: Services, repo: Repo, snapshot: Snapshot) -> bool:
    """Whether the pool on this machine holds the moment: then nothing is read from the vault for a view."""
    mark = await Pool(services.git, services.disk.pool(repo.id), snapshot.object_format).mark()
    return mark is not None and await _holds(services, repo, snapshot, mark)


async def _holds(services: Services, repo: Repo, snapshot: Snapshot, mark: Mark) -> bool:
    """Whether a pool of this mark holds what the snapshot reaches."""
    epoch, number, manifest = mark
    if epoch < snapshot.epoch or number < snapshot.log:
        return False
    if (number, manifest) == (snapshot.log, snapshot.manifest_sha256):
        return True
    held = await snapshots.get(services.db, repo.id, number)
    return held is not None and held.manifest_sha256 == manifest


async def _lend(
    pool: Pool, view: View, before: Collection[str], mark: Mark | None, last: Snapshot, *, whole: bool
) -> None:
    """Give the pool the packs that a view got, unless another run uses it: it is a cache."""
    with suppress(Busy):
        async with pool.lock(patience=0):
            await pool.open_or_create()
            await pool.clean()
            if await pool.mark() != mark:
                return
            if whole:
                await pool.empty()
            await pool.link(view.objects / "pack", await views.packs(view) - set(before))
            await pool.set_mark(last.epoch, last.number, last.manifest_sha256)


async def mended(services: Services, repo: Repo, work: Callable[[], Awaitable[T]]) -> T:
    """Do work that reads the repo's pool; if it found something corrupt, check the pool.

    If this disk has damaged the pool, it is thrown away and the work is done once more: the
    vault fills it again. Only then is the whole pool read, so the work
    itself must notice damage. It must be safe to run twice, and take the pool's lock itself.
    """
    try:
        return await roomy(services, work)
    except Corrupt:
        if not await drop_broken(services, repo):
            raise  # it is the remote, or the vault
    return await roomy(services, work)


async def roomy(services: Services, work: Callable[[], Awaitable[T]]) -> T:
    """Do work that is safe to run twice; if the disk is full, do it once more after pools were evicted."""
    try:
        return await work()
    except DiskFull as error:
        if not await services.disk.give_way(error):
            raise
    return await work()


async def drop_broken(services: Services, repo: Repo, patience: float = 3600.0) -> bool:
    """Empty the repo's pool if this disk has damaged it; returns whether it did.

    Raises Busy if another run holds the pool for longer than `patience` seconds.
    """
    pool = Pool(services.git, services.disk.pool(repo.id), repo.object_format or "sha1")
    async with pool.lock(patience):
        return pool.path.is_dir() and await pool.empty_if_broken()


_doubted: dict[Path, Mark] = {}  # pools that were read whole, with their marks then


async def doubt(services: Services, repo: Repo, snapshot: Snapshot) -> None:
    """After a reader met something corrupt: delete the pool if this disk has damaged it.

    It is read whole once for that, not at every read.
    """
    pool = Pool(services.git, services.disk.pool(repo.id), snapshot.object_format)
    mark = await pool.mark()
    if mark and _doubted.get(pool.path) != mark:
        _doubted[pool.path] = mark
        with suppress(Busy):  # a sync is at work on it, and finds the damage as well
            if await drop_broken(services, repo, patience=0):
                del _doubted[pool.path]


async def fill(
    services: Services,
    path: Path,
    object_format: ObjectFormat,
    steps: Sequence[Step],
    *,
    durable: bool = False,
) -> None:
    """Put the objects of these parts into the bare repository at `path`.

    A complete part goes in as it is, with the index that was stored beside it;
    everything else is spliced into one pack that git indexes. Every stored
    byte is checked against its sum on the way. If `durable`, all of it is safe on disk
    when this returns. Pools that were not used for long are evicted to make room. Raises
    Corrupt naming the key.
    """
    size = sum(_cut(step).bytes_to_read for step in steps)
    await services.disk.pools.make_room(path, size)
    async with _registered(services, steps):
        await roomy(services, lambda: _fill(services, path, object_format, steps, size, durable))


@asynccontextmanager
async def _registered(services: Services, steps: Sequence[Step]) -> AsyncIterator[None]:
    """Keep the parts that are read in the vault meanwhile, also if they are replaced."""
    repo_id = layout.repo_of(steps[0].part.key) if steps else None
    if repo_id is None:
        yield
        return
    async with reading(services, repo_id):
        yield


async def _fill(
    services: Services,
    path: Path,
    object_format: ObjectFormat,
    steps: Sequence[Step],
    size: int,
    durable: bool,
) -> None:
    rest = list(steps)
    services.progress.phase("reading the vault", size, "bytes")
    try:
        if rest and rest[0].part.complete and rest[0].upto is None and rest[0].part.index_bytes:
            base = rest.pop(0)
            index = read_index(services.vault, base.part)
            await pack.install(path, spliced(services, [base], object_format), index, object_format)
        if rest:
            chunks = spliced(services, rest, object_format)
            await pack.index(
                services.git,
                path,
                chunks,
                pack.Indexing(
                    self_contained=False,
                    fix_thin=True,
                    object_format=object_format,
                    source="what the vault holds",
                    durable=durable,
                ),
            )
    except (Corrupt, NoSuchObject) as error:
        if damage.doubt(services, steps, error):
            return await _fill(services, path, object_format, steps, size, durable)
        raise await damage.found(services, [step.part for step in steps], error) from None


async def spliced(
    services: Services, steps: Sequence[Step], object_format: ObjectFormat
) -> AsyncGenerator[bytes, None]:
    """One pack out of these parts, read from the vault, every byte checked on the way.

    Raises Damaged where one of them is missing or broken.
    """
    try:
        async with aclosing(
            splice.pack([_source(services, step) for step in steps], object_format)
        ) as chunks:
            async for chunk in chunks:
                yield chunk
    except (Corrupt, NoSuchObject) as error:
        raise await damage.found(services, [step.part for step in steps], error) from None


def _source(services: Services, step: Step) -> splice.Source:
    return splice.Source(step.part, _counted(services, step), step.upto, step.after)


def _cut(step: Step) -> splice.Cut:
    return splice.cut(step.part, step.upto, step.after)


async def _counted(services: Services, step: Step) -> AsyncIterator[bytes]:
    wanted = _cut(step)
    async with aclosing(services.vault.read(step.part.key, wanted.start, wanted.end)) as chunks:
        async for chunk in chunks:
            services.progress.advance(len(chunk))
            yield chunk


async def steps_to(services: Services, repo: Repo, snapshot: Snapshot) -> list[Step]:
    """The parts that hold everything up to this snapshot, in order. Raises GapInChain, or Dropped."""
    now = await epochs.log(services.db, repo.id, snapshot.number, snapshot.log)
    if now is None:
        raise Corrupt(f"{snapshot.label} of {repo.name} is no longer recorded; run everref rebuild")
    if now.dropped_at is not None:
        gone = replace(snapshot, dropped_at=now.dropped_at, dropped_why=now.dropped_why)
        raise await dropped.refusal(services, repo, gone)
    return plan.parts_for(now.live, now.segments, snapshot.log, log_entries=snapshot.log_entries)


async def read_back(services: Services, part: Part) -> None:
    """Read a stored part whole. Raises Corrupt unless it has the size and sum that it was recorded with.

    Where it is sealed, what is inside is compared, so a key is needed.
    """
    await compare(services, part.key, services.vault.read(part.key), Sealed(part.bytes, part.sha256))


async def read_back_as_stored(services: Services, part: Part) -> int:
    """The same of the stored bytes, sealed or not, and of those of the `.idx`; returns their number."""
    await compare(services, part.key, services.stored.read(part.key), part.stored)
    if not part.index_bytes:
        return part.stored.bytes
    index = layout.index_key(part.key)
    await compare(services, index, services.stored.read(index), part.stored_index)
    return part.stored.bytes + part.stored_index.bytes


async def compare(services: Services, key: str, chunks: AsyncGenerator[bytes, None], wanted: Sealed) -> None:
    """Read what is stored under a key, as it comes. Raises Corrupt unless it is what is wanted."""
    found = await streams.sum_of(chunks, services.progress.advance)
    if found != wanted:
        raise Corrupt(
            f"{key}: {found.bytes} bytes with sha256 {found.sha256},"
            f" expected {wanted.bytes} with {wanted.sha256}"
        )
