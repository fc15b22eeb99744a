"""Memory for large bodies of requests: it is taken as their bytes arrive, so that announcing much holds none.

Who calls: hooks/app for deliveries, web/dispatch for forms and calls. And how long a body may take, as
services/server/door sees to it.
"""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

WAITING: Final = 64  # bodies that wait for memory, for what has come of them takes some, too


_PACE: Final = "everref.pace"  # in a request's scope


@dataclass(slots=True)
class Pace:
    """Whether a body must be there soon, or may go on coming."""

    streams: bool = False


def paced(scope: MutableMapping[str, Any]) -> Pace:
    """The pace of a request's body."""
    pace: Pace = scope.setdefault(_PACE, Pace())
    return pace


def streams(scope: MutableMapping[str, Any]) -> None:
    """Let this request's body take as long as it keeps coming: only for who was admitted."""
    paced(scope).streams = True


class Budget:
    """So many bytes of memory, shared by all bodies that are larger than `free` bytes.

    The body that has been there for longest may have more than is left, so that bodies which all
    wait for each other come to an end: together they never have more than that one beyond the budget.
    """

    def __init__(self, size: int, free: int) -> None:
        self._size = size
        self._free = free
        self._held = 0
        self._bodies: dict[Body, None] = {}  # that are large, the one that has been there for longest first
        self._waiting = 0
        self._changed = asyncio.Event()

    def body(self, most: int, patience: float) -> "Body":
        """A body that is about to be read: of at most so many bytes, as far as that is known."""
        return Body(self, most, patience)

    def share(self, size: int, most: int) -> int:
        """What a body of this size takes: twice as much each time, and no more than it may become."""
        step = self._free
        while step < size:
            step *= 2
        return 0 if size <= self._free else max(min(step, most), size)

    async def grow(self, body: "Body", by: int) -> None:
        """Wait until there is so much for this body, and have it. Raises TimeoutError where WAITING do."""
        self._bodies.setdefault(body)
        if self._is_short_of(by, body):
            if self._waiting >= WAITING:
                raise TimeoutError
            self._waiting += 1
            try:
                while self._is_short_of(by, body):
                    self._changed.clear()
                    await self._changed.wait()
            finally:
                self._waiting -= 1
        self._held += by

    def _is_short_of(self, by: int, body: "Body") -> bool:
        return self._held + by > self._size and body is not next(iter(self._bodies))

    def end(self, body: "Body", held: int) -> None:
        """A body is gone: others may have what it had."""
        if body in self._bodies:
            del self._bodies[body]
            self._held -= held
            self._changed.set()


class Body:
    """What one body has of a budget."""

    def __init__(self, budget: Budget, most: int, patience: float) -> None:
        self._budget = budget
        self._most = most
        self._patience = patience  # seconds that it may still wait for memory
        self._held = 0

    def lacks(self, size: int) -> bool:
        """Whether more must be had for a body of this size; not to be waited for in its sender's time."""
        return self._budget.share(size, self._most) > self._held

    async def reach(self, size: int) -> None:
        """Have memory for so many bytes in all.

        Raises TimeoutError where none becomes free in time, and at once where too many wait for it already.
        """
        by = self._budget.share(size, self._most) - self._held
        if by <= 0:
            return
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(self._patience):
            await self._budget.grow(self, by)
        self._held += by
        self._patience -= asyncio.get_running_loop().time() - began

    def end(self) -> None:
        """Give it back. Safe to call twice."""
        self._budget.end(self, self._held)
        self._held = 0
