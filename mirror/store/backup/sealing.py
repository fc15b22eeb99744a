"""Which team's keys seal and open what is stored of a repo."""

from collections.abc import Sequence

from mirror.core.model import RepoId
from mirror.store.database import Db, translating
from mirror.store.people.teams import TeamId


@translating
async def team_of(db: Db, repo_id: RepoId) -> TeamId | None:
    """The team that has this repo. None: no repo has this id."""
    found = await db.fetchval("select team_id from repo where id = $1", repo_id)
    return TeamId(found) if found else None


@translating
async def teams_with_keys(db: Db) -> Sequence[TeamId]:
    """Every team that has an identity, or had one."""
    rows = await db.fetch("select distinct team_id from team_key order by team_id")
    return [TeamId(row["team_id"]) for row in rows]
