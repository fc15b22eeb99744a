"""Looking at repos by their schedules, and the chores: what lost webhooks left behind is found here.

Who calls: the worker, every few seconds, and the command `sweep`, for every repo now.
"""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from mirror.errors import SHARED, Busy, Corrupt, EverrefError
from mirror.flows import compact, describe, export, hookcare, jobs, notes, prune, relist, state
from mirror.flows import sync as syncing
from mirror.flows.edges import Edges
from mirror.flows.looks import Ticked, looking
from mirror.flows.sync import Synced
from mirror.flows.turn import turn
from mirror.model import Reason, Repo, RepoId
from mirror.schedule import spread
from mirror.store import (
    chores,
    holds,
    hooks,
    measures,
    outages,
    parts,
    quotas,
    repos,
    runs,
    schedules,
    sessions,
)
from mirror.store import jobs as job_rows
from mirror.store.teams import TeamId

PATIENCE: Final = 60.0  # seconds; who is at work on a repo now does for it what a sweep would
STARTING: Final = timedelta(seconds=30)  # within which workers start together
DELIVERIES_KEPT: Final = timedelta(days=30)
JOBS_KEPT: Final = timedelta(days=90)  # of Everref itself; what people asked for stays
REQUESTS_KEPT: Final = timedelta(days=1)  # with their answers, for who sends one again
LINKS_KEPT: Final = timedelta(days=1)  # after they have expired
VIEWS_KEPT: Final = timedelta(days=2)  # of restores; nothing lives longer than a run may take

log = logging.getLogger("mirror.sweep")


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one repo."""

    repo: Repo
    synced: Synced | None  # None: it failed, or is archived and gone still
    error: EverrefError | None  # None: it did not fail


async def sweep(edges: Edges, team_id: TeamId | None = None) -> list[Swept]:
    """Sync every repo now, or those of one team, and keep its place in the vault small.

    One that fails never stops another. What is done for the whole installation waits for a sweep of all.
    Safe to run twice, as `sync`, `compact` and `prune` are.
    """
    swept = [await _sweep(edges, repo) for repo in await repos.all(edges.db, team_id)]
    if team_id is not None:
        return swept
    for chore in TOLD:
        await _do(edges, chore)
    await _forget(edges)
    return swept


async def _sweep(edges: Edges, repo: Repo) -> Swept:
    try:
        synced = await syncing.sync(edges, repo.id, Reason.SWEEP, PATIENCE)
        await jobs.looked(edges, repo.id, synced.new)
        with suppress(Busy):  # another run compacts it, which does not keep it from being saved
            await compact.compact(edges, repo, PATIENCE)
        if await parts.tombstones(edges.db, repo.id):
            await prune.prune(edges, prune.GRACE, repo, PATIENCE)
    except EverrefError as error:
        known = await repos.overview_of(edges.db, repo.id)
        return Swept(repo, None, None if error.kind == "gone" and known.archived_at else error)
    return Swept(repo, synced, None)


async def tick(edges: Edges) -> Ticked:
    """Look at every repo that is due, until none is and every look has ended.

    A look is one listing of refs by our own client, over connections that are kept,
    compared with the latest snapshot. What moved is wished for and queued as a
    job; so is what failed, since a sync says and records why. Safe to run twice,
    also at once: a repo that one worker has taken up no other gets.
    """
    total, now = Ticked(0, 0, 0), edges.clock()
    async with looking(edges) as looks:
        while True:
            total += await looks.step(now)
            if looks.idle:
                return total


async def after_start(edges: Edges) -> None:
    """The service has just started: look at every repo soon, at the most active first.

    What was pushed while it was down nobody has told, and nobody tells again. Where several
    workers start together, one of them does it. Safe to run twice.
    """
    now = edges.clock()
    if await chores.begin(edges.db, "look at every repo after a start", now, STARTING):
        found = await schedules.looked_at(edges.db)
        moments = spread([host for _, host in found], now)
        ids = [repo_id for repo_id, _ in found]
        await schedules.look_by(edges.db, list(zip(ids, moments, strict=True)))


async def tend(edges: Edges) -> None:
    """Do the chores that are due, beside each other; one that fails or takes long stops no other.

    Safe to run twice, also at once.
    """
    await evict(edges)
    await asyncio.gather(*(do_if_due(chore, edges) for chore in CHORES))


async def evict(edges: Edges) -> None:
    """Let go of the pools of this machine that grew beyond their bound, or their team's."""
    await edges.disk.pools.make_room(edges.disk.root, 0)
    try:
        await _share_pools(edges)
    except EverrefError as error:
        log.warning("pools of teams: %s", error)


async def do_if_due(chore: "Chore", edges: Edges) -> None:
    """Do it, if its time has come and no other worker does it."""
    await _do(edges, chore, if_due=True)


async def _share_pools(edges: Edges) -> None:
    """Let no team's pools push out those of all others: beyond its limit its own go."""
    held = dict[RepoId, int]()
    for name, size in (await edges.disk.pools.held()).items():
        with suppress(ValueError):  # it is no repo's
            held[RepoId(UUID(name))] = size
    for ids, most in await quotas.of_pools(edges.db, list(held), edges.settings.limits):
        if sum(held[one] for one in ids) > most:
            await edges.disk.pools.keep_within([str(one) for one in ids], most)


async def _do(edges: Edges, chore: "Chore", *, if_due: bool = False) -> None:
    limit = chore.limit.total_seconds()
    try:
        if not if_due or await chores.begin(edges.db, chore.name, edges.clock(), chore.every):
            async with asyncio.timeout(limit):
                await chore.do(edges)
    except TimeoutError:
        log.warning("%s: it took longer than %g minutes; it goes on the next time", chore.name, limit / 60)
    except EverrefError as error:
        log.warning("%s: %s", chore.name, error)
    except Exception:  # a bug, which stops this chore and no other
        log.exception("a bug in a chore: %s", chore.name)


async def tidy(edges: Edges) -> None:
    """Remove from this disk what killed runs left, and bundles of earlier versions. Safe to run twice."""
    now = edges.clock().timestamp()
    root = edges.disk.root
    old = await asyncio.to_thread(_older_than, root / "restores", now - VIEWS_KEPT.total_seconds())
    old += await asyncio.to_thread(_older_than, root / "bundles", now - export.KEPT.total_seconds())
    for path in old:
        await asyncio.to_thread(_remove, path)
    for path in await asyncio.to_thread(_older_than, root / "scratch", now):
        with suppress(EverrefError, ValueError):  # somebody is at work on it; it is no repo's
            repo = await repos.get(edges.db, RepoId(UUID(path.name)))
            async with turn(edges, repo, patience=0):
                await asyncio.to_thread(_remove, path)


def _older_than(directory: Path, moment: float) -> list[Path]:
    """What is in a directory since before then; nothing where there is no such directory."""
    with suppress(FileNotFoundError):
        return [path for path in directory.iterdir() if path.lstat().st_mtime < moment]
    return []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


async def _forget(edges: Edges) -> None:
    """Forget what has had its time. What deliveries claimed is in the history by then."""
    now = edges.clock()
    await hooks.forget_before(edges.db, now - DELIVERIES_KEPT)
    await job_rows.forget_before(edges.db, now - JOBS_KEPT)
    await chores.forget_requests(edges.db, now - REQUESTS_KEPT)
    await sessions.sweep(edges.db, now)
    await chores.forget_links(edges.db, now - LINKS_KEPT)
    await holds.forget_before(edges.db, now)
    await outages.forget_before(edges.db, now - JOBS_KEPT)


async def _prune(edges: Edges) -> None:
    """Delete replaced parts whose grace is over."""
    for repo in await chores.with_old_tombstones(edges.db, edges.clock() - prune.GRACE):
        try:
            await prune.prune(edges, prune.GRACE, repo, patience=0)
        except EverrefError as error:  # the others have their turn, this one the next time
            if error.origin in SHARED and not isinstance(error, Corrupt):
                raise  # they would fail likewise
            log.warning("prune of %s: %s", repo.id, error)


async def _mend_queue(edges: Edges) -> None:
    """Look whether all that is due stands in the queue."""
    if mended := await runs.mend(edges.db):
        log.warning("%d rows of the queue were wrong and are mended; report this", mended)


async def _add_up(edges: Edges) -> None:
    """Add up what the database counted for /metrics."""
    await measures.add_up(edges.db)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something that is done now and then, by one worker for all of them. It must be safe to run twice."""

    name: str
    every: timedelta
    do: Callable[[Edges], Awaitable[None]]
    limit: timedelta = timedelta(minutes=30)  # for each time


# By these the vault hears of all that is no snapshot.
TOLD: Final[Sequence[Chore]] = (
    Chore("describe repos that changed", timedelta(minutes=5), describe.due),
    Chore("store notes that wait", timedelta(minutes=5), notes.store_waiting),
    Chore("export the state", timedelta(hours=1), state.due, timedelta(hours=2)),
)
# Whoever has more to look after adds a line.
CHORES: Final[Sequence[Chore]] = (
    Chore("forget what has had its time", timedelta(hours=1), _forget),
    Chore("delete bundles whose time is over", timedelta(hours=1), export.forget),
    Chore("delete replaced parts", timedelta(hours=1), _prune),
    Chore("add up what was counted", timedelta(minutes=1), _add_up),
    Chore("compare the queue with what is open", timedelta(hours=1), _mend_queue),
    *TOLD,
    Chore("list what connections can see", timedelta(minutes=5), relist.due),
    Chore("look after hooks", hookcare.SWEEPS, hookcare.due),
)
