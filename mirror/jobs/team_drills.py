"""Drills of every repo of a team at its newest moment, one after the other: "if the host were gone today".

Who calls: the pages and the command begin and stop one; the sweep, and each drill that ends, go on with it.
"""

from uuid import UUID

from mirror.core.rules.health import proving
from mirror.git.run import SLOTS
from mirror.restore.drill import Drilled
from mirror.services.open import Services
from mirror.store.jobs import jobs
from mirror.store.people import notices
from mirror.store.people.teams import TeamId
from mirror.store.restore import drills, team_drills
from mirror.store.restore.team_drills import TeamDrill

ASKED = "team_drill"  # in what a job is asked: the id of the drill that it belongs to


async def go_on(services: Services) -> None:
    """Queue the next repos of every drill of a team, within the slots of scheduled drills; end what is done.

    Safe to run twice and to kill: what is left stands in rows, and a job that nobody works at begins again.
    """
    for one in await team_drills.under_way(services.db):
        await team_drills.settle(services.db, one.id, services.clock())
        slots = await drills.slots(services.db)
        free = proving.drills_at_once(slots.workers * SLOTS) - slots.open
        for repo_id in await team_drills.left(services.db, one.id, max(0, free)):
            asked = {ASKED: str(one.id)}
            job = await jobs.queue(services.db, repo_id, "drill", asked, services.clock())
            await team_drills.queued(services.db, one.id, repo_id, job.id)
            await services.hint(repo_id)
        await finish(services, one)


async def record(services: Services, drill_id: UUID, done: Drilled) -> None:
    """Record the drill of one repo of it. Safe to run twice."""
    await team_drills.ended(
        services.db,
        drill_id,
        done.repo.id,
        "failed" if done.problems else "passed",
        services.clock(),
        snapshot=done.snapshot.label,
        refs=done.refs,
        size=done.bytes,
        seconds=done.seconds,
        problem=done.problems[0] if done.problems else None,
    )


async def finish(services: Services, one: TeamDrill) -> None:
    """End a drill of which nothing is left, and tell its team what came of it, once."""
    if await team_drills.finish(services.db, one.id, services.clock()):
        ended = await team_drills.get(services.db, one.team_id, one.id)
        assert ended is not None
        words = f"drill of all repositories: {ended.sentence}"
        await notices.add(
            services.db, one.team_id, None, "drill", words, services.clock(), f"team-drill/{one.id}"
        )


async def stop(services: Services, team_id: TeamId, drill_id: UUID) -> None:
    """Stop a drill; its job is cancelled, and begins again when the drill goes on. Safe to run twice."""
    for job_id in await team_drills.stop(services.db, team_id, drill_id, services.clock()):
        await jobs.cancel(services.db, team_id, job_id, services.clock())
