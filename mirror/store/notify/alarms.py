"""Lasting states of every team and of the installation, and what people were told of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.core.rules.health.alarms import Alarm
from mirror.store.database import Db, query, storable, translating
from mirror.store.people.teams import TeamId

NAMES: Final = 12  # repositories of a cause that a message names


@dataclass(frozen=True, slots=True)
class Trouble:
    """Repositories of a team that need somebody for one reason; a Cause of core/rules/health/causes."""

    team_id: TeamId
    team: str
    cause: str  # as troubled() names it, or over
    many: int
    unsaved: int
    since: datetime | None  # None: it is not known
    repos: Sequence[tuple[str, str]]  # names with what is known of each; the first ones
    login: tuple[str, str, str] | None = None  # whose token is refused: the forge, the host and the account
    why: str = ""  # of a token or a limit: what there is to say

    @property
    def kind(self) -> str:
        return self.cause.partition(":")[0]

    @property
    def where(self) -> str:
        return self.cause.partition(":")[2]

    @property
    def key(self) -> str:
        """The cause, of this team."""
        return f"{self.team_id}/{self.cause}"


@dataclass(frozen=True, slots=True)
class Kept:
    """An alarm as it is stored."""

    key: str
    team_id: TeamId | None  # None: of the installation
    cause: str
    title: str  # as it was told, or would have been
    alarm: Alarm


@translating
async def begin(db: Db) -> tuple[bool, datetime | None]:
    """Whether nobody else is looking, for as long as the caller's transaction; and when somebody last did."""
    row = await db.fetchrow("select looked_at from telling for update skip locked")
    return (False, None) if row is None else (True, row["looked_at"])


@translating
async def looked(db: Db, at: datetime) -> None:
    """Somebody looked, in the caller's transaction."""
    await db.execute("update telling set looked_at = $1", at)


@translating
async def troubles(db: Db, now: datetime) -> list[Trouble]:
    """Every cause for which repos need somebody, of all teams."""
    return [_trouble(row) for row in await db.fetch(query("causes_of_all"), now, NAMES)]


@translating
async def kept(db: Db) -> dict[str, Kept]:
    """Every alarm, by its key."""
    rows = await db.fetch("select * from alarm")
    return {row["key"]: _kept(row) for row in rows}


@translating
async def keep(db: Db, one: Kept) -> None:
    """Write what people now know of an alarm."""
    await db.execute(
        """
        insert into alarm (key, team_id, cause, title, is_on, turned_at, since, told_on, told_at, told_many,
          flips, flapping_since)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        on conflict (key) do update set title = excluded.title, is_on = excluded.is_on,
          turned_at = excluded.turned_at, since = excluded.since, told_on = excluded.told_on,
          told_at = excluded.told_at, told_many = excluded.told_many, flips = excluded.flips,
          flapping_since = excluded.flapping_since
        """,
        one.key,
        one.team_id,
        one.cause,
        storable(one.title),
        one.alarm.is_on,
        one.alarm.turned_at,
        one.alarm.since,
        one.alarm.told_on,
        one.alarm.told_at,
        one.alarm.told_many,
        list(one.alarm.flips),
        one.alarm.flapping_since,
    )


@translating
async def forget(db: Db, keys: Sequence[str]) -> None:
    """Forget alarms that are over, told and quiet."""
    await db.execute("delete from alarm where key = any($1::text[])", list(keys))


@translating
async def team_names(db: Db) -> Mapping[TeamId, str]:
    """What each team is called that has an alarm."""
    rows = await db.fetch("select id, name from team where id in (select team_id from alarm)")
    return {TeamId(UUID(bytes=row["id"].bytes)): row["name"] for row in rows}


def _trouble(row: Any) -> Trouble:
    return Trouble(
        TeamId(UUID(bytes=row["team_id"].bytes)),
        row["team"],
        row["cause"],
        row["many"],
        row["unsaved"],
        row["since"],
        list(zip(row["names"], row["details"], strict=True)),
        None if row["login"] is None else (row["forge"], row["host"], row["login"]),
        row["why"] or "",
    )


def _kept(row: Any) -> Kept:
    return Kept(
        row["key"],
        None if row["team_id"] is None else TeamId(UUID(bytes=row["team_id"].bytes)),
        row["cause"],
        row["title"],
        Alarm(
            row["is_on"],
            row["turned_at"],
            row["since"],
            row["told_on"],
            row["told_at"],
            row["told_many"],
            tuple(row["flips"]),
            row["flapping_since"],
        ),
    )
