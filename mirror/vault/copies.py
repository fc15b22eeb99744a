"""One vault in several stores: written to the first and copied from there, read from whichever answers.

Who uses it: services/open puts it around the stores, below what seals. The order of the stores and what each
still has to get are in the database; a Journal asks and tells it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, TypeVar
from uuid import UUID

from mirror.core.errors import (
    AlreadyExists,
    BadCredentials,
    Corrupt,
    EverrefError,
    Locked,
    NetworkError,
    NoSuchObject,
    Origin,
    OurFault,
    Refused,
    UsageError,
)
from mirror.core.formats import layout
from mirror.core.locks import Lock, Locking, LockProof
from mirror.core.model import Sealed
from mirror.vault.contract import GET_LIMIT, Capabilities, PutLink, Stat, Unfinished, Vault, Writer

LOCKED_WITHIN: Final = 30.0  # seconds that a copy may take to lock an object
FIRST_BYTE: Final = 2.0  # seconds that a store has to begin its answer while another one has the object, too
_ANSWERED: Final = 10_000  # objects of which it is remembered which copy gave them
REMEMBERED: Final = 30.0  # seconds in which a store that did not answer is not asked before the others

T = TypeVar("T")

_only_first: ContextVar[bool] = ContextVar("only the first store counts", default=False)
# What a store does that is away, or that lets us not in: another one may answer.
_AWAY: Final = (NetworkError, BadCredentials, Refused, UsageError)
_ELSEWHERE: Final = (*_AWAY, NoSuchObject, Corrupt)


@dataclass(frozen=True, slots=True)
class Place:
    """One of the stores."""

    name: str
    vault: Vault


@dataclass(frozen=True, slots=True)
class Order:
    """Which store is written to."""

    first: str
    also: str | None = None  # the store that is about to become the first: small objects go there at once


class Journal(Protocol):
    """What the database is asked and told about the stores. Each call is one short statement."""

    async def begins(self, key: str, wanted: str) -> Order:
        """Note, before anything is written, that every store shall get (`put`) or lose (`delete`) a key."""

    async def stored(self, key: str) -> None:
        """The first store has done it: the others are due now."""

    async def dropped(self, key: str) -> None:
        """It was not done, and will not be."""

    async def read_elsewhere(self, name: str, key: str, why: str) -> None:
        """Another store than the first was read, and why. Never raises."""


@contextmanager
def only_the_first() -> Iterator[None]:
    """Within this, what the first store says is what there is: no other one is asked.

    For decisions that no sum proves, such as which manifest is the last: a copy may be behind, or lie.
    """
    token = _only_first.set(True)
    try:
        yield
    finally:
        _only_first.reset(token)


class Copies:
    """A Vault in a first store and its copies: names and bytes are the same in each.

    Objects are created and deleted in the first alone; the journal has noted it before, so that the others
    follow whatever is killed (upkeep/copies). What is read comes from the first; where that does not begin to
    answer within FIRST_BYTE seconds, lacks the object or is known to have damaged it, from another. Whoever
    reads compares sums, as always. Listings and what they decide are the first's alone.
    """

    def __init__(self, places: Sequence[Place], journal: Journal) -> None:
        self.places = tuple(places)  # the first of them is the first store
        self._journal = journal
        self._away: dict[str, float] = {}  # until when a store is not asked first, by the loop's clock
        self._wrong: dict[str, set[str]] = {}  # keys, and the stores that had wrong bytes under each
        self._answered: dict[str, str] = {}  # keys that a copy gave last, and which; of all others the first
        self._abandoned: set[asyncio.Task[None]] = set()  # reads that are over and whose store never answered

    @property
    def first(self) -> Vault:
        """The store that is written to."""
        return self.places[0].vault

    @property
    def copies(self) -> Sequence[Place]:
        """The others."""
        return self.places[1:]

    def reorder(self, first: str) -> None:
        """Let the store of this name be the first. Raises OurFault if there is none."""
        if self.places[0].name == first:
            return
        if all(one.name != first for one in self.places):
            raise OurFault(
                f"the first vault is {first} now, which the settings of this process do not name; restart it"
            )
        self.places = tuple(sorted(self.places, key=lambda one: one.name != first))
        self._wrong.clear()
        self._answered.clear()

    def doubt(self, keys: Sequence[str]) -> bool:
        """Read these from another store than the one that gave them last: its bytes were wrong.

        False: each store was asked. Then all of them count again, as one that was damaged may have been
        healed since; so whoever asks again while this is true comes to an end.
        """
        is_left = False
        for key in keys:
            wrong = self._wrong.setdefault(key, set())
            gave = self._answered.get(key, self.places[0].name)
            is_left |= gave not in wrong and len(wrong) + 1 < len(self.places)
            wrong.add(gave)
        if not is_left:
            for key in keys:
                del self._wrong[key]
        return is_left

    def pass_over_the_first(self, keys: Sequence[str]) -> None:
        """Read these from the copies, if there are any: the first is known to have damaged them."""
        for key in keys:
            self._wrong.setdefault(key, set()).add(self.places[0].name)

    def is_away(self, name: str) -> bool:
        """Whether this store lately did not answer."""
        return self._away.get(name, 0.0) > asyncio.get_running_loop().time()

    def create(self, key: str) -> AbstractAsyncContextManager[Writer]:
        return self._creating(key)

    @asynccontextmanager
    async def _creating(self, key: str) -> AsyncIterator[Writer]:
        order = await self._begins(key, "put")
        async with self._of(order.first).create(key) as writer:
            yield _Noting(writer, lambda: self._stored(key))

    async def put(self, key: str, data: bytes) -> Sealed | None:
        order = await self._begins(key, "put")
        stored = await self._of(order.first).put(key, data)
        if order.also is not None:
            await self._also(order.also, key, data)
        await self._stored(key)
        return stored

    async def _also(self, name: str, key: str, data: bytes) -> None:
        """Put it into the store that is about to be the first. Raises AlreadyExists if that has another."""
        vault = self._of(name)
        try:
            await vault.put(key, data)
        except AlreadyExists:
            if await vault.get(key) != data:
                raise

    async def delete(self, key: str) -> None:
        order = await self._begins(key, "delete")
        try:
            await self._of(order.first).delete(key)
        except Locked:
            await self._journal.dropped(key)
            raise
        await self._stored(key)

    async def discard(self, key: str) -> None:
        order = await self._begins(key, "delete")
        await self._of(order.first).discard(key)
        await self._stored(key)

    async def _begins(self, key: str, wanted: str) -> Order:
        if key.startswith(layout.EXPORTS):
            return Order(self.places[0].name)
        order = await self._journal.begins(key, wanted)
        self.reorder(order.first)
        return order

    async def _stored(self, key: str) -> None:
        self._wrong.pop(key, None)
        self._answered.pop(key, None)
        if not key.startswith(layout.EXPORTS):
            await self._journal.stored(key)

    def _of(self, name: str) -> Vault:
        return next(one.vault for one in self.places if one.name == name)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        at = start
        met = dict[str, EverrefError]()
        for place, bound in self._asked(key):
            if _is_settled(met, place):
                continue
            try:
                async for chunk in self._reading(place, key, at, end, bound):
                    self._gave(place, key)
                    at += len(chunk)
                    yield chunk
                await self._tell(place, key, met)
                return
            except _ELSEWHERE as error:
                self._met(place, error)
                met[place.name] = error
        raise self._last(met)

    async def _reading(
        self, place: Place, key: str, start: int, end: int | None, bound: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Read from one store, whose first bytes must come within `bound` seconds."""
        chunks = place.vault.read(key, start, end)
        if bound is None:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
            return
        beginning: asyncio.Task[bytes | None] = asyncio.ensure_future(_first_of(chunks))
        try:
            done, _ = await asyncio.wait([beginning], timeout=bound)
        except asyncio.CancelledError:
            self._abandon(beginning, chunks)
            raise
        if not done:
            # A thread that waits for a disk cannot be stopped, so nobody waits for the end of it here.
            self._abandon(beginning, chunks)
            raise NetworkError(f"{place.vault.describe()} did not answer within {bound:g} s")
        async with aclosing(chunks):
            begun = beginning.result()
            if begun is None:
                return
            yield begun
            async for chunk in chunks:
                yield chunk

    def _abandon(self, beginning: "asyncio.Task[bytes | None]", chunks: AsyncGenerator[bytes, None]) -> None:
        beginning.cancel()
        task = asyncio.ensure_future(_ended(beginning, chunks))
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        return await self._answer(key, lambda vault: vault.get(key, limit))

    async def stat(self, key: str) -> Stat | None:
        return await self._answer(key, lambda vault: vault.stat(key))

    async def _answer(self, key: str, ask: Callable[[Vault], Awaitable[T]]) -> T:
        """The first answer of a store to a small question."""
        met = dict[str, EverrefError]()
        for place, bound in self._asked(key):
            if _is_settled(met, place):
                continue
            try:
                answer = await _within(bound, ask(place.vault), place)
            except _ELSEWHERE as error:
                self._met(place, error)
                met[place.name] = error
                continue
            self._gave(place, key)
            await self._tell(place, key, met)
            return answer
        raise self._last(met)

    def _last(self, met: dict[str, EverrefError]) -> EverrefError:
        """What to raise where no store has it: what the first said, which counts."""
        error = met[self.places[0].name]
        error.came_from(Origin.VAULT)
        return error

    def _asked(self, key: str) -> list[tuple[Place, float | None]]:
        """The stores to ask for an object, in order, each with the seconds until its first byte.

        Those that lately did not answer come later. The last resort is the first store, as long as it takes.
        """
        first, *others = self.places
        if not others or _only_first.get():
            return [(first, None)]
        wrong = self._wrong.get(key, set())
        good = [one for one in others if not self.is_away(one.name) and one.name not in wrong]
        asked = [(one, FIRST_BYTE) for one in good]
        if not good or first.name in wrong or self.is_away(first.name):
            return [*asked, (first, None)]
        return [(first, FIRST_BYTE), *asked, (first, None)]

    def _gave(self, place: Place, key: str) -> None:
        """Remember which store an object came from, for as long as it may turn out to be wrong."""
        if place.name == self.places[0].name:
            self._answered.pop(key, None)
            return
        self._answered[key] = place.name
        if len(self._answered) > _ANSWERED:
            del self._answered[next(iter(self._answered))]

    def _met(self, place: Place, error: EverrefError) -> None:
        """Remember that a store does not answer: an object that it lacks says nothing of the others."""
        if isinstance(error, _AWAY):
            self._away[place.name] = asyncio.get_running_loop().time() + REMEMBERED

    async def _tell(self, place: Place, key: str, met: dict[str, EverrefError]) -> None:
        """Say that a copy was read, and why: never silently."""
        first = self.places[0].name
        if place.name == first:
            return
        if first in met:
            why = str(met[first])
        else:
            is_wrong = first in self._wrong.get(key, ())
            why = "its bytes were wrong" if is_wrong else "it did not answer shortly before"
        await self._journal.read_elsewhere(place.name, key, why)

    def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        return self.first.list(prefix)

    def locking(self) -> Locking | None:
        return self.first.locking()

    async def retain(self, key: str, until: datetime) -> None:
        await self._each(key, lambda vault: vault.retain(key, until))

    async def hold(self, key: str, on: bool) -> None:
        await self._each(key, lambda vault: vault.hold(key, on))

    async def locked_until(self, key: str) -> Lock | None:
        return await self.first.locked_until(key)

    async def prove_lock(self) -> LockProof:
        return await self.first.prove_lock()

    def uncover(self, prefix: str = "") -> AsyncGenerator[str, None]:
        return self.first.uncover(prefix)

    async def _each(self, key: str, work: Callable[[Vault], Awaitable[None]]) -> None:
        """Lock an object in the first, and in each copy that locks and has it by now.

        A copy that is away, or gets the object later, locks it when upkeep looks at it again.
        """
        await work(self.first)
        for one in self.copies:
            if one.vault.locking() is None or self.is_away(one.name):
                continue
            try:
                await _within(LOCKED_WITHIN, work(one.vault), one)
            except NoSuchObject:
                continue
            except _AWAY as error:
                self._met(one, error)

    def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        return self.first.hidden(prefix)

    async def give_up(self, key: str) -> None:
        await self.first.give_up(key)

    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        return await self.first.unfinished(prefix)

    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        if self.copies and self.is_away(self.places[0].name):
            return None  # who passes the bytes on reads them wherever they are
        return await self.first.presign(key, expires, filename)

    async def presign_put(self, key: str, expires: timedelta, size: int, sha256: bytes) -> PutLink | None:
        """None also for what the copies would have to get: a browser sends nothing to them."""
        if not key.startswith(layout.EXPORTS) or self.copies and self.is_away(self.places[0].name):
            return None
        return await self.first.presign_put(key, expires, size, sha256)

    async def kept_sha256(self, key: str) -> bytes | None:
        return await self.first.kept_sha256(key)

    async def capabilities(self) -> Capabilities:
        return await self.first.capabilities()

    async def now(self) -> datetime | None:
        return await self.first.now()

    async def probe(self) -> None:
        await self.first.probe()

    async def recognise(self) -> None:
        await self.first.recognise()

    def expect(self, identity: UUID) -> None:
        self.first.expect(identity)

    def directory(self) -> Path | None:
        return self.first.directory()

    def describe(self) -> str:
        return self.first.describe()

    async def aclose(self) -> None:
        """Let go of reads that no store ever answered; the stores are closed by who opened them."""
        for task in list(self._abandoned):
            task.cancel()


class _Noting:
    """A Writer whose commit is told to the journal."""

    def __init__(self, writer: Writer, stored: Callable[[], Awaitable[None]]) -> None:
        self._writer, self._stored = writer, stored

    async def write(self, data: bytes) -> None:
        await self._writer.write(data)

    async def commit(self) -> Sealed | None:
        stored = await self._writer.commit()
        await self._stored()
        return stored


async def _first_of(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    """The first bytes. None: there are none."""
    async for chunk in chunks:
        return chunk
    return None


async def _ended(beginning: "asyncio.Task[bytes | None]", chunks: AsyncGenerator[bytes, None]) -> None:
    """Wait for the end of a read that nobody waits for, and close it."""
    await asyncio.wait([beginning])
    with suppress(EverrefError, asyncio.CancelledError, RuntimeError):
        await chunks.aclose()
    if not beginning.cancelled():
        beginning.exception()


async def _within(bound: float | None, work: Awaitable[T], place: Place) -> T:
    if bound is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([task], timeout=bound)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    task.add_done_callback(lambda ended: None if ended.cancelled() else ended.exception() and None)
    raise NetworkError(f"{place.vault.describe()} did not answer within {bound:g} s")


def _is_settled(met: dict[str, EverrefError], place: Place) -> bool:
    """Whether this store has said already that it has no such object, or wrong bytes."""
    return isinstance(met.get(place.name), NoSuchObject | Corrupt)
