"""What strangers may ask for: answered for all at once every few seconds, and only so often to each."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from mirror.core import peer
from mirror.core.errors import TooOften

KEPT: Final = timedelta(seconds=5)  # for which an answer is good
A_MINUTE: Final = 60  # questions of one place: an IPv4 address, or the /64 of an IPv6 one
_MOST: Final = 10_000  # answers, and places, that are remembered

T = TypeVar("T")


class Glances:
    """The latest answers of one process, and who asked for them; bounded, whoever asks for whatever."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[datetime, asyncio.Future[Any]]] = OrderedDict()
        self._places: OrderedDict[str, tuple[datetime, int]] = OrderedDict()

    def count(self, address: str, now: datetime) -> None:
        """Count a question from this address. Raises TooOften."""
        place = peer.network(address)
        since, asked = self._places.pop(place, (now, 0))
        if not timedelta() <= now - since < timedelta(minutes=1):
            since, asked = now, 0
        self._places[place] = since, asked + 1
        while len(self._places) > _MOST:
            self._places.popitem(last=False)
        if asked >= A_MINUTE:
            seconds = 60 - int((now - since).total_seconds())
            raise TooOften(f"you asked {A_MINUTE} times within a minute; wait {seconds} s", seconds)

    async def of(self, key: str, now: datetime, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` answers, or answered less than KEPT ago; whoever asks meanwhile waits for the same."""
        known = self._answers.get(key)
        if known is None or not timedelta() <= now - known[0] < KEPT or _failed(known[1]):
            known = self._answers[key] = now, asyncio.ensure_future(ask())
            self._answers.move_to_end(key)
            while len(self._answers) > _MOST:
                self._answers.popitem(last=False)
        found: T = await asyncio.shield(known[1])  # one who hangs up ends it for nobody else
        return found


def _failed(answer: "asyncio.Future[Any]") -> bool:
    return answer.done() and (answer.cancelled() or answer.exception() is not None)
