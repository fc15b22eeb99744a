"""When repos are looked at: which are due, and when they are due again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from mirror.core.errors import NotFound
from mirror.core.model import ObjectFormat, Repo, RepoId
from mirror.core.rules.work import schedule as rule
from mirror.core.rules.work.schedule import longest_gap
from mirror.store.database import Db, query, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Due:
    """A repo that is due to be looked at, and what is known of it."""

    repo: Repo
    team_id: TeamId
    rhythm: rule.Rhythm
    digest: str | None  # of the refs of the latest snapshot; None: it has none
    format: ObjectFormat | None  # of the latest snapshot
    failing: bool  # its last run failed
    has_secret: bool  # fetching it takes credentials
    holder: str  # of those credentials, by the SQL function `holder`
    held_until: datetime | None  # when its host may be asked again; None: now


@dataclass(frozen=True, slots=True)
class Looked:
    """When a repo was looked at, and when its next look is due."""

    repo_id: RepoId
    looked_at: datetime | None  # when its remote answered; None: it did not
    look_at: datetime


@dataclass(frozen=True, slots=True)
class Rhythm(rule.Rhythm):
    """How often a repo is looked at, and when it is next."""

    look_at: datetime | None  # when the next look is due; None: at once


@translating
async def due(
    db: Db,
    now: datetime,
    until: datetime,
    limit: int,
    but_at: Sequence[str] = (),
    but_of: Sequence[TeamId] = (),
) -> list[Due]:
    """Repos whose look is due, the longest overdue first; no other worker gets them before `until`.

    Repos at places in `but_at`, by the start of their address, and those of teams in `but_of` are left out.
    """
    rows = await db.fetch(query("due"), now, until, limit, list(but_at), list(but_of))
    return [_due(row) for row in rows]


@translating
async def looked_at(db: Db) -> list[tuple[RepoId, str | None]]:
    """Every repo that is looked at, and its host; the one that changed most recently first."""
    rows = await db.fetch(
        """
        select id, substring(url from '^[a-z]+://(?:[^/@]*@)?([[][^]]*]|[^/:]+)') as host
        from repo where archived_at is null and paused_at is null
        order by coalesce(changed_at, created_at) desc, id
        """
    )
    return [(RepoId(UUID(bytes=row["id"].bytes)), row["host"]) for row in rows]


@translating
async def look_by(db: Db, moments: Sequence[tuple[RepoId, datetime]]) -> None:
    """Have these repos looked at by then at the latest. Safe to run twice."""
    await db.execute(
        """
        update repo set look_at = given.look_at
        from unnest($1::uuid[], $2::timestamptz[]) as given (id, look_at)
        where repo.id = given.id and repo.look_at > given.look_at
        """,
        [repo_id for repo_id, _ in moments],
        [moment for _, moment in moments],
    )


@translating
async def of(db: Db, repo_id: RepoId) -> Rhythm:
    """How often a repo is looked at, and why. Raises NotFound."""
    row = await db.fetchrow(
        """
        select schedule, coalesce(changed_at, created_at) as changed_at, repo_rpo(repo) as rpo, look_at
        from repo where id = $1
        """,
        repo_id,
    )
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}")
    return Rhythm(row["schedule"], row["changed_at"], row["rpo"], row["look_at"])


@translating
async def set_schedule(db: Db, repo_id: RepoId, schedule: str | None, look_at: datetime) -> None:
    """Have a repo looked at by this schedule from now on, or by its activity if it is None."""
    await db.execute(
        "update repo set schedule = $2, look_at = $3, cron_gap = $4 where id = $1",
        repo_id,
        schedule,
        look_at,
        longest_gap(schedule),
    )


@translating
async def set_rpo(db: Db, repo_id: RepoId, rpo: timedelta | None, now: datetime) -> None:
    """Give a repo an objective of its own, or its team's where that is None; it is checked in time for it."""
    await db.execute("update repo set rpo = $2 where id = $1", repo_id, rpo)
    await db.execute(
        """
        update repo set look_at = least(look_at, $2::timestamptz + random() * objective / 2) where id = $1
        """,
        repo_id,
        now,
    )


@translating
async def rpo_of(db: Db, repo_id: RepoId) -> timedelta | None:
    """The repo's own objective. None: it has its team's."""
    found: timedelta | None = await db.fetchval("select rpo::interval from repo where id = $1", repo_id)
    return found


@translating
async def team_rpo(db: Db, team: TeamId) -> timedelta:
    """The objective of the team's repos that have none of their own."""
    found: timedelta = await db.fetchval("select rpo::interval from team where id = $1", team)
    return found


@translating
async def set_team_rpo(db: Db, team: TeamId, rpo: timedelta, now: datetime) -> None:
    """Set that objective; every repo that it concerns is checked in time for it, at a moment of its own."""
    await db.execute("update team set rpo = $2 where id = $1", team, rpo)
    await db.execute(
        """
        update repo set look_at = least(look_at, $2::timestamptz + random() * objective / 2)
        where team_id = $1 and rpo is null
        """,
        team,
        now,
    )


@translating
async def answered(db: Db, repo_id: RepoId, at: datetime, new: bool) -> Rhythm:
    """Record that the repo's remote has answered, with something new or not. Raises NotFound."""
    row = await db.fetchrow(
        """
        update repo set
          looked_at = greatest(looked_at, $2),
          changed_at = case when $3 then greatest(changed_at, $2) else changed_at end
        where id = $1
        returning schedule, coalesce(changed_at, created_at) as changed_at, repo_rpo(repo) as rpo, look_at
        """,
        repo_id,
        at,
        new,
    )
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}")
    return Rhythm(row["schedule"], row["changed_at"], row["rpo"], row["look_at"])


@translating
async def drilled(db: Db, repo_id: RepoId, at: datetime) -> None:
    """Record that a drill of this repo has ended."""
    await db.execute("update repo set drilled_at = greatest(drilled_at, $2) where id = $1", repo_id, at)


@translating
async def looked(db: Db, looks: Sequence[Looked]) -> None:
    """Record when these repos were looked at, and when they are due again."""
    await db.execute(
        """
        update repo set
          looked_at = greatest(repo.looked_at, given.looked_at), look_at = given.look_at
        from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) as given (id, looked_at, look_at)
        where repo.id = given.id
        """,
        [one.repo_id for one in looks],
        [one.looked_at for one in looks],
        [one.look_at for one in looks],
    )


def _due(row: Any) -> Due:
    repo = Repo(
        RepoId(UUID(bytes=row["id"].bytes)), row["name"], row["url"], row["object_format"], row["created_at"]
    )
    return Due(
        repo,
        TeamId(UUID(bytes=row["team_id"].bytes)),
        rule.Rhythm(row["schedule"], row["changed_at"] or row["created_at"], row["objective"]),
        row["digest"],
        row["format"],
        row["failure_class"] is not None,
        row["has_secret"],
        row["holder"],
        row["held_until"],
    )
