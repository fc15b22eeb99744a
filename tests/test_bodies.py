"""Memory for large bodies: it is had as bytes arrive, shared, and nobody waits for ever."""

import asyncio

import pytest

from mirror.services.server.bodies import WAITING, Budget

KIB = 1 << 10


async def test_a_body_that_announces_much_has_what_has_come_of_it() -> None:
    budget = Budget(1000 * KIB, 64 * KIB)
    announced = [budget.body(10_000 * KIB, 0.0) for _ in range(100)]
    for body in announced:
        await body.reach(64 * KIB)
        assert not body.lacks(64 * KIB) and body.lacks(64 * KIB + 1)
    await budget.body(1000 * KIB, 0.0).reach(1000 * KIB)


async def test_a_body_takes_twice_as_much_each_time_and_no_more_than_it_announced() -> None:
    budget = Budget(1000 * KIB, 64 * KIB)
    taken = [budget.share(size * KIB, 300 * KIB) // KIB for size in (1, 64, 65, 128, 129, 257, 300)]
    assert taken == [0, 0, 128, 128, 256, 300, 300]


async def test_bodies_that_wait_for_each_other_come_to_an_end_the_oldest_first() -> None:
    budget = Budget(512 * KIB, 64 * KIB)
    first, second, third = (budget.body(512 * KIB, 60.0) for _ in range(3))
    await first.reach(200 * KIB)
    await second.reach(200 * KIB)
    waiting = [asyncio.create_task(body.reach(400 * KIB)) for body in (third, second, first)]
    await waiting[2]  # it has more than there was left
    assert not waiting[0].done() and not waiting[1].done()
    first.end()
    await waiting[1]
    assert not waiting[0].done()
    second.end()
    await waiting[0]
    third.end()
    third.end()
    await budget.body(512 * KIB, 0.0).reach(512 * KIB)


async def test_who_gave_up_is_in_nobodys_way() -> None:
    budget = Budget(256 * KIB, 64 * KIB)
    first, second, third = (budget.body(256 * KIB, 0.01) for _ in range(3))
    await first.reach(200 * KIB)
    with pytest.raises(TimeoutError):
        await second.reach(100 * KIB)
    second.end()
    first.end()
    await third.reach(200 * KIB)


async def test_no_more_than_so_many_wait_and_others_hear_so_at_once() -> None:
    budget = Budget(256 * KIB, 64 * KIB)
    first, *others, late, later = (budget.body(256 * KIB, 60.0) for _ in range(WAITING + 3))
    await first.reach(256 * KIB)
    waiting = [asyncio.create_task(body.reach(100 * KIB)) for body in others]
    await asyncio.sleep(0)
    refused = asyncio.create_task(late.reach(100 * KIB))
    done, _ = await asyncio.wait([refused], timeout=10)
    assert done and isinstance(refused.exception(), TimeoutError)
    late.end()
    gone = waiting.pop()
    gone.cancel()
    await asyncio.wait([gone])
    others.pop().end()
    waiting.append(asyncio.create_task(later.reach(100 * KIB)))
    first.end()
    for body, task in zip([*others, later], waiting, strict=True):
        await task
        body.end()
    await budget.body(256 * KIB, 0.0).reach(256 * KIB)
