"""Globs of many refs: they mean what they mean one by one, and nobody else waits for them."""

import asyncio

import pytest

from mirror.core import globs, refs
from mirror.core.errors import UsageError
from mirror.core.model import HEAD, RefName
from mirror.core.rules import choosing

LONG = [RefName(b"refs/heads/%s%05d" % (b"a" * 200, number)) for number in range(400)]
HARD = [f"*a*a*a*a*b{number}" for number in range(100)]


async def test_whoever_else_is_served_goes_on_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn that others get is counted; without one they would wait for all of it."""
    monkeypatch.setattr(globs, "SLICE", 0.001)  # there is more than one slice on a fast machine, too
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    for compare in (refs.meant_by(LONG, HARD), choosing.matching([n.decode() for n in LONG], HARD)):
        turns, serving = 0, asyncio.create_task(others())
        assert await compare == set()
        serving.cancel()
        await asyncio.wait([serving])
        assert turns > 5


async def test_many_names_are_meant_as_each_alone() -> None:
    names = [RefName(b"refs/" + one) for one in (b"heads/main", b"tags/main", b"heads/a/b", b"x/\xff")]
    names += [HEAD, *LONG[:3]]
    for asked in (["main"], ["a/?", "*\udcff"], ["heads/[!m]*", "HEAD"], ["*00001"], ["refs/*"], ["[a-"]):
        meant = await refs.meant_by(names, asked)
        assert meant == {name for name in names if refs.matches(name, asked)}


async def test_a_question_takes_so_much_work_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(globs, "SLICE", 0.001)
    with pytest.raises(UsageError, match="fewer or simpler"):
        await refs.meant_by(LONG, HARD, 0.003)


@pytest.mark.parametrize(
    ("asked", "told"), [(["x*"] * 101, "101 patterns are too many"), (["x" * 1025], "1024 bytes")]
)
async def test_too_many_or_too_long_ones_are_refused(asked: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        await refs.meant_by([HEAD], asked)


def test_a_message_repeats_the_first_of_them() -> None:
    assert globs.told(["one", "two"]) == "one two"
    assert len(globs.told(HARD)) < 210
