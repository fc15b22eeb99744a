"""The questions asked of PostgreSQL, on every version of it that is found."""

import asyncpg

from mirror import store


async def test_migrating_twice_changes_nothing(db: asyncpg.Pool) -> None:
    assert await store.migrate(db) == []
    assert await store.pending(db) == []
