"""Maintenance tasks of the sweep: which are due, and what they have to do."""

from datetime import datetime, timedelta

from mirror.core.model import Repo
from mirror.store import repos
from mirror.store.database import Db, translating


@translating
async def begin(db: Db, name: str, now: datetime, every: timedelta) -> bool:
    """Claim this maintenance task if it is due: nobody else gets it before `every` has passed."""
    row = await db.fetchrow(
        """
        insert into chore (name, begun_at) values ($1, $2)
        on conflict (name) do update set begun_at = excluded.begun_at
        where chore.begun_at not between $2 - $3::interval and $2
        returning true
        """,
        name,
        now,
        every,
    )
    return row is not None


@translating
async def with_old_tombstones(db: Db, before: datetime) -> list[Repo]:
    """Repos with parts or records that were replaced before this moment and are not deleted yet."""
    rows = await db.fetch(
        """
        select * from repo
        where exists (select from part where part.repo_id = repo.id and replaced_at < $1)
          or exists (select from plain_tombstone where repo_id = repo.id and replaced_at < $1)
        order by id
        """,
        before,
    )
    return [repos.repo(row) for row in rows]


@translating
async def forget_requests(db: Db, moment: datetime) -> None:
    """Forget the requests that came before this moment, and how they were answered. Safe to run twice."""
    await db.execute("delete from idempotency where created_at < $1", moment)


@translating
async def forget_links(db: Db, moment: datetime) -> None:
    """Forget the one-time links that expired before this moment. Safe to run twice."""
    await db.execute("delete from sign_in_link where expires_at < $1", moment)
