"""Files that we write ourselves: work in a thread that is never left halfway, and failures as one line."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mirror.errors import LimitReached

T = TypeVar("T")


async def finish(work: Callable[[], T]) -> T:
    """Run blocking work in a thread. A cancellation waits for its end, so that none goes on unseen."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    return running.result()


def write_all(fd: int, data: bytes) -> None:
    """Write it all to an open file."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_path(path: Path) -> None:
    """Have a file or a directory safe on disk before going on."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def disk_error(path: Path, error: OSError) -> LimitReached:
    """A failure of our own disk as one line."""
    return LimitReached(
        f"{path} cannot be written: {error.strerror}; free some space or choose another place"
    )
