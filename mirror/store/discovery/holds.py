"""Hosts that asked for no requests for a while: until when, and for whose credentials."""

from datetime import datetime

from mirror.core.model import RepoId
from mirror.store.database import Db, translating


@translating
async def put(db: Db, repo_id: RepoId, place: str, until: datetime) -> None:
    """Send this host no requests with the repo's credentials until then. Safe to run twice."""
    await db.execute(
        """
        insert into host_hold (place, holder, until)
        select $2, holder(id, connection_id), $3 from repo where id = $1
        on conflict (place, holder) do update set until = greatest(host_hold.until, excluded.until)
        """,
        repo_id,
        place,
        until,
    )


@translating
async def until(db: Db, repo_id: RepoId, place: str, now: datetime) -> datetime | None:
    """Until when this host gets no requests with the repo's credentials. None: requests are allowed."""
    found: datetime | None = await db.fetchval(
        """
        select until from repo join host_hold on holder = holder(repo.id, repo.connection_id)
        where repo.id = $1 and place = $2
          and until > $3 and until <= $3 + interval '1 day'  -- the clock was ahead
        """,
        repo_id,
        place,
        now,
    )
    return found


@translating
async def forget_before(db: Db, at: datetime) -> None:
    """Forget the holds that ended before then."""
    await db.execute("delete from host_hold where until < $1", at)
