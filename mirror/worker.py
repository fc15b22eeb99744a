"""The worker: hands that take up what is due in PostgreSQL, an ear for the hints in Redis, and the sweep.

Redis holds hints only, which make a push be served at once. What is due, and
who has it, is in PostgreSQL, where every worker looks every few seconds as well:
with Redis away things are slower, and nothing is lost.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from arq.connections import RedisSettings, create_pool
from arq.worker import Worker, func
from redis.exceptions import RedisError

from mirror import process
from mirror.config import Settings
from mirror.embedded import queue
from mirror.errors import EverrefError, OurFault
from mirror.flows import jobs as jobbing
from mirror.flows import outages
from mirror.flows import sweep as sweeping
from mirror.flows import sync as syncing
from mirror.flows.edges import Edges, open_edges
from mirror.job import SYNC, dumps
from mirror.process import Ties
from mirror.progress import Silent
from mirror.schedule import shares
from mirror.store import leases, runs
from mirror.store.runs import Run, RunKey

SLOTS: Final = max(4, 2 * (os.cpu_count() or 1))  # runs at once; most of their time they wait for the network
KEPT_FREE: Final = 4  # one slot in so many is for what is quick: a huge first backup keeps no push waiting
LOOK_SECONDS: Final = 2.0  # between two looks at what is due, without any hint
BEAT_SECONDS: Final = 5.0
SWEEP_SECONDS: Final = 10.0
TIDY_MINUTES: Final = 60
PATIENCE: Final = timedelta(seconds=0.3)  # with what is another worker's own
STOP_SECONDS: Final = 20  # for runs to clean up after themselves when the worker is stopped
HINT_SECONDS: Final = 0.01  # between two looks at Redis
ALIVE_SECONDS: Final = 10  # how often the worker says in Redis that it lives
AWAY_SECONDS: Final = 2.0  # before the next try at a Redis or PostgreSQL that is away
_DEADLY: Final = "the worker went away each time that this was synced; its log, or the system's, says why"
CHANNEL: Final = "everref:due"  # where one worker tells the others that something is theirs

log = logging.getLogger("mirror.worker")  # also when run as __main__


class Hands:
    """Takes up what is due, as much of it at once as there are slots, and does it."""

    def __init__(self, edges: Edges, slots: int = SLOTS) -> None:
        self.me = leases.myself()
        self.workers = [self.me]  # those that are alive, as of the last beat
        self._beaten = asyncio.get_running_loop().time()
        self._edges = edges
        self._slots = slots
        self._shares = list(range(256))
        self._runs: dict[RunKey, tuple[Run, asyncio.Task[None]]] = {}
        self._taking = asyncio.Lock()
        self._due = asyncio.Event()

    def is_mine(self, repo_id: UUID) -> bool:
        """Whether this repo's pool is kept warm here."""
        return repo_id.bytes[0] in self._shares

    def look(self) -> None:
        """Something is due."""
        self._due.set()

    async def work(self) -> None:
        """Look and do until cancelled; then everything under way is handed back."""
        away = False
        try:
            while True:
                self._due.clear()
                try:
                    await self._take()
                    away = False
                except EverrefError as error:
                    if not away:
                        log.warning("nothing can be taken up: %s", error)
                    away = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._due.wait()
        finally:
            await self._hand_back()

    async def work_off(self) -> None:
        """Do what is due until nothing is; a failure that is tried again later is not waited for."""
        while await self._take() or self._runs:
            if self._runs:
                await asyncio.wait([task for _, task in self._runs.values()], return_when="FIRST_COMPLETED")

    async def _take(self) -> int:
        """Fill the free slots; how many were filled."""
        async with self._taking:
            room = self._slots - len(self._runs)
            if not room or self._edges.away:
                return 0
            heavy = sum(run.heavy for run, _ in self._runs.values())
            left = max(0, self._slots - max(1, self._slots // KEPT_FREE) - heavy)
            edges = self._edges
            found = await runs.take(edges.db, self.me, edges.clock(), room, left, self._shares, PATIENCE)
            for run in found:
                self._runs[run.key] = (run, asyncio.create_task(self._do(run)))
            return len(found)

    async def _do(self, run: Run) -> None:
        try:
            await jobbing.run(self._edges, run)
        finally:
            with suppress(EverrefError):  # the next beat finds it
                await runs.end(self._edges.db, self.me, run.key)
            del self._runs[run.key]
            self.look()

    async def _hand_back(self) -> None:
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        with suppress(EverrefError):
            await runs.leave(self._edges.db, self.me)

    async def beat(self) -> None:
        """Say that this worker is alive, and give back what dead ones had, until cancelled."""
        while True:
            with suppress(EverrefError):  # `work` tells of it
                await self.beat_once()
            await asyncio.sleep(BEAT_SECONDS)

    async def beat_once(self) -> None:
        """One beat: who is alive decides which shares are ours."""
        edges = self._edges
        now, before = asyncio.get_running_loop().time(), self._beaten
        workers = await runs.beat(edges.db, self.me)
        self._beaten = now
        if workers != self.workers:
            self.workers, self._shares = workers, shares(self.me, workers)
        async with self._taking:
            await runs.keep(edges.db, self.me, self._runs)
        await leases.release_over(edges.db)
        if now - before > 2 * BEAT_SECONDS:
            return  # the database was away: whoever else lives says so first
        if reaped := await runs.reap(edges.db, self.me, edges.clock()):
            log.warning("%d runs of workers that went away are begun anew", reaped)
            self.look()
        for repo_id in await runs.deadly(edges.db):
            await syncing.record_failure(edges, repo_id, OurFault(_DEADLY))
            await runs.spare(edges.db, repo_id)


async def sync_repo(ctx: dict[str, Any], repo_id: str = "", *_: object) -> None:
    """A hint that something is due, for this repo. What it is, PostgreSQL says."""
    await ctx["hear"](repo_id)


def make_worker(
    edges: Edges,
    redis: RedisSettings,
    *,
    hear: Callable[[str], Awaitable[None]] | None = None,
    burst: bool = False,
) -> Worker:
    """The ear for the hints in the default queue. Without `hear`, everything that is due is done at each."""
    hands = Hands(edges)

    async def work_off(_: str) -> None:
        await hands.work_off()

    return Worker(
        functions=[func(sync_repo, name=SYNC)],
        redis_settings=redis,
        burst=burst,
        handle_signals=False,
        ctx={"hear": hear or work_off},
        max_jobs=64,
        keep_result=0,
        poll_delay=HINT_SECONDS,
        health_check_interval=ALIVE_SECONDS,
        job_serializer=dumps,
        job_deserializer=json.loads,
        log_results=False,
    )


async def listen(edges: Edges, redis: RedisSettings, hands: Hands) -> None:
    """Hear hints until cancelled; with Redis away, try again and again."""
    told = False
    redis = replace(redis, conn_retries=0)  # it is we who try again, and tell of it once
    while True:
        try:
            await _listen(edges, redis, hands)
        except* (RedisError, OSError) as errors:
            if not told:
                why = type(errors.exceptions[0]).__name__
                log.warning("Redis does not answer (%s); until it does, work is found without hints", why)
            told = True
        await asyncio.sleep(AWAY_SECONDS)


async def _listen(edges: Edges, redis: RedisSettings, hands: Hands) -> None:
    """Hear the hints of the queue, and those of other workers for what is ours."""
    others = await create_pool(redis)

    async def hear(repo_id: str) -> None:
        hands.look()
        if not (repo_id and hands.is_mine(UUID(repo_id))):
            await others.publish(CHANNEL, repo_id)
            # Its own worker may have its hands full.
            asyncio.get_running_loop().call_later(PATIENCE.total_seconds() * 1.1, hands.look)

    async def hear_others() -> None:
        async with others.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(CHANNEL)
            async for _ in channel.listen():
                hands.look()

    ear = make_worker(edges, redis, hear=hear)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(ear.async_run())
            both.create_task(hear_others())
    finally:
        with suppress(RedisError, OSError):
            await ear.close()
        await others.aclose(close_connection_pool=True)


async def sweep(edges: Edges, hands: Hands) -> None:
    """Look at every repo whose look is due, until cancelled."""
    while True:
        try:
            done = await sweeping.tick(edges)
        except EverrefError as error:  # the next one comes soon
            log.warning("sweep: %s", error)
        except Exception:  # a bug, which keeps no push waiting
            log.exception("a bug in the sweep")
        else:
            if done.moved or done.failed:
                log.info("sweep: %d looks, %d moved, %d failed", done.looks, done.moved, done.failed)
                hands.look()
        await asyncio.sleep(SWEEP_SECONDS)


async def tend(edges: Edges) -> None:
    """Do the chores whose time has come, until cancelled."""
    while True:
        try:
            await sweeping.tidy(edges)
        except (EverrefError, OSError) as error:  # the next one comes soon
            log.warning("what killed runs left on the disk is not removed: %s", error)
        for _ in range(TIDY_MINUTES):
            await sweeping.tend(edges)
            await asyncio.sleep(60)


class Logged(Silent):
    """A progress of which only the notes are told, in the log."""

    def note(self, text: str) -> None:
        log.info("%s", text)


async def _all(*works: Coroutine[Any, Any, None]) -> None:
    """All of them at once, until each has ended; when one fails or this is cancelled, the others clean up."""
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


async def main(settings: Settings, ties: Ties) -> None:
    """Work until a signal says stop; what is under way is cancelled, cleans up, and is handed back."""
    async with AsyncExitStack() as stack:
        edges = await stack.enter_async_context(open_edges(settings, Logged()))
        redis_url = settings.redis_url
        if redis_url is None:
            redis_url = await stack.enter_async_context(queue(Path(settings.data)))
        hands = Hands(edges)
        with suppress(EverrefError):  # the next one comes soon
            await hands.beat_once()
        listening = listen(edges, RedisSettings.from_dsn(redis_url), hands)
        working = asyncio.create_task(
            _all(
                hands.work(),
                hands.beat(),
                sweep(edges, hands),
                tend(edges),
                listening,
                outages.watch(edges, hands.look),
            )
        )

        def stop() -> None:
            signal.alarm(STOP_SECONDS)  # whoever still hangs then is killed
            working.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        ties.say_ready()
        with suppress(asyncio.CancelledError):
            await working


if __name__ == "__main__":
    sys.exit(process.begin("everref worker", main))
