"""Looking at repos whose look is due: one listing of refs each, none of which waits for another.

Who calls: jobs/sweep, and the worker's sweep, which keeps one `Looks` for as long as it lives.
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
from mirror.core.model import Reason, Remote, RepoId
from mirror.core.rules import backoff, fairness
from mirror.core.rules.schedule import next_look
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
    32  # looks; to others one team's count for half of them at the most (mirror/core/rules/fairness.py)
)
LOCAL_AT_ONCE: Final = 4  # of them at repositories of this machine, each of which is a process
BATCH: Final = 200  # repos that are taken up for a look together
LOOKING: Final = timedelta(minutes=10)  # by when a batch was looked at, or its worker died
PUT_OFF: Final = timedelta(days=1)  # looks at what trips over a bug of ours
RECORDING: Final = 0.2  # seconds after which what has ended is recorded, whoever is still under way
SLOW: Final = 2.0  # seconds; while a look takes longer, no more are taken up for its host than it can do

log = logging.getLogger("mirror.sweep")


@dataclass(frozen=True, slots=True)
class Ticked:
    """What became of the looks that were due."""

    looks: int
    moved: int  # a sync is wished for
    failed: int  # likewise: it says and records why

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
    """A look that has begun."""

    team: TeamId
    place: str
    began: float  # by the loop's clock


class Looks:
    """The looks of one worker: those that wait for a free slot, those under way, and those that have ended.

    A host has as many slots as connections, so that one that is slow takes up those and no more; what
    waits for it longer than LOOKING is dropped, and taken up again by whoever comes by. A team whose
    many hosts are slow finds half of all slots taken by itself, and others find the other half.
    """

    def __init__(self, services: Services, session: aiohttp.ClientSession) -> None:
        self._services = services
        self._session = session
        # by whose they are and where, with their end
        self._waiting: dict[tuple[TeamId, str], deque[tuple[Due, float]]] = defaultdict(deque)
        self._under_way: dict[asyncio.Task[None], _UnderWay] = {}
        self._ended: list[Look] = []
        self._taken_up = False  # something, by the last step
        self._held: dict[tuple[str, str], datetime] = {}  # by place and holder, as far as we know

    @property
    def idle(self) -> bool:
        """Whether nothing was due, and nothing waits or is under way."""
        return not (self._taken_up or self._under_way or self._waiting or self._ended)

    async def tick(self) -> Ticked:
        """Look at what is due now; looks that take longer than SLOW are under way still when this ends."""
        total, now = Ticked(0, 0, 0), self._services.clock()
        while True:
            total += await self.step(now)
            if not self._taken_up and self._is_slow():
                return total

    async def step(self, now: datetime) -> Ticked:
        """Take up what is due by `now`, wait a moment for what is under way, and record what has ended."""
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
        """Give up what is under way: it is taken up again when its time is over."""
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
        """How many looks a team may begin that has none under way, and which teams may begin no more."""
        return fairness.left_over(Counter(one.team for one in self._under_way.values()), AT_ONCE)

    def _is_slow(self) -> bool:
        """Whether all that is left takes long, or waits for what does."""
        slow, since = self._slow(), asyncio.get_running_loop().time() - SLOW
        _, full = self._room()
        return all(one.began <= since for one in self._under_way.values()) and all(
            place in slow or team in full for team, place in self._waiting
        )

    def _slow(self) -> set[str]:
        """Places where a look takes long."""
        since = asyncio.get_running_loop().time() - SLOW
        return {one.place for one in self._under_way.values() if one.began <= since}

    def _fill(self) -> None:
        """Begin what waits, as far as there are slots, each place in its turn."""
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
        """Begin a look, unless it is somebody else's by now, or its host is left alone."""
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
            log.warning("a look at %s: %s", due.repo.id, error)
        except Exception:  # a bug, which stops this look and no other
            log.exception("a bug in a look at %s", due.repo.id)
            self._ended.append(Look(Looked(due.repo.id, None, self._services.clock() + PUT_OFF), failed=True))


def _after(told: datetime, now: datetime) -> datetime:
    return backoff.spread(told, now, random.random())


@asynccontextmanager
async def looking(services: Services) -> AsyncIterator[Looks]:
    """Looks over connections that are kept from one to the next; what is under way at the end is given up."""
    async with upstream.sessions(services.settings.allow_private_remotes) as session:
        looks = Looks(services, session)
        try:
            yield looks
        finally:
            await looks.end()


async def look(services: Services, session: aiohttp.ClientSession, due: Due) -> Look:
    """Compare what a repo's remote lists with its latest snapshot; where it moved or failed, wish for a sync.

    Raises RateLimited where the host wants to be left alone, which is recorded at the repo and kept for
    all who ask there with the same credentials; and what is not the repo's own failure.
    """
    repo_id, now = due.repo.id, services.clock()  # before the answer: later pushes are not in it
    again = next_look(due.schedule, repo_id, now, now, due.changed_at)
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
        # The sync that is wished for will say and record why.
        if due.failing:
            await repos.request_sync(services.db, repo_id, now)  # in silence, as it failed before
            await services.hint(repo_id)
        else:
            await sync_request(services, repo_id, now)
        return Look(Looked(repo_id, None, again), failed=True)
    if (found, seen.object_format) == (due.digest, due.format):
        await repos.touch_protected(services.db, repo_id, now)
        return Look(Looked(repo_id, now, again))
    await sync_request(services, repo_id, now)
    return Look(Looked(repo_id, now, again), moved=True)


async def sync_request(services: Services, repo_id: RepoId, now: datetime) -> None:
    """Have the repo synced, as a job that can be watched."""
    await repos.request_sync(services.db, repo_id, now)
    await job_rows.queue(services.db, repo_id, "sync", {"reason": Reason.SWEEP.value}, now)
    await services.hint(repo_id)
