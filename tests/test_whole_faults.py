"""What stops under Everref while pushes come: workers, Redis, PostgreSQL, S3. It catches up by itself."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mirror.services import failpoints
from mirror.store.upkeep import outages as rows
from mirror.upkeep import outages
from tests.parts import faultproxy
from tests.parts.faultproxy import FaultProxy, fault_proxy
from tests.parts.forges import GitHub
from tests.parts.postgres import Server
from tests.parts.s3 import S3Server
from tests.parts.whole import LATER, Begin, OwnRedis, Whole, until

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")


@pytest_asyncio.fixture
async def whole(github: GitHub, begin: Begin) -> Whole:
    """Everref beside a GitHub."""
    return await begin(github)


# Workers


@pytest.mark.parametrize("step", failpoints.SYNC)
async def test_what_a_worker_that_is_killed_at_any_step_had_begun_is_done_by_the_next(
    whole: Whole, step: str
) -> None:
    if step == "sync: index stored":  # only a first backup comes there
        await whole.keep(*whole.add("garden", "shed"))
    else:
        garden, shed = await whole.protected("garden", "shed")
        garden.commit(parents=[])
        garden.commit(parents=[])
        shed.commit()
        await whole.host.deliver()
    async with whole.process(kill_at=step) as worker:
        assert await worker.wait() == -signal.SIGKILL, whole.log.read_text()
    async with whole.working():
        await whole.at_rest()
    await whole.sweep()  # which tidies up where nothing is to be done any more
    await whole.holds()


async def test_a_worker_that_is_stopped_in_the_midst_of_a_fetch_hands_back(whole: Whole) -> None:
    garden, shed = await whole.protected("garden", "shed")
    whole.host.slow(600, piece="garden.git/git-upload-pack")
    garden.commit()
    shed.commit()
    await whole.host.deliver()
    async with whole.process() as worker:
        await until(lambda: whole.is_protected(shed))
        await until(lambda: whole.has_asked("garden.git/git-upload-pack"))
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0, whole.log.read_text()
    assert await whole.held() == 0
    whole.host.heal()
    async with whole.working():
        await whole.at_rest()
    await whole.holds()


# Redis


async def test_pushes_are_kept_with_redis_flushed_stopped_and_started_again(
    github: GitHub, begin: Begin, own_redis: OwnRedis
) -> None:
    whole = await begin(github, redis_at=own_redis.url)
    garden, shed = await whole.protected("garden", "shed")
    garden.commit()
    await github.deliver()
    await whole.queue.flushall()
    async with whole.working():
        await whole.at_rest()
        await own_redis.stop()
        garden.commit(parents=[])
        shed.commit()
        await github.deliver()
        assert github.deliveries(garden)[-1].status == github.deliveries(shed)[-1].status == 202
        await whole.at_rest()
        await own_redis.start()
        garden.commit()
        await github.deliver()
        await whole.at_rest()
    await whole.holds()


# PostgreSQL


@pytest_asyncio.fixture
async def fragile(github: GitHub, fragile_database: str, begin: Begin, own_postgres: Server) -> Whole:
    """Everref with a PostgreSQL that can crash."""
    return await begin(github, server=own_postgres, database_url=fragile_database)


async def test_a_database_that_crashes_in_the_midst_of_a_sync_costs_time_and_no_push(
    fragile: Whole,
) -> None:
    github, postgres = fragile.host, fragile.postgres
    garden, shed = await fragile.protected("garden", "shed")
    github.when("garden.git/git-upload-pack", postgres.crash)
    async with fragile.working():
        garden.commit()
        await github.deliver()
        await until(fragile.is_down)
        garden.commit(parents=[])
        shed.commit()
        await github.deliver()
        assert github.deliveries(garden)[-1].status == github.deliveries(shed)[-1].status == 503
        await postgres.start()
        await github.redeliver(github.deliveries(garden)[-1])
        fragile.later(LATER)
        await fragile.sweep()
        await fragile.at_rest()
    await fragile.holds()


@pytest.mark.parametrize(
    "step", ["sync: fetched", "sync: bundle stored", "sync: manifest stored", "sync: recorded"]
)
async def test_a_database_that_crashes_at_a_step_finds_nothing_half_done(
    fragile: Whole, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    garden, shed = await fragile.protected("garden", "shed")
    crashed = asyncio.Event()

    def reached(name: str) -> None:
        if name == step and not crashed.is_set():
            fragile.postgres.crash()
            crashed.set()

    monkeypatch.setattr(failpoints, "reached", reached)
    async with fragile.working():
        garden.commit()
        shed.commit()
        await fragile.host.deliver()
        await crashed.wait()
        await fragile.postgres.start()
        fragile.later(LATER)
        await fragile.at_rest()
    await fragile.holds()


# S3


@pytest_asyncio.fixture
async def store(s3_server: S3Server, s3_credentials: None) -> AsyncIterator[FaultProxy]:
    """A proxy before an S3 store."""
    async with fault_proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.mark.parametrize(
    "fault",
    [faultproxy.says(503, "SlowDown"), faultproxy.reset, faultproxy.lost_answer],
    ids=["slow", "reset", "lost"],
)
async def test_a_store_that_fails_for_a_while_costs_time_and_no_push(
    github: GitHub,
    begin: Begin,
    store: FaultProxy,
    s3_server: S3Server,
    fault: faultproxy.Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0.1)
    url = s3_server.url(endpoint=store.endpoint)
    whole = await begin(github, vault_url=f"{url}&attempts=2")
    garden, shed = await whole.protected("garden", "shed")
    big: dict[str, bytes | None] = {
        "big": random.Random(1).randbytes(17 << 20)
    }  # more than one part of a multipart upload
    async with whole.working():
        store.fail(lambda request: request.method in ("PUT", "POST", "DELETE"), fault)
        garden.commit(files=big, parents=[])
        shed.commit()
        await github.deliver()
        await until(lambda: rows.now(whole.services.db))
        assert not await whole.is_failing(garden) and not await whole.is_failing(shed)
        garden.commit(parents=[])
        await github.deliver()
        store.heal()
        whole.later(LATER)
        await whole.at_rest()
    await whole.holds()
