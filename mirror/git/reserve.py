"""A reserve on each disk: a fetch ends before it fills one.

Who calls: backup/snapshot, around a fetch: it writes scratch space and the vault, where that is a directory.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from mirror.core.errors import LimitReached, Origin
from mirror.git.disk import finish

RESERVE: Final = 2 << 30  # bytes of each disk that nothing takes which arrives from elsewhere
RESERVED: Final = 20  # at most one part in so many, on small disks
SMALL: Final = 16 << 20  # bytes; what is no larger may take half of the reserve, so that small pushes go on
LOOK_SECONDS: Final = 0.5  # between two looks


class Room:
    """The room that one fetch takes on these disks, and what it leaves."""

    def __init__(self, places: Sequence[Path], give_way: Callable[[Path, int], Awaitable[None]]) -> None:
        self._places = places
        self._give_way = give_way  # has caches make so much room at a place, where they can
        self._came = 0  # bytes

    async def counted(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Pass the bytes on and count them."""
        async with aclosing(chunks):
            async for chunk in chunks:
                self._came += len(chunk)
                yield chunk

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """End the block before it takes what is reserved. Raises LimitReached."""
        lacking: Path | None = None

        async def watch(limit: asyncio.Timeout) -> None:
            nonlocal lacking
            while True:
                lacking = await self._lacking()
                if lacking is not None:
                    limit.reschedule(asyncio.get_running_loop().time())
                    return
                await asyncio.sleep(LOOK_SECONDS)

        try:
            async with asyncio.timeout(None) as limit:
                watching = asyncio.create_task(watch(limit))
                try:
                    yield
                finally:
                    watching.cancel()
                    await asyncio.wait([watching])
        except TimeoutError:
            if lacking is None or not limit.expired():
                raise
            raise LimitReached(
                f"this repository would fill the disk of {lacking}: {self._came >> 20} MiB have arrived; "
                "free some space there, and Everref will try again",
                origin=Origin.OURS,
            ) from None

    async def _lacking(self) -> Path | None:
        """A place where too little is left, also after caches gave way."""
        for place in self._places:
            if await finish(partial(self._is_short, place)):
                await self._give_way(place, RESERVE)
                if await finish(partial(self._is_short, place)):
                    return place
        return None

    def _is_short(self, place: Path) -> bool:
        free, reserve = left(place)
        return free < (reserve if self._came > SMALL else reserve // 2)


def left(place: Path) -> tuple[int, int]:
    """Bytes that are free on the disk of a place, and how many of them are reserved."""
    while not place.exists() and place != place.parent:
        place = place.parent
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize, min(RESERVE, disk.f_blocks * disk.f_frsize // RESERVED)
