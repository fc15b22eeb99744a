"""A snapshot of what was sent to Everref instead of fetched from a remote: a push, or an uploaded repository.

Who calls: the push endpoint (web/remote/receive) and uploads. It is the second half of a sync, with what was
sent in the remote's place: the same proof, part, manifest and record (backup/snapshot).
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from mirror.backup import hydrate, recover
from mirror.backup.snapshot import Source, SyncRun, take_snapshot
from mirror.backup.sync import Synced, record_failure, record_lfs, share_of
from mirror.core import refs
from mirror.core.errors import Busy, Corrupt, Damaged, DiskFull, EverrefError, Origin, Refused
from mirror.core.model import HEAD, Listing, ObjectFormat, Reason, Refs, Remote, Repo, RepoId
from mirror.core.rules import receiving
from mirror.core.rules.history.pushes import SnapshotDraft
from mirror.git import upstream
from mirror.git.disk import finish
from mirror.git.pool import Pool
from mirror.git.view import View
from mirror.services import failpoints
from mirror.services.lease import leased
from mirror.services.open import Services
from mirror.services.remote import digest
from mirror.store import repos
from mirror.store.backup import beginnings, history
from mirror.store.leases import Lease

PATIENCE: Final = 60.0  # seconds that whoever sends something waits for another run on the repo

# The refs that the repo is to have, out of those that it has and its object format (None: it has no object).
# It is called in a thread, as there may be very many.
Decide = Callable[[Refs, ObjectFormat | None], Refs]


async def take(
    services: Services,
    repo: Repo,
    incoming: View,
    listing: Refs | Decide,
    *,
    by: str | None = None,
    reason: Reason = Reason.PUSH,
    patience: float = PATIENCE,
) -> Synced:
    """Take a snapshot with these refs, or those that are decided on, out of a bare repository on this disk.

    The refs of `incoming` must be these, or include them: git's own upload-pack reads them there. Nothing of
    it is trusted: what is kept is proved as if a remote had sent it. See `received` for all else.
    """
    async with upstream.connect(services.git, Remote(str(incoming.path)), allow_private=True) as local:
        return await received(
            services,
            repo.id,
            local,
            incoming.object_format,
            listing if callable(listing) else lambda _, __: listing,
            by=by,
            reason=reason,
            patience=patience,
        )


async def received(
    services: Services,
    repo_id: RepoId,
    source: Source,
    object_format: ObjectFormat,
    decide: Decide,
    *,
    by: str | None = None,
    reason: Reason = Reason.PUSH,
    patience: float = PATIENCE,
) -> Synced:
    """Take a snapshot of what was sent, as a sync does of what a remote shows; `by` made its changes.

    1. Take the lease, and finish or undo what a killed run left (backup/recover).
    2. `decide` which refs the repo is to have; what it raises ends this, and nothing is changed.
    3. Where they are those of the latest snapshot already, stop.
    4. Request a sync: where this run ends before it knows whether the snapshot exists, the worker's next one
       finds out and finishes it (backup/sync).
    5. Take the snapshot (backup/snapshot); its transaction closes the request.

    Safe to run twice: the second run finds the refs as they should be. `source` may be read twice, where the
    pool or the disk was why the first attempt failed. A failure is the sender's to hear and is not recorded
    with the repo, unless the vault is damaged. Raises NotFound, Busy if another run keeps the lease for
    longer than `patience` seconds, Refused for an object format that is not the repo's, Corrupt (origin
    SOURCE) for what is no sound git, OverLimit, LimitReached.
    """
    repo = await repos.get(services.db, repo_id)
    async with leased(services, repo, patience) as lease:
        failpoints.reached("receive: leased")
        try:
            return await _received(services, repo_id, lease, source, object_format, decide, by, reason)
        except Damaged as error:  # one wrong answer of the vault proves no loss: read it once more
            services.progress.note(f"read once more: {error}")
        except Corrupt as error:
            if not await hydrate.drop_broken(services, repo) and error.origin is not Origin.DISK:
                raise  # it is what was sent, or the vault
        except DiskFull as error:
            if not await services.disk.give_way(error):
                raise
        try:
            return await _received(services, repo_id, lease, source, object_format, decide, by, reason)
        except Damaged as error:  # which is no sender's: a worker shows it, and finds out when it is over
            await repos.request_sync(services.db, repo_id, services.clock())
            await record_failure(services, repo_id, error)
            raise


async def _received(
    services: Services,
    repo_id: RepoId,
    lease: Lease,
    source: Source,
    object_format: ObjectFormat,
    decide: Decide,
    by: str | None,
    reason: Reason,
) -> Synced:
    began, now = await beginnings.of(services.db, repo_id), services.clock()
    repo = began.repo
    last = (await recover.recover(services, repo, lease, began)).last
    if last is not None and last.log_entries and last.object_format != object_format:
        raise Refused(
            f"{repo.name} has {last.object_format} objects, and what was sent has {object_format} ones: "
            "make another repository for it"
        )
    old: Refs = await history.refs_at(services.db, repo_id, last.number) if last else {}
    wanted = await finish(partial(decide, old, last.object_format if last and last.log_entries else None))
    await finish(partial(refs.check_names, [name for name in wanted if name != HEAD]))
    listing = Listing(wanted, object_format)
    if last and last.object_format == object_format and await digest(wanted) == last.refs_digest:
        await repos.touch_protected(services.db, repo_id, now, began.sync_request)
        return Synced(repo, last, new=False)
    pool = Pool(services.git, services.disk.pool(repo_id), object_format)
    share = await share_of(services, began)
    asked = await repos.request_sync(services.db, repo_id, now)
    failpoints.reached("receive: requested")
    try:
        async with pool.lock():
            if last and last.object_format != object_format:
                await pool.destroy()
            await pool.open_or_create()
            await hydrate.warm(services, repo, pool, last)
            if last is None:
                await recover.introduce(services, repo, object_format)
            run = SyncRun(services, began, lease, source, pool, reason, share)
            commits = receiving.moved_branches(old, wanted)
            draft = SnapshotDraft(listing, now, reason, by=by, sync_request=asked, commits=commits)
            taken = await take_snapshot(run, last, old, draft)
            try:
                await pool.repack_if_due()
            except EverrefError as error:  # the snapshot is safe; the next run tries again
                services.progress.note(f"the pool could not be repacked: {error}")
    except EverrefError as error:
        if not (error.is_shared or isinstance(error, Busy)):  # else the snapshot may exist; a sync finds out
            await repos.withdraw_request(services.db, repo_id, asked)
        raise
    done = Synced(repo, taken, new=True)
    await record_lfs(services, done)
    return done
