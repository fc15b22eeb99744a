"""The badges of repos: who has one, and what it says."""

from dataclasses import dataclass
from datetime import datetime

from mirror.core.model import RepoId
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Proved:
    """What a badge says something about."""

    drilled_at: datetime | None  # the newest drill; None: there is none
    failed: bool  # it found a problem
    damaged: bool  # the backup is known to be damaged


@translating
async def set_badge(db: Db, repo_id: RepoId, name: str | None) -> None:
    """Give the repo a badge under this name. None: take it away."""
    await db.execute("update repo set badge = $2 where id = $1", repo_id, name)


@translating
async def of(db: Db, repo_id: RepoId) -> str | None:
    """The name of the repo's badge. None: it has none."""
    found: str | None = await db.fetchval("select badge from repo where id = $1", repo_id)
    return found


@translating
async def named(db: Db, name: str) -> Proved | None:
    """What the badge of this name says something about. None: there is no such badge."""
    row = await db.fetchrow(
        """
        select last.finished_at, coalesce(cardinality(last.problems) > 0, false) as failed,
          repo.damaged_at is not null as damaged
        from repo left join lateral (
          select finished_at, problems from drill
          where repo_id = repo.id order by finished_at desc, id desc limit 1
        ) as last on true
        where badge = $1
        """,
        name,
    )
    return None if row is None else Proved(row["finished_at"], row["failed"], row["damaged"])
