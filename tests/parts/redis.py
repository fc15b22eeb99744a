"""A real Redis, and the queue in it as a worker reads it."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from arq.connections import ArqRedis, RedisSettings, create_pool

from mirror.embedded import queue as embedded_queue
from mirror.job import dumps


@pytest_asyncio.fixture(scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a real Redis is."""
    async with embedded_queue(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def redis(redis_url: str) -> RedisSettings:
    """A real Redis."""
    return RedisSettings.from_dsn(redis_url)


@pytest_asyncio.fixture
async def jobs(redis: RedisSettings) -> AsyncIterator[ArqRedis]:
    """The queue, empty."""
    pool = await create_pool(redis, job_serializer=dumps, job_deserializer=json.loads)
    await pool.flushall()
    yield pool
    await pool.aclose(close_connection_pool=True)
