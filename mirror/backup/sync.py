"""From a push to a snapshot: look at the remote, fetch what is new, prove it, store it, record it.

Who calls: the command `backup`, the worker's job and the sweep. What it uses,
in order: services/lease, backup/recover, git/upstream, backup/hydrate, backup/rescue, backup/snapshot.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirror.backup import excluded, hydrate, lfs, recover
from mirror.backup.late_reports import tell
from mirror.backup.rescue import Rescued, rescue, without_snapshot
from mirror.backup.share import Share
from mirror.backup.snapshot import SnapshotDraft, SyncRun, take_snapshot
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
    Origin,
    OverLimit,
    RateLimited,
    Refused,
)
from mirror.core.model import HEAD, Listing, Reason, Refs, Repo, RepoId, Secret, Snapshot
from mirror.core.quotas import Allowance
from mirror.core.rules import backoff
from mirror.core.rules.pushes import Answered, ReportedUpdate, Route
from mirror.discovery import add, connections, follow
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

A_DAY: Final = timedelta(days=1)  # before a repository that is larger than it may be is tried again
ROUNDS: Final = 3  # syncs of one repo in a row, after which others have their turn


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
    2. See that it is the same repository still, where a forge can tell (discovery/follow); again
       before something is kept that has nothing in common with what was there.
    3. Read what deliveries claim, then ask the remote for its refs, once. If nothing moved
       and nothing is claimed, say so and stop.
    4. Let claims that came late name the moves that the history has already (backup/late_reports), and take a
       snapshot for each moment since the last look that claims tell of (backup/rescue).
    5. Take the snapshot of what the remote shows (backup/snapshot).

    Safe to run twice: the refs are compared with the last *recorded* ones, and a
    manifest that was stored but not recorded is replayed by step 1. The wish that
    was open at the beginning is served by it, whoever called. A failure of
    the repo's is recorded with its class, and with when automatic tries go on. `secret` is for
    this once, and goes before what is kept for the repo.
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
    async with leased(services, repo, patience) as lease:
        failpoints.reached("sync: leased")
        try:
            try:
                return await _done(services, await _in_turn(services, repo_id, lease, reason, secret))
            except Damaged as error:  # one wrong answer of the vault is no loss: it is read once more
                services.progress.note(f"read once more: {error}")
            except Corrupt as error:
                if not await hydrate.drop_broken(services, repo) and error.origin is not Origin.DISK:
                    raise  # it is the remote, or the vault
            except DiskFull as error:
                if not await services.disk.give_way(error):
                    raise
            except BadCredentials:
                if not await connections.is_mended(services, await repos.get(services.db, repo_id)):
                    raise
            except Moved:
                now = await repos.get(services.db, repo_id)
                # Busy where it is followed: the next run goes to its new address.
                await follow.identity_at_forge(services, now, doubt=True)
                if now.url == repo.url:
                    raise  # nobody has given it another address meanwhile
            return await _done(services, await _in_turn(services, repo_id, lease, reason, secret))
        except Busy:
            raise  # another run is at work: no failure of the repo's
        except EverrefError as error:
            if is_its_own(error):
                await record_failure(services, repo.id, error)
            raise


async def _done(services: Services, done: Synced) -> Synced:
    if done.new:
        await lfs.record_lfs(services, done.repo, done.snapshot)
    return done


def is_its_own(error: EverrefError) -> bool:
    """Whether a failure is the repo's: the vault, the database, a disk or a forge's API is none of it."""
    if isinstance(error, OverLimit) and error.limit == "stored-bytes":
        return False  # its team has no room left, which is one trouble and not one of each repo
    if error.origin is Origin.FORGE:
        return error.permanent  # its connection must be made anew, or the forge says no to this repo
    return not error.is_shared


async def record_failure(services: Services, repo_id: RepoId, error: EverrefError) -> None:
    """Keep why a sync failed, and when automatic tries go on."""
    now = services.clock()
    failures = await repos.failures(services.db, repo_id, error.kind, now) + 1
    wait = backoff.wait(error.kind, failures, random.random())
    if isinstance(error, OverLimit):
        wait = A_DAY  # each try may fetch as much as fits; it is tried at once when the limit is raised
    retry_at = None if wait is None else now + wait
    if retry_at and isinstance(error, RateLimited):
        retry_at = backoff.spread(error.retry_at, now, random.random())  # as long as was told
    await repos.set_failure(services.db, repo_id, error.kind, str(error), now, retry_at)


async def serve(services: Services, repo_id: RepoId, reason: Reason = Reason.PUSH) -> bool:
    """Sync a repo while a wish for that is open; does nothing when another run has served it already.

    A wish that came while a sync ran is served by the next one. False: one is open
    still, and other repos should have their turn first. Raises Busy when another
    run is at work on it now. What only other credentials would mend is not tried.
    """
    for _ in range(ROUNDS):
        if await repos.sync_request(services.db, repo_id) is None or await repos.is_held(
            services.db, repo_id
        ):
            return True
        await sync(services, repo_id, reason, patience=0)
    return await repos.sync_request(services.db, repo_id) is None


async def _in_turn(
    services: Services, repo_id: RepoId, lease: Lease, reason: Reason, secret: Secret | None = None
) -> Synced:
    began = await beginnings.of(services.db, repo_id)  # its address may have been put right before the turn
    repo = began.repo
    await follow.identity_at_forge(services, repo, known=began.origin)
    remote = await add.remote_at(services, began, secret)
    services.progress.phase("asking the remote for its refs")
    async with connected(services, remote, repo_id=repo.id) as source:
        now = services.clock()  # before the answer: later pushes are not in it
        settled, look = await together(
            recover.recover(services, repo, lease, began), _look(services, repo, source)
        )
        last = settled.last
        if settled.replayed:  # which has answered some of what was read meanwhile
            left = {update.id for update in await reported_updates.unanswered(services.db, repo.id)}
            look = [update for update in look[0] if update.id in left], look[1]
        for attempt in (1, 2):
            failpoints.reached("sync: listed")
            try:
                return await _catch_up(services, began, lease, source, last, look, now, reason)
            except NotOurRef:  # a ref moved between the listing and the fetch
                if attempt == 2:
                    raise
                now = services.clock()
                look = await _look(services, repo, source)
                last = await snapshots.latest(services.db, repo.id)
    raise AssertionError("the second attempt returns or raises")


async def _look(services: Services, repo: Repo, source: Upstream) -> tuple[Sequence[ReportedUpdate], Listing]:
    """What deliveries claim, and then what the remote says: it knows of all that is claimed."""
    told = await reported_updates.unanswered(services.db, repo.id)
    return told, await source.ls_refs()


async def _catch_up(
    services: Services,
    began: Beginning,
    lease: Lease,
    source: Upstream,
    last: Snapshot | None,
    look: tuple[Sequence[ReportedUpdate], Listing],
    now: datetime,
    reason: Reason,
) -> Synced:
    """Steps 4 and 5 of `sync`."""
    repo, sync_request, left_out = began.repo, began.sync_request, began.excluded
    told, seen = look
    if last and not told and await _shows(last, seen):
        await repos.touch_protected(services.db, repo.id, now, sync_request)
        return Synced(repo, last, new=False)
    if left_out:
        told, seen = await _without_excluded(services, repo, last, told, seen, left_out)
    if last and not told and await _shows(last, seen):
        await repos.touch_protected(services.db, repo.id, now, sync_request)
        return Synced(repo, last, new=False)
    if last and last.object_format != seen.object_format and last.log_entries:
        raise Refused(
            f"{repo.url} was a {last.object_format} repository and is a {seen.object_format} one now: "
            "what is kept stays; back the new one up under another name",
            origin=Origin.SOURCE,
        )
    old: Refs = await history.refs_at(services.db, repo.id, last.number) if last else {}
    if last and not _is_told(old, seen.refs, told):
        # A forge that does not answer holds up no backup: before what is unrelated enters, it is asked again.
        with suppress(NetworkError, LimitReached):
            await follow.identity_at_forge(services, repo, doubt=True, known=began.origin)
    pool = Pool(services.git, services.disk.pool(repo.id), seen.object_format)
    run = SyncRun(services, repo, lease, source, pool, left_out, await _share(services, began))
    async with pool.lock():
        if last and last.object_format != seen.object_format:
            await pool.destroy()
        await pool.open_or_create()
        await hydrate.warm(services, repo, pool, last)
        before = last
        if last is None:
            await recover.introduce(services, repo, seen.object_format)
            last = await take_snapshot(
                run, None, {}, SnapshotDraft(seen, now, reason, sync_request=None if told else sync_request)
            )
            old = seen.refs
        way, since, rescued = Route(), old, None
        if told:
            late = await tell(run, last, old, seen, told, now)
            rescued = await rescue(run, late.last, old, seen, late.left, now, late.broken_off)
            last, old, way = rescued.last, rescued.refs, rescued.way
        # Claims that were not read yet wait as well, also where all that were read came late.
        is_short = rescued is not None and (rescued.is_short or len(told) >= reported_updates.AT_ONCE)
        if await _shows(last, seen):
            answered = await without_snapshot(run, way)
            await reported_updates.answer(services.db, repo.id, answered, last.number, now)
            if not is_short:
                await repos.touch_protected(services.db, repo.id, now, sync_request)
        else:
            last = await take_snapshot(
                run,
                last,
                old,
                SnapshotDraft(seen, now, reason, way, None if is_short else sync_request, since),
            )
        if rescued and is_short:
            await _see_what_waits(services, repo, rescued, now, sync_request)
        try:
            await pool.repack_if_due()
        except EverrefError as error:  # the snapshots are safe; the next run tries again
            services.progress.note(f"the pool could not be repacked: {error}")
    return Synced(repo, last, new=last != before)


async def _share(services: Services, began: Beginning) -> Share | None:
    """How much this sync may bring in. None: as much as there is."""
    limits, team_id = services.settings.limits, began.origin.team_id
    if not began.has_limits and limits.get("stored-bytes") is None and limits.get("repo-bytes") is None:
        return None
    uses = await quotas.allowance(services.db, team_id, began.repo.id, limits)
    return Share(services, team_id, began.repo.id, Allowance(uses, began.team)) if uses else None


async def _see_what_waits(
    services: Services, repo: Repo, rescued: Rescued, now: datetime, sync_request: datetime | None
) -> None:
    """Leave the wish open where pushes wait for the next sync, which nothing else would bring about.

    Raises NetworkError where the line broke: the next one comes when it may be whole again.
    """
    waits = bool(await reported_updates.unanswered(services.db, repo.id))
    if waits and sync_request is None:  # this was no run for one
        await repos.request_sync(services.db, repo.id, now)
    if waits and rescued.broken_off:
        raise rescued.broken_off
    await repos.touch_protected(services.db, repo.id, now, None if waits else sync_request)


async def _without_excluded(
    services: Services,
    repo: Repo,
    last: Snapshot | None,
    told: Sequence[ReportedUpdate],
    seen: Listing,
    left_out: Sequence[str],
) -> tuple[Sequence[ReportedUpdate], Listing]:
    """What is left of it without the refs that are kept no longer; claims about those need no answer."""
    meant = await refs.meant_by([update.name for update in told], left_out, None)
    ignored = [update for update in told if update.name != HEAD and update.name in meant]
    if ignored:
        answered = Answered(frozenset(update.id for update in ignored))
        await reported_updates.answer(
            services.db, repo.id, answered, last.number if last else 1, services.clock()
        )
    ids = {update.id for update in ignored}
    left = [update for update in told if update.id not in ids]
    return left, await excluded.shown(services, repo.id, last, seen)


def _is_told(old: Refs, new: Refs, told: Sequence[ReportedUpdate]) -> bool:
    """Whether deliveries tell of every move: they say their repository's number, so it is the same."""
    tips = {(update.name, update.after) for update in told}
    return all((name, target) in tips for name, _, target in refs.diff(old, new))


async def _shows(last: Snapshot, seen: Listing) -> bool:
    """Whether the remote shows what the last snapshot has."""
    return seen.object_format == last.object_format and await digest(seen.refs) == last.refs_digest
