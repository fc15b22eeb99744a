"""Files that Everref writes itself: in a thread that always finishes, with failures as one-line messages."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from mirror.core.errors import DiskFull, LimitReached, Origin

T = TypeVar("T")


async def finish(work: Callable[[], T]) -> T:
    """Run blocking work in a thread. A cancellation waits for its end, so that no work continues unseen."""
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


async def write_file(path: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write a stream to a file that only its owner can read, safe on disk when this returns."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            async for chunk in chunks:
                await finish(partial(write_all, fd, chunk))
            await finish(partial(os.fsync, fd))
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_error(path.parent, error) from None


def sync_path(path: Path) -> None:
    """Make a file or a directory safe on disk before going on."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def disk_error(path: Path, error: OSError) -> LimitReached:
    """A failure of this machine's disk as a one-line message."""
    message = f"cannot write {path}: {error.strerror}; free some space or choose another place"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(message, str(path), origin=Origin.DISK)
    return LimitReached(message, origin=Origin.DISK)
