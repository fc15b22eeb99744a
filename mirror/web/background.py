"""Work that a page starts and does not wait for, such as reading a long listing; it ends with the process.

Nothing depends on it: the next page requests again what it left undone, or the sweep does it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from mirror.core.errors import EverrefError

log = logging.getLogger("mirror.web")


class Background:
    """The running background work of this process, by subject."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, about: str, work: Coroutine[Any, Any, object]) -> None:
        """Start this, unless it is already running."""
        if about in self._tasks:
            work.close()
            return
        self._tasks[about] = asyncio.create_task(self._run(about, work))

    def is_busy(self, about: str) -> bool:
        """Whether this is running."""
        return about in self._tasks

    async def done(self, about: str, seconds: float) -> bool:
        """Wait until this is not running, for so many seconds at most. False: it still is."""
        task = self._tasks.get(about)
        if task is not None:
            await asyncio.wait([task], timeout=seconds)
        return about not in self._tasks

    async def quiet(self) -> None:
        """Wait until nothing is running."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def end(self) -> None:
        """Stop everything."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, about: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except EverrefError as error:
            log.info("%s: %s", about, error)  # the work itself says so where people look
        except Exception:
            log.exception("%s failed", about)
        finally:
            del self._tasks[about]
