"""Drills of every repo of a team: one row for each, and one for each of its repos."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from mirror.core import words
from mirror.core.model import RepoId
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.jobs.jobs import JobId
from mirror.store.people.teams import TeamId

Result = Literal["passed", "failed", "undone"]

_TOTALS: Final = """
  select team_drill.*,
    count(each.repo_id) as repos,
    count(*) filter (where result = 'passed') as passed,
    count(*) filter (where result = 'failed') as failed,
    count(*) filter (where result = 'undone') as undone,
    coalesce(sum(seconds), 0)::float8 as seconds, coalesce(sum(bytes), 0)::bigint as bytes
  from team_drill left join team_drill_repo each on each.drill_id = team_drill.id
"""


@dataclass(frozen=True, slots=True)
class TeamDrill:
    """A drill of all repos of a team, and how far it is."""

    id: UUID
    team_id: TeamId
    attended: bool  # a command does it, and no worker
    asked_at: datetime
    stopped_at: datetime | None  # None: it goes on
    finished_at: datetime | None  # None: repos are left
    repos: int
    passed: int
    failed: int
    undone: int  # that could not be drilled, so that nothing is known of them
    seconds: float  # that the restores took, one after the other
    bytes: int  # read from the vault

    @property
    def ended(self) -> int:
        """The repos that are done, however that ended."""
        return self.passed + self.failed + self.undone

    @property
    def many(self) -> str:
        """How many repositories, in words."""
        return f"{self.repos:,} {'repository' if self.repos == 1 else 'repositories'}"

    @property
    def sentence(self) -> str:
        """What came of it, or how far it is."""
        took = words.lasted(self.seconds)
        if not self.finished_at:
            bad = f", {self.failed:,} failed" if self.failed else ""
            return f"{self.ended:,} of {self.many} drilled, {took}{bad}"
        if self.failed or self.undone:
            parts = [f"{self.failed:,} failed"] * bool(self.failed)
            parts += [f"{self.undone:,} could not be drilled"] * bool(self.undone)
            of = self.many
            return f"{self.passed:,} of {of} restored, {took}, {', '.join(parts)}"
        return f"{self.many}, {took}, nothing missing"


@dataclass(frozen=True, slots=True)
class Line:
    """One repo of such a drill."""

    repo_id: RepoId
    repo: str
    is_begun: bool  # a worker has it as a job
    result: Result | None  # None: not ended
    snapshot: str | None
    refs: int | None
    bytes: int | None
    seconds: float | None
    problem: str | None


@translating
async def begin(
    db: Db, team_id: TeamId, at: datetime, *, person_id: UUID | None = None, attended: bool = False
) -> TeamDrill:
    """Begin a drill of every repo that has a snapshot, or go on with the one that is not finished."""
    async with transaction(db) as connection:
        found = await connection.fetchval(
            """
            insert into team_drill (team_id, person_id, attended, asked_at) values ($1, $2, $3, $4)
            on conflict (team_id) where finished_at is null do nothing returning id
            """,
            *(team_id, person_id, attended, at),
        )
        if found is not None:
            await connection.execute(
                """
                insert into team_drill_repo (drill_id, repo_id)
                select $1, id from repo
                where team_id = $2 and exists (select from snapshot where snapshot.repo_id = repo.id)
                """,
                *(found, team_id),
            )
        else:
            await connection.execute(
                """
                update team_drill set stopped_at = null, attended = $2
                where team_id = $1 and finished_at is null
                """,
                *(team_id, attended),
            )
        row = await connection.fetchrow(
            f"{_TOTALS} where team_id = $1 and finished_at is null group by team_drill.id", team_id
        )
    return _drill(row)


@translating
async def get(db: Db, team_id: TeamId, drill_id: UUID) -> TeamDrill | None:
    """A drill of this team. None: it has no such one."""
    row = await db.fetchrow(
        f"{_TOTALS} where team_id = $1 and team_drill.id = $2 group by team_drill.id", team_id, drill_id
    )
    return None if row is None else _drill(row)


@translating
async def latest(db: Db, team_id: TeamId) -> TeamDrill | None:
    """The newest drill of the whole team."""
    row = await db.fetchrow(
        f"{_TOTALS} where team_id = $1 group by team_drill.id order by asked_at desc limit 1", team_id
    )
    return None if row is None else _drill(row)


@translating
async def under_way(db: Db) -> list[TeamDrill]:
    """Those that workers go on with: not finished, not stopped, and no command does them."""
    rows = await db.fetch(
        f"{_TOTALS} where finished_at is null and stopped_at is null and not attended group by team_drill.id"
    )
    return [_drill(row) for row in rows]


@translating
async def lines(db: Db, drill_id: UUID) -> Sequence[Line]:
    """Every repo of it: what failed first, then what could not be drilled, what is left, and the slowest."""
    rows = await db.fetch(
        """
        select each.*, repo.name from team_drill_repo each join repo on repo.id = each.repo_id
        where drill_id = $1
        order by
          array_position(array['failed', 'undone', null, 'passed'], result), seconds desc nulls last, name
        """,
        drill_id,
    )
    return [
        Line(
            RepoId(UUID(bytes=row["repo_id"].bytes)),
            row["name"],
            row["job_id"] is not None,
            row["result"],
            *(row[name] for name in ("snapshot", "refs", "bytes", "seconds", "problem")),
        )
        for row in rows
    ]


@translating
async def left(db: Db, drill_id: UUID, limit: int) -> list[RepoId]:
    """Repos that no worker has begun with yet."""
    rows = await db.fetch(
        """
        select repo_id from team_drill_repo join repo on repo.id = repo_id
        where drill_id = $1 and result is null and job_id is null order by repo.name limit $2
        """,
        drill_id,
        limit,
    )
    return [RepoId(UUID(bytes=row["repo_id"].bytes)) for row in rows]


@translating
async def queued(db: Db, drill_id: UUID, repo_id: RepoId, job_id: JobId) -> None:
    """A worker's job does this repo."""
    await db.execute(
        "update team_drill_repo set job_id = $3 where drill_id = $1 and repo_id = $2 and result is null",
        *(drill_id, repo_id, job_id),
    )


@translating
async def ended(
    db: Db,
    drill_id: UUID,
    repo_id: RepoId,
    result: Result,
    at: datetime,
    *,
    snapshot: str | None = None,
    refs: int | None = None,
    size: int | None = None,
    seconds: float | None = None,
    problem: str | None = None,
) -> None:
    """Record how the drill of a repo ended. Safe to run twice: the first record stays."""
    await db.execute(
        """
        update team_drill_repo set result = $3, ended_at = $4, snapshot = $5, refs = $6, bytes = $7,
          seconds = $8, problem = $9
        where drill_id = $1 and repo_id = $2 and result is null
        """,
        *(drill_id, repo_id, result, at, snapshot, refs, size, seconds),
        None if problem is None else storable(problem),
    )


@translating
async def settle(db: Db, drill_id: UUID, at: datetime) -> None:
    """Give up what jobs could not do, and take back what was cancelled. Safe to run twice."""
    await db.execute(
        """
        update team_drill_repo set result = 'undone', ended_at = $2, problem = job.failure_message
        from job
        where job.id = job_id and drill_id = $1 and team_drill_repo.result is null and state = 'failed'
        """,
        drill_id,
        at,
    )
    await db.execute(
        """
        update team_drill_repo each set job_id = null
        where drill_id = $1 and result is null and job_id is not null
          and not exists (
            select from job where job.id = each.job_id and state in ('queued', 'running', 'done')
          )
        """,
        drill_id,
    )


@translating
async def finish(db: Db, drill_id: UUID, at: datetime) -> bool:
    """End a drill of which no repo is left. False: some are, or it was ended already."""
    done = await db.execute(
        """
        update team_drill set finished_at = $2
        where id = $1 and finished_at is null
          and not exists (select from team_drill_repo where drill_id = $1 and result is null)
        """,
        drill_id,
        at,
    )
    return done == "UPDATE 1"


@translating
async def stop(db: Db, team_id: TeamId, drill_id: UUID, at: datetime) -> list[JobId]:
    """Stop a drill of this team, which can go on later; returns its jobs that have not ended."""
    await db.execute(
        """
        update team_drill set stopped_at = $3
        where team_id = $1 and id = $2 and finished_at is null and stopped_at is null
        """,
        *(team_id, drill_id, at),
    )
    rows = await db.fetch(
        """
        select job_id from team_drill_repo join team_drill on team_drill.id = drill_id
        where team_id = $1 and drill_id = $2 and result is null and job_id is not null
        """,
        *(team_id, drill_id),
    )
    return [JobId(UUID(bytes=row["job_id"].bytes)) for row in rows]


def _drill(row: Any) -> TeamDrill:
    return TeamDrill(
        UUID(bytes=row["id"].bytes),
        TeamId(UUID(bytes=row["team_id"].bytes)),
        *(row[name] for name in ("attended", "asked_at", "stopped_at", "finished_at")),
        *(row[name] for name in ("repos", "passed", "failed", "undone", "seconds", "bytes")),
    )
