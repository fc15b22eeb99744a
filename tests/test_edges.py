"""Two things at once, of which the first failure ends both."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mirror.core.errors import Busy, Corrupt
from mirror.services.open import together


class Waiting:
    """Something that never ends by itself, and says whether it was ended in order."""

    def __init__(self) -> None:
        self.ended = False

    async def __call__(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = True


async def broken() -> None:
    await asyncio.sleep(0)
    raise Corrupt("it is broken")


async def test_both_give_what_they_found() -> None:
    assert await together(asyncio.sleep(0, 1), asyncio.sleep(0, "two")) == (1, "two")


@pytest.mark.parametrize("turn", [False, True], ids=["the first", "the second"])
async def test_whichever_fails_first_ends_both_and_is_raised_as_it_is(turn: bool) -> None:
    waiting = Waiting()
    both: list[Callable[[], Awaitable[None]]] = [broken, waiting]
    one, other = reversed(both) if turn else both
    with pytest.raises(Corrupt, match="it is broken"):
        await together(one(), other())  # type: ignore[arg-type]
    assert waiting.ended


async def test_of_two_failures_the_first_in_time_is_raised() -> None:
    async def late() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        raise Busy("it is late")

    with pytest.raises(Corrupt):
        await together(late(), broken())


async def test_a_cancellation_ends_both() -> None:
    one, other = Waiting(), Waiting()
    task = asyncio.create_task(together(one(), other()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.ended and other.ended
