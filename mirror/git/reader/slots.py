"""Slots for reading: a limit in all, for each team and each person, and a fair queue for the rest.

Who calls: everything that is about to use a reader process. Those who used the least recently come first,
so that a heavy user waits for everybody else, and nobody waits for them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from mirror.core.errors import Crowded, TooOften

_HALF: Final = 60.0  # seconds after which usage counts half
_KEPT: Final = 10_000  # people and teams whose use is remembered


@dataclass(frozen=True, slots=True)
class Requester:
    """The person and team for whom something is read; None: nobody in particular, as in a worker."""

    team: Hashable = None
    person: Hashable = None


NOBODY: Final = Requester()


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many at once, and how long the queue may be."""

    at_once: int
    team: int  # at once
    person: int  # at once
    waiting_person: int = 16  # slots that one person may wait for
    waiting: int = 256  # slots that all together may wait for
    patience: float = 20.0  # seconds in the queue


@dataclass(slots=True, eq=False)
class _Waiting:
    who: Requester
    number: int
    ready: asyncio.Future[None]


class Slots:
    """A queue for a scarce resource."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = bounds
        self._clock = clock
        self._running: dict[Hashable, int] = {}
        self._total = 0
        self._line: list[_Waiting] = []
        self._number = 0
        self._used: dict[Hashable, tuple[float, float]] = {}  # seconds, as they were then

    @asynccontextmanager
    async def slot(self, who: Requester) -> AsyncIterator[None]:
        """Hold a slot for as long as this is open.

        Raises TooOften if the person already waits for too many, Crowded if the queue is too long.
        """
        await self._enter(who)
        began = self._clock()
        try:
            yield
        finally:
            self._leave(who, self._clock() - began)

    def check(self, who: Requester) -> None:
        """Raise at once what `slot` would raise, before anything is prepared for it."""
        if not self._may(who) or self._line:
            self._check(who)

    async def _enter(self, who: Requester) -> None:
        if self._may(who) and not any(self._may(one.who) for one in self._line):
            self._count(who, 1)
            return
        self._check(who)
        self._number += 1
        one = _Waiting(who, self._number, asyncio.get_running_loop().create_future())
        self._line.append(one)
        try:
            async with asyncio.timeout(self.bounds.patience):
                await one.ready
        except BaseException as error:
            if one.ready.done() and not one.ready.cancelled():
                self._count(who, -1)  # we got the slot while leaving
                self._next()
            else:
                self._line.remove(one)
                self._next()  # whoever came while this one still stood in line
            if isinstance(error, TimeoutError):
                raise Crowded("too much is being read at the moment; try again in a minute", 30) from None
            raise

    def _check(self, who: Requester) -> None:
        """Raise if the queue is too long for one more."""
        if who.person is not None:
            mine = sum(one.who.person == who.person for one in self._line)
            if mine >= self.bounds.waiting_person:
                raise TooOften(
                    f"{mine} of your pages are already loading; wait until some are done, then try again",
                    5,
                )
        if len(self._line) >= self.bounds.waiting:
            raise Crowded("too much is being read at the moment; try again in a minute", 30)

    def _leave(self, who: Requester, seconds: float) -> None:
        self._count(who, -1)
        for key in _keys(who):
            self._used[key] = self._use(key) + seconds, self._clock()
        if len(self._used) > _KEPT:
            self._used = {key: used for key, used in self._used.items() if self._use(key) > 0.01}
        self._next()

    def _next(self) -> None:
        """Give the free slots to those who have used the least."""
        while True:
            # One that was cancelled at this very moment stands in line until it wakes.
            able = [one for one in self._line if not one.ready.done() and self._may(one.who)]
            if not able:
                return
            first = min(able, key=lambda one: (*map(self._use, _keys(one.who)), one.number))
            self._line.remove(first)
            self._count(first.who, 1)
            first.ready.set_result(None)

    def _may(self, who: Requester) -> bool:
        """Whether one more of theirs may run now."""
        if self._total >= self.bounds.at_once:
            return False
        team, person = _keys(who)
        if who.team is not None and self._running.get(team, 0) >= self.bounds.team:
            return False
        return who.person is None or self._running.get(person, 0) < self.bounds.person

    def _count(self, who: Requester, by: int) -> None:
        self._total += by
        for key in _keys(who):
            count = self._running.get(key, 0) + by
            if count:
                self._running[key] = count
            else:
                self._running.pop(key, None)

    def _use(self, key: Hashable) -> float:
        seconds, then = self._used.get(key, (0.0, 0.0))
        return float(seconds * 0.5 ** ((self._clock() - then) / _HALF)) if seconds else 0.0


def _keys(who: Requester) -> tuple[Hashable, Hashable]:
    return ("team", who.team), ("person", who.person)
