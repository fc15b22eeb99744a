"""Whole objects as streams: what they sum up to, how fast they are read, and writing one as it comes.

Who calls: whoever reads stored bytes back, or brings an object from one place to another.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from mirror.core.model import Sealed
from mirror.vault.contract import Vault, Writer

Passed = Callable[[int], None]  # told of the bytes that went by


def _nobody(_: int) -> None:
    """Nobody waits for it."""


async def sum_of(chunks: AsyncGenerator[bytes, None], passed: Passed = _nobody) -> Sealed:
    """The size and SHA-256 of these bytes."""
    size, digest = 0, hashlib.sha256()
    async with aclosing(chunks):
        async for chunk in chunks:
            size += len(chunk)
            digest.update(chunk)
            passed(len(chunk))
    return Sealed(size, digest.hexdigest())


async def write(writer: Writer, chunks: AsyncGenerator[bytes, None], passed: Passed = _nobody) -> Sealed:
    """Write these bytes, and return what they were: who calls compares that before it commits."""
    return await sum_of(_through(writer, chunks), passed)


async def _through(writer: Writer, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            await writer.write(chunk)
            yield chunk


async def paced(chunks: AsyncGenerator[bytes, None], rate: float) -> AsyncGenerator[bytes, None]:
    """These bytes, no faster than the rate (bytes a second)."""
    clock = asyncio.get_running_loop().time
    began, passed = clock(), 0
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk
            passed += len(chunk)
            ahead = began + passed / rate - clock()
            if ahead > 0.1:
                await asyncio.sleep(ahead)


async def every_key(vault: Vault, prefix: str) -> list[str]:
    """Every object under a prefix, also those of which only old versions are left, in order."""
    async with aclosing(vault.list(prefix)) as found:
        keys = {stat.key async for stat in found}
    async with aclosing(vault.hidden(prefix)) as found:
        keys |= {stat.key async for stat in found}
    return sorted(keys)
