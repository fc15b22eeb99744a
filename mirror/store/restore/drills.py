"""The drills: restores made only to prove that they work, with their evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from mirror.core.model import RepoId, label
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.jobs.runs import SILENT
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Drill:
    """The evidence of one drill."""

    snapshot: int
    refs: int
    bytes: int  # read from the vault
    seconds: float
    problems: tuple[str, ...]  # empty: it works
    finished_at: datetime
    moment: int = 0  # the number of the moment within the snapshot; 0: the snapshot itself
    findings: tuple[str, ...] = ()  # what git dislikes in objects as their remote has them; no damage

    @property
    def label(self) -> str:
        """What was drilled, as people call it."""
        return label(self.snapshot, self.moment)


@translating
async def add(db: Db, repo_id: RepoId, done: Drill) -> None:
    """Record a drill; the next one is planned anew."""
    await db.execute(
        """
        with planned as (update repo set drill_at = null where id = $1)
        insert into drill (repo_id, snapshot, refs, bytes, seconds, problems, finished_at, moment, findings)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        repo_id,
        done.snapshot,
        done.refs,
        done.bytes,
        done.seconds,
        [storable(problem) for problem in done.problems],
        done.finished_at,
        done.moment,
        [storable(finding) for finding in done.findings],
    )


@dataclass(frozen=True, slots=True)
class Unplanned:
    """A repo whose next drill is not planned."""

    repo_id: RepoId
    days: int  # the period of its team; 0: never
    last_at: datetime | None  # of its last drill; None: none yet


@translating
async def unplanned(db: Db, limit: int) -> list[Unplanned]:
    """Repos that have something to drill, of teams that want it, whose next drill is not planned."""
    rows = await db.fetch(
        """
        select repo.id, team.drill_days,
          (select max(finished_at) from drill where drill.repo_id = repo.id) as last_at
        from repo join team on team.id = repo.team_id
        where drill_at is null and protected_as_of is not null and drill_days > 0
          and exists (select from snapshot where snapshot.repo_id = repo.id)
        limit $1
        """,
        limit,
    )
    return [Unplanned(RepoId(UUID(bytes=row["id"].bytes)), row["drill_days"], row["last_at"]) for row in rows]


@translating
async def plan(db: Db, planned: Sequence[tuple[RepoId, datetime | None]]) -> None:
    """Record when these repos are drilled next. Safe to run twice."""
    await db.execute(
        """
        update repo set drill_at = given.at from unnest($1::uuid[], $2::timestamptz[]) as given (id, at)
        where repo.id = given.id and drill_at is null
        """,
        [repo_id for repo_id, _ in planned],
        [at for _, at in planned],
    )


@translating
async def due(db: Db, now: datetime, limit: int, *, again: timedelta = timedelta()) -> list[RepoId]:
    """Repos whose drill is due, the longest overdue first; none that a drill is under way of.

    Nor one whose scheduled drill was queued less than `again` ago and could not be done.
    """
    rows = await db.fetch(
        """
        select repo.id from repo join team on team.id = repo.team_id
        where drill_at <= $1 and drill_days > 0 and not exists (
          select from job where job.repo_id = repo.id and kind = 'drill'
            and (state in ('queued', 'running') or person_id is null and queued_at > $1 - $3::interval)
        )
        order by drill_at, repo.id limit $2
        """,
        now,
        limit,
        again,
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def count_due(db: Db, now: datetime, team_id: TeamId | None = None) -> int:
    """How many scheduled drills are due: of a team, or of all."""
    found: int = await db.fetchval(
        "select count(*) from repo where drill_at <= $1 and ($2::uuid is null or team_id = $2)", now, team_id
    )
    return found


@dataclass(frozen=True, slots=True)
class Slots:
    """What scheduled drills have to do with."""

    workers: int  # that are alive
    open: int  # scheduled drills that wait or run
    waits: bool  # a sync that may begin has not begun yet


@translating
async def slots(db: Db) -> Slots:
    """How much room there is for scheduled drills."""
    row = await db.fetchrow(
        """
        select
          (select count(*) from worker where beat_at > clock_timestamp() - $1::interval) as workers,
          (
            select count(*) from job
            where kind = 'drill' and person_id is null and state in ('queued', 'running')
          ) as open,
          exists (select from startable where kind = 'sync') as waits
        """,
        SILENT,
    )
    return Slots(row["workers"], row["open"], row["waits"])


@translating
async def passed(db: Db, repo_id: RepoId, since: datetime) -> list[int]:
    """The snapshots that drills restored whole since then."""
    rows = await db.fetch(
        "select snapshot from drill where repo_id = $1 and finished_at >= $2 and cardinality(problems) = 0",
        repo_id,
        since,
    )
    return [row["snapshot"] for row in rows]


@translating
async def rto(db: Db, repo_id: RepoId) -> float | None:
    """Seconds that a restore takes: the median of the last drills that passed. None: there is none."""
    found: float | None = await db.fetchval("select repo_rto($1)", repo_id)
    return found


@dataclass(frozen=True, slots=True)
class Periods:
    """How often a team's repos are proved, in days; 0: never."""

    drill: int
    read: int


@translating
async def periods(db: Db, team_id: TeamId) -> Periods:
    """How often a team's repos are drilled, and their bytes read."""
    row = await db.fetchrow("select drill_days, read_days from team where id = $1", team_id)
    return Periods(row["drill_days"], row["read_days"])


@translating
async def set_periods(db: Db, team_id: TeamId, drill_days: int, read_days: int) -> None:
    """How often a team's repos are drilled and their bytes read, in days; 0: never. Plans drills anew."""
    async with transaction(db) as connection:
        await connection.execute(
            "update team set drill_days = $2, read_days = $3 where id = $1", team_id, drill_days, read_days
        )
        await connection.execute("update repo set drill_at = null where team_id = $1", team_id)


@translating
async def latest(db: Db, repo_id: RepoId) -> Drill | None:
    """The newest drill of this repo."""
    row = await db.fetchrow(
        "select * from drill where repo_id = $1 order by finished_at desc, id desc limit 1", repo_id
    )
    return None if row is None else drill(row)


def drill(row: Any) -> Drill:
    """The drill in a row of that table."""
    return Drill(
        row["snapshot"],
        row["refs"],
        row["bytes"],
        row["seconds"],
        tuple(row["problems"]),
        row["finished_at"],
        row["moment"],
        tuple(row["findings"]),
    )
