"""Minutes of faults of every kind while people push: what was there at any time comes back in the end."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.parts import faultproxy
from tests.parts.faultproxy import FaultProxy
from tests.parts.forges import GitHub, Repository
from tests.parts.postgres import Server
from tests.parts.s3 import S3Server
from tests.parts.whole import LATER, Begin, OwnRedis, Whole
from tests.test_whole_faults import store

__all__ = ["store"]
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
SECONDS = 240.0  # of faults
ROUNDS = 12  # at the least, on a slow machine


class Chaos:
    """What happens upstream, and what goes wrong: all by chance."""

    def __init__(self, whole: Whole, redis: OwnRedis, store: FaultProxy, seed: int) -> None:
        self.whole, self.redis, self.store = whole, redis, store
        self.chance = random.Random(seed)
        self.faults: tuple[Callable[[], Awaitable[None]], ...] = (
            self.a_worker_is_killed,
            self.redis_stops,
            self.redis_forgets,
            self.postgres_crashes,
            self.the_store_fails,
            self.the_host_fails,
            self.webhooks_come_twice_or_late,
            self.a_token_is_revoked,
        )

    async def pushes(self, repositories: list[Repository]) -> None:
        """A few pushes, and their webhooks, as far as somebody takes them."""
        for _ in range(self.chance.randint(1, 5)):
            one = self.chance.choice(repositories)
            size = self.chance.choice([10, 100, 300_000])
            files: dict[str, bytes | None] = {"file": self.chance.randbytes(size)}
            if self.chance.random() < 0.3:
                one.commit(files=files, parents=[])
            else:
                one.commit(files=files)
        await self.whole.host.deliver()

    async def a_moment(self) -> None:
        """Let what runs get somewhere, wherever that is: when a fault comes is chance, too."""
        await asyncio.sleep(self.chance.uniform(0, 3))

    async def a_worker_is_killed(self) -> None:
        async with self.whole.process() as worker:
            await self.a_moment()
            worker.kill()
            await worker.wait()

    async def redis_stops(self) -> None:
        await self.redis.stop()
        await self.a_moment()
        await self.redis.start()

    async def redis_forgets(self) -> None:
        await self.whole.queue.flushall()

    async def postgres_crashes(self) -> None:
        self.whole.postgres.crash()
        await self.a_moment()
        await self.whole.postgres.start()

    async def the_store_fails(self) -> None:
        fault = self.chance.choice(
            [
                faultproxy.says(503, "SlowDown"),
                faultproxy.says(500, "InternalError"),
                faultproxy.reset,
                faultproxy.lost_answer,
                faultproxy.changed,
            ]
        )
        self.store.fail(lambda request: self.chance.random() < 0.5, fault)
        await self.a_moment()
        self.store.heal()

    async def the_host_fails(self) -> None:
        self.whole.host.fail(self.chance.choice([500, 502, 503, 429]), 5)
        await self.a_moment()
        self.whole.host.heal()

    async def webhooks_come_twice_or_late(self) -> None:
        if self.chance.random() < 0.5:
            self.whole.host.duplicate(2)
        else:
            self.whole.host.hold()
            await self.a_moment()
            await self.whole.host.release(reverse=self.chance.random() < 0.5)

    async def a_token_is_revoked(self) -> None:
        for token in self.whole.host.tokens:
            token.revoked |= token.person is self.whole.alice
        await self.a_moment()
        await self.whole.connect(self.whole.alice)


@pytest.mark.chaos
async def test_every_state_comes_back_after_minutes_of_faults(
    github: GitHub,
    begin: Begin,
    fragile_database: str,
    own_postgres: Server,
    own_redis: OwnRedis,
    store: FaultProxy,
    s3_server: S3Server,
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    url = s3_server.url(endpoint=store.endpoint)
    whole = await begin(
        github,
        vault_url=f"{url}&attempts=3",
        server=own_postgres,
        database_url=fragile_database,
        redis_at=own_redis.url,
    )
    chaos = Chaos(whole, own_redis, store, seed)
    repositories = await whole.protected("garden", "shed", "barn")
    clock = asyncio.get_running_loop().time
    began, rounds = clock(), 0
    while clock() - began < SECONDS or rounds < ROUNDS:
        async with whole.process():
            for _ in range(3):
                await chaos.pushes(repositories)
                fault = chaos.chance.choice(chaos.faults)
                print(fault.__name__)
                await asyncio.gather(fault(), chaos.pushes(repositories))
        rounds += 1
    for one in repositories:
        for delivery in github.deliveries(one):
            if delivery.status is None or delivery.status >= 300:
                await github.redeliver(delivery)
    whole.later(LATER)
    async with whole.working():
        await whole.sweep()
        await whole.at_rest()
    await whole.sweep()
    await whole.holds()
