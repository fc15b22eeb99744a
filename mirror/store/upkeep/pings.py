"""The dead man's switches: who is pinged, what it goes by, and what became of the last ping."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NewType
from uuid import UUID, uuid4

from mirror.core.keyring import Keyring
from mirror.core.rules.health import deadman
from mirror.core.rules.health.deadman import Facts, Style
from mirror.store.database import Db, query, storable, translating
from mirror.store.jobs import runs
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import outages

PingId = NewType("PingId", UUID)


@dataclass(frozen=True, slots=True)
class Ping:
    """A monitor outside, and what it last heard. Its address is opened by `url`."""

    id: PingId
    team_id: TeamId | None  # None: of the whole installation
    team: str | None  # its name
    sealed: bytes | None  # None: the address is in the settings
    shown: str
    style: Style
    drill_age: timedelta
    read_age: timedelta
    pinged_at: datetime | None  # None: it has never taken one
    asked_at: datetime | None
    answer: str | None
    silent_since: datetime | None
    told: bool
    failing_since: datetime | None

    def url(self, keyring: Keyring) -> str | None:
        """Where it is. None: the settings say. Raises BadKey."""
        return None if self.sealed is None else keyring.open(self.sealed, f"ping/{self.id}").decode()


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a team's monitor is set up."""

    url: str
    shown: str
    style: Style
    drill_age: timedelta
    read_age: timedelta


_FOUND = "select ping.*, team.name as team from ping left join team on team.id = team_id"


@translating
async def of_team(db: Db, team: TeamId) -> Ping | None:
    """The team's. None: it has none."""
    row = await db.fetchrow(f"{_FOUND} where team_id = $1", team)
    return None if row is None else _ping(row)


@translating
async def all(db: Db) -> Sequence[Ping]:
    """Every team's: those that take no ping come last, and of the others first whoever has waited longest."""
    order = "order by failing_since is not null, asked_at nulls first, team.name"
    return [_ping(row) for row in await db.fetch(f"{_FOUND} where team_id is not null {order}")]


@translating
async def of_installation(db: Db, shown: str, at: datetime) -> Ping:
    """The row of PING_URL, made when it is first asked for. Safe to run twice."""
    await db.execute(
        """
        insert into ping (shown, style, created_at) values ($1, 'plain', $2)
        on conflict ((team_id is null)) where team_id is null do update set shown = excluded.shown
        """,
        shown,
        at,
    )
    return _ping(await db.fetchrow(f"{_FOUND} where team_id is null"))


@translating
async def put(db: Db, keyring: Keyring, team: TeamId, wanted: Wanted, at: datetime) -> None:
    """Set the team's up anew; what an earlier address answered is forgotten."""
    await remove(db, team)
    ping_id = uuid4()
    await db.execute(
        """
        insert into ping (id, team_id, sealed, shown, style, drill_age, read_age, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        ping_id,
        team,
        keyring.seal(wanted.url.encode(), f"ping/{ping_id}"),
        storable(wanted.shown),
        wanted.style,
        wanted.drill_age,
        wanted.read_age,
        at,
    )


@translating
async def remove(db: Db, team: TeamId) -> bool:
    """Ping for this team no more. False: it had none."""
    return bool(await db.execute("delete from ping where team_id = $1", team) == "DELETE 1")


@translating
async def facts(db: Db, ping: Ping, now: datetime) -> Facts:
    """What is known of the team's repos, or of all, as far as the decision needs it."""
    row = await db.fetchrow(
        query("ping_facts"), ping.team_id, now, deadman.NAMED, runs.SILENT, outages.FORGOTTEN
    )
    return Facts(
        row["repos"],
        row["outside"],
        row["names"],
        row["workers"],
        row["vault"],
        row["drilled_at"],
        row["read_at"],
        ping.drill_age,
        ping.read_age,
        row["unknown"],
        row["damaged"],
        row["damaged_names"],
    )


@translating
async def judged(db: Db, ping_id: PingId, well: bool, at: datetime) -> None:
    """Record whether all is well, as of then. Safe to run twice."""
    await db.execute(
        """
        update ping set
          silent_since = case when $2 then null else coalesce(silent_since, $3) end,
          told = told and not $2
        where id = $1
        """,
        ping_id,
        well,
        at,
    )


@translating
async def sent(db: Db, ping_id: PingId, taken: bool, fail: bool, answer: str, at: datetime) -> Ping | None:
    """Record what was answered to a ping, or to the news that something is wrong. None: it was removed."""
    row = await db.fetchrow(
        """
        with done as (
          update ping set
            asked_at = $5, answer = $4,
            pinged_at = case when $2 and not $3 then $5 else pinged_at end,
            told = told or ($2 and $3),
            failing_since = case when $2 then null else coalesce(failing_since, $5) end
          where id = $1 returning *
        )
        select done.*, team.name as team from done left join team on team.id = team_id
        """,
        ping_id,
        taken,
        fail,
        storable(answer),
        at,
    )
    return None if row is None else _ping(row)


def _ping(row: Any) -> Ping:
    return Ping(
        PingId(UUID(bytes=row["id"].bytes)),
        None if row["team_id"] is None else TeamId(UUID(bytes=row["team_id"].bytes)),
        row["team"],
        row["sealed"],
        row["shown"],
        row["style"],
        row["drill_age"],
        row["read_age"],
        row["pinged_at"],
        row["asked_at"],
        row["answer"],
        row["silent_since"],
        row["told"],
        row["failing_since"],
    )
