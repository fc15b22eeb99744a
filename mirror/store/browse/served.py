"""How recent what clones get of a team's repos is, for everybody or for its people."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.served import Served
from mirror.store.database import Db, query, storable, translating
from mirror.store.people.teams import TeamId

StatusPage = Literal["counts", "names"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a team lets everybody see."""

    team_id: TeamId
    team: str
    page: StatusPage
    served: Served


@dataclass(frozen=True, slots=True)
class ServedRepo:
    """A repo that git can clone from here, or will once it is backed up."""

    id: RepoId
    name: str
    url: str
    protected_as_of: datetime | None  # None: nothing is saved yet


@translating
async def shown(db: Db, team: str, now: datetime) -> Shown | None:
    """How the team of this name serves its repos. None: it shows that to nobody, or there is no such team."""
    row = await db.fetchrow(query("served"), storable(team), now)
    return None if row is None else Shown(_id(row["id"]), row["name"], row["status_page"], _served(row))


@translating
async def repos_of(db: Db, team: TeamId, limit: int | None = None) -> Sequence[ServedRepo]:
    """The team's repos by name; at most `limit`."""
    rows = await db.fetch(
        "select id, name, url, protected_as_of from repo where team_id = $1 order by name limit $2",
        team,
        limit,
    )
    return [
        ServedRepo(RepoId(UUID(bytes=row["id"].bytes)), row["name"], row["url"], row["protected_as_of"])
        for row in rows
    ]


@translating
async def status_page(db: Db, team: TeamId) -> StatusPage | None:
    """What everybody may see of the team. None: nothing."""
    found: StatusPage | None = await db.fetchval("select status_page from team where id = $1", team)
    return found


@translating
async def set_status_page(db: Db, team: TeamId, page: StatusPage | None) -> None:
    """Let everybody see that of the team from now on. None: nothing."""
    await db.execute("update team set status_page = $2 where id = $1", team, page)


def _served(row: Any) -> Served:
    return Served(
        total=row["total"],
        unsaved=row["unsaved"],
        recent=row["recent"],
        damaged=row["damaged"],
        recent_as_of=row["recent_as_of"],
        oldest_as_of=row["oldest_as_of"],
    )


def _id(value: Any) -> TeamId:
    return TeamId(UUID(bytes=value.bytes))
