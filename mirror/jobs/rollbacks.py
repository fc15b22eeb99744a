"""Doing a rollback: a job for each repo, its progress, another run of what failed, and undoing the whole.

Who calls: the page of a rollback, the API and the command `rollback`. Each job pushes by restore/restore,
with what the plan saw as its leases; nothing here touches a host.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from mirror.core import words
from mirror.core.errors import Busy, EverrefError, Refused
from mirror.core.model import RepoId
from mirror.core.rules.health.causes import repositories
from mirror.core.rules.history import rollback as rules
from mirror.restore import rollback, undo
from mirror.services.open import Services
from mirror.store.jobs.jobs import ENDED, Job
from mirror.store.people.teams import TeamId
from mirror.store.restore import rollbacks
from mirror.store.restore.rollbacks import PlannedRepo, Rollback, RollbackId

ASKED: Final = "rollback"  # in what a job is asked: the id of the rollback that it belongs to
LASTS: Final = timedelta(hours=1)  # of a plan that was shown, until it must be made again
_WROTE: Final = ("created", "updated", "removed")

Do = Callable[[RepoId, dict[str, Any]], Awaitable[object]]  # queues a restore of a repo, or does it


@dataclass(frozen=True, slots=True)
class Line:
    """One repo of a rollback that was begun, and what came of it."""

    planned: PlannedRepo
    job: Job | None  # the last that rolls it back; None: it could not be queued
    undone: Job | None  # of those that undo it, one that has not done so, else the last; None: nobody asked
    wrote: tuple[Job, ...] = ()  # jobs that wrote to its host
    left: tuple[Job, ...] = ()  # those of them that are not undone

    @property
    def under_way(self) -> bool:
        """Whether a job of it has not ended."""
        return any(one is not None and one.state not in ENDED for one in (self.job, self.undone))

    @property
    def counts(self) -> dict[str, int]:
        """How many refs came to what; of the undo, where there is one."""
        job = self.undone or self.job
        return dict((job.result or {}).get("counts") or {}) if job else {}

    @property
    def back(self) -> int:
        """The refs that are what they were before."""
        counts = (self.job.result or {}).get("counts") or {} if self.job else {}
        return sum(counts.get(one, 0) for one in (*_WROTE, "unchanged"))

    @property
    def failed(self) -> bool:
        """Whether its rollback ended without all of its refs being back."""
        return not self.under_way and (self.job is None or self.job.state != "done")

    @property
    def problem(self) -> str:
        """Why it is not wholly done, or undone; "": it is, or it is under way."""
        job = self.undone or self.job
        if job is None or self.planned.problem:
            return self.planned.problem or "its job could not be queued"
        if job.failure is not None:
            return job.failure.message
        return "it was stopped" if job.state == "cancelled" else ""


@dataclass(frozen=True, slots=True)
class State:
    """How far a rollback is."""

    rollback: Rollback
    lines: tuple[Line, ...]  # of its repos of which refs were chosen

    @property
    def reading(self) -> bool:
        """Whether its plan is still being made, so that it cannot begin."""
        return bool(self.rollback.unread)

    @property
    def read(self) -> int:
        """How many of its repos the plan knows."""
        return len(self.rollback.repos) - len(self.rollback.unread)

    @property
    def under_way(self) -> bool:
        """Whether a job has not ended."""
        return any(one.under_way for one in self.lines)

    @property
    def failed(self) -> int:
        """The repos whose refs are not all back."""
        return sum(one.failed for one in self.lines)

    @property
    def undoing(self) -> bool:
        """Whether somebody asked for it to be undone."""
        return any(one.undone for one in self.lines)

    @property
    def undoable(self) -> bool:
        """Whether something was written that can be undone now."""
        return not self.under_way and any(one.left for one in self.lines)

    @property
    def name(self) -> Literal["planning", "planned", "running", "done", "failed", "undone"]:
        """How far it is, in a word; undone: all that it wrote."""
        if self.rollback.begun_at is None:
            return "planning" if self.reading else "planned"
        if self.under_way:
            return "running"
        if self.undoing:
            return "failed" if self.undoable else "undone"
        return "failed" if self.failed else "done"

    @property
    def sentence(self) -> str:
        """How far it is, without its full stop."""
        if self.reading:
            return rules.reading(self.read, len(self.rollback.repos))
        if self.rollback.begun_at is None:
            return (
                f"{words.count(self.rollback.chosen, 'ref')} of {repositories(len(self.lines))} to put back"
            )
        open_ = sum(one.under_way for one in self.lines)
        if self.undoing:
            ended = [one for one in self.lines if one.undone and not one.under_way]
            done = sum(not one.left for one in ended)
            asked = sum(one.undone is not None for one in self.lines)
            return f"{done:,} of {repositories(asked)} undone"
        return rules.outcome(len(self.lines), sum(one.back for one in self.lines), self.failed, open_)


def _line(planned: PlannedRepo, done: Sequence[tuple[Job, bool]]) -> Line:
    """One repo, with its jobs, oldest first, and whether each wrote to its host."""
    forth = [job for job, _ in done if not job.asked.get("undo")]
    undoing = {job.asked["undo"]: job for job, _ in done if job.asked.get("undo")}  # the last for each
    last = sorted(undoing.values(), key=lambda job: (job.state in ENDED, job.state == "done"))
    undone = last[0] if last and last[0].state != "done" else last[-1] if last else None
    wrote = tuple(job for job, wrote in done if wrote and not job.asked.get("undo"))
    gone = {job_id for job_id, job in undoing.items() if job.state == "done"}
    left = tuple(job for job in wrote if str(job.id) not in gone)
    return Line(planned, forth[-1] if forth else None, undone, wrote, left)


async def state(services: Services, team_id: TeamId, rollback_id: RollbackId) -> State:
    """How far a rollback is. Raises NotFound."""
    found = await rollback.get(services, team_id, rollback_id)
    by_repo: dict[RepoId, list[tuple[Job, bool]]] = {}
    for job, wrote in await rollbacks.jobs_of(services.db, rollback_id):
        by_repo.setdefault(job.repo_id, []).append((job, wrote))
    lines = [_line(one, by_repo.get(one.repo_id, [])) for one in found.repos if one.chosen]
    return State(found, tuple(lines))


async def begin(
    services: Services,
    team_id: TeamId,
    rollback_id: RollbackId,
    do: Do,
    *,
    person_id: UUID | None = None,
    places: Collection[int] | None = None,
) -> State:
    """Begin a plan, with these of its refs; None: as it was planned. `do` queues each repo's job, or does it.

    Safe to run twice: a plan is begun once, and a second press finds it begun. One repo that fails
    keeps no other from being done. Raises Refused where the plan is older than LASTS, or another person's,
    or is still being made.
    """
    found = await rollback.get(services, team_id, rollback_id)
    now = services.clock()
    if found.begun_at is None:
        check(found, places, person_id, now)
        if await rollbacks.begin(services.db, rollback_id, places, now):
            await _each(services, await rollback.get(services, team_id, rollback_id), do, None)
    return await state(services, team_id, rollback_id)


def check(found: Rollback, places: Collection[int] | None, person_id: UUID | None, now: datetime) -> None:
    """Raise Refused where this person cannot begin this plan now, with these of its refs."""
    if found.person_id != person_id:
        raise Refused("somebody else made this plan; make your own, so that you have seen what it does")
    if found.unread:
        far = rules.reading(len(found.repos) - len(found.unread), len(found.repos))
        raise Refused(f"this plan is still being made: {far}; look at it once it is whole")
    if is_old(found, now):
        raise Refused("this plan is more than an hour old; plan the rollback again")
    if not (found.chosen if places is None else len(set(places))):
        raise Refused("no ref is chosen, so there is nothing to put back")


def is_old(found: Rollback, now: datetime) -> bool:
    """Whether a plan must be made again before it is begun."""
    return now - found.planned_at > LASTS


async def choose(
    services: Services,
    team_id: TeamId,
    rollback_id: RollbackId,
    places: Collection[int],
    person_id: UUID | None,
) -> None:
    """Keep which refs the maker of a plan ticked, so that a refusal to begin it forgets none of that.

    Safe to run twice; what is begun, being made or somebody else's stays as it is. Raises NotFound.
    """
    found = await rollback.get(services, team_id, rollback_id)
    if found.person_id == person_id and not found.unread:
        await rollbacks.choose(services.db, rollback_id, places)


async def again(services: Services, team_id: TeamId, rollback_id: RollbackId, do: Do) -> State:
    """Go on with the repos whose rollback failed or was stopped; what is back already stays as it is.

    Raises Busy while it is under way, Refused where nothing is left to do.
    """
    found = await state(services, team_id, rollback_id)
    _check_begun(found)
    left = {one.planned.repo_id for one in found.lines if one.failed}
    if not left:
        if any(one.undone for one in found.lines):
            raise Refused("this rollback was undone; plan a new one to put the refs back once more")
        raise Refused("everything that was chosen is back already")
    await _each(services, found.rollback, do, left)
    return await state(services, team_id, rollback_id)


async def undo_all(services: Services, team_id: TeamId, rollback_id: RollbackId, do: Do) -> State:
    """Undo all that a rollback wrote, repo by repo, newest first; each ref only if it still holds that.

    Raises Busy while it is under way, Refused where nothing was written.
    """
    found = await state(services, team_id, rollback_id)
    _check_begun(found)
    if not found.undoable:
        raise Refused("the rollback wrote nothing that is left to undo")
    for line in found.lines:
        for job in reversed(line.left):
            try:
                await undo.check(services, job)
                number = (job.result or job.asked).get("snapshot") or line.planned.snapshot
                asked = {"undo": str(job.id), "snapshot": number, "force": False, ASKED: str(rollback_id)}
                await do(line.planned.repo_id, asked)
            except EverrefError as error:
                await rollbacks.set_problem(services.db, rollback_id, line.planned.repo_id, str(error))
    return await state(services, team_id, rollback_id)


def _check_begun(found: State) -> None:
    if found.rollback.begun_at is None:
        raise Refused("this rollback was not begun yet")
    if found.under_way:
        raise Busy("the rollback is still under way; wait for it, or stop its jobs")


async def _each(services: Services, found: Rollback, do: Do, only: Collection[RepoId] | None) -> None:
    """Queue, or do, the job of each of its repos with refs that were chosen."""
    for one in found.repos:
        if not one.chosen or (only is not None and one.repo_id not in only):
            continue
        asked = {ASKED: str(found.id), "kept": str(one.repo_id), "snapshot": one.snapshot, "force": True}
        try:
            await do(one.repo_id, asked)
            problem = None
        except EverrefError as error:
            problem = str(error)
        await rollbacks.set_problem(services.db, found.id, one.repo_id, problem)
