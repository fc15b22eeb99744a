"""When a connection is listed next, the marks of its last pages, and the rule for its repositories."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from mirror.store.database import Db, storable, translating
from mirror.store.discovery.connections import ConnectionId


@translating
async def marks(db: Db, connection_id: ConnectionId) -> Mapping[str, Any]:
    """The marks of the last listing's pages; none if there was no listing."""
    found = await db.fetchval("select etags from connection where id = $1", connection_id)
    kept: Mapping[str, Any] = json.loads(found or "{}")
    return kept


@translating
async def done(
    db: Db, connection_id: ConnectionId, marks: Mapping[str, Any], at: datetime, next_at: datetime
) -> None:
    """Record that the listing is complete, and when the next is due."""
    await db.execute(
        """
        update connection set
          etags = $2, listed_at = $3, list_at = $4, list_failed_at = null, list_failure = null
        where id = $1
        """,
        connection_id,
        json.dumps(marks),
        at,
        next_at,
    )


@translating
async def failed(db: Db, connection_id: ConnectionId, why: str, now: datetime, next_at: datetime) -> None:
    """Record that listing failed, until it succeeds; it is due again at `next_at`."""
    await db.execute(
        """
        update connection set
          list_failed_at = coalesce(list_failed_at, $3), list_failure = $2, list_at = $4
        where id = $1
        """,
        connection_id,
        storable(why),
        now,
        next_at,
    )


@translating
async def due(db: Db, now: datetime, limit: int) -> list[tuple[ConnectionId, datetime | None]]:
    """The connections that are due, the longest due first, and since when. None: never listed."""
    rows = await db.fetch(
        """
        select id, list_at from connection
        where state = 'works'
          and (list_at is null or list_at <= $1 or list_at > $1 + interval '1 day')  -- the clock was ahead
        order by list_at nulls first limit $2
        """,
        now,
        limit,
    )
    return [(ConnectionId(UUID(bytes=row["id"].bytes)), row["list_at"]) for row in rows]


@translating
async def claim(db: Db, connection_id: ConnectionId, was: datetime | None, until: datetime) -> bool:
    """Claim the listing until then. False: another run has claimed it."""
    done = await db.execute(
        "update connection set list_at = $3 where id = $1 and list_at is not distinct from $2",
        connection_id,
        was,
        until,
    )
    return done == "UPDATE 1"


@translating
async def set_rule(db: Db, connection_id: ConnectionId, everything: bool, patterns: Sequence[str]) -> None:
    """Set the rule by which the connection's repositories are chosen."""
    await db.execute(
        "update connection set everything = $2, patterns = $3 where id = $1",
        connection_id,
        everything,
        [storable(one) for one in patterns],
    )
