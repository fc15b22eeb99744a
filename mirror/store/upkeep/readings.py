"""The rotation that reads every stored byte again: what is due, what was read each day, what is covered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from mirror.core.model import Part, RepoId, Snapshot
from mirror.store.backup import parts
from mirror.store.backup.snapshots import snapshot
from mirror.store.database import Db, query, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class DuePart:
    """A live part that is due to be read again."""

    part: Part  # without its inner boundaries
    repo_id: RepoId
    team_id: TeamId
    days: int  # the period of its team
    read_at: datetime | None  # when it was last read, or stored; None: not known


@dataclass(frozen=True, slots=True)
class DueRecords:
    """A repo whose manifests and notes are due to be read again."""

    repo_id: RepoId
    team_id: TeamId
    days: int
    read_at: datetime | None  # when all of them had last been read; None: never
    read_to: int  # the last manifest that the reading under way has read; 0: none


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of what is stored was read back within the period of its team."""

    days: int  # the period; 0: nothing is read again by itself
    total: int  # bytes of the live parts and their indexes
    read: int  # of these, read back within the period and found as they were stored
    fresh: int  # stored within the period and not read back since
    oldest_at: datetime | None  # since when the byte that waits longest was not read; None: nothing is stored
    repos: int  # that have manifests
    repos_read: int  # whose manifests and notes were read within the period, or are all newer than it
    damaged: int  # live parts that are known to be damaged

    @property
    def ratio(self) -> float:
        """The part of all bytes that was read back, or stored, within the period: 0 to 1."""
        return (self.read + self.fresh) / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class Day:
    """What was read of a team's repos on one day."""

    day: date  # in UTC
    bytes: int
    objects: int
    problems: int


@translating
async def due_part(db: Db, now: datetime, resting: float, but: int = 0) -> DuePart | None:
    """The part that was not read for longest, if for more than the `resting` share of its team's period.

    `but`: so many come before it that could not be read.
    """
    row = await db.fetchrow(
        """
        select part.*, repo.team_id, team.read_days
        from part join repo on repo.id = part.repo_id join team on team.id = repo.team_id
        where part.replaced_at is null and read_days > 0
          and (
            part.read_at is null
            or part.read_at < $1::timestamptz - $2::float8 * read_days * interval '1 day'
          )
        order by part.read_at nulls first, part.key limit 1 offset $3
        """,
        now,
        resting,
        but,
    )
    if row is None:
        return None
    part = parts.part_of(row, row["key"], ())
    return DuePart(part, *_place(row), row["read_at"])


@translating
async def due_records(db: Db, now: datetime, resting: float, but: int = 0) -> DueRecords | None:
    """The repo whose manifests and notes were not read for longest, likewise; one under way goes first."""
    row = await db.fetchrow(
        """
        select repo.id as repo_id, repo.team_id, read_days, records_read_at as read_at, records_read_to
        from repo join team on team.id = repo.team_id
        where read_days > 0 and exists (select from snapshot where snapshot.repo_id = repo.id)
          and coalesce(records_read_at, repo.created_at)
            < $1::timestamptz - $2::float8 * read_days * interval '1 day'
        order by records_read_to = 0, records_read_at nulls first, repo.id limit 1 offset $3
        """,
        now,
        resting,
        but,
    )
    return None if row is None else DueRecords(*_place(row), row["read_at"], row["records_read_to"])


def _place(row: Any) -> tuple[RepoId, TeamId, int]:
    ids = (UUID(bytes=row["repo_id"].bytes), UUID(bytes=row["team_id"].bytes))
    return RepoId(ids[0]), TeamId(ids[1]), row["read_days"]


@translating
async def daily_bytes(db: Db) -> float:
    """How many bytes a day would read every live part once within the period of its team."""
    found: float = await db.fetchval(
        """
        select coalesce(sum((bytes + index_bytes) / read_days::float8), 0)
        from part join repo on repo.id = part.repo_id join team on team.id = repo.team_id
        where part.replaced_at is null and read_days > 0
        """
    )
    return found


@translating
async def reserve(db: Db, now: datetime, ahead: timedelta, cost: timedelta) -> bool:
    """Take so much of the time that the rotation may read. False: it has read as far `ahead` as it may.

    It is taken before the reading, so that no other worker begins meanwhile, and a restart reads no faster.
    """
    row = await db.fetchrow(
        """
        insert into rotation (next_at) values ($1::timestamptz + $3::interval)
        on conflict (single) do update
        set next_at = greatest(rotation.next_at, $1::timestamptz) + $3::interval
        where rotation.next_at <= $1::timestamptz + $2::interval
        returning true
        """,
        now,
        ahead,
        cost,
    )
    return row is not None


@translating
async def does_a_sync_wait(db: Db) -> bool:
    """Whether a sync that may begin has not begun yet."""
    found: bool = await db.fetchval("select exists (select from startable where kind = 'sync')")
    return found


@translating
async def read_part(db: Db, one: DuePart, problem: str | None, at: datetime) -> bool:
    """Record that a part was read. False: it is no longer live, so that a problem means nothing."""
    done = await db.execute(
        """
        update part set
          read_at = $2,
          verified_at = case when $3::boolean then $2 else verified_at end,
          damaged_at = case when $3::boolean then null else $2 end
        where key = $1 and replaced_at is null
        """,
        one.part.key,
        at,
        problem is None,
    )
    return done == "UPDATE 1"


@translating
async def read_records(db: Db, repo_id: RepoId, upto: int, at: datetime | None) -> None:
    """Record that the manifests up to this one were read; with `at`, that all are, and the notes."""
    await db.execute(
        """
        update repo set records_read_to = case when $3::timestamptz is null then $2 else 0 end,
          records_read_at = coalesce($3, records_read_at)
        where id = $1
        """,
        repo_id,
        upto,
        at,
    )


@translating
async def manifests_after(db: Db, repo_id: RepoId, number: int, limit: int) -> list[Snapshot]:
    """The snapshots after this one, in their order."""
    rows = await db.fetch(
        f"{query('snapshots')} and number > $2 order by number limit $3", repo_id, number, limit
    )
    return [snapshot(row) for row in rows]


@translating
async def add(db: Db, team_id: TeamId, at: datetime, size: int, objects: int, problems: int) -> None:
    """Add to what was read of this team's repos on that day."""
    await db.execute(
        """
        insert into reading (team_id, day, bytes, objects, problems)
        values ($1, ($2 at time zone 'UTC')::date, $3, $4, $5)
        on conflict (team_id, day) do update set bytes = reading.bytes + excluded.bytes,
          objects = reading.objects + excluded.objects, problems = reading.problems + excluded.problems
        """,
        *(team_id, at, size, objects, problems),
    )


@translating
async def days(db: Db, team_id: TeamId, since: datetime) -> Sequence[Day]:
    """What was read of this team's repos on each day since then, newest first."""
    rows = await db.fetch(
        "select * from reading where team_id = $1 and day >= ($2 at time zone 'UTC')::date order by day desc",
        team_id,
        since,
    )
    return [Day(row["day"], row["bytes"], row["objects"], row["problems"]) for row in rows]


@translating
async def coverage(db: Db, now: datetime, team_id: TeamId | None = None) -> Coverage:
    """How much of what is stored was read back in time: of a team's repos, or of all."""
    row = await db.fetchrow(query("coverage"), team_id, now)
    return Coverage(**{name: row[name] for name in Coverage.__dataclass_fields__})
