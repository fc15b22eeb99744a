"""Recutting the pack log: many small parts become few, and every moment stays exactly restorable."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mirror import bundle, compaction, layout, splice
from mirror.bundle import Header
from mirror.compaction import Checkpoint, Merge
from mirror.errors import Corrupt
from mirror.flows import hydrate, partindex, settle, steps
from mirror.flows.edges import Edges
from mirror.flows.turn import PATIENCE, turn
from mirror.flows.upload import upload
from mirror.git import pack, read, view
from mirror.git.pack import IdxFile
from mirror.git.pool import Pool
from mirror.git.view import View
from mirror.model import ObjectFormat, Part, RefName, Repo, Snapshot, Target
from mirror.plan import Step
from mirror.store import history, intents, parts
from mirror.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Compacted:
    """How a compaction ended."""

    repo: Repo
    merged: int  # new parts written
    parts_before: int
    parts_after: int
    bytes_written: int


async def compact(edges: Edges, repo: Repo, patience: float = PATIENCE) -> Compacted:
    """Merge parts until none is due (mirror/compaction says which).

    For each new part, in this order:
    1. Store the intent, then the bundle.
    2. Read it back from the vault, check its sum, and have git index it.
    3. Store its `.idx`: from here on the part counts, also for a rebuild.
    4. One transaction: the new part is live, the ones it covers are tombstones,
       whose objects `prune` deletes after a grace period.

    Safe to run twice: a part without its row is discarded and made again.
    """
    async with turn(edges, repo, patience) as lease:
        steps.reached("compact: leased")
        last = (await settle.settle(edges, repo, lease)).last
        before = await parts.live(edges.db, repo.id)
        merged = written = 0
        if last is not None:
            while due := compaction.due(await parts.live(edges.db, repo.id)):
                edges.progress.phase(f"merging {len(due.parts)} parts")
                part = await hydrate.mended(edges, repo, partial(_recut, edges, repo, lease, last, due))
                merged += 1
                written += part.bytes
        after = await parts.live(edges.db, repo.id)
    return Compacted(repo, merged, len(before), len(after), written)


async def _recut(edges: Edges, repo: Repo, lease: Lease, last: Snapshot, due: Merge | Checkpoint) -> Part:
    """Steps 1 to 4 of `compact` for one new part."""
    old = due.parts
    key = layout.bundle_key(repo.id, old[0].epoch, old[0].first, old[-1].last, layout.unique())
    pool = Pool(edges.git, edges.disk.pool(repo.id), last.object_format)
    async with pool.lock():
        await pool.open_or_create()
        await hydrate.warm(edges, repo, pool, last)
        async with view.scratch_view(pool, edges.disk.scratch(repo.id)) as room:
            await intents.add(edges.db, lease, repo.id, key)
            steps.reached("compact: intent stored")
            try:
                if isinstance(due, Checkpoint):
                    part = await _checkpoint(edges, repo, last, room, key, old)
                else:
                    part = await _merge(edges, last.object_format, room, key, old)
                steps.reached("compact: index stored")
            except BaseException:  # no row names this key yet
                await settle.discard(edges, repo.id, key)
                raise
            await parts.replace(edges.db, lease, repo.id, old, part, edges.clock())
            steps.reached("compact: recorded")
    return part


async def _merge(
    edges: Edges, object_format: ObjectFormat, room: View, key: str, old: Sequence[Part]
) -> Part:
    """One part with the same entries in the same order: its inner boundaries are the old ones."""
    headers = [await _header(edges, part) for part in old]
    whole = [Step(part, None, True) for part in old]
    proved = await pack.index(
        edges.git,
        room.path,
        hydrate.spliced(edges, whole, object_format),
        self_contained=False,
        fix_thin=True,
        object_format=object_format,
    )
    end = splice.PACK_HEADER + sum(segment.bytes for part in old for segment in part.segments)
    header = bundle.encode(await asyncio.to_thread(_joined, headers, proved.idx, end))
    part = await _stored(edges, key, object_format, header, hydrate.spliced(edges, whole, object_format))
    part = replace(
        part,
        epoch=old[0].epoch,
        first=old[0].first,
        last=old[-1].last,
        segments=tuple(segment for part in old for segment in part.segments),
    )
    await hydrate.read_back(edges, part)
    steps.reached("compact: read back")
    return await partindex.write(edges.vault, part, None)


async def _checkpoint(
    edges: Edges, repo: Repo, last: Snapshot, room: View, key: str, old: Sequence[Part]
) -> Part:
    """One complete part, packed anew by git: all that any ref ever pointed at, and what that reaches.

    Also what no ref reached, should a remote have sent such: a ref may point there later,
    and the pool, which has it, is taken for a copy of the log.
    """
    tips = await history.targets(edges.db, repo.id, last.epoch, old[-1].last)
    known = await history.refs_at(edges.db, repo.id, old[-1].last)
    header = bundle.encode(Header(last.object_format, (), known))
    part = await _stored(
        edges, key, last.object_format, header, pack.make_whole(edges.git, room.path, sorted(tips))
    )
    if part.entries < sum(one.entries for one in old):
        await edges.vault.delete(key)
        tips = await read.everything(room.path)
        part = await _stored(
            edges, key, last.object_format, header, pack.make_whole(edges.git, room.path, sorted(tips))
        )
    part = replace(part, epoch=old[0].epoch, first=old[0].first, last=old[-1].last, complete=True)
    async with view.scratch_view(None, room.path.parent, object_format=last.object_format) as alone:
        proved = await pack.index(
            edges.git,
            alone.path,
            hydrate.spliced(edges, [Step(part, None, False)], last.object_format),
            self_contained=True,
            fix_thin=False,
            object_format=last.object_format,
        )
        steps.reached("compact: read back")
        with IdxFile(proved.idx) as found:
            for tip in tips:
                if found.offset(bytes.fromhex(tip.decode())) is None:
                    raise Corrupt(f"{key}: git packed it without {tip.decode()}")
        return await partindex.write(edges.vault, part, proved.idx)


async def _stored(
    edges: Edges, key: str, object_format: ObjectFormat, header: bytes, chunks: AsyncGenerator[bytes, None]
) -> Part:
    """Write a bundle into the vault; the part's place in the log is for the caller to say."""
    async with upload(edges.vault, key, header, object_format) as bundled:
        await bundled.all_of(chunks)
        part = bundled.part()
        await bundled.commit()
    steps.reached("compact: bundle stored")
    return part


async def _header(edges: Edges, part: Part) -> Header:
    start = b"".join([chunk async for chunk in edges.vault.read(part.key, 0, part.header_bytes)])
    found = bundle.decode(start)
    if found is None:
        raise Corrupt(f"{part.key}: its bundle header is cut short")
    return found[0]


def _joined(headers: Sequence[Header], idx: Path, end: int) -> Header:
    """The parts' header together: what they need that none of them brings, and each ref's last target."""
    needed: set[Target] = set()
    heads: dict[RefName, Target] = {}
    with IdxFile(idx) as found:
        for header in headers:
            for target in header.prerequisites:
                at = found.offset(bytes.fromhex(target.decode()))
                if at is None or at >= end:  # behind `end` are bases that git added
                    needed.add(target)
            heads.update(header.refs)
    return Header(headers[0].object_format, tuple(sorted(needed)), heads)
