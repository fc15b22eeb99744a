"""What is expensive to open or to find out, and is shared by all who need it at the same time.

Who calls: restore/serving for views that many clients read at once, git/serve for what those reach.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger("mirror.git")


class Once(Generic[T]):
    """Something that is found out when it is first asked for, once for all who ask.

    Whoever stops waiting stops nobody else. A failure is everybody's who waited; who asks later tries again.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The result. Raises what finding it out raised."""
        failed = (
            self._task is not None
            and self._task.done()
            and (self._task.cancelled() or self._task.exception() is not None)
        )
        if self._task is None or failed:
            self._task = asyncio.create_task(self._work())
        return await asyncio.shield(self._task)

    @property
    def found(self) -> T | None:
        """The result, without waiting. None: it is not found out, or that failed."""
        if self._task is None or not self._task.done() or self._task.cancelled() or self._task.exception():
            return None
        return self._task.result()

    async def close(self) -> None:
        """Break it off, if it is still being found out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # whoever waited has heard it


@dataclass(slots=True, eq=False)
class _Open:
    """One of them, with how many use it."""

    value: "asyncio.Future[Any]"
    opener: Any
    users: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    work: "asyncio.Task[None] | None" = None


class Shared:
    """Opened once for all who use it at the same time, and closed some seconds after the last one left."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _Open] = {}
        self._work: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def opened(
        self, key: Hashable, opener: Callable[[], AbstractAsyncContextManager[T]], linger: float
    ) -> AsyncIterator[T]:
        """What `opener` opens, in a task of its own, so that nobody who leaves breaks it off for others.

        Where opening it fails, all who wait hear that, and who comes later tries again; where all have
        left, opening is broken off. It stays open for `linger` seconds without anybody.
        """
        one = self._open.get(key)
        if one is None:
            one = self._open[key] = _Open(asyncio.get_running_loop().create_future(), opener)
            one.work = asyncio.create_task(self._hold(key, one, opener, linger))
            self._work.add(one.work)
            one.work.add_done_callback(self._work.discard)
        one.users += 1
        one.changed.set()
        try:
            yield await asyncio.shield(one.value)
        finally:
            one.users -= 1
            one.changed.set()
            if not one.users and not one.value.done():
                self._forget(key, one)
                assert one.work is not None
                one.work.cancel()

    def is_open(self, key: Hashable) -> bool:
        """Whether it is there without waiting."""
        one = self._open.get(key)
        return one is not None and one.value.done()

    def opener(self, key: Hashable) -> Any:
        """The opener at work, or that was; None: there is none. It can tell how far it is."""
        one = self._open.get(key)
        return one and one.opener

    def discard(self, key: Hashable) -> None:
        """Give this one to nobody else: it is closed when those who use it have left."""
        one = self._open.pop(key, None)
        if one is not None:
            one.changed.set()

    async def close(self) -> None:
        """Close everything, whoever uses it."""
        work = list(self._work)
        for task in work:
            task.cancel()
        if work:
            await asyncio.wait(work)

    def _forget(self, key: Hashable, one: _Open) -> None:
        if self._open.get(key) is one:
            del self._open[key]

    async def _hold(
        self,
        key: Hashable,
        one: _Open,
        opener: Callable[[], AbstractAsyncContextManager[T]],
        linger: float,
    ) -> None:
        try:
            async with opener() as value:
                one.value.set_result(value)
                while one.users or self._open.get(key) is one:
                    one.changed.clear()
                    try:
                        async with asyncio.timeout(None if one.users else linger):
                            await one.changed.wait()
                    except TimeoutError:
                        self._forget(key, one)
        except asyncio.CancelledError:
            one.value.cancel()
            raise
        except Exception as error:
            if one.value.done():
                log.warning("something shared could not be closed: %s", error)
            else:
                one.value.set_exception(error)
                one.value.exception()  # those who wait hear it, if anybody still does
        finally:
            self._forget(key, one)
