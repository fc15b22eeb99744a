"""The worker: `python -m mirror.worker`, or as people who know arq do, `arq mirror.worker.WorkerSettings`.

arq carries the jobs, and does by its clock what is periodical. What is due, and who
has it, is in PostgreSQL, where every worker looks every 2 s as well: with Redis away
things are slower, and nothing is lost. As a module it begins without Redis, too;
arq's own command waits for Redis first.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from arq import cron, func
from arq.connections import RedisSettings
from arq.worker import Worker, create_worker
from redis.exceptions import RedisError

from mirror.core.config import NO_REDIS, Settings
from mirror.core.errors import EverrefError, UsageError
from mirror.core.model import RepoId
from mirror.core.progress import Silent
from mirror.core.rules.work.fairness import LENT
from mirror.core.rules.work.job import SYNC, dumps
from mirror.git.run import SLOTS
from mirror.jobs import periodic
from mirror.jobs import sweep as sweeping
from mirror.jobs.looks import looking
from mirror.jobs.mirrors import Mirroring
from mirror.jobs.periodic import Periodic, Together
from mirror.jobs.run import RUN_SECONDS
from mirror.jobs.runner import Runner
from mirror.notify import post
from mirror.notify import run as notifying
from mirror.services import startup
from mirror.services.embedded import queue as embedded_queue
from mirror.services.open import Services, ended, open_services
from mirror.services.queue import NAME, NoQueue, WorkerQueue
from mirror.services.startup import Ties
from mirror.store.jobs import runs
from mirror.upkeep import outages

SWEEP_SECONDS: Final = 10
TEND_SECONDS: Final = 60
TIDY_SECONDS: Final = 3600
TELL_SECONDS: Final = 5  # between two checks whether it is time to look what people should hear of
POLL_SECONDS: Final = 0.01  # between two looks of arq at its queue, which wait for something to do
STOP_SECONDS: Final = 20  # for runs to clean up after themselves when the worker is stopped
FAREWELL_SECONDS: Final = 2.0  # for Redis to hear what became of the jobs of a worker that stops
AWAY_SECONDS: Final = 2.0  # before what Redis or a bug broke off is begun anew
HINT_SECONDS: Final = 0.5  # for Redis to take a job; the run that makes it waits meanwhile
WITHOUT: Final = "redis://localhost:6379"  # for arq's own command where REDIS_URL is not set
DATA: Final = os.path.expanduser("~/.local/share/everref")  # likewise where EVERREF_DATA is not

log = logging.getLogger("mirror.worker")  # also when run as __main__

Context = dict[str, Any]  # what arq hands to each of its jobs: `runner`, `sweep` and `tend` of `working`


# What arq runs


async def sync_repo(ctx: Context, repo_id: str = "", *_: object) -> None:
    """Do what is due for this repo, or what fairness puts first; then what is next, for a minute.

    Safe to run twice, and to lose: what is due is in PostgreSQL. arq ends it after RUN_SECONDS.
    """
    if await ctx["runner"].serve(_repo_id(repo_id), ctx["began"] + RUN_SECONDS):
        await ctx["redis"].enqueue_job(SYNC)


async def sweep(ctx: Context) -> None:
    """Look at every repo that is due."""
    await ctx["sweep"]()


async def tend(ctx: Context) -> None:
    """Do the maintenance tasks that are due."""
    await ctx["tend"]()


async def on_job_start(ctx: Context) -> None:
    """Take the job out of the queue: should this process die, PostgreSQL says what is begun anew, not arq."""
    ctx["began"] = asyncio.get_running_loop().time()
    await ctx["redis"].zrem(NAME, ctx["job_id"])


async def after_job_end(ctx: Context) -> None:
    """Let arq look for the next job at once."""
    ctx["redis"].wake()


async def on_startup(ctx: Context) -> None:
    """Begin everything, where arq's own command does: its loop is running, and Redis answers."""
    stack = AsyncExitStack()
    try:
        settings = startup.settings(DATA)
        startup.begin_log("everref worker", settings)
        services = await stack.enter_async_context(open_services(settings, Logged()))
        ctx |= await stack.enter_async_context(working(services, ctx["redis"]))
    except EverrefError as error:
        await stack.aclose()
        raise SystemExit(f"everref worker: {error}") from None
    ctx["stack"] = stack
    _stop_at_signals()


async def on_shutdown(ctx: Context) -> None:
    """End everything that `on_startup` began."""
    if "stack" in ctx:
        await ctx["stack"].aclose()


def _redis_url() -> str:
    """Where arq's own command finds Redis. What is wrong with the settings is said when they are read."""
    with suppress(UsageError):
        url = startup.settings(DATA).redis_url
        return WITHOUT if url in (None, NO_REDIS) else url
    return WITHOUT


class WorkerSettings:
    """How arq does the work: what `arq mirror.worker.WorkerSettings` reads, and `carry`."""

    functions = (func(sync_repo, name=SYNC),)
    cron_jobs = (
        cron(sweep, second=set(range(0, 60, SWEEP_SECONDS))),
        cron(tend, second=0),
    )
    redis_settings = RedisSettings.from_dsn(_redis_url())  # for arq --check
    redis_pool = WorkerQueue.at(_redis_url())
    on_startup = on_startup
    on_shutdown = on_shutdown
    on_job_start = on_job_start
    after_job_end = after_job_end
    handle_signals = False  # `on_startup` does, so that what is under way is handed back within STOP_SECONDS
    max_jobs = SLOTS + SLOTS // 2 + LENT + len(cron_jobs)
    job_timeout = RUN_SECONDS
    keep_result = 0
    poll_delay = POLL_SECONDS
    health_check_interval = 10
    job_serializer = dumps
    job_deserializer = json.loads
    log_results = False


# What goes on beside arq


@asynccontextmanager
async def working(
    services: Services, queue: WorkerQueue | NoQueue, *, periodical: bool = True
) -> AsyncIterator[Context]:
    """What a worker does beside arq, and what the jobs of arq need; at the end everything is handed back."""
    services = replace(services, hint=partial(_hint, queue))
    async with looking(services) as looks:
        runner = Runner(services, freed=queue.wake)
        queue.choose = runner.choose
        sweeps = Periodic("sweep", SWEEP_SECONDS, lambda _: looks.tick())
        evicting = Periodic("eviction of pools", TEND_SECONDS, sweeping.evict)
        each = [Periodic(one.name, TEND_SECONDS, partial(sweeping.do_if_due, one)) for one in sweeping.TASKS]
        maintenance = Together([evicting, *each])
        tidying = Periodic("removal of what killed runs left on the disk", TIDY_SECONDS, sweeping.tidy)
        telling = Periodic("look what people should hear of", TELL_SECONDS, notifying.look_if_due)
        works: list[Callable[[], Awaitable[None]]] = [
            runner.work,
            runner.beat,
            queue.listen,
            partial(outages.watch, services, runner.look_soon),
        ]
        works.append(Mirroring(services, lambda: runner.shares).work)
        if periodical:
            own, shared = [tidying, telling], [sweeps, *maintenance.each]
            works.append(partial(periodic.by_our_clock, services, own, shared, queue.lives))
            works.append(partial(notifying.deliver, services, post.sender(services)))
        with suppress(EverrefError):  # the next beat comes soon
            if periodical and await runs.is_alone(services.db, runner.me):
                await sweeping.after_start(services)
            await runner.beat_once()
        tasks = [asyncio.create_task(_again(work)) for work in works]
        try:
            yield {
                "runner": runner,
                "sweep": partial(sweeps.run, services),
                "tend": partial(maintenance.run, services),
            }
        finally:
            await ended(*tasks)
            await maintenance.end()
            await runner.hand_back()


async def carry(ctx: Context, queue: WorkerQueue, **options: Any) -> None:
    """Have arq carry the jobs until cancelled; then everything is handed back.

    Where an error of Redis ends arq's loop, its jobs go on to their ends, and it is begun anew.
    """
    while True:
        carrier = create_worker(
            WorkerSettings,  # type: ignore[arg-type]
            **{"redis_pool": queue, "ctx": ctx, "on_startup": None, "on_shutdown": None} | options,
        )
        carrying = asyncio.create_task(carrier.async_run())
        try:
            await asyncio.wait([carrying])
        except asyncio.CancelledError:
            await ended(carrying)
            await ctx["runner"].hand_back()
            await _farewell(carrier)
            raise
        error = None if carrying.cancelled() else carrying.exception()
        if isinstance(error, RedisError | OSError):
            log.warning("arq was ended by an error of Redis (%s) and is restarted", type(error).__name__)
        else:  # a bug; until it is gone, work is found without arq
            log.error("a bug ended arq", exc_info=error)
        for task in carrier.tasks.values():
            task.add_done_callback(_seen)
        await asyncio.sleep(AWAY_SECONDS)


async def _farewell(carrier: Worker) -> None:
    """Let Redis hear what became of the jobs, and that this worker is alive no more."""
    with suppress(RedisError, OSError):  # TimeoutError is an OSError
        async with asyncio.timeout(FAREWELL_SECONDS):
            if carrier.tasks:
                await asyncio.wait(carrier.tasks.values())
            await carrier.pool.delete(carrier.health_check_key)


def _seen(task: asyncio.Task[Any]) -> None:
    """That Redis was away at the end of a job is told already."""
    if not task.cancelled():
        task.exception()


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    """Do this until cancelled, also after a bug."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a bug in the worker")
        await asyncio.sleep(AWAY_SECONDS)


async def _hint(queue: WorkerQueue | NoQueue, repo_id: RepoId) -> None:
    """Put a job for this repo into the queue; with Redis away its run is found all the same."""
    if not queue.lives():
        return
    with suppress(RedisError, OSError):  # TimeoutError is an OSError
        async with asyncio.timeout(HINT_SECONDS):
            await queue.enqueue_job(SYNC, str(repo_id))


def _repo_id(text: object) -> RepoId | None:
    """The repo that a job names; None: whatever is due."""
    try:
        return RepoId(UUID(str(text)))
    except ValueError:
        return None


# The process


class Logged(Silent):
    """A progress of which only the notes are told, in the log."""

    def note(self, text: str) -> None:
        log.info("%s", text)


def _stop_at_signals() -> None:
    """At a signal cancel the task that we are in; whoever still hangs after STOP_SECONDS is killed."""
    working = asyncio.current_task()
    assert working is not None

    def stop() -> None:
        signal.alarm(STOP_SECONDS)
        working.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


async def main(settings: Settings, ties: Ties) -> None:
    """Work until a signal says stop; what is under way is cancelled, cleans up, and is handed back."""
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(settings, Logged()))
        redis_url = settings.redis_url
        if redis_url is None:
            redis_url = await stack.enter_async_context(embedded_queue(Path(settings.data)))
        queue = NoQueue() if redis_url == NO_REDIS else WorkerQueue.at(redis_url)
        stack.push_async_callback(queue.aclose)
        _stop_at_signals()
        with suppress(asyncio.CancelledError):
            async with working(services, queue) as ctx:
                ties.say_ready()
                await (asyncio.Event().wait() if isinstance(queue, NoQueue) else carry(ctx, queue))


if __name__ == "__main__":
    sys.exit(startup.begin("everref worker", main))
