"""Looking at repos that are due: one listing of refs each, compared with the latest snapshot.

Who calls: the worker, which keeps one `Looks` for as long as it lives, and jobs/sweep. A repo that has moved,
or failed, gets a sync request and a job; the runner takes it from there.
"""

import asyncio
import logging
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import aiohttp

from mirror.backup import excluded
from mirror.backup import sync as syncing
from mirror.core.errors import EverrefError, Origin, RateLimited
from mirror.core.model import Reason, Remote, RepoId, has_remote
from mirror.core.rules.work import backoff, fairness
from mirror.core.rules.work.schedule import next_look
from mirror.discovery import add
from mirror.git import address, upstream
from mirror.services.open import Services
from mirror.services.remote import connected, digest, place_of
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.discovery import holds
from mirror.store.jobs import jobs as job_rows
from mirror.store.jobs import schedules
from mirror.store.jobs.schedules import Due, Looked
from mirror.store.people.teams import TeamId

AT_ONCE: Final = (
    32  # looks; one team can take at most half of them from others (mirror/core/rules/work/fairness.py)
)
LOCAL_AT_ONCE: Final = 4  # of them at repositories on this machine, each of which is a process
BATCH: Final = 200  # repos whose looks are claimed in one statement
LOOKING: Final = timedelta(minutes=10)  # after which a claimed batch counts as its worker's death
PUT_OFF: Final = timedelta(days=1)  # before the next look at a repo that met a bug of ours
RECORDING: Final = 0.2  # seconds after which ended looks are recorded, even if others are under way
SLOW: Final = (
    2.0  # seconds; while a look takes longer, no more looks at its host are claimed than it can serve
)

log = logging.getLogger("mirror.sweep")


@dataclass(frozen=True, slots=True)
class Ticked:
    """What became of the looks that were due."""

    looks: int
    moved: int  # a sync was requested
    failed: int  # likewise: the sync records why

    def __add__(self, other: "Ticked") -> "Ticked":
        return Ticked(self.looks + other.looks, self.moved + other.moved, self.failed + other.failed)


@dataclass(frozen=True, slots=True)
class Look:
    """How one look ended."""

    looked: Looked
    moved: bool = False
    failed: bool = False
    asked: bool = True  # False: its host is left alone for now


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A look under way."""

    team: TeamId
    place: str
    began: float  # by the loop's clock


class Looks:
    """The looks of one worker: those that wait for a free slot, those under way, and those that have ended.

    A host has as many slots as connections, so that a slow one takes those and no more; looks that
    wait for it longer than LOOKING are dropped, and claimed again by any worker. A team with many
    slow hosts can take half of all slots; the other half stays for other teams.
    """

    def __init__(self, services: Services, session: aiohttp.ClientSession) -> None:
        self._services = services
        self._session = session
        # by team and host, each with the time when it is dropped
        self._waiting: dict[tuple[TeamId, str], deque[tuple[Due, float]]] = defaultdict(deque)
        self._under_way: dict[asyncio.Task[None], _UnderWay] = {}
        self._ended: list[Look] = []
        self._taken_up = False  # whether the last step claimed anything
        self._held: dict[
            tuple[str, str], datetime
        ] = {}  # hosts to leave alone, by place and holder of the credentials

    @property
    def idle(self) -> bool:
        """Whether nothing was due, and no look waits or is under way."""
        return not (self._taken_up or self._under_way or self._waiting or self._ended)

    async def tick(self) -> Ticked:
        """Look at every repo that is due now; looks slower than SLOW may be under way when this ends."""
        total, now = Ticked(0, 0, 0), self._services.clock()
        while True:
            total += await self.step(now)
            if not self._taken_up and self._is_slow():
                break
        if total.moved or total.failed:
            log.info("sweep: %d checks, %d changed, %d failed", total.looks, total.moved, total.failed)
        return total

    async def step(self, now: datetime) -> Ticked:
        """Claim looks that are due by `now`, wait a moment for those under way, record those that ended."""
        await self._take_up(now)
        self._fill()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=RECORDING)
        ended, self._ended = self._ended, []
        try:
            await schedules.looked(self._services.db, [one.looked for one in ended])
        except EverrefError:
            self._ended = ended + self._ended
            raise
        return Ticked(
            sum(one.asked for one in ended), sum(one.moved for one in ended), sum(one.failed for one in ended)
        )

    async def end(self) -> None:
        """Stop the looks under way; they are claimed again after LOOKING."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_up(self, now: datetime) -> None:
        slow, self._taken_up = self._slow(), False
        _, full = self._room()
        waiting: Counter[TeamId] = Counter()
        startable = 0
        for (team, place), queue in self._waiting.items():
            waiting[team] += len(queue)
            startable += len(queue) if place not in slow and team not in full else 0
        if startable >= AT_ONCE:
            return
        began = asyncio.get_running_loop().time()
        places = {place for _, place in self._waiting}
        crowded = [place for place in slow if place in places]
        patient = [team for team, number in waiting.items() if number >= AT_ONCE]
        for due in await schedules.due(self._services.db, now, now + LOOKING, BATCH, crowded, patient):
            self._taken_up = True
            place = place_of(due.repo.url)
            if due.held_until is not None:
                self._held[place, due.holder] = due.held_until
            self._waiting[due.team_id, place].append((due, began + LOOKING.total_seconds()))

    def _room(self) -> tuple[int, frozenset[TeamId]]:
        """How many looks a team with none under way may start, and which teams may start no more."""
        return fairness.left_over(Counter(one.team for one in self._under_way.values()), AT_ONCE)

    def _is_slow(self) -> bool:
        """Whether every look that is left is slow, or waits for a slow one."""
        slow, since = self._slow(), asyncio.get_running_loop().time() - SLOW
        _, full = self._room()
        return all(one.began <= since for one in self._under_way.values()) and all(
            place in slow or team in full for team, place in self._waiting
        )

    def _slow(self) -> set[str]:
        """Hosts at which a look is slow right now."""
        since = asyncio.get_running_loop().time() - SLOW
        return {one.place for one in self._under_way.values() if one.began <= since}

    def _fill(self) -> None:
        """Start waiting looks while there are slots, each host in turn."""
        at = Counter(one.place for one in self._under_way.values())
        began = True
        while began:
            began = False
            for (team, place), queue in self._waiting.items():
                room, full = self._room()
                most = LOCAL_AT_ONCE if address.is_path(place) else upstream.PER_HOST
                if queue and at[place] < most and room > 0 and team not in full:
                    at[place] += self._begin(place, *queue.popleft())
                    began = True
        for key in [key for key, queue in self._waiting.items() if not queue]:
            del self._waiting[key]

    def _begin(self, place: str, due: Due, until: float) -> bool:
        """Start a look, unless another worker may have it by now, or its host must be left alone."""
        began, now = asyncio.get_running_loop().time(), self._services.clock()
        if until <= began:
            return False
        held = self._held.get((place, due.holder), now)
        if held > now:
            self._ended.append(Look(Looked(due.repo.id, None, _after(held, now)), asked=False))
            return False
        task = asyncio.create_task(self._do(place, due))
        self._under_way[task] = _UnderWay(due.team_id, place, began)
        task.add_done_callback(self._done)
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        if not task.cancelled():
            self._fill()

    async def _do(self, place: str, due: Due) -> None:
        try:
            ended = await look(self._services, self._session, due)
            self._ended.append(ended)
        except RateLimited as limited:
            now = self._services.clock()
            self._held[place, due.holder] = limited.retry_at
            again = Looked(due.repo.id, None, _after(limited.retry_at, now))
            self._ended.append(Look(again, failed=True))
        except (
            EverrefError
        ) as error:  # of ours, or of what all share: it is looked at again when its time is over
            log.warning("a check of %s: %s", due.repo.id, error)
        except Exception:  # a bug, which stops only this look
            log.exception("a bug in a check of %s", due.repo.id)
            self._ended.append(Look(Looked(due.repo.id, None, self._services.clock() + PUT_OFF), failed=True))


def _after(told: datetime, now: datetime) -> datetime:
    return backoff.spread(told, now, random.random())


@asynccontextmanager
async def looking(services: Services) -> AsyncIterator[Looks]:
    """Looks that share their connections; those under way at the end are stopped."""
    async with upstream.sessions(services.settings.allow_private_remotes) as session:
        looks = Looks(services, session)
        try:
            yield looks
        finally:
            await looks.end()


async def look(services: Services, session: aiohttp.ClientSession, due: Due) -> Look:
    """Compare what a repo's remote lists with its latest snapshot; where it moved or failed, request a sync.

    Raises RateLimited where the host wants to be left alone, which is recorded at the repo and for
    every request with the same credentials; and errors that are not the repo's own.
    """
    repo_id, now = due.repo.id, services.clock()  # before the answer: later pushes are not in it
    again = next_look(due.rhythm, repo_id, now, now)
    if not has_remote(due.repo.url):  # a push ends only once it is saved, so nobody need be asked
        if due.digest is not None:
            await repos.touch_protected(services.db, repo_id, now)
        return Look(Looked(repo_id, now, again), asked=False)
    try:
        remote = Remote(due.repo.url)
        if due.has_secret:
            remote = await add.remote_of(services, repo_id, due.repo.url)
        async with connected(services, remote, session) as source:
            seen = await source.ls_refs()
        found = await digest(seen.refs)
        if found != due.digest:
            last = await snapshots.latest(services.db, repo_id)
            shown = await excluded.shown(services, repo_id, last, seen)
            found = found if shown is seen else await digest(shown.refs)
    except EverrefError as error:
        if error.is_shared:
            raise
        if isinstance(error, RateLimited) and error.origin is Origin.SOURCE:
            await holds.put(services.db, repo_id, place_of(due.repo.url), error.retry_at)
            await syncing.record_failure(services, repo_id, error)
            raise
        # The sync that is requested will record why.
        if due.failing:
            await repos.request_sync(services.db, repo_id, now)  # without a job to watch, as it failed before
            await services.hint(repo_id)
        else:
            await _request_sync(services, repo_id, now)
        return Look(Looked(repo_id, None, again), failed=True)
    if (found, seen.object_format) == (due.digest, due.format):
        await repos.touch_protected(services.db, repo_id, now)
        return Look(Looked(repo_id, now, again))
    await _request_sync(services, repo_id, now)
    return Look(Looked(repo_id, now, again), moved=True)


async def _request_sync(services: Services, repo_id: RepoId, now: datetime) -> None:
    """Request a sync of the repo, as a job that can be watched."""
    await repos.request_sync(services.db, repo_id, now)
    await job_rows.queue(services.db, repo_id, "sync", {"reason": Reason.SWEEP.value}, now)
    await services.hint(repo_id)
