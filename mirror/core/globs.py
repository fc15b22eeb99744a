"""Matching globs against any number of names: in slices, so that other requests continue meanwhile.

A comparison costs no more than the name's length times the glob's, whatever the glob.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from functools import lru_cache
from time import perf_counter
from typing import AnyStr, Final

from mirror.core.errors import UsageError

MOST: Final = 100  # globs of one question
LONGEST: Final = 1024  # bytes of one
SLICE: Final = 0.01  # seconds of comparing at a stretch; whoever else is served has as many after each
WORK: Final = 10.0  # seconds of comparing for one question
_TOLD: Final = 200  # characters of globs that a message repeats

Test = Callable[[AnyStr], object]  # true where a name is meant


def check(globs: Sequence[str]) -> None:
    """Raise UsageError where these are more or longer than anybody's question needs."""
    if len(globs) > MOST:
        raise UsageError(f"{len(globs)} patterns are too many; use {MOST} or fewer")
    if any(len(encoded(glob)) > LONGEST for glob in globs):
        raise UsageError(f"a pattern may have at most {LONGEST} bytes; use a shorter one")


def encoded(glob: str) -> bytes:
    """The glob as bytes of git, with those that are no UTF-8 and came as surrogates."""
    return glob.encode("utf-8", "surrogateescape")


def told(globs: Sequence[str]) -> str:
    """The globs in a message, as far as one line goes."""
    text = " ".join(globs)
    return text if len(text) <= _TOLD else text[:_TOLD] + "…"


def is_plain(glob: str) -> bool:
    """Whether it means nothing but itself."""
    return not any(char in glob for char in "*?[")


class Pace:
    """How long somebody has compared at a stretch, and in all."""

    def __init__(self, work: float | None) -> None:
        self._left = work  # seconds; None: as many as it takes
        self._began = perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether it is time to rest."""
        return perf_counter() - self._began > SLICE

    async def rest(self) -> None:
        """Let other requests continue. Raises UsageError if this one has taken too much work."""
        if self._left is not None:
            self._left -= perf_counter() - self._began
            if self._left < 0:
                raise UsageError("comparing so many names takes too long; use fewer or simpler patterns")
        await asyncio.sleep(SLICE)
        self._began = perf_counter()


@lru_cache(1024)
def pattern(glob: str) -> "re.Pattern[str]":
    """The glob as a regular expression of the whole name."""
    return re.compile(translate(glob))


@lru_cache(1024)
def pattern_of_bytes(before: bytes, glob: bytes) -> re.Pattern[bytes]:
    """The same for bytes, after an expression of what may stand before it."""
    return re.compile(before + translate(glob.decode("latin-1")).encode("latin-1"))


async def meant(
    names: Iterable[AnyStr], tests: Iterable[Test[AnyStr]], work: float | None = WORK
) -> set[AnyStr]:
    """The names that pass a test; each test is compiled when it is first needed.

    Raises UsageError where that takes more seconds of work than this.
    """
    pace, made, found = Pace(work), list[Test[AnyStr]](), set[AnyStr]()
    for test in tests:
        made.append(test)
        if pace.is_over:
            await pace.rest()
    for name in names:
        for test in made:
            if test(name):
                found.add(name)
                break
            if pace.is_over:
                await pace.rest()
        if pace.is_over:
            await pace.rest()
    return found
