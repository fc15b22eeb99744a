"""The connections of a process to its database: how one is taken, how it is given back, what it may hold."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

import mirror
from mirror.core.errors import Busy, NetworkError
from mirror.store import database
from mirror.store.database import Connections
from mirror.store.people import teams


async def test_who_finds_every_connection_in_use_hears_so_and_does_not_wait_for_ever(database: str) -> None:
    async with Connections(database, size=2) as db, db.acquire(), db.acquire():
        db._taking = 0.05  # from now on, as to connect takes a while itself
        with pytest.raises(Busy, match="every connection to the database is in use"):
            await teams.default(db)


async def test_a_transaction_that_gets_no_connection_is_busy_too(pool: Connections) -> None:
    async with asyncio.timeout(30), database.connected(pool) as connection:
        assert not isinstance(connection, asyncpg.Pool)
        held = [await pool.acquire() for _ in range(pool.get_max_size() - 1)]
        pool._taking = 0.05
        with pytest.raises(Busy):
            async with database.transaction(pool):
                pass
        for one in held:
            await pool.release(one)


async def test_a_transaction_whose_connection_is_lost_fails_as_a_database_that_does_not_answer(
    pool: Connections,
) -> None:
    with pytest.raises(NetworkError, match="does not answer"):
        async with database.transaction(pool) as connection:
            connection.terminate()
            await teams.default(connection)
    assert await teams.default(pool)  # over another one


async def test_what_was_cancelled_in_a_transaction_leaves_a_clean_connection(database: str) -> None:
    async with Connections(database, size=1) as db:
        begun = asyncio.Event()

        async def stopped() -> None:
            async with db.acquire() as connection, connection.transaction():
                await connection.execute("set local enable_sort = off; create table half ()")
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stopped())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert await db.fetchval("show enable_sort") == "on"
        assert await db.fetchval("select to_regclass('half') is null")


def test_no_statement_leaves_anything_in_its_session() -> None:
    """A connection is given back as it is, so that locks and settings must end with their transaction."""
    top = Path(mirror.__file__).parents[1]
    left = re.compile(
        r"pg_(try_)?advisory_(?!xact)|\blisten\s+\w+;|\bdeclare\s+\w+\s+cursor|\btemp(orary)?\s+table"
        r"|[\"';]\s*set\s+(session\s+|(?!local\b)\w+\s*(=|to)\s)"
    )
    sources = [
        *(top / "mirror/store").glob("*.py"),
        *(top / "hooks").glob("*.py"),
        *(top / "sql").rglob("*.sql"),
    ]
    found = [f"{file.name}: {hit[0]}" for file in sources for hit in left.finditer(file.read_text())]
    assert not found


async def test_the_server_bounds_what_a_client_that_froze_or_vanished_may_hold(pool: Connections) -> None:
    wanted = {
        "idle_in_transaction_session_timeout": "30s",
        "lock_timeout": "30s",
        "statement_timeout": "310s",
        "jit": "off",
    }
    assert {name: await pool.fetchval(f"show {name}") for name in wanted} == wanted
