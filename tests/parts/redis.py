"""A real Redis, the queue in it, and a worker of arq that works it off."""

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from arq.worker import Worker, create_worker

from mirror.jobs.runner import Runner
from mirror.services.embedded import queue as embedded_queue
from mirror.services.open import Services
from mirror.services.queue import NAME, Queue, WorkerQueue
from mirror.worker import WorkerSettings


def older_redis() -> Path:
    """A redis-server that is no Valkey, with its redis-cli beside it: the tests' own, else the system's."""
    own = Path(sys.executable).with_name("redis-server")
    found = own if own.exists() else shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    return Path(found)


@pytest_asyncio.fixture(scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a real Redis is."""
    async with embedded_queue(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest_asyncio.fixture
async def jobs(redis_url: str) -> AsyncIterator[Queue]:
    """The queue, empty."""
    queue = Queue.at(redis_url)
    await queue.flushall()
    yield queue
    await queue.aclose(close_connection_pool=True)


async def work_off(services: Services, redis_url: str, **options: Any) -> Worker:
    """Let arq do the jobs that are in the queue now."""
    queue = WorkerQueue.at(redis_url)
    runner = Runner(services, freed=queue.wake)
    queue.choose = runner.choose
    without: dict[str, Any] = {"cron_jobs": [], "on_startup": None, "on_shutdown": None}
    worker = create_worker(
        WorkerSettings,  # type: ignore[arg-type]
        **{"redis_pool": queue, "burst": True, "max_burst_jobs": await queue.zcard(NAME)} | without | options,
        ctx={"runner": runner},
    )
    try:
        await worker.async_run()
    finally:
        await worker.close()
    return worker
