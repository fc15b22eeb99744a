"""The runner of a worker: it starts due runs from PostgreSQL, as many at once as it has slots.

Who calls: arq's jobs, and a loop that looks every few seconds for runs that came without
a job. What it uses: store/jobs/runs (what is next, and who has it), jobs/run (the work).
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from mirror.backup import sync as syncing
from mirror.core.errors import EverrefError, Origin, OurFault
from mirror.core.model import RepoId
from mirror.core.rules.work import fairness
from mirror.core.rules.work.fairness import Free, Held
from mirror.core.rules.work.job import PERIODICAL, repo_of
from mirror.core.rules.work.schedule import shares
from mirror.git.run import SLOTS
from mirror.jobs import run as jobbing
from mirror.services.open import Services, ended
from mirror.services.queue import Choice, Waiting
from mirror.store import leases
from mirror.store.jobs import runs
from mirror.store.jobs.runs import Preference, Run, RunKey
from mirror.store.people.teams import TeamId

SLOW_SECONDS: Final = 10.0  # after which a sync most likely waits for its host: others may use its slot
LONG_SECONDS: Final = 600.0  # after which a sync counts as heavy for its own team
PATIENCE: Final = timedelta(seconds=0.3)  # before a run of another worker's share is taken
LOOK_SECONDS: Final = 2.0  # between two looks for due runs that came without a job
BEAT_SECONDS: Final = 5.0
SKEW_SECONDS: Final = 1.0  # by which the clocks of machines may differ
GO_ON_SECONDS: Final = 60.0  # for which one arq job goes on with the next run
_DEADLY: Final = "the worker stopped every time this was synced; its log, or the system's, says why"

log = logging.getLogger("mirror.worker")


class Runner:
    """Does due runs, within the slots of one worker."""

    def __init__(
        self, services: Services, slots: int = SLOTS, freed: Callable[[], None] = lambda: None
    ) -> None:
        self.me = leases.myself()
        self.workers = [self.me]  # those that are alive, as of the last heartbeat
        self._services = services
        self._slots = slots
        self._freed = freed  # called when a slot is free again
        self._shares = list(range(256))
        self._runs: dict[RunKey, tuple[Run, asyncio.Task[object] | None]] = {}
        self._began: dict[RunKey, float] = {}  # when each of them started
        self._taking = asyncio.Lock()
        self._taking_since: datetime | None = None  # when the current take began; None: there is none
        self._time = asyncio.get_running_loop().time
        self._beaten = self._time()
        self._idle_at = -math.inf  # when the last take that found nothing began
        self._due = asyncio.Event()
        self._is_away = False  # the database, as of the last take
        self._is_stopping = False

    @property
    def shares(self) -> list[int]:
        """The shares of all repos whose pools are kept warm here."""
        return self._shares

    def is_mine(self, repo_id: RepoId) -> bool:
        """Whether this repo's pool is kept warm here."""
        return repo_id.bytes[0] in self._shares

    def choose(self, waiting: Waiting) -> Choice:
        """Which arq jobs start here: as many as there are free slots; those of other workers after PATIENCE.

        Periodic jobs need no slot. All others stay in the queue, for this worker or another, and all of
        them do while the vault or this disk is away. A job that was queued before PostgreSQL
        said that nothing is due is dropped: another one did its work.
        """
        choice = Choice()
        free = 0 if self._services.away else self._free().room
        done = self._time() - self._idle_at + SKEW_SECONDS
        for number, age in waiting:
            repo_id, left = repo_of(number), PATIENCE.total_seconds() - age
            if number.startswith(PERIODICAL):
                choice.begin.append(number)
            elif age > done:
                choice.drop.append(number)
            elif free > 0 and (repo_id is None or left <= 0 or self.is_mine(repo_id)):
                choice.begin.append(number)
                free -= 1
            elif free > 0:
                choice.again = left if choice.again is None else min(choice.again, left)
        return choice

    async def serve(self, repo_id: RepoId | None, until: float) -> bool:
        """Do this repo's run, or the one that fairness puts first; then the next ones, for a minute.

        Each run that ends is followed by a look for the next, so no due run waits while a slot
        is free. True: the minute, or `until` by the loop's clock, is over, and more
        may be due. Safe to run twice: a run belongs to the one worker that took it.
        """
        run = await self._next(repo_id)
        return run is not None and await self._go_on(run, until)

    def look_soon(self) -> None:
        """Look soon: a run may be due that came without a job."""
        self._due.set()

    async def work(self) -> None:
        """Look every LOOK_SECONDS for runs that came without a job, until cancelled."""
        while True:
            self._due.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._due.wait()

    async def look(self) -> int:
        """Fill the free slots with due runs, as arq jobs do; returns how many were filled."""
        filled = 0
        while run := await self._next():
            self._runs[run.key] = (run, asyncio.create_task(self._alone(run)))
            filled += 1
        return filled

    async def work_off(self) -> None:
        """Do due runs until there are none; does not wait for those that are tried again later."""
        while await self.look() or self._runs:
            if tasks := [task for _, task in self._runs.values() if task]:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _alone(self, run: Run) -> None:
        """Do what an arq job would do with this run, within the same time."""
        until = self._time() + jobbing.RUN_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._go_on(run, until)

    async def _go_on(self, run: Run | None, until: float) -> bool:
        began = self._time()
        while run is not None:
            await self._do(run, until)
            if self._time() >= min(until, began + GO_ON_SECONDS):
                self.look_soon()
                return True
            run = await self._next()
        return False

    async def _next(self, repo_id: RepoId | None = None) -> Run | None:
        """Take the next run, if there is a free slot for it."""
        try:
            run = await self._take(repo_id)
        except EverrefError as error:
            if not self._is_away:
                log.warning("no run can be started: %s", error)
            self._is_away = True
            return None
        self._is_away = False
        return run

    async def _take(self, repo_id: RepoId | None) -> Run | None:
        async with self._taking:
            free = self._free()
            services, now, began = self._services, self._services.clock(), self._time()
            if free.room <= 0 or self._is_stopping or services.away and not self._copy_answers():
                return None
            self._taking_since = now
            try:
                if services.away:
                    found = await runs.take_reading(services.db, self.me, now)
                else:
                    preference = Preference(self._shares, PATIENCE, repo_id)
                    found = await runs.take(services.db, self.me, now, replace(free, room=1), preference)
            finally:
                self._taking_since = None
            if not found:
                self._idle_at = began
            if not found or self._is_stopping:
                return None
            (run,) = found
            self._runs[run.key] = (run, asyncio.current_task())
            self._began[run.key] = self._time()
            return run

    def _copy_answers(self) -> bool:
        """Whether only the first vault is away, and a copy of it answers: then restores go on."""
        copies = self._services.copies
        return self._services.away == {Origin.VAULT} and any(
            not copies.is_away(one.name) for one in copies.copies
        )

    def _free(self) -> Free[TeamId]:
        """What may start here now.

        A sync that has been running for long is waiting for its host: others may use its slot,
        so that a slow host delays nobody else's push. A heavy run
        keeps its slot, as it may well work all the time.
        """
        now, held = self._time(), []
        for key, (run, _) in self._runs.items():
            age = now - self._began.get(key, now)
            waits = not run.heavy and age >= SLOW_SECONDS
            held.append(Held(run.team_id, run.heavy or age >= LONG_SECONDS, waits))
        return fairness.free(held, self._slots)

    async def _do(self, run: Run, until: float) -> None:
        try:
            await jobbing.run(self._services, run, until)
        finally:
            try:
                with suppress(EverrefError):  # the next heartbeat finds it
                    await runs.end(self._services.db, self.me, run.key)
            finally:
                del self._runs[run.key]
                self._began.pop(run.key, None)
                self._freed()

    async def hand_back(self) -> None:
        """Stop all runs, which clean up after themselves, and hand them back for others to start again."""
        self._is_stopping = True
        under_way = list(self._runs.values())
        await ended(*(task for _, task in under_way if task))
        with suppress(EverrefError):
            await runs.leave(self._services.db, self.me)
        for run, _ in under_way:
            await self._services.hint(run.repo_id)

    async def beat(self) -> None:
        """Say that this worker is alive, and hand back the runs of dead ones, until cancelled."""
        while True:
            with suppress(EverrefError):  # `look` logs it
                await self.beat_once()
            await asyncio.sleep(BEAT_SECONDS)

    async def beat_once(self) -> None:
        """One heartbeat: the workers that are alive share out all repos. It waits for the database alone."""
        services = self._services
        now, before = self._time(), self._beaten
        workers = await runs.beat(services.db, self.me)
        self._beaten = now
        if workers != self.workers:
            self.workers, self._shares = workers, shares(self.me, workers)
        await runs.keep(services.db, self.me, list(self._runs), self._taking_since or services.clock())
        await leases.release_over(services.db)
        if now - before > 2 * BEAT_SECONDS:
            return  # the database was away: the other workers send their heartbeats first
        if reaped := await runs.reap(services.db, self.me, services.clock()):
            log.warning("%d runs of workers that stopped are started again", reaped)
            self.look_soon()
        for repo_id in await runs.deadly(services.db):
            await syncing.record_failure(services, repo_id, OurFault(_DEADLY))
            await runs.spare(services.db, repo_id)
