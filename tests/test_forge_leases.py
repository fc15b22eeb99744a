"""One run at a time changes something at a forge, and holds nothing of the database meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from mirror.core.errors import Busy
from mirror.core.model import RepoId
from mirror.discovery import choose, webhooks
from mirror.discovery.choose import By
from mirror.discovery.forge_client import ForgeClient
from mirror.services.lease import leased_at_forge
from mirror.store import forge_leases, leases
from tests.parts.connected import Beside
from tests.parts.forges import GitHub

ME = By(None, "the test")
NAME = forge_leases.of_hook(RepoId(uuid4()))
MANY = 20  # twice as many as there are connections


async def test_one_run_at_a_time_has_its_turn(db: asyncpg.Pool) -> None:
    order: list[str] = []

    async def run() -> None:
        async with leased_at_forge(db, NAME, "a hook"):
            order.append("begins")
            await db.fetchval("select 1")
            order.append("ends")

    await asyncio.gather(run(), run(), run())
    assert order == ["begins", "ends"] * 3


async def test_the_turn_goes_on_after_a_failure(db: asyncpg.Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with leased_at_forge(db, NAME, "a hook"):
            raise ZeroDivisionError
    async with leased_at_forge(db, NAME, "a hook", patience=0):
        assert await db.fetchval("select count(*) from forge_lease") == 1
    assert await db.fetchval("select count(*) from forge_lease") == 0


async def test_who_waits_too_long_is_told_that_another_run_is_at_work(db: asyncpg.Pool) -> None:
    async with leased_at_forge(db, NAME, "the hook of alice/garden"):
        with pytest.raises(Busy, match="another run is working on the hook of alice/garden"):
            async with leased_at_forge(db, NAME, "the hook of alice/garden", patience=0):
                pass


async def test_of_many_who_ask_at_once_one_gets_the_lease(db: asyncpg.Pool) -> None:
    got = await asyncio.gather(*(forge_leases.acquire(db, NAME) for _ in range(8)))
    assert sum(one is not None for one in got) == 1


async def test_a_run_elsewhere_keeps_its_lease_for_30_seconds_without_a_beat(db: asyncpg.Pool) -> None:
    lease = await forge_leases.acquire(db, NAME)
    assert lease
    await db.execute("update forge_lease set owner = 'elsewhere/boot.1/1/1/abc'")
    silent = "update forge_lease set beat_at = clock_timestamp() - $1::interval"
    await db.execute(silent, timedelta(seconds=20))
    assert await forge_leases.acquire(db, NAME) is None
    await db.execute(silent, timedelta(seconds=31))
    assert await forge_leases.beat(db, lease) and await forge_leases.acquire(db, NAME) is None
    await db.execute(silent, timedelta(seconds=31))
    assert await forge_leases.acquire(db, NAME)
    assert not await forge_leases.beat(db, lease)


async def test_the_lease_of_a_run_that_has_ended_is_free_at_once(db: asyncpg.Pool) -> None:
    lease = await forge_leases.acquire(db, NAME)
    assert lease and await forge_leases.acquire(db, NAME) is None
    leases.leave(lease.owner)  # and the database was away when it was to be given back
    successor = await forge_leases.acquire(db, NAME)
    assert successor and successor.fence > lease.fence
    await forge_leases.release(db, lease)
    assert await forge_leases.acquire(db, NAME) is None


class Waiting:
    """A forge that answers nobody before `many` ask it at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, many: int) -> None:
        self.all_ask, self.answer, self._many = asyncio.Event(), asyncio.Event(), many
        real = ForgeClient.ask

        async def ask(asked: ForgeClient, question: Callable[..., Awaitable[Any]]) -> Any:
            self._many -= 1
            if not self._many:
                self.all_ask.set()
            await self.answer.wait()
            return await real(asked, question)

        monkeypatch.setattr(ForgeClient, "ask", ask)


@pytest.mark.parametrize("deed", ["keep", "let go"])
async def test_while_a_forge_takes_its_time_no_connection_is_held(
    github: GitHub, beside: Beside, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    connected = await beside(github)
    services, alice = connected.services, github.add_person("alice")
    gardens = [github.add_repository(f"alice/g{number}") for number in range(MANY)]
    connection = await connected.connect(alice)
    if deed == "let go":
        await choose.choose(services, connection.id, ME, [str(one.id) for one in gardens])
    kept = [await connected.kept(one) for one in gardens] if deed == "let go" else []
    forge = Waiting(monkeypatch, MANY)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        if deed == "keep":
            for one in gardens:
                group.create_task(choose.choose(services, connection.id, ME, [str(one.id)]))
        for origin in kept:
            group.create_task(choose.let_go(services, origin.repo.id, ME))
        await forge.all_ask.wait()
        assert services.db.get_idle_size() == services.db.get_size()
        forge.answer.set()
    assert [len(one.hooks) for one in gardens] == [1 if deed == "keep" else 0] * MANY


async def test_a_hook_that_another_run_is_at_work_on_waits(
    github: GitHub, beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = await beside(github)
    services, alice = connected.services, github.add_person("alice")
    garden = github.add_repository("alice/garden")
    connection = await connected.connect(alice)
    (chosen,) = await choose.choose(services, connection.id, ME, [str(garden.id)])
    monkeypatch.setattr("mirror.services.lease.PATIENCE_AT_FORGE", 0)
    assert chosen.hook is webhooks.Outcome.REGISTERED
    async with leased_at_forge(services.db, forge_leases.of_hook(chosen.repo.id), "its hook"):
        (again,) = await choose.choose(services, connection.id, ME, [str(garden.id)])
        assert again.hook is webhooks.Outcome.WAITING and "another run is working" in str(again.why)
        with pytest.raises(Busy, match="the hook of alice/garden"):
            await choose.let_go(services, chosen.repo.id, ME)
    assert await choose.let_go(services, chosen.repo.id, ME) is None and not garden.hooks
