"""Work that is done periodically: by arq's clock for all workers, or by each worker's own without Redis.

Who calls: the worker.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mirror.core.errors import EverrefError
from mirror.services.open import Services, ended

LOOK_SECONDS: Final = 1.0  # between two checks of what is due
TOGETHER_SECONDS: Final = 30.0  # to wait for several that were started together

log = logging.getLogger("mirror.worker")


class Periodic:
    """One periodic piece of work. It must be safe to run twice; this process never runs it twice at once."""

    def __init__(self, name: str, seconds: float, do: Callable[[Services], Awaitable[object]]) -> None:
        self.begun: float | None = (
            None  # when it last started, by the loop's clock; None: not yet in this process
        )
        self._name = name
        self._seconds = seconds
        self._do = do
        self._is_busy = False

    def is_due(self) -> bool:
        """Whether its time has come, as far as this process knows."""
        now = asyncio.get_running_loop().time()
        return not self._is_busy and (self.begun is None or now >= self.begun + self._seconds)

    async def run(self, services: Services) -> None:
        """Do it, unless it is under way here; errors are logged, and it is done again next time."""
        if self._is_busy:
            return
        self._is_busy, self.begun = True, asyncio.get_running_loop().time()
        try:
            await self._do(services)
        except (EverrefError, OSError) as error:
            log.warning("%s: %s", self._name, error)
        except Exception:  # a bug, which delays no push
            log.exception("a bug in the %s", self._name)
        finally:
            self._is_busy = False


class Together:
    """Several that start together; a slow one does not delay the next run of the others."""

    def __init__(self, each: Sequence[Periodic]) -> None:
        self.each = each
        self._begun: set[asyncio.Task[None]] = set()

    async def run(self, services: Services) -> None:
        """Start each that is not under way; slow ones go on after this returns."""
        for one in self.each:
            task = asyncio.create_task(one.run(services))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)
        await asyncio.wait(list(self._begun), timeout=TOGETHER_SECONDS)

    async def end(self) -> None:
        """Stop those that are under way."""
        await ended(*self._begun)


async def by_our_clock(
    services: Services, own: list[Periodic], shared: list[Periodic], is_carried: Callable[[], bool]
) -> None:
    """Do what is due, until cancelled: this worker's own work always, shared work once at the start and
    whenever arq does not carry it.
    """
    begun: set[asyncio.Task[None]] = set()
    try:
        while True:
            for one in (*own, *shared):
                if one.is_due() and (one in own or one.begun is None or not is_carried()):
                    task = asyncio.create_task(one.run(services))
                    begun.add(task)
                    task.add_done_callback(begun.discard)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await ended(*begun)
