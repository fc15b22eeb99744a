"""Lanes: work that is claimed bit by bit, each bit in a task of its own, so many at once as there is room.

Who calls: jobs/mirrors and notify/deliver, each with one lane for what works and one for what failed lately,
so that what hangs or fails holds up nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from mirror.core.errors import EverrefError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnderWay(Generic[T]):
    """A bit of work that was begun and has not ended."""

    work: T
    began: float  # seconds, as time.monotonic has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane(Generic[T]):
    """One lane: how what is due is claimed, and how it is done."""

    every: float  # seconds between two looks at what is due
    claim: Callable[[Collection[UnderWay[T]]], Awaitable[Sequence[T]]]  # what begins now, beside these
    do: Callable[[T], Awaitable[None]]  # raises nothing: it records what went wrong
    is_full: Callable[[Collection[UnderWay[T]]], bool]  # nothing can be claimed until one of these ends
    log: logging.Logger

    async def work(self) -> None:
        """Do what is due until cancelled; what is under way is cancelled then, too.

        While the database is away nothing is claimed, and what is due waits. A full lane looks again as soon
        as something ends, any other after `every`.
        """
        busy = dict[asyncio.Task[None], UnderWay[T]]()

        async def done(one: T) -> None:
            await self.do(one)

        try:
            while True:
                claimed: Sequence[T] = ()
                try:
                    claimed = await self.claim(busy.values())
                except EverrefError as error:
                    self.log.warning("what is due cannot be looked up: %s", error)
                for one in claimed:
                    task = asyncio.create_task(done(one))
                    busy[task] = UnderWay(one, monotonic())
                    task.add_done_callback(busy.pop)
                if busy and self.is_full(busy.values()):
                    await asyncio.wait(busy, timeout=self.every, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(self.every)
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)
