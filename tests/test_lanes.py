"""Lanes of work that is claimed: as much at once as there is room, and nothing is left behind."""

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress

import pytest

from mirror.core.errors import NetworkError
from mirror.services.lanes import Lane, UnderWay

LONG = 3600.0  # seconds: who waits for the next look never comes to an end here


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_full_lane_goes_on_as_soon_as_something_ends() -> None:
    due, began, ends = list(range(5)), list[int](), [asyncio.Event() for _ in range(5)]
    all_begun = asyncio.Event()

    async def claim(busy: Collection[UnderWay[int]]) -> list[int]:
        room = 2 - len(busy)
        claimed = [due.pop(0) for _ in range(min(room, len(due)))]
        assert len(busy) + len(claimed) <= 2
        return claimed

    async def do(one: int) -> None:
        began.append(one)
        if one == 4:
            all_begun.set()
        await ends[one].wait()

    lane = Lane(every=LONG, claim=claim, do=do, is_full=lambda busy: len(busy) >= 2, log=logging.getLogger())
    task = asyncio.create_task(lane.work())
    for one in (1, 0, 2):  # in any order
        ends[one].set()
    await all_begun.wait()
    assert began == [0, 1, 2, 3, 4]
    await _ended(task)


async def test_a_database_that_is_away_ends_no_lane_and_cancelling_ends_what_is_under_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks, begun, cancelled = 0, asyncio.Event(), list[str]()

    async def claim(busy: Collection[UnderWay[str]]) -> list[str]:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise NetworkError("the database is away")
        return [] if busy else ["a"]

    async def do(one: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(one)
            raise

    log = logging.getLogger("tests.lanes")
    task = asyncio.create_task(
        Lane(every=0.001, claim=claim, do=do, is_full=lambda busy: False, log=log).work()
    )
    await begun.wait()
    await _ended(task)
    assert cancelled == ["a"]
    assert [one.message for one in caplog.records if one.name == log.name] == [
        "what is due cannot be looked up: the database is away"
    ] * 2
