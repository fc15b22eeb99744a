"""Work that a page begins and does not wait for, such as reading a long listing; it ends with the process.

Nothing depends on it: what it leaves undone is asked for again by the next page,
or done by the sweep.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from mirror.core.errors import EverrefError

log = logging.getLogger("mirror.web")


class Background:
    """What is under way in this process, by what it is about."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, about: str, work: Coroutine[Any, Any, object]) -> None:
        """Begin this, unless it is under way."""
        if about in self._tasks:
            work.close()
            return
        self._tasks[about] = asyncio.create_task(self._run(about, work))

    def is_busy(self, about: str) -> bool:
        """Whether this is under way."""
        return about in self._tasks

    async def quiet(self) -> None:
        """Wait until nothing is under way."""
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
