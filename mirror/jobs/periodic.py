"""What is done again and again: by arq's clock for all workers, and with Redis away by the clock of each."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mirror.core.errors import EverrefError
from mirror.jobs.looks import Looks
from mirror.services.open import Services, ended

LOOK_SECONDS: Final = 1.0  # between two looks at what is due
TOGETHER_SECONDS: Final = 30.0  # for which several that were begun together are waited for

log = logging.getLogger("mirror.worker")


class Periodic:
    """One such thing. It must be safe to run twice; here it never runs twice at once."""

    def __init__(self, name: str, seconds: float, do: Callable[[Services], Awaitable[None]]) -> None:
        self.begun: float | None = None  # by the loop's clock, the last time; None: not yet in this process
        self._name = name
        self._seconds = seconds
        self._do = do
        self._is_busy = False

    def is_due(self) -> bool:
        """Whether its time has come, as far as this process knows."""
        now = asyncio.get_running_loop().time()
        return not self._is_busy and (self.begun is None or now >= self.begun + self._seconds)

    async def run(self, services: Services) -> None:
        """Do it, unless it is under way here; what goes wrong is told, and the next time comes."""
        if self._is_busy:
            return
        self._is_busy, self.begun = True, asyncio.get_running_loop().time()
        try:
            await self._do(services)
        except (EverrefError, OSError) as error:
            log.warning("%s: %s", self._name, error)
        except Exception:  # a bug, which keeps no push waiting
            log.exception("a bug in the %s", self._name)
        finally:
            self._is_busy = False


class Together:
    """Several that are begun together; one that takes long keeps no other from its next time."""

    def __init__(self, each: Sequence[Periodic]) -> None:
        self.each = each
        self._begun: set[asyncio.Task[None]] = set()

    async def run(self, services: Services) -> None:
        """Begin each that is not under way; those that take longer than a moment go on behind this."""
        for one in self.each:
            task = asyncio.create_task(one.run(services))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)
        await asyncio.wait(list(self._begun), timeout=TOGETHER_SECONDS)

    async def end(self) -> None:
        """Break off what is under way."""
        await ended(*self._begun)


async def look(looks: Looks, services: Services) -> None:
    """Look at every repo whose look is due; those that take long may be under way still the next time."""
    done = await looks.tick()
    if done.moved or done.failed:
        log.info("sweep: %d looks, %d moved, %d failed", done.looks, done.moved, done.failed)


async def by_our_clock(
    services: Services, own: list[Periodic], shared: list[Periodic], is_carried: Callable[[], bool]
) -> None:
    """Do what is due, until cancelled: what is this worker's own always, what is shared at the beginning and
    while arq does not carry it.
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
