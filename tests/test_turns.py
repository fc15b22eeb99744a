"""Whose turn it is: bounds for a person, a team and all, and who has used little comes first."""

import asyncio

import pytest

from mirror.core.errors import Crowded, TooOften
from mirror.git.reader.slots import NOBODY, Bounds, Requester, Slots

ALICE, BOB, CAROL = Requester("acme", "alice"), Requester("acme", "bob"), Requester("acme", "carol")
DAVE, ERIN = Requester("other", "dave"), Requester("third", "erin")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Line:
    """Turns that are begun in an order and ended by name."""

    def __init__(self, bounds: Bounds) -> None:
        self.clock = Clock()
        self.slots = Slots(bounds, self.clock)
        self.began: list[Requester] = []
        self._ends: list[tuple[Requester, asyncio.Event, asyncio.Task[None]]] = []

    async def want(self, *askers: Requester) -> None:
        for who in askers:
            end = asyncio.Event()
            self._ends.append((who, end, asyncio.create_task(self._take(who, end))))
            await self._rest()

    async def _take(self, who: Requester, end: asyncio.Event) -> None:
        async with self.slots.slot(who):
            self.began.append(who)
            await end.wait()

    async def end(self, who: Requester, after: float = 0.0) -> None:
        self.clock.now += after
        found = next(one for one in self._ends if one[0] == who)
        self._ends.remove(found)
        found[1].set()
        await found[2]
        await self._rest()

    async def leave(self, *leaving: Requester) -> None:
        """These leave at the same moment."""
        tasks = []
        for who in leaving:
            found = [one for one in self._ends if one[0] == who][-1]
            self._ends.remove(found)
            found[2].cancel()
            tasks.append(found[2])
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        await self._rest()

    async def _rest(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for _, _, task in self._ends:
            task.cancel()
        if self._ends:
            await asyncio.wait([task for _, _, task in self._ends])


async def test_who_leaves_at_the_moment_of_their_turn_takes_no_slot_along() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1))
    await line.want(ALICE, BOB, DAVE)
    await line.leave(ALICE, BOB)
    assert line.began == [ALICE, DAVE]
    await line.end(DAVE)
    await line.want(ERIN)
    assert line.began[2:] == [ERIN]
    await line.close()


async def test_a_person_reads_one_at_a_time_and_a_team_two() -> None:
    line = Line(Bounds(at_once=4, team=2, person=1))
    await line.want(ALICE, ALICE, BOB, CAROL, DAVE, ERIN)
    assert line.began == [ALICE, BOB, DAVE, ERIN]
    await line.end(BOB)
    assert line.began[4:] == [CAROL]  # Alice has a turn already
    await line.end(ALICE)
    assert line.began[5:] == [ALICE]
    await line.close()


async def test_who_used_little_comes_before_who_used_much() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1))
    await line.want(ALICE)
    await line.end(ALICE, after=10)
    await line.want(ERIN, ALICE, ALICE, DAVE)
    await line.end(ERIN, after=1)
    assert line.began == [ALICE, ERIN, DAVE]
    await line.end(DAVE)
    assert line.began[3:] == [ALICE]
    await line.close()


async def test_what_was_used_is_forgotten_with_time() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1))
    await line.want(ALICE)
    await line.end(ALICE, after=10)
    line.clock.now += 3600
    await line.want(ERIN)
    await line.end(ERIN, after=1)
    await line.want(DAVE, ERIN, ALICE)
    await line.end(DAVE)
    assert line.began[3:] == [ALICE]
    await line.close()


async def test_who_waits_for_too_many_is_told_so_and_others_are_not() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1, waiting_person=2))
    await line.want(ALICE, ALICE, ALICE, BOB)
    with pytest.raises(TooOften):
        line.slots.check(ALICE)
    with pytest.raises(TooOften):
        async with line.slots.slot(ALICE):
            pass
    line.slots.check(BOB)
    line.slots.check(DAVE)
    await line.close()


async def test_a_line_that_is_too_long_takes_nobody_more() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1, waiting=2))
    await line.want(NOBODY, NOBODY, NOBODY)
    with pytest.raises(Crowded):
        async with line.slots.slot(DAVE):
            pass
    await line.close()


async def test_nobody_waits_for_ever() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1, patience=0.01))
    await line.want(DAVE)
    with pytest.raises(Crowded):
        async with line.slots.slot(ERIN):
            pass
    await line.end(DAVE)
    await line.want(ERIN)
    assert line.began == [DAVE, ERIN]
    await line.close()


async def test_who_leaves_the_line_or_a_turn_leaves_room() -> None:
    line = Line(Bounds(at_once=1, team=1, person=1))
    await line.want(DAVE, ERIN, ALICE)
    await line.leave(ERIN)
    await line.leave(DAVE)
    assert line.began == [DAVE, ALICE]
    await line.close()
    await line.want(BOB)
    assert line.began[2:] == [BOB]
    await line.close()
