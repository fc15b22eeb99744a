"""Limits on how often something may be tried, counted in PostgreSQL so that all processes count together."""

import hashlib
from datetime import datetime, timedelta
from typing import Final

from mirror.store.database import Db, translating

ASIDE: Final = timedelta(minutes=5)  # that a request may take from when its time is read until it is counted


@translating
async def take(db: Db, key: str, limit: int, per: timedelta, now: datetime) -> bool:
    """Count one more try; whether it is among the first `limit` of a period that the first try started.

    A period that ends later than a new one would was started by a request that came later and was counted
    first, or, if by more than ASIDE, by a clock that was ahead: that one counts as over.
    The key says what is tried and by whom; only its SHA-256 is stored.
    """
    count: int = await db.fetchval(
        """
        insert into tries (key_sha256, count, until) values ($1, 1, $3::timestamptz + $4::interval)
        on conflict (key_sha256) do update set (count, until) = (
          select case when lasts then least(tries.count, $2) + 1 else 1 end,
            case when lasts then tries.until else excluded.until end
          from (select tries.until > $3 and tries.until <= excluded.until + $5::interval as lasts) period
        )
        returning count
        """,
        hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(),
        limit,
        now,
        per,
        ASIDE,
    )
    return count <= limit


@translating
async def free_at(db: Db, key: str, now: datetime) -> datetime:
    """When the tries of this key count from the beginning again."""
    until: datetime | None = await db.fetchval(
        "select until from tries where key_sha256 = $1",
        hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(),
    )
    return now if until is None else max(now, until)


@translating
async def give_back(db: Db, key: str) -> None:
    """Forget the tries of this key: somebody who got in was not guessing."""
    await db.execute(
        "delete from tries where key_sha256 = $1",
        hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(),
    )


@translating
async def take_back(db: Db, key: str) -> None:
    """Forget one try of this key: it turned out not to be a guess."""
    await db.execute(
        "update tries set count = count - 1 where key_sha256 = $1 and count > 1",
        hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest(),
    )
