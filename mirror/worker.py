"""The worker: arq's jobs, each a shell round a flow, and the sweep that makes up for jobs that were lost.

Redis holds hints only. What must not be lost is in PostgreSQL or can be seen at
the remotes, and the sweep looks there; so a job that cannot be helped ends.
"""

import asyncio
import json
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from arq.connections import ArqRedis, RedisSettings
from arq.constants import in_progress_key_prefix
from arq.cron import cron
from arq.worker import Retry, Worker, func
from redis.exceptions import RedisError

from mirror import process
from mirror.config import Settings
from mirror.embedded import queue
from mirror.errors import EverrefError, NetworkError
from mirror.flows import sweep as sweeping
from mirror.flows import sync as syncing
from mirror.flows.edges import Edges, open_edges
from mirror.job import SYNC, dumps
from mirror.model import Reason, RepoId
from mirror.process import Ties
from mirror.store import repos

JOB_SECONDS: Final = 24 * 3600  # a first backup of a huge repository takes hours
CLAIM_SECONDS: Final = 60  # a killed worker's job is taken over after this long
RENEW_SECONDS: Final = 20  # how often the claim of a running job is renewed
SWEEP_MINUTES: Final = 5
HEARD: Final = timedelta(seconds=30)  # by when a job has begun with a wish, or its hint was lost
STOP_SECONDS: Final = 20  # for jobs to clean up after themselves when the worker is stopped
OTHERS_SECONDS: Final = 10  # for other repos, after one whose wish is renewed again and again
TRIES: Final = 10  # then the job is left to the sweep
POLL_SECONDS: Final = 0.01
ALIVE_SECONDS: Final = 10  # how often the worker says in Redis that it lives

log = logging.getLogger("mirror.worker")  # also when run as __main__


def wait_before_retry(attempt: int, chance: float) -> float:
    """Seconds after try number `attempt`: doubling from 2 to 600, a quarter off by `chance` in 0..1."""
    return float(min(2**attempt, 600) * (0.75 + chance / 2))


async def sync_repo(ctx: dict[str, Any], repo_id: str, reason: str = Reason.PUSH) -> None:
    """Serve one repo's wish. What may pass is tried again later; what will not is recorded and ends here."""
    try:
        async with _claimed(ctx):
            if not await syncing.serve(ctx["edges"], RepoId(UUID(repo_id)), Reason(reason)):
                await ctx["redis"].enqueue_job(SYNC, repo_id, reason, _defer_by=OTHERS_SECONDS)
    except EverrefError as error:
        log.warning("sync of %s: %s", repo_id, error)
        if error.permanent or ctx["job_try"] >= TRIES:
            return
        raise Retry(defer=wait_before_retry(ctx["job_try"], random.random())) from error


async def sweep(ctx: dict[str, Any]) -> None:
    """Ask again for what no job served, then look at every repo, unless this worker is still at it."""
    try:
        await _sweep(ctx)
    except EverrefError as error:  # the next one comes soon
        log.warning("sweep: %s", error)


async def _sweep(ctx: dict[str, Any]) -> None:
    edges: Edges = ctx["edges"]
    for repo_id in await repos.unheard(edges.db, edges.clock() - HEARD):
        await ctx["redis"].enqueue_job(SYNC, str(repo_id))
    if ctx["sweeping"].locked():
        return
    async with ctx["sweeping"], _claimed(ctx):
        done = await sweeping.sweep(edges)
    failed = sum(one.error is not None for one in done)
    new = sum(one.synced is not None and one.synced.new for one in done)
    if new or failed:
        log.info("sweep: %d repos, %d with a new snapshot, %d failed", len(done), new, failed)


def make_worker(
    edges: Edges,
    redis: RedisSettings,
    *,
    on_startup: Callable[[], None] = lambda: None,
    burst: bool = False,
    handle_signals: bool = False,
) -> Worker:
    """A worker of the default queue, to be run in this event loop; with `burst`, until the queue is empty."""

    async def started(ctx: dict[str, Any]) -> None:
        on_startup()

    worker = Worker(
        functions=[func(sync_repo, name=SYNC)],
        cron_jobs=[cron(sweep, name="sweep", minute=set(range(0, 60, SWEEP_MINUTES)), run_at_startup=True)],
        redis_settings=redis,
        burst=burst,
        handle_signals=handle_signals,
        on_startup=started,
        ctx={"edges": edges, "sweeping": asyncio.Lock()},
        max_jobs=max(2, os.cpu_count() or 1),
        job_timeout=JOB_SECONDS,
        keep_result=0,
        poll_delay=POLL_SECONDS,
        max_tries=TRIES * 10,  # runs that were killed count too; it is `sync_repo` that gives up
        health_check_interval=ALIVE_SECONDS,
        job_serializer=dumps,
        job_deserializer=json.loads,
    )
    # arq claims a job for as long as it may run; ours is claimed for a while, again and again (`_claimed`).
    worker.in_progress_timeout_s = CLAIM_SECONDS
    return worker


async def main(settings: Settings, ties: Ties) -> None:
    """Work until a signal says stop; jobs under way are cancelled, clean up, and are queued again."""
    async with AsyncExitStack() as stack:
        edges = await stack.enter_async_context(open_edges(settings))
        redis_url = settings.redis_url
        if redis_url is None:
            redis_url = await stack.enter_async_context(queue(Path(settings.data)))
        redis = RedisSettings.from_dsn(redis_url)
        worker = make_worker(edges, redis, on_startup=ties.say_ready, handle_signals=True)
        worker.on_stop = _hurry
        try:
            with suppress(asyncio.CancelledError):
                await worker.async_run()
        except RedisError as error:
            raise NetworkError(
                f"Redis stopped answering ({type(error).__name__}); what was queued is swept up"
            ) from None
        finally:
            with suppress(RedisError):  # of which there is nothing to close then
                await worker.close()


def _hurry(_: signal.Signals) -> None:
    """Whoever still hangs then is killed."""
    signal.alarm(STOP_SECONDS)


@asynccontextmanager
async def _claimed(ctx: dict[str, Any]) -> AsyncIterator[None]:
    """Keep this job ours while the block runs; when we are killed, another worker soon finds it free."""
    redis: ArqRedis = ctx["redis"]

    async def claim() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(RedisError):  # tried again soon enough
                await redis.expire(in_progress_key_prefix + ctx["job_id"], CLAIM_SECONDS)

    claiming = asyncio.create_task(claim())
    try:
        yield
    finally:
        claiming.cancel()
        with suppress(asyncio.CancelledError):
            await claiming


if __name__ == "__main__":
    sys.exit(process.begin("everref worker", main))
