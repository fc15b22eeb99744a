"""Hashing and checking passwords, a few at a time, beside the event loop. Who calls: people/accounts."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

P = ParamSpec("P")
R = TypeVar("R")

# argon2id as RFC 9106 recommends it where memory is scarce: 64 MiB a hash, so only a few at once.
HASHER: Final = PasswordHasher()
_THREADS: Final = ThreadPoolExecutor(2, "argon2")
_HASHING: Final = WeakValueDictionary[str, asyncio.Lock]()  # by who waits: each has one hash at a time


async def hashed(who: str, password: bytes) -> str:
    """The hash to store for this password; `who` waits for it, a person or a network."""
    return await _in_thread(who, HASHER.hash, password)


async def is_right(who: str, stored: str | None, password: bytes) -> bool:
    """Whether the password has this hash. None: nobody has it, which takes as long to find out."""
    if stored is None:
        stored = await _in_thread(who, _nobodys)
    return await _in_thread(who, _verified, stored, password)


def is_outdated(stored: str) -> bool:
    """Whether a hash has weaker parameters than those of today."""
    return HASHER.check_needs_rehash(stored)


async def _in_thread(who: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call this beside the event loop, one at a time for each person or network, so that all have a turn."""
    ready = functools.partial(call, *args, **kwargs)
    async with _HASHING.setdefault(who, asyncio.Lock()):
        return await asyncio.get_running_loop().run_in_executor(_THREADS, ready)


def _verified(stored: str, password: bytes) -> bool:
    try:
        return HASHER.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


@functools.cache
def _nobodys() -> str:
    """A hash with today's parameters, of a password that nobody knows."""
    return HASHER.hash(HASHER.hash("nobody"))
