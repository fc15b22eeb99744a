"""One snapshot: fetch what it lacks, prove it, store part and manifest, record it, and let the pool grow."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror import layout, manifest, refs
from mirror.errors import AlreadyExists, Busy
from mirror.flows import gather, steps
from mirror.flows.edges import Edges
from mirror.flows.gather import Gathered
from mirror.flows.share import Share
from mirror.git.pool import Pool
from mirror.git.upstream import Upstream
from mirror.manifest import Manifest
from mirror.model import HEAD, Listing, Reason, Refs, Repo, Snapshot, Target
from mirror.pushes import Way
from mirror.store import endings, snapshots
from mirror.store.endings import Ending
from mirror.store.leases import Lease

_STRAIGHT: Final = Way()


@dataclass(frozen=True, slots=True)
class Taking:
    """What every snapshot of one turn shares; the pool is locked, and warm."""

    edges: Edges
    repo: Repo
    lease: Lease
    source: Upstream
    pool: Pool
    left_out: Sequence[str] = ()  # globs of refs that are kept no longer
    share: Share | None = None  # of its team, for what is new; None: as much as there is


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot is to show, and how it came about."""

    listing: Listing
    taken_at: datetime
    reason: Reason
    way: Way = _STRAIGHT
    wish: datetime | None = None  # the one that this run serves
    since: Refs | None = None  # what the remote showed at the last look; None: the snapshot before is that
    seen: bool = True  # False: not what the remote shows now, but what a push made of it before
    besides: Collection[Target] = ()  # come along, though no ref points there any more


async def take(run: Taking, last: Snapshot | None, old: Refs, moment: Moment) -> Snapshot:
    """Take the snapshot that follows `last`, whose refs are `old`.

    1. Fetch exactly the ids that the pool lacks into a scratch view, prove them, store the part.
    2. Store the manifest by a conditional create: from here on the snapshot exists.
    3. Record it in Postgres in one transaction, fenced by the lease.
    4. Let the pool grow. It is a cache: a run that dies here loses nothing.

    A run that dies in between leaves an intent, or a manifest that the next one replays.
    """
    edges, repo, seen = run.edges, run.repo, moment.listing
    number = last.number + 1 if last else 1
    async with gather.gather(
        edges,
        repo,
        run.lease,
        run.pool,
        run.source,
        last,
        old,
        seen,
        moment.way.pushes,
        claimed=not moment.seen,
        since=moment.since,
        left_out=run.left_out,
        besides=moment.besides,
        share=run.share,
    ) as gathered:
        taken = Manifest(
            repo=repo.id,
            number=number,
            taken_at=moment.taken_at,
            reason=moment.reason,
            object_format=seen.object_format,
            head=seen.refs.get(HEAD),
            refs_count=len(seen.refs) - (HEAD in seen.refs),
            refs_digest=refs.digest(seen.refs),
            epoch=last.epoch if last else 1,
            log_entries=(last.log_entries if last else 0) + gathered.entries,
            log_bytes=(last.log_bytes if last else 0) + gathered.bytes,
            bundle=gathered.part,
            previous=last.manifest_sha256 if last else None,
            changes=tuple(gathered.changes),
            refs=dict(seen.refs) if manifest.has_whole_map(number, len(seen.refs)) else None,
        )
        snapshot = await _commit(run, taken, moment, gathered)
        await run.pool.adopt(gathered.packs)
    await run.pool.set_mark(snapshot.epoch, snapshot.number, snapshot.manifest_sha256)
    steps.reached("sync: pool grown")
    return snapshot


async def _commit(run: Taking, taken: Manifest, moment: Moment, gathered: Gathered) -> Snapshot:
    """Store the manifest, then record it. The order is the promise: see `take`."""
    edges, repo = run.edges, run.repo
    stored = manifest.encode(taken)
    snapshot = manifest.snapshot_of(taken, hashlib.sha256(stored).hexdigest())
    ending = Ending(moment.wish, moment.way.answered(gathered.lost), gathered.suspicion, moment.seen)
    # Whoever has the turn now may have discarded the part.
    if not await endings.announce(edges.db, run.lease, snapshot.manifest_sha256, ending):
        raise Busy(f"another run took over {repo.name} while this one was not answering")
    try:
        await edges.vault.put(layout.manifest_key(repo.id, taken.number), stored)
    except AlreadyExists:
        raise Busy(f"another run took snapshot #{taken.number} of {repo.name}; run it again") from None
    steps.reached("sync: manifest stored")
    await snapshots.record(edges.db, run.lease, repo.id, snapshot, taken.changes, ending)
    steps.reached("sync: recorded")
    return snapshot
