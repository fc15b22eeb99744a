"""One snapshot: fetch what it lacks, prove it, store part and manifest, record it, and let the pool grow."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror.backup import part
from mirror.backup.part import BuiltPart
from mirror.backup.share import Share
from mirror.core import refs
from mirror.core.errors import AlreadyExists, Busy
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Manifest
from mirror.core.model import HEAD, Listing, Reason, Refs, Repo, Snapshot, Target
from mirror.core.rules.pushes import Route
from mirror.git.pool import Pool
from mirror.git.upstream import Upstream
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.backup import endings, snapshots
from mirror.store.backup.endings import Ending
from mirror.store.leases import Lease

_STRAIGHT: Final = Route()


@dataclass(frozen=True, slots=True)
class SyncRun:
    """What every snapshot of one turn shares; the pool is locked, and warm."""

    services: Services
    repo: Repo
    lease: Lease
    source: Upstream
    pool: Pool
    left_out: Sequence[str] = ()  # globs of refs that are kept no longer
    share: Share | None = None  # of its team, for what is new; None: as much as there is


@dataclass(frozen=True, slots=True)
class SnapshotDraft:
    """What a snapshot is to show, and how it came about."""

    listing: Listing
    taken_at: datetime
    reason: Reason
    way: Route = _STRAIGHT
    sync_request: datetime | None = None  # the one that this run serves
    since: Refs | None = None  # what the remote showed at the last look; None: the snapshot before is that
    seen: bool = True  # False: not what the remote shows now, but what a push made of it before
    besides: Collection[Target] = ()  # come along, though no ref points there any more


async def take_snapshot(run: SyncRun, last: Snapshot | None, old: Refs, moment: SnapshotDraft) -> Snapshot:
    """Take the snapshot that follows `last`, whose refs are `old`.

    1. Fetch exactly the ids that the pool lacks into a scratch view, prove them, store the part.
    2. Store the manifest by a conditional create: from here on the snapshot exists.
    3. Record it in Postgres in one transaction, fenced by the lease.
    4. Let the pool grow. It is a cache: a run that dies here loses nothing.

    A run that dies in between leaves an intent, or a manifest that the next one replays.
    """
    services, repo, seen = run.services, run.repo, moment.listing
    number = last.number + 1 if last else 1
    async with part.build_part(
        services,
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
    failpoints.reached("sync: pool grown")
    return snapshot


async def _commit(run: SyncRun, taken: Manifest, moment: SnapshotDraft, gathered: BuiltPart) -> Snapshot:
    """Store the manifest, then record it. The order is the promise: see `take`."""
    services, repo = run.services, run.repo
    stored = manifest.encode(taken)
    snapshot = manifest.snapshot_of(taken, hashlib.sha256(stored).hexdigest())
    ending = Ending(moment.sync_request, moment.way.answered(gathered.lost), gathered.suspicion, moment.seen)
    # Whoever has the turn now may have discarded the part.
    if not await endings.announce(services.db, run.lease, snapshot.manifest_sha256, ending):
        raise Busy(f"another run took over {repo.name} while this one was not answering")
    try:
        await services.vault.put(layout.manifest_key(repo.id, taken.number), stored)
    except AlreadyExists:
        raise Busy(f"another run took snapshot #{taken.number} of {repo.name}; run it again") from None
    failpoints.reached("sync: manifest stored")
    await snapshots.record(services.db, run.lease, repo.id, snapshot, taken.changes, ending)
    failpoints.reached("sync: recorded")
    return snapshot
