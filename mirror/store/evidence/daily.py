"""The statements about what was read of a team's repos each day: those to be signed, and those that are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

from mirror.store.database import Db, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Due:
    """A day of a team that is over and of which nothing is signed yet."""

    team_id: TeamId
    team: str
    day: date  # in UTC
    bytes: int
    objects: int
    problems: int


@dataclass(frozen=True, slots=True)
class Row:
    """One statement about a team and a day."""

    key: str  # in the vault
    team_id: TeamId
    day: date  # in UTC
    at: datetime  # when it was signed
    passed: bool
    key_id: str  # of the key that signed it
    sha256: str
    body: bytes | None = field(repr=False, default=None)  # None: it is in the vault

    @property
    def name(self) -> str:
        """What names it among those of its team."""
        return f"{self.day}.json"


@translating
async def due(db: Db, today: date, limit: int) -> Sequence[Due]:
    """Days before `today` on which something was read and of which nothing is signed, oldest first."""
    rows = await db.fetch(
        """
        select reading.*, team.name from reading join team on team.id = reading.team_id
        where day < $1 and not exists (
          select from daily_evidence as signed
          where signed.team_id = reading.team_id and signed.day = reading.day
        )
        order by day, team_id limit $2
        """,
        today,
        limit,
    )
    return [
        Due(_team(row), row["name"], row["day"], row["bytes"], row["objects"], row["problems"])
        for row in rows
    ]


@translating
async def add(db: Db, row: Row) -> bool:
    """Keep a statement. False: there is one about this team and day, or the team is gone."""
    done = await db.execute(
        """
        insert into daily_evidence (team_id, day, key, at, passed, key_id, sha256, body)
        select $1, $2, $3, $4, $5, $6, $7, $8 from team where id = $1 on conflict do nothing
        """,
        row.team_id,
        row.day,
        row.key,
        row.at,
        row.passed,
        row.key_id,
        row.sha256,
        row.body,
    )
    return done == "INSERT 0 1"


@translating
async def waiting(db: Db, limit: int) -> Sequence[tuple[str, bytes]]:
    """The oldest statements that are not known to be in the vault: key and bytes."""
    rows = await db.fetch(
        "select key, body from daily_evidence where body is not null order by at limit $1", limit
    )
    return [(row["key"], row["body"]) for row in rows]


@translating
async def stored(db: Db, key: str) -> None:
    """This statement is in the vault. Safe to run twice."""
    await db.execute("update daily_evidence set body = null where key = $1", key)


@translating
async def known(db: Db) -> frozenset[str]:
    """The keys of all these statements."""
    return frozenset(row["key"] for row in await db.fetch("select key from daily_evidence"))


@translating
async def of_team(db: Db, team: TeamId, before: date | None, limit: int) -> Sequence[Row]:
    """The statements about a team's days before that one, newest first."""
    rows = await db.fetch(
        """
        select * from daily_evidence where team_id = $1 and ($2::date is null or day < $2)
        order by day desc limit $3
        """,
        team,
        before,
        limit,
    )
    return [_row(row) for row in rows]


@translating
async def of_day(db: Db, team: TeamId, day: date) -> Row | None:
    """The statement about this day. None: there is none."""
    row = await db.fetchrow("select * from daily_evidence where team_id = $1 and day = $2", team, day)
    return None if row is None else _row(row)


def _team(row: Any) -> TeamId:
    return TeamId(UUID(bytes=row["team_id"].bytes))


def _row(row: Any) -> Row:
    return Row(
        row["key"],
        _team(row),
        row["day"],
        row["at"],
        row["passed"],
        row["key_id"],
        row["sha256"],
        row["body"],
    )
