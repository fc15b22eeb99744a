"""What the vault says a repo is, and whether that still holds.

Who calls: backup/describe and upkeep/moving/rebuild.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from mirror.core.errors import NotFound, UsageError
from mirror.core.formats.manifest import RepoFile, encode_repo
from mirror.core.model import Repo, RepoId, older
from mirror.core.rules.work.schedule import longest_gap
from mirror.store import repos
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.people import teams
from mirror.store.people.teams import TeamId

_FORGES: Final = ("github", "gitlab", "gitea", "generic")


@dataclass(frozen=True, slots=True)
class Described:
    """What a repo's row says, and which description of it the vault has."""

    wanted: Mapping[str, Any]  # JSON, as sql/041 makes it
    sum: str  # of that
    is_stored: bool  # the vault's newest description says that
    number: int  # of the newest description; 0: repo.json


@translating
async def get(db: Db, repo_id: RepoId) -> Described:
    """What the vault should say of this repo. Raises NotFound."""
    row = await db.fetchrow(
        """
        select wanted, md5(wanted::text) as sum, described, descriptions
        from (select *, repo_description(repo) as wanted from repo where id = $1) as repo
        """,
        repo_id,
    )
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}")
    return Described(
        json.loads(row["wanted"]), row["sum"], row["sum"] == row["described"], row["descriptions"]
    )


@translating
async def mark_stored(db: Db, repo_id: RepoId, sum_of_it: str, number: int) -> None:
    """Record that the vault's newest description has this sum. Safe to run twice."""
    await db.execute(
        "update repo set described = $2, descriptions = $3 where id = $1 and descriptions <= $3",
        repo_id,
        sum_of_it,
        number,
    )


@translating
async def outdated(db: Db) -> list[Repo]:
    """The repos whose newest description in the vault is outdated; repos never reached have none."""
    rows = await db.fetch(
        """
        select * from repo
        where object_format is not null and described is distinct from md5(repo_description(repo)::text)
        order by id
        """
    )
    return [repos.repo(row) for row in rows]


@translating
async def recover(db: Db, about: RepoFile, at: datetime) -> Repo:
    """Make the repo that a description in the vault is about, in its team.

    Where another repo has its name, its address or its number at the forge, it
    steps aside, like one whose repository was replaced: it is archived, with
    its id behind its name and address, and keeps its history. If that is the same
    address, added again while nothing was known of it, the older one's address says so (`model.older_of`).
    """
    async with transaction(db) as connection:
        team = await _team(connection, about, at)
        try:
            return await _insert(connection, about, team, at)
        except asyncpg.UniqueViolationError:
            return await _insert(connection, await _aside(connection, about, team, at), team, at)


@translating
async def compare(db: Db, repo_id: RepoId, about: RepoFile | None, number: int) -> None:
    """Record that description `number` is the vault's newest and says this, whether or not the row agrees.

    None: what it says does not count, so the repo gets a new description after it.
    """
    described = about and json.loads(encode_repo(about).decode("utf-8", "surrogateescape"))
    await db.execute(
        """
        update repo set
          descriptions = greatest(descriptions, $2),
          described = case
            when repo_description(repo) = $3::jsonb - array['format', 'repo', 'at']
            then md5(repo_description(repo)::text)
          end
        where id = $1
        """,
        repo_id,
        number,
        described and storable(json.dumps(described, ensure_ascii=False)),
    )


async def _team(db: Db, about: RepoFile, at: datetime) -> TeamId:
    """The team of that id, created if there is none.

    A name alone gives nobody another team's repos: only the command line's
    team is known by its name.
    """
    if about.team is None or about.team_name is None:
        return await teams.default(db)
    return await teams.recover(db, TeamId(about.team), about.team_name, at)


async def _insert(db: Db, about: RepoFile, team: TeamId, at: datetime) -> Repo:
    made = Repo(about.repo, about.name, about.url, about.object_format, about.created_at or at)
    async with transaction(db) as connection:
        await connection.execute(
            query("recover_repo"),
            made.id,
            team,
            made.name,
            made.url,
            made.object_format,
            made.created_at,
            about.forge if about.forge in _FORGES else "generic",
            about.host,
            about.repository_id,
            about.private,
            about.paused_at,
            about.archived_at,
            about.schedule,
            list(about.excluded),
            _gap(about.schedule),
        )
    return made


def _gap(schedule: str | None) -> timedelta | None:
    """What a schedule out of the vault promises; None also where it is none that we know."""
    try:
        return longest_gap(schedule)
    except UsageError:
        return None


async def _aside(db: Db, about: RepoFile, team: TeamId, at: datetime) -> RepoFile:
    short = str(about.repo)[:8]
    newer = await repos.by_url(db, team, about.url)
    was_begun_anew = newer is not None and (about.created_at is None or about.created_at <= newer.created_at)
    return replace(
        about,
        name=f"{about.name}-{short}",
        url=older(about.url, about.repo) if was_begun_anew else f"{about.url}#{short}",
        repository_id=None,
        archived_at=about.archived_at or at,
    )
