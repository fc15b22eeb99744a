"""Merging many small parts into few, so that every moment stays exactly restorable."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mirror.backup import damage, hydrate, recover
from mirror.backup.part import upload, write_index
from mirror.core.errors import Corrupt, NoSuchObject
from mirror.core.formats import bundle, layout, splice
from mirror.core.formats.bundle import Header
from mirror.core.model import ObjectFormat, Part, RefName, Repo, Snapshot, Target
from mirror.core.rules.history.plan import Step
from mirror.core.rules.keeping import compaction
from mirror.core.rules.keeping.compaction import Checkpoint, Merge
from mirror.git import pack, read, view
from mirror.git.pack import IdxFile
from mirror.git.pool import Pool
from mirror.git.view import View
from mirror.services import failpoints, sealing
from mirror.services.lease import PATIENCE, leased, leased_to_compact
from mirror.services.open import Services
from mirror.store.backup import history, parts, snapshots
from mirror.store.forge_leases import ForgeLease
from mirror.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Compacted:
    """The result of a compaction."""

    repo: Repo
    merged: int  # new parts written
    parts_before: int
    parts_after: int
    bytes_written: int


async def compact(services: Services, repo: Repo, patience: float = PATIENCE) -> Compacted:
    """Merge parts until none is due, as the only run that does so here.

    Which ones, core/rules/keeping/compaction decides. For each new part, in this order:
    1. Store the intent, then the bundle.
    2. Read it back from the vault, check its sum, and have git index it.
    3. Store its `.idx`: from here on the part counts, also for a rebuild.
    4. One transaction: the new part is live, the ones it covers are tombstones,
       whose objects `prune` deletes after a grace period.

    Merges are short, and are done under the repo's lease. A checkpoint takes as long as git packs:
    its steps 1 and 2 run beside the repo's syncs, and 3 and 4 under the lease.
    Safe to run twice: a part without a row is discarded and made again.
    """
    made: list[Part] = []
    async with leased_to_compact(services, repo, patience) as alone:
        before, last, due = await _merges(services, repo, patience, made)
        while last is not None and due is not None:
            services.progress.phase(f"repacking {len(due.parts)} parts")
            part = await hydrate.mended(
                services, repo, partial(_checkpoint, services, repo, alone, last, due)
            )
            if part is None:
                services.progress.note(
                    "the parts changed while they were repacked; the next compaction tries again"
                )
                break
            made.append(part)
            _, last, due = await _merges(services, repo, PATIENCE, made)
        after = await parts.live(services.db, repo.id)
    return Compacted(repo, len(made), before, len(after), sum(part.bytes for part in made))


async def _merges(
    services: Services, repo: Repo, patience: float, made: list[Part]
) -> tuple[int, Snapshot | None, Checkpoint | None]:
    """Do the merges that are due, under the repo's lease; the parts before, and the checkpoint due."""
    async with leased(services, repo, patience) as lease:
        failpoints.reached("compact: leased")
        last = (await recover.recover(services, repo, lease)).last
        live = await parts.live(services.db, repo.id)
        before = len(live)
        while last is not None and isinstance(due := compaction.due(live), Merge):
            services.progress.phase(f"merging {len(due.parts)} parts")
            made.append(
                await hydrate.mended(services, repo, partial(_merge, services, repo, lease, last, due))
            )
            live = await parts.live(services.db, repo.id)
    due = compaction.due(live)
    return before, last, due if isinstance(due, Checkpoint) else None


async def _merge(services: Services, repo: Repo, lease: Lease, last: Snapshot, due: Merge) -> Part:
    """Steps 1 to 4 of `compact` for parts that are spliced."""
    key = await _key(services, repo, due)
    pool = Pool(services.git, services.disk.pool(repo.id), last.object_format)
    async with pool.lock():
        await pool.open_or_create()
        await hydrate.warm(services, repo, pool, last)
        async with view.scratch_view(pool, services.disk.scratch(repo.id)) as room:
            async with recover.tentative(services, repo.id, key):
                await parts.intend(services.db, lease, repo.id, key)
                failpoints.reached("compact: intent stored")
                part = await _spliced(services, last.object_format, room, key, due.parts)
                part = await write_index(services.vault, part, None)
                failpoints.reached("compact: index stored")
            await parts.replace(services.db, lease, repo.id, due.parts, part, services.clock())
            failpoints.reached("compact: recorded")
    return part


async def _checkpoint(
    services: Services, repo: Repo, alone: ForgeLease, last: Snapshot, due: Checkpoint
) -> Part | None:
    """Steps 1 to 4 of `compact` for a repacked part. None: it was discarded because the parts changed."""

    def pool(room: Path) -> AbstractAsyncContextManager[View]:
        return hydrate.view_of(services, repo, last, room, PATIENCE)

    return await recut(services, repo, alone, last, due, pool)


async def recut(
    services: Services,
    repo: Repo,
    alone: ForgeLease,
    last: Snapshot,
    due: Checkpoint,
    source: Callable[[Path], AbstractAsyncContextManager[View]],
    *,
    exact: bool = False,
) -> Part | None:
    """Replace these parts, which begin the log, by one that git packs from a view, under a new key.

    `source` opens the view in a directory. `exact`: it holds nothing that later parts hold; otherwise, if
    a sync has added to it since `last`, only what the parts have is taken. None: the new part was discarded
    because the parts changed. Syncs go on while git packs, and what they add stays valid: it follows the
    parts that are replaced. Safe to run twice: the view has links of its own, and a killed run's is removed
    by the next one.
    """
    key = await _key(services, repo, due)
    room = services.disk.root / "restores" / f"checkpoint-{repo.id}"  # no sync empties it; see backup/recover
    await asyncio.to_thread(shutil.rmtree, room, ignore_errors=True)
    async with (
        source(room) as seen,
        view.scratch_view(None, room, object_format=last.object_format) as proving,
    ):
        failpoints.reached("compact: view made")
        async with recover.tentative(services, repo.id, key):
            await parts.intend(services.db, alone, repo.id, key)
            failpoints.reached("compact: intent stored")
            part, idx = await _packed(services, repo, last, seen, proving, key, due.parts, exact)
        async with leased(services, repo) as lease:
            failpoints.reached("compact: leased for the record")
            now = (await recover.recover(services, repo, lease)).last
            if not await _is_as_it_was(services, repo, last, now, due, part):
                await recover.discard(services, repo.id, key)
                return None
            async with recover.tentative(services, repo.id, key):
                part = await write_index(services.vault, part, idx)
                failpoints.reached("compact: index stored")
            await parts.replace(services.db, lease, repo.id, due.parts, part, services.clock())
            failpoints.reached("compact: recorded")
    return part


async def _is_as_it_was(
    services: Services, repo: Repo, last: Snapshot, now: Snapshot | None, due: Checkpoint, new: Part
) -> bool:
    """Whether a checkpoint may replace the parts it was packed from. The caller holds the repo's lease."""
    if now is None or now.epoch != last.epoch:
        return False
    live = await parts.live(services.db, repo.id)
    others = [part for part in live if part not in due.parts]
    if len(live) - len(others) != len(due.parts) or any(part.first <= due.last for part in others):
        return False
    stored = await services.vault.stat(new.key)
    return stored is not None and stored.bytes == new.stored_bytes


async def _key(services: Services, repo: Repo, due: Merge | Checkpoint) -> str:
    is_sealed = await sealing.of(services, repo.id)
    return layout.bundle_key(repo.id, due.parts[0].epoch, due.first, due.last, layout.unique(), is_sealed)


async def _spliced(
    services: Services, object_format: ObjectFormat, room: View, key: str, old: Sequence[Part]
) -> Part:
    """One part with the same entries in the same order: its inner boundaries are the old ones."""
    headers = [await _header(services, part) for part in old]
    whole = [Step(part, None, True) for part in old]
    proved = await pack.index(
        services.git,
        room.path,
        hydrate.spliced(services, whole, object_format),
        pack.Indexing(self_contained=False, fix_thin=True, object_format=object_format),
    )
    end = splice.PACK_HEADER + sum(segment.bytes for part in old for segment in part.segments)
    header = bundle.encode(await asyncio.to_thread(_joined, headers, proved.idx, end))
    part = await _stored(
        services, key, object_format, header, hydrate.spliced(services, whole, object_format)
    )
    part = replace(
        part,
        epoch=old[0].epoch,
        first=old[0].first,
        last=old[-1].last,
        segments=tuple(segment for part in old for segment in part.segments),
    )
    await hydrate.read_back(services, part)
    failpoints.reached("compact: read back")
    return part


async def _packed(
    services: Services,
    repo: Repo,
    last: Snapshot,
    seen: View,
    proving: View,
    key: str,
    old: Sequence[Part],
    is_exact: bool,
) -> tuple[Part, Path]:
    """One complete, repacked part and its index: all that any ref ever pointed at, and what that reaches.

    Objects that no ref reached are included if a remote sent any: a ref may point there later,
    and the pool, which has them, counts as a copy of the log.
    """
    tips = await history.targets(services.db, repo.id, last.epoch, old[-1].last)
    known = await history.refs_at(services.db, repo.id, old[-1].last)
    header = bundle.encode(Header(last.object_format, (), known))
    part = await _stored(
        services, key, last.object_format, header, pack.make_whole(services.git, seen.path, sorted(tips))
    )
    if part.entries < sum(one.entries for one in old):
        await services.vault.discard(key)
        async with _nothing_later(services, repo, last, seen, old, is_exact) as exact:
            tips = await read.everything(exact.path)
            part = await _stored(
                services,
                key,
                last.object_format,
                header,
                pack.make_whole(services.git, exact.path, sorted(tips)),
            )
    part = replace(part, epoch=old[0].epoch, first=old[0].first, last=old[-1].last, complete=True)
    proved = await pack.index(
        services.git,
        proving.path,
        hydrate.spliced(services, [Step(part, None, False)], last.object_format),
        pack.Indexing(self_contained=True, fix_thin=False, object_format=last.object_format),
    )
    failpoints.reached("compact: read back")
    pack.check_has(proved.idx, tips, key)
    return part, proved.idx


@asynccontextmanager
async def _nothing_later(
    services: Services, repo: Repo, last: Snapshot, seen: View, old: Sequence[Part], is_exact: bool
) -> AsyncIterator[View]:
    """A view of these parts and nothing else: `seen`, unless a sync may have added to the pool before."""
    latest = await snapshots.latest(services.db, repo.id)
    if is_exact or latest is not None and latest.number == last.number:
        yield seen
        return
    room = seen.path.parent
    async with view.scratch_view(None, room, object_format=last.object_format) as exact:
        whole = [Step(part, None, True) for part in old]
        await hydrate.fill(services, exact.path, last.object_format, whole)
        yield exact


async def _stored(
    services: Services,
    key: str,
    object_format: ObjectFormat,
    header: bytes,
    chunks: AsyncGenerator[bytes, None],
) -> Part:
    """Write a bundle into the vault; the caller sets the part's place in the log."""
    async with upload(services.vault, key, header, object_format) as bundled:
        await bundled.all_of(chunks)
        part = await bundled.commit(bundled.part())
    failpoints.reached("compact: bundle stored")
    return part


async def _header(services: Services, part: Part) -> Header:
    """The header of a stored part. Raises Damaged if it is missing or broken."""
    try:
        start = b"".join([chunk async for chunk in services.vault.read(part.key, 0, part.header_bytes)])
        found = bundle.decode(start)
        if found is None:
            raise Corrupt(f"{part.key}: its bundle header is cut short")
    except (Corrupt, NoSuchObject) as error:
        raise await damage.found(services, [part], error) from None
    return found[0]


def _joined(headers: Sequence[Header], idx: Path, end: int) -> Header:
    """The parts' combined header: the objects they need but none has, and each ref's last target."""
    needed: set[Target] = set()
    heads: dict[RefName, Target] = {}
    with IdxFile(idx) as found:
        for header in headers:
            for target in header.prerequisites:
                at = found.offset(bytes.fromhex(target.decode()))
                if at is None or at >= end:  # entries after `end` are bases that git added
                    needed.add(target)
            heads.update(header.refs)
    return Header(headers[0].object_format, tuple(sorted(needed)), heads)
