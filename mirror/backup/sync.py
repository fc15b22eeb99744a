"""From a push to a snapshot: look at the remote, plan the snapshots to take of it, and take them.

Who calls: the command `backup`, the worker's job and the sweep. What it uses, in order: services/lease,
backup/recover, git/upstream, backup/hydrate, backup/late_reports, core/rules/history/pushes, backup/snapshot.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from mirror.backup import excluded, hydrate, late_reports, lfs, recover
from mirror.backup.late_reports import LateResult
from mirror.backup.share import Share
from mirror.backup.snapshot import SyncRun, take_snapshot, try_snapshot
from mirror.core import refs
from mirror.core.errors import (
    BadCredentials,
    Busy,
    Corrupt,
    Damaged,
    DiskFull,
    EverrefError,
    LimitReached,
    Moved,
    NetworkError,
    NotFound,
    Origin,
    OverLimit,
    RateLimited,
    Refused,
)
from mirror.core.model import (
    HEAD,
    Listing,
    Reason,
    Refs,
    Repo,
    RepoId,
    Secret,
    Snapshot,
    Target,
    has_remote,
)
from mirror.core.quotas import Allowance
from mirror.core.rules.history import pushes, reports
from mirror.core.rules.history.pushes import Answered, Look, Plan, SnapshotDraft
from mirror.core.rules.history.reports import ReportedUpdate
from mirror.core.rules.work import backoff
from mirror.discovery import add, connections, follow
from mirror.git import read
from mirror.git.pool import Pool
from mirror.git.upstream import NotOurRef, Upstream
from mirror.services import failpoints
from mirror.services.lease import PATIENCE, leased
from mirror.services.open import Services, together
from mirror.services.remote import connected, digest
from mirror.store import repos
from mirror.store.backup import beginnings, history, reported_updates, snapshots
from mirror.store.backup.beginnings import Beginning
from mirror.store.leases import Lease
from mirror.store.people import quotas

A_DAY: Final = timedelta(days=1)  # until a repository that is larger than allowed is tried again
ROUNDS: Final = 3  # syncs of one repo in a row, before other repos go first


@dataclass(frozen=True, slots=True)
class Synced:
    """How a sync ended: the repo's latest snapshot, and whether this run took it."""

    repo: Repo
    snapshot: Snapshot
    new: bool


async def sync(
    services: Services,
    repo_id: RepoId,
    reason: Reason = Reason.MANUAL,
    patience: float = PATIENCE,
    secret: Secret | None = None,
) -> Synced:
    """Bring one repo's history up to date and, if anything moved, take a snapshot.

    1. Take the lease, and finish or undo what a killed run left (backup/recover).
    2. Check that it is still the same repository, where a forge can tell (discovery/follow); check again
       before anything is kept that has nothing in common with what was there.
    3. Read what deliveries report, then ask the remote for its refs, once. If nothing moved
       and nothing is reported, record that and stop.
    4. Reports that came late name moves that the history has already (backup/late_reports).
    5. Plan a snapshot for each reported moment since the last look and one of what the remote shows
       (core/rules/history/pushes), and take them one by one (backup/snapshot).

    Safe to run twice: the refs are compared with the last *recorded* ones, and a
    manifest that was stored but not recorded is replayed by step 1. The sync request that
    was open at the start is served, whoever called. If the repo itself is the reason for a failure, that
    is recorded with its class, and with when automatic tries go on. `secret` is used
    this once, instead of the credentials that are kept for the repo.
    """
    return await sync_kept(services, await repos.get(services.db, repo_id), reason, patience, secret)


async def sync_kept(
    services: Services,
    repo: Repo,
    reason: Reason = Reason.MANUAL,
    patience: float = PATIENCE,
    secret: Secret | None = None,
) -> Synced:
    """`sync` of a repo that was just read."""
    repo_id = repo.id
    if not has_remote(repo.url):
        return await _recover_pushed(services, repo, patience)
    async with leased(services, repo, patience) as lease:
        failpoints.reached("sync: leased")
        try:
            try:
                return await record_lfs(services, await _sync_once(services, repo_id, lease, reason, secret))
            except Damaged as error:  # one wrong answer of the vault proves no loss: read it once more
                services.progress.note(f"read once more: {error}")
            except Corrupt as error:
                if not await hydrate.drop_broken(services, repo) and error.origin is not Origin.DISK:
                    raise  # it is the remote, or the vault
            except DiskFull as error:
                if not await services.disk.give_way(error):
                    raise
            except BadCredentials:
                if not await connections.can_retry_credentials(
                    services, await repos.get(services.db, repo_id)
                ):
                    raise
            except Moved:
                now = await repos.get(services.db, repo_id)
                # Busy where it is followed: the next run goes to its new address.
                await follow.identity_at_forge(services, now, doubt=True)
                if now.url == repo.url:
                    raise  # nobody has given it another address meanwhile
            return await record_lfs(services, await _sync_once(services, repo_id, lease, reason, secret))
        except EverrefError as error:
            await record_own(services, repo.id, error)
            raise


async def _recover_pushed(services: Services, repo: Repo, patience: float) -> Synced:
    """What a sync of a repo without a remote does: finish a push that was killed (backup/receive).

    After a failure it also sees that the next push finds what it builds on. Safe to run twice. A failure is
    recorded as any sync's, so that it is shown, and tried again less and less often. Raises NotFound where
    nothing was ever pushed.
    """
    async with leased(services, repo, patience) as lease:
        began, now = await beginnings.of(services.db, repo.id), services.clock()
        try:
            found = await recover.recover(services, repo, lease, began)
            if found.last is not None and began.is_failing:
                pool = Pool(services.git, services.disk.pool(repo.id), found.last.object_format)
                async with pool.lock():
                    await pool.open_or_create()
                    await hydrate.warm(services, repo, pool, found.last)
        except EverrefError as error:
            await record_own(services, repo.id, error)
            raise
        if found.last is None:
            await repos.withdraw_request(services.db, repo.id, began.sync_request)
            raise NotFound(f"nothing has been pushed to {repo.name} yet")
        await repos.touch_protected(services.db, repo.id, now, began.sync_request)
        return Synced(repo, found.last, new=found.replayed)


async def record_lfs(services: Services, done: Synced) -> Synced:
    """Record which large files a snapshot that was just taken leaves to Git LFS; returns what was given."""
    if done.new:
        await lfs.record_lfs(services, done.repo, done.snapshot)
    return done


def is_its_own(error: EverrefError) -> bool:
    """Whether the repo itself is why it failed, and not the vault, the database, a disk or a forge's API."""
    if isinstance(error, OverLimit) and error.limit == "stored-bytes":
        return False  # its team has no room left: that is one problem, not one for each repo
    if error.origin is Origin.FORGE:
        return error.permanent  # its person must connect again, or the forge refuses this repo
    return not error.is_shared


async def record_own(services: Services, repo_id: RepoId, error: EverrefError) -> None:
    """Record why a sync failed if the repo itself is the reason; where another run is at work, it is not."""
    if is_its_own(error) and not isinstance(error, Busy):
        await record_failure(services, repo_id, error)


async def record_failure(services: Services, repo_id: RepoId, error: EverrefError) -> None:
    """Record why a sync failed, and when automatic tries go on."""
    now = services.clock()
    failures = await repos.failures(services.db, repo_id, error.kind, now) + 1
    wait = backoff.wait(error.kind, failures, random.random())
    if isinstance(error, OverLimit):
        wait = A_DAY  # each try may fetch as much as fits; raising the limit starts one at once
    retry_at = None if wait is None else now + wait
    if retry_at and isinstance(error, RateLimited):
        retry_at = backoff.spread(error.retry_at, now, random.random())  # as long as the host says
    await repos.set_failure(services.db, repo_id, error.kind, str(error), now, retry_at)


async def serve(services: Services, repo_id: RepoId, reason: Reason = Reason.PUSH) -> bool:
    """Sync a repo while a sync request is open; does nothing when another run has served it already.

    A request that came while a sync ran is served by the next one. False: one is still
    open, and other repos should go first. Raises Busy when another
    run is working on it now. What only other credentials would fix is not tried.
    """
    for _ in range(ROUNDS):
        if await repos.sync_request(services.db, repo_id) is None or await repos.is_held(
            services.db, repo_id
        ):
            return True
        await sync(services, repo_id, reason, patience=0)
    return await repos.sync_request(services.db, repo_id) is None


async def _sync_once(
    services: Services, repo_id: RepoId, lease: Lease, reason: Reason, secret: Secret | None
) -> Synced:
    began = await beginnings.of(services.db, repo_id)  # its address may have been corrected before the lease
    repo = began.repo
    await follow.identity_at_forge(services, repo, known=began.origin)
    address = await add.remote_at(services, began, secret)
    services.progress.phase("asking the remote for its refs")
    async with connected(services, address, repo_id=repo.id) as remote:
        recovered, look = await together(
            recover.recover(services, repo, lease, began), _look(services, repo, remote)
        )
        last = recovered.last
        if recovered.replayed:  # which has answered some of the updates that were read meanwhile
            open_ids = {update.id for update in await reported_updates.unanswered(services.db, repo.id)}
            look = replace(look, updates=[update for update in look.updates if update.id in open_ids])
        for attempt in (1, 2):
            failpoints.reached("sync: listed")
            pool = Pool(services.git, services.disk.pool(repo.id), look.listing.object_format)
            try:
                return await _catch_up(SyncRun(services, began, lease, remote, pool, reason), last, look)
            except NotOurRef:  # a ref moved between the listing and the fetch
                if attempt == 2:
                    raise
                look = await _look(services, repo, remote)
                last = await snapshots.latest(services.db, repo.id)
    raise AssertionError("the second attempt returns or raises")


async def _look(services: Services, repo: Repo, remote: Upstream) -> Look:
    """Read what deliveries report, then ask the remote: what it shows includes all that was reported."""
    now = services.clock()
    updates = await reported_updates.unanswered(services.db, repo.id)
    listing = await remote.ls_refs()
    return Look(updates, listing, now, has_more=len(updates) >= reported_updates.AT_ONCE)


async def _catch_up(run: SyncRun, last: Snapshot | None, look: Look) -> Synced:
    """Steps 4 and 5 of `sync`."""
    services, repo, began = run.services, run.repo, run.began
    if began.excluded and not await _is_unchanged(last, look):
        look = await _without_excluded(run, last, look)
    if last and await _is_unchanged(last, look):
        await repos.touch_protected(services.db, repo.id, look.at, began.sync_request)
        return Synced(repo, last, new=False)
    has_new_format = last is not None and last.object_format != look.listing.object_format
    if last and has_new_format and last.log_entries:
        raise Refused(
            f"{repo.url} was a {last.object_format} repository and is a {look.listing.object_format} one"
            " now: its backups stay; back up the new one under another name",
            origin=Origin.SOURCE,
        )
    old: Refs = await history.refs_at(services.db, repo.id, last.number) if last else {}
    if last and not _are_reported(refs.diff(old, look.listing.refs), look.updates):
        # A forge that does not answer delays no backup: it is asked again before anything unrelated is kept.
        with suppress(NetworkError, LimitReached):
            await follow.identity_at_forge(services, repo, doubt=True, known=began.origin)
    run = replace(run, share=await share_of(services, began))
    async with run.pool.lock():
        if has_new_format:
            await run.pool.destroy()
        await run.pool.open_or_create()
        await hydrate.warm(services, repo, run.pool, last)
        taken = await _take_snapshots(run, last, old, look)
        try:
            await run.pool.repack_if_due()
        except EverrefError as error:  # the snapshots are safe; the next run tries again
            services.progress.note(f"the pool could not be repacked: {error}")
    return Synced(repo, taken, new=taken != last)


async def _take_snapshots(run: SyncRun, last: Snapshot | None, old: Refs, look: Look) -> Snapshot:
    """Take a snapshot for each moment that was reported since the last look, then one of what is shown now.

    Which they are, `pushes.plan` decides, and decides again wherever something turns out to be gone. A tip
    that was overwritten is fetched by its id, which forges serve while they have it.

    A reported update is evidence, never state: the ref map of a moment is the one before it with the pushes
    of this moment, its objects are proved like all others, and the snapshot that follows
    is what the remote shows. So anybody who knows a hook's secret can add moments that
    never were, made of objects that the host serves for this repository (GitHub
    serves those of its forks too), and can neither change nor hide any that was.

    What can't be had is left to the snapshot that follows: if its objects come with
    it, the push is a change of its own there, else it is lost, and that is recorded.
    Only the remote itself can be the reason that a push is given up. Beyond pushes.AT_ONCE moments, and when
    the connection breaks, what did not come waits for the next sync.

    Safe to run twice: each snapshot answers its updates in its own transaction, and an update
    whose move the history has is no push. A run that dies leaves the first ones.
    """
    db, repo, sync_request = run.services.db, run.repo, run.began.sync_request
    goal = SnapshotDraft(look.listing, look.at, run.reason, sync_request=sync_request)
    if last is None:
        await recover.introduce(run.services, repo, look.listing.object_format)
        first = replace(goal, sync_request=None) if look.updates else goal
        last, old = await take_snapshot(run, None, {}, first), look.listing.refs
        if not look.updates:
            return last
    late = LateResult(last, ()) if not look.updates else await late_reports.apply(run, last, old, look)
    last, goal = late.last, replace(goal, sync_request=None) if look.has_more else goal
    updates = await reported_updates.compared(db, repo.id, late.left)
    plan = pushes.plan(
        Listing(old, last.object_format),
        last.taken_at,
        goal,
        updates,
        await _held(run, updates),
        late.broken_off,
    )
    if plan.too_many:
        run.services.progress.note(
            f"{plan.too_many:,} more pushes came at once than get snapshots of their own"
        )
    while draft := plan.draft:
        take = take_snapshot if draft.is_current else try_snapshot
        taken = await take(run, last, plan.at.refs, draft)
        if isinstance(taken, Snapshot):
            last, plan = taken, plan.taken()
        else:
            plan = plan.without(taken)
    is_short = plan.is_short or look.has_more
    if not plan.is_complete:
        await _answer_without_snapshot(run, last, plan)
        if not is_short:
            await repos.touch_protected(db, repo.id, look.at, sync_request)
    if is_short:
        await _leave_the_rest(run, plan)
    return last


async def _held(run: SyncRun, updates: Sequence[ReportedUpdate]) -> set[Target]:
    """Those of the objects in these updates that the pack log has."""
    sound = [update for update in updates if reports.is_sound(update, run.pool.object_format)]
    tips = {tip for update in sound for tip in (update.before, update.after) if tip}
    return tips - await read.missing(run.pool.path, tips) if tips else tips


async def _answer_without_snapshot(run: SyncRun, last: Snapshot, plan: Plan) -> None:
    """Answer what is left where the remote shows nothing but what the latest snapshot has."""
    route = plan.last_route
    absent = await read.missing(run.pool.path, {push.new for push in route.pushes if push.new})
    answered = route.answered([push for push in route.pushes if push.new in absent])
    await reported_updates.answer(run.services.db, run.repo.id, answered, last.number, plan.goal.taken_at)


async def _leave_the_rest(run: SyncRun, plan: Plan) -> None:
    """Leave a sync request open if pushes wait for the next sync: nothing else would start it.

    Raises NetworkError where the connection broke: the next sync comes when it may work again.
    """
    db, repo_id, sync_request = run.services.db, run.repo.id, run.began.sync_request
    waits = bool(await reported_updates.unanswered(db, repo_id))
    if waits and sync_request is None:  # nobody requested this run
        await repos.request_sync(db, repo_id, plan.goal.taken_at)
    if waits and plan.broken_off:
        raise plan.broken_off
    await repos.touch_protected(db, repo_id, plan.goal.taken_at, None if waits else sync_request)


async def share_of(services: Services, began: Beginning) -> Share | None:
    """How much a run that has just begun may store. None: there is no limit."""
    limits, team_id = services.settings.limits, began.origin.team_id
    if not began.has_limits and limits.get("stored-bytes") is None and limits.get("repo-bytes") is None:
        return None
    uses = await quotas.allowance(services.db, team_id, began.repo.id, limits)
    return Share(services, team_id, began.repo.id, Allowance(uses, began.team)) if uses else None


async def _without_excluded(run: SyncRun, last: Snapshot | None, look: Look) -> Look:
    """The look without the refs that are no longer kept; updates of those are answered at once."""
    db, repo_id = run.services.db, run.repo.id
    matching = await refs.meant_by([update.name for update in look.updates], run.began.excluded, None)
    ignored = {update.id for update in look.updates if update.name != HEAD and update.name in matching}
    if ignored:
        number = last.number if last else 1
        await reported_updates.answer(db, repo_id, Answered(ignored), number, run.services.clock())
    return replace(
        look,
        updates=[update for update in look.updates if update.id not in ignored],
        listing=await excluded.shown(run.services, repo_id, last, look.listing),
    )


def _are_reported(moves: Sequence[refs.Move], updates: Sequence[ReportedUpdate]) -> bool:
    """Whether deliveries report every move: they name their repository's number, so it is the same one."""
    tips = {(update.name, update.after) for update in updates}
    return all((name, target) in tips for name, _, target in moves)


async def _is_unchanged(last: Snapshot | None, look: Look) -> bool:
    """Whether nothing was reported, and the remote shows what the last snapshot has."""
    return (
        last is not None
        and not look.updates
        and look.listing.object_format == last.object_format
        and await digest(look.listing.refs) == last.refs_digest
    )
