"""From a push to a snapshot: look at the remote, fetch what is new, prove it, store it, record it.

Who calls: the command `backup`, the worker's job and the sweep. What it uses,
in order: flows/turn, flows/settle, git/upstream, flows/hydrate, flows/rescue, flows/take.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirror import backoff, refs
from mirror.errors import (
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
from mirror.flows import connections, excluded, hydrate, lfs, outages, request, settle, steps
from mirror.flows.edges import Edges, together
from mirror.flows.late import tell
from mirror.flows.rescue import Rescued, rescue, without_snapshot
from mirror.flows.share import Share
from mirror.flows.source import connected, digest
from mirror.flows.take import Moment, Taking, take
from mirror.flows.turn import PATIENCE, turn
from mirror.git.pool import Pool
from mirror.git.upstream import NotOurRef, Upstream
from mirror.model import HEAD, Listing, Reason, Refs, Repo, RepoId, Secret, Snapshot
from mirror.pushes import Answered, Claim, Way
from mirror.quotas import Allowance
from mirror.store import beginnings, claims, history, quotas, repos, snapshots
from mirror.store.beginnings import Beginning
from mirror.store.leases import Lease

A_DAY: Final = timedelta(days=1)  # before a repository that is larger than it may be is tried again
ROUNDS: Final = 3  # syncs of one repo in a row, after which others have their turn


@dataclass(frozen=True, slots=True)
class Synced:
    """How a sync ended: the repo's latest snapshot, and whether this run took it."""

    repo: Repo
    snapshot: Snapshot
    new: bool


async def sync(
    edges: Edges,
    repo_id: RepoId,
    reason: Reason = Reason.MANUAL,
    patience: float = PATIENCE,
    secret: Secret | None = None,
) -> Synced:
    """Bring one repo's history up to date and, if anything moved, take a snapshot.

    1. Take the lease, and finish or undo what a killed run left (flows/settle).
    2. See that it is the same repository still, where somebody can tell (Edges.identity); again
       before something is kept that has nothing in common with what was there.
    3. Read what deliveries claim, then ask the remote for its refs, once. If nothing moved
       and nothing is claimed, say so and stop.
    4. Let claims that came late name the moves that the history has already (flows/late), and take a
       snapshot for each moment since the last look that claims tell of (flows/rescue).
    5. Take the snapshot of what the remote shows (flows/take).

    Safe to run twice: the refs are compared with the last *recorded* ones, and a
    manifest that was stored but not recorded is replayed by step 1. The wish that
    was open at the beginning is served by it, whoever called. A failure of
    the repo's is recorded with its class, and with when automatic tries go on. `secret` is for
    this once, and goes before what is kept for the repo.
    """
    return await sync_kept(edges, await repos.get(edges.db, repo_id), reason, patience, secret)


async def sync_kept(
    edges: Edges,
    repo: Repo,
    reason: Reason = Reason.MANUAL,
    patience: float = PATIENCE,
    secret: Secret | None = None,
) -> Synced:
    """`sync` of a repo that was just read."""
    repo_id = repo.id
    async with turn(edges, repo, patience) as lease:
        steps.reached("sync: leased")
        try:
            try:
                return await _done(edges, await _in_turn(edges, repo_id, lease, reason, secret))
            except Damaged as error:  # one wrong answer of the vault is no loss: it is read once more
                edges.progress.note(f"read once more: {error}")
            except Corrupt as error:
                if not await hydrate.drop_broken(edges, repo) and error.origin is not Origin.DISK:
                    raise  # it is the remote, or the vault
            except DiskFull as error:
                if not await edges.disk.give_way(error):
                    raise
            except BadCredentials:
                if not await connections.is_mended(edges, await repos.get(edges.db, repo_id)):
                    raise
            except Moved:
                if edges.identity:  # Busy where it is followed: the next run goes to its new address
                    await edges.identity(edges, await repos.get(edges.db, repo_id), doubt=True)
                raise
            return await _done(edges, await _in_turn(edges, repo_id, lease, reason, secret))
        except Busy:
            raise  # another run is at work: no failure of the repo's
        except EverrefError as error:
            if is_its_own(error):
                await record_failure(edges, repo.id, error)
            raise


async def _done(edges: Edges, done: Synced) -> Synced:
    if done.new:
        await lfs.look(edges, done.repo, done.snapshot)
    return done


def is_its_own(error: EverrefError) -> bool:
    """Whether a failure is the repo's: the vault, the database, a disk or a forge's API is none of it."""
    if isinstance(error, OverLimit) and error.limit == "stored-bytes":
        return False  # its team has no room left, which is one trouble and not one of each repo
    if error.origin is Origin.FORGE:
        return error.permanent  # its connection must be made anew, or the forge says no to this repo
    return not outages.is_shared(error)


async def record_failure(edges: Edges, repo_id: RepoId, error: EverrefError) -> None:
    """Keep why a sync failed, and when automatic tries go on."""
    now = edges.clock()
    failures = await repos.failures(edges.db, repo_id, error.kind, now) + 1
    wait = backoff.wait(error.kind, failures, random.random())
    if isinstance(error, OverLimit):
        wait = A_DAY  # each try may fetch as much as fits; it is tried at once when the limit is raised
    retry_at = None if wait is None else now + wait
    if retry_at and isinstance(error, RateLimited):
        retry_at = backoff.spread(error.retry_at, now, random.random())  # as long as was told
    await repos.set_failure(edges.db, repo_id, error.kind, str(error), now, retry_at)


async def serve(edges: Edges, repo_id: RepoId, reason: Reason = Reason.PUSH) -> bool:
    """Sync a repo while a wish for that is open; does nothing when another run has served it already.

    A wish that came while a sync ran is served by the next one. False: one is open
    still, and other repos should have their turn first. Raises Busy when another
    run is at work on it now. What only other credentials would mend is not tried.
    """
    for _ in range(ROUNDS):
        if await repos.wish(edges.db, repo_id) is None or await repos.is_held(edges.db, repo_id):
            return True
        await sync(edges, repo_id, reason, patience=0)
    return await repos.wish(edges.db, repo_id) is None


async def _in_turn(
    edges: Edges, repo_id: RepoId, lease: Lease, reason: Reason, secret: Secret | None = None
) -> Synced:
    began = await beginnings.of(edges.db, repo_id)  # its address may have been put right before the turn
    repo = began.repo
    if edges.identity:
        await edges.identity(edges, repo, known=began.origin)
    remote = await request.remote_at(edges, began, secret)
    edges.progress.phase("asking the remote for its refs")
    async with connected(edges, remote, repo_id=repo.id) as source:
        now = edges.clock()  # before the answer: later pushes are not in it
        settled, look = await together(settle.settle(edges, repo, lease, began), _look(edges, repo, source))
        last = settled.last
        if settled.replayed:  # which has answered some of what was read meanwhile
            left = {claim.id for claim in await claims.unanswered(edges.db, repo.id)}
            look = [claim for claim in look[0] if claim.id in left], look[1]
        for attempt in (1, 2):
            steps.reached("sync: listed")
            try:
                return await _catch_up(edges, began, lease, source, last, look, now, reason)
            except NotOurRef:  # a ref moved between the listing and the fetch
                if attempt == 2:
                    raise
                now = edges.clock()
                look = await _look(edges, repo, source)
                last = await snapshots.latest(edges.db, repo.id)
    raise AssertionError("the second attempt returns or raises")


async def _look(edges: Edges, repo: Repo, source: Upstream) -> tuple[Sequence[Claim], Listing]:
    """What deliveries claim, and then what the remote says: it knows of all that is claimed."""
    told = await claims.unanswered(edges.db, repo.id)
    return told, await source.ls_refs()


async def _catch_up(
    edges: Edges,
    began: Beginning,
    lease: Lease,
    source: Upstream,
    last: Snapshot | None,
    look: tuple[Sequence[Claim], Listing],
    now: datetime,
    reason: Reason,
) -> Synced:
    """Steps 4 and 5 of `sync`."""
    repo, wish, left_out = began.repo, began.wish, began.excluded
    told, seen = look
    if last and not told and await _shows(last, seen):
        await repos.touch_protected(edges.db, repo.id, now, wish)
        return Synced(repo, last, new=False)
    if left_out:
        told, seen = await _without_excluded(edges, repo, last, told, seen, left_out)
    if last and not told and await _shows(last, seen):
        await repos.touch_protected(edges.db, repo.id, now, wish)
        return Synced(repo, last, new=False)
    if last and last.object_format != seen.object_format and last.log_entries:
        raise Refused(
            f"{repo.url} was a {last.object_format} repository and is a {seen.object_format} one now: "
            "what is kept stays; back the new one up under another name",
            origin=Origin.SOURCE,
        )
    old: Refs = await history.refs_at(edges.db, repo.id, last.number) if last else {}
    if last and edges.identity and not _is_told(old, seen.refs, told):
        # A forge that does not answer holds up no backup: before what is unrelated enters, it is asked again.
        with suppress(NetworkError, LimitReached):
            await edges.identity(edges, repo, doubt=True, known=began.origin)
    pool = Pool(edges.git, edges.disk.pool(repo.id), seen.object_format)
    run = Taking(edges, repo, lease, source, pool, left_out, await _share(edges, began))
    async with pool.lock():
        if last and last.object_format != seen.object_format:
            await pool.destroy()
        await pool.open_or_create()
        await hydrate.warm(edges, repo, pool, last)
        before = last
        if last is None:
            await settle.introduce(edges, repo, seen.object_format)
            last = await take(run, None, {}, Moment(seen, now, reason, wish=None if told else wish))
            old = seen.refs
        way, since, rescued = Way(), old, None
        if told:
            late = await tell(run, last, old, seen, told, now)
            rescued = await rescue(run, late.last, old, seen, late.left, now, late.broken_off)
            last, old, way = rescued.last, rescued.refs, rescued.way
        # Claims that were not read yet wait as well, also where all that were read came late.
        is_short = rescued is not None and (rescued.is_short or len(told) >= claims.AT_ONCE)
        if await _shows(last, seen):
            answered = await without_snapshot(run, way)
            await claims.answer(edges.db, repo.id, answered, last.number, now)
            if not is_short:
                await repos.touch_protected(edges.db, repo.id, now, wish)
        else:
            last = await take(
                run, last, old, Moment(seen, now, reason, way, None if is_short else wish, since)
            )
        if rescued and is_short:
            await _see_what_waits(edges, repo, rescued, now, wish)
        try:
            await pool.repack_if_due()
        except EverrefError as error:  # the snapshots are safe; the next run tries again
            edges.progress.note(f"the pool could not be repacked: {error}")
    return Synced(repo, last, new=last != before)


async def _share(edges: Edges, began: Beginning) -> Share | None:
    """How much this sync may bring in. None: as much as there is."""
    limits, team_id = edges.settings.limits, began.origin.team_id
    if not began.has_limits and limits.get("stored-bytes") is None and limits.get("repo-bytes") is None:
        return None
    uses = await quotas.allowance(edges.db, team_id, began.repo.id, limits)
    return Share(edges, team_id, began.repo.id, Allowance(uses, began.team)) if uses else None


async def _see_what_waits(
    edges: Edges, repo: Repo, rescued: Rescued, now: datetime, wish: datetime | None
) -> None:
    """Leave the wish open where pushes wait for the next sync, which nothing else would bring about.

    Raises NetworkError where the line broke: the next one comes when it may be whole again.
    """
    waits = bool(await claims.unanswered(edges.db, repo.id))
    if waits and wish is None:  # this was no run for one
        await repos.want(edges.db, repo.id, now)
    if waits and rescued.broken_off:
        raise rescued.broken_off
    await repos.touch_protected(edges.db, repo.id, now, None if waits else wish)


async def _without_excluded(
    edges: Edges,
    repo: Repo,
    last: Snapshot | None,
    told: Sequence[Claim],
    seen: Listing,
    left_out: Sequence[str],
) -> tuple[Sequence[Claim], Listing]:
    """What is left of it without the refs that are kept no longer; claims about those need no answer."""
    meant = await refs.meant_by([claim.name for claim in told], left_out, None)
    ignored = [claim for claim in told if claim.name != HEAD and claim.name in meant]
    if ignored:
        answered = Answered(frozenset(claim.id for claim in ignored))
        await claims.answer(edges.db, repo.id, answered, last.number if last else 1, edges.clock())
    ids = {claim.id for claim in ignored}
    left = [claim for claim in told if claim.id not in ids]
    return left, await excluded.shown(edges, repo.id, last, seen)


def _is_told(old: Refs, new: Refs, told: Sequence[Claim]) -> bool:
    """Whether deliveries tell of every move: they say their repository's number, so it is the same."""
    tips = {(claim.name, claim.after) for claim in told}
    return all((name, target) in tips for name, _, target in refs.diff(old, new))


async def _shows(last: Snapshot, seen: Listing) -> bool:
    """Whether the remote shows what the last snapshot has."""
    return seen.object_format == last.object_format and await digest(seen.refs) == last.refs_digest
