"""Scheduled drills: which repos are drilled next, at which moment, as jobs for which no person waits.

Who calls: the sweep, as a maintenance task; the command `drill --due`, which does at once what is due.
"""

from collections.abc import Sequence
from datetime import timedelta
from random import Random, SystemRandom
from typing import Final

from mirror.core.model import Repo, RepoId, Snapshot
from mirror.core.rules.health import proving
from mirror.git.run import SLOTS
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import epochs, parts, snapshots
from mirror.store.jobs import jobs
from mirror.store.restore import drills

RECENT: Final = timedelta(days=90)  # drills that passed since then prove their part of the history
AGAIN: Final = timedelta(hours=6)  # before a scheduled drill that could not be done is queued again
_PAGE: Final = 1000


async def plan(services: Services) -> int:
    """Plan the next drill of each repo that has none planned; returns how many. Safe to run twice."""
    total = 0
    while found := await drills.unplanned(services.db, _PAGE):
        now = services.clock()
        times = [(one.repo_id, proving.next_drill(one.repo_id, one.days, one.last_at, now)) for one in found]
        await drills.plan(services.db, times)
        total += len(found)
    return total


async def due(services: Services, random: Random | None = None) -> None:
    """Queue the drills that are due, as many as scheduled drills may have of the slots of all workers.

    None is queued while a sync waits for a slot. Safe to run twice: a repo with a drill under way gets no
    other, and one whose worker was killed is begun again, as every job is.
    """
    await plan(services)
    slots = await drills.slots(services.db)
    free = proving.drills_at_once(slots.workers * SLOTS) - slots.open
    if slots.waits or free <= 0:
        return
    for repo_id in await drills.due(services.db, services.clock(), free, again=AGAIN):
        await queue(services, repo_id, random or SystemRandom())


async def queue(services: Services, repo_id: RepoId, random: Random) -> None:
    """Queue a drill of this repo at a random moment. Nothing happens where it has no snapshot."""
    chosen = await moment(services, repo_id, random)
    if chosen is not None:
        await jobs.queue(services.db, repo_id, "drill", chosen.numbers, services.clock())
        await services.hint(repo_id)


async def moment(services: Services, repo_id: RepoId, random: Random) -> Snapshot | None:
    """The snapshot to drill next (core/rules/health/proving decides); None: there is none."""
    last = await snapshots.latest(services.db, repo_id)
    if last is None:
        return None
    live = [(part.first, part.last) for part in await parts.live(services.db, repo_id)]
    passed = await drills.passed(services.db, repo_id, services.clock() - RECENT)
    number = proving.drill_moment(live, last.number, passed, random)
    kept, _ = await epochs.kept_near(services.db, repo_id, number + 1)
    return await snapshots.get(services.db, repo_id, kept or last.number)


async def due_now(services: Services, ids: Sequence[RepoId] = ()) -> list[tuple[Repo, Snapshot]]:
    """Every repo whose drill is due, with the moment to drill it at, the longest overdue first."""
    await plan(services)
    found = list(ids) or await drills.due(services.db, services.clock(), _PAGE)
    random = SystemRandom()
    chosen = [(await repos.get(services.db, one), await moment(services, one, random)) for one in found]
    return [(repo, snapshot) for repo, snapshot in chosen if snapshot is not None]
