"""Looking at every repo by its schedule, which finds pushes whose webhooks were lost; and maintenance tasks.

Who calls: the worker, every few seconds, and the command `sweep`, for every repo now.
"""

import asyncio
import logging
import re
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from mirror.backup import describe, evidence, guide, notes, uploads
from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.errors import SHARED, Busy, Corrupt, EverrefError
from mirror.core.model import Reason, Repo, RepoId
from mirror.core.rules.health import deadman
from mirror.core.rules.work.schedule import spread
from mirror.discovery import discover, webhooks
from mirror.jobs import pending, proofs, run, team_drills
from mirror.jobs.looks import Ticked, looking
from mirror.notify import look
from mirror.people import channels, keys
from mirror.restore import export, shares
from mirror.services.lease import leased
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import parts
from mirror.store.discovery import holds, hooks
from mirror.store.jobs import jobs as job_rows
from mirror.store.jobs import runs, schedules
from mirror.store.people import quotas, sessions
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import maintenance, measures, outages
from mirror.store.upkeep import reseal as resealing
from mirror.upkeep import (
    checkpoints,
    compact,
    copies,
    costs,
    daily,
    epoch,
    heal,
    lock,
    ping,
    predict,
    prune,
    reseal,
    retention,
    rotation,
    state,
)
from mirror.upkeep.erasure import forget

PATIENCE: Final = 60.0  # seconds; a run that is at work on a repo does what a sweep would do
STARTING: Final = timedelta(seconds=30)  # within which workers start together
DELIVERIES_KEPT: Final = timedelta(days=30)
JOBS_KEPT: Final = timedelta(days=90)  # jobs of Everref itself; those that people asked for stay
REQUESTS_KEPT: Final = timedelta(days=1)  # with their answers, for a client that sends one again
LINKS_KEPT: Final = timedelta(days=1)  # after they have expired
VIEWS_KEPT: Final = timedelta(days=2)  # of restores; none is needed for longer than a run may take

_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # what a pool is called: its repo

log = logging.getLogger("mirror.sweep")


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one repo."""

    repo: Repo
    synced: Synced | None  # None: it failed, or is archived and still gone
    error: EverrefError | None  # None: it did not fail


async def sweep(services: Services, team_id: TeamId | None = None) -> list[Swept]:
    """Sync every repo now, or those of one team, and keep its place in the vault small.

    One that fails never stops another. What is done for the whole installation waits for a sweep of all.
    Safe to run twice, as `sync`, `compact` and `prune` are.
    """
    swept = [await _sweep(services, repo) for repo in await repos.all(services.db, team_id)]
    if team_id is not None:
        return swept
    for task in TOLD:
        await _do(services, task)
    await _forget(services)
    return swept


async def _sweep(services: Services, repo: Repo) -> Swept:
    try:
        synced = await syncing.sync(services, repo.id, Reason.SWEEP, PATIENCE)
        await run.looked(services, repo.id, synced.new)
        with suppress(Busy):  # another run is compacting it; the sync is done
            await compact.compact(services, repo, PATIENCE)
        if await parts.tombstones(services.db, repo.id) or await resealing.graves(services.db, repo.id):
            await prune.prune(services, prune.GRACE, repo, PATIENCE)
    except EverrefError as error:
        known = await repos.overview_of(services.db, repo.id)
        return Swept(repo, None, None if error.kind == "gone" and known.archived_at else error)
    return Swept(repo, synced, None)


async def tick(services: Services) -> Ticked:
    """Look at every repo that is due, until none is and every look has ended.

    A look is one listing of refs by our own client, over connections that stay open, compared with the
    latest snapshot. A repo that moved gets a sync request and a job; so does one that failed, as the sync
    records why. Safe to run twice, also at once: a look that one worker has claimed no other gets.
    """
    total, now = Ticked(0, 0, 0), services.clock()
    async with looking(services) as looks:
        while True:
            total += await looks.step(now)
            if looks.idle:
                return total


async def after_start(services: Services) -> None:
    """The service has just started: look at every repo soon, the most active ones first.

    Webhooks for pushes made while it was down are lost. Where several workers start together, one
    of them does it. Safe to run twice.
    """
    now = services.clock()
    if await maintenance.begin(services.db, "look at every repo after a start", now, STARTING):
        found = await schedules.looked_at(services.db)
        moments = spread([host for _, host in found], now)
        ids = [repo_id for repo_id, _ in found]
        await schedules.look_by(services.db, list(zip(ids, moments, strict=True)))


async def tend(services: Services) -> None:
    """Do the maintenance tasks that are due, side by side; one that fails or is slow stops no other.

    Safe to run twice, also at once.
    """
    await evict(services)
    await asyncio.gather(*(do_if_due(task, services) for task in TASKS))


async def evict(services: Services) -> None:
    """Evict pools from this machine's disk where they exceed its bound, or their team's."""
    await services.disk.pools.make_room(services.disk.root, 0)
    await forget.clear_disk(services)
    try:
        await _share_pools(services)
    except EverrefError as error:
        log.warning("pools of teams: %s", error)
    try:
        held = [RepoId(UUID(name)) for name in await services.disk.pools.held() if _ID.fullmatch(name)]
        await epoch.forget_old_pools(services, held)
    except EverrefError as error:
        log.warning("pools of earlier epochs: %s", error)


async def do_if_due(task: "Task", services: Services) -> None:
    """Do the task, if it is due and no other worker does it."""
    await _do(services, task, if_due=True)


async def _share_pools(services: Services) -> None:
    """Keep each team's pools within its limit, so that they do not push out those of others."""
    held = dict[RepoId, int]()
    for name, size in (await services.disk.pools.held()).items():
        with suppress(ValueError):  # not the pool of a repo
            held[RepoId(UUID(name))] = size
    for ids, most in await quotas.of_pools(services.db, list(held), services.settings.limits):
        if sum(held[one] for one in ids) > most:
            await services.disk.pools.keep_within([str(one) for one in ids], most)


async def _do(services: Services, task: "Task", *, if_due: bool = False) -> None:
    limit = task.limit.total_seconds()
    try:
        if not if_due or await maintenance.begin(services.db, task.name, services.clock(), task.every):
            async with asyncio.timeout(limit):
                await task.do(services)
    except TimeoutError:
        log.warning("%s: it took longer than %g minutes; it goes on next time", task.name, limit / 60)
    except EverrefError as error:
        log.warning("%s: %s", task.name, error)
    except Exception:  # a bug, which stops only this task
        log.exception("a bug in a maintenance task: %s", task.name)


async def tidy(services: Services) -> None:
    """Remove from this disk what killed runs left, and bundles of earlier versions. Safe to run twice."""
    now = services.clock().timestamp()
    root = services.disk.root
    old = await asyncio.to_thread(_older_than, root / "restores", now - VIEWS_KEPT.total_seconds())
    old += await asyncio.to_thread(_older_than, root / "incoming", now - VIEWS_KEPT.total_seconds())
    old += await asyncio.to_thread(_older_than, root / "bundles", now - export.KEPT.total_seconds())
    for path in old:
        await asyncio.to_thread(_remove, path)
    for path in await asyncio.to_thread(_older_than, root / "scratch", now):
        with suppress(EverrefError, ValueError):  # a run is at work on it; or it is not the folder of a repo
            repo = await repos.get(services.db, RepoId(UUID(path.name)))
            async with leased(services, repo, patience=0):
                await asyncio.to_thread(_remove, path)


def _older_than(directory: Path, moment: float) -> list[Path]:
    """The entries of a directory that are older than `moment`; none where the directory does not exist."""
    with suppress(FileNotFoundError):
        return [path for path in directory.iterdir() if path.lstat().st_mtime < moment]
    return []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


async def _forget(services: Services) -> None:
    """Delete rows that have expired. What webhook deliveries reported is in the history by then."""
    now = services.clock()
    await hooks.forget_before(services.db, now - DELIVERIES_KEPT)
    await job_rows.forget_before(services.db, now - JOBS_KEPT)
    await maintenance.forget_requests(services.db, now - REQUESTS_KEPT)
    await sessions.sweep(services.db, now)
    await maintenance.forget_links(services.db, now - LINKS_KEPT)
    await holds.forget_before(services.db, now)
    await outages.forget_before(services.db, now - JOBS_KEPT)
    await look.forget(services)
    await shares.forget(services)


async def _prune(services: Services) -> None:
    """Delete replaced parts whose grace period is over."""
    for repo in await maintenance.with_old_tombstones(services.db, services.clock() - prune.GRACE):
        try:
            await prune.prune(services, prune.GRACE, repo, patience=0)
        except EverrefError as error:  # go on with the others; this one is tried again next time
            if error.origin in SHARED and not isinstance(error, Corrupt):
                raise  # the others would fail in the same way
            log.warning("prune of %s: %s", repo.id, error)


async def _mend_queue(services: Services) -> None:
    """Check that the queue has everything that is due."""
    if mended := await runs.mend(services.db):
        log.warning("%d rows of the queue were wrong and have been repaired; please report this", mended)


async def _add_up(services: Services) -> None:
    """Add up what the database counted for /metrics."""
    await measures.add_up(services.db)


@dataclass(frozen=True, slots=True)
class Task:
    """A maintenance task, done by one worker for all of them. It must be safe to run twice."""

    name: str
    every: timedelta
    do: Callable[[Services], Awaitable[None]]
    limit: timedelta = timedelta(minutes=30)  # of each run


# These write to the vault what is not part of a snapshot.
TOLD: Final[Sequence[Task]] = (
    Task("describe repos that changed", timedelta(minutes=5), describe.due),
    Task("store notes that wait", timedelta(minutes=5), notes.store_waiting),
    Task("store evidence that waits", timedelta(minutes=5), evidence.store_waiting),
    Task("sign what was read each day", timedelta(hours=1), daily.due),
    Task("sign the heads of all histories", timedelta(hours=1), checkpoints.due),
    Task("export the state", timedelta(hours=1), state.due, timedelta(hours=2)),
)
# Whoever needs another task adds a line.
TASKS: Final[Sequence[Task]] = (
    Task("forget what has had its time", timedelta(hours=1), _forget),
    Task("delete bundles whose time is over", timedelta(hours=1), export.forget),
    Task("drop uploads whose time is over", timedelta(hours=1), uploads.forget),
    Task("delete replaced parts", timedelta(hours=1), _prune),
    Task("add up what was counted", timedelta(minutes=1), _add_up),
    Task("compare the queue with what is open", timedelta(hours=1), _mend_queue),
    *TOLD,
    Task("bring copies of the vault up to date", copies.EVERY, copies.due, timedelta(hours=12)),
    Task("read copies of the vault again", copies.EVERY, copies.read_again, timedelta(hours=12)),
    Task("list what connections can see", timedelta(minutes=5), discover.due),
    Task("have the admin of SMTP_URL as a channel", timedelta(minutes=5), channels.keep_admin),
    Task("look after the keys of teams", timedelta(minutes=5), keys.due),
    Task("have the vault say how it is read", timedelta(days=1), guide.due),
    Task("look after hooks", webhooks.SWEEPS, webhooks.due),
    Task("carry out what was asked for and confirmed", pending.EVERY, pending.due, timedelta(hours=12)),
    Task(
        "delete what is left of repos that are gone", timedelta(minutes=10), forget.due, timedelta(hours=12)
    ),
    Task("drill what is due", timedelta(minutes=1), proofs.due),
    Task("go on with drills of teams", timedelta(minutes=1), team_drills.go_on),
    Task("read the vault again", timedelta(minutes=1), rotation.due, timedelta(hours=12)),
    Task("extend the locks of what is kept", timedelta(minutes=5), lock.extend, timedelta(hours=12)),
    Task("bring legal holds to the stores", timedelta(minutes=5), lock.hold),
    Task("try to break the locks of the vault", timedelta(days=1), lock.prove),
    Task("heal what is damaged", timedelta(minutes=5), heal.due, timedelta(hours=12)),
    Task("seal what lies plain", timedelta(minutes=1), reseal.due, timedelta(hours=12)),
    Task("measure what is stored", timedelta(hours=1), costs.due),
    Task("drop what is no longer kept", timedelta(hours=1), retention.due, timedelta(hours=12)),
    Task("look for what will soon fail", predict.EVERY, predict.due),
    Task("tell monitors that all is well", deadman.EVERY, ping.due, timedelta(minutes=10)),
)
