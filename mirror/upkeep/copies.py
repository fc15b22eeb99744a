"""The copies of the vault: brought up to date, compared with the first, read back, and healed.

Who calls: the sweep, every minute; the commands `everref vault`. What a copy is to get or to lose was noted
before the first store was written (vault/copies), so this goes on wherever anything was killed. Nothing in a
copy is deleted because the first lacks it: only what was deleted on purpose, which the notes say, goes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mirror.core.errors import (
    AlreadyExists,
    BadCredentials,
    Corrupt,
    EverrefError,
    Locked,
    NetworkError,
    NoSuchObject,
    Origin,
)
from mirror.core.formats import layout
from mirror.core.model import Sealed
from mirror.core.rules.health import proving
from mirror.services import failpoints
from mirror.services.copies import NAME
from mirror.services.open import Services
from mirror.store.upkeep import copies
from mirror.store.upkeep.copies import Due, Sum
from mirror.vault import streams
from mirror.vault.contract import Stat, Vault
from mirror.vault.copies import Place

EVERY: Final = timedelta(minutes=1)
LISTED: Final = timedelta(days=1)  # after which a copy is compared with the first again
READ_DAYS: Final = 30  # within which what belongs to no repo is read back, as a team's default is
OF_ALL: Final = ("state/", "evidence/")  # what belongs to no repo
AWAY: Final = timedelta(minutes=1)  # before a store that did not answer is tried again for the same object
_AT_ONCE: Final = 8  # objects on their way to one copy
_BATCH: Final = 64  # taken from the database at a time
_SOME: Final = 500  # keys of which the database is asked at a time
_NAMED: Final = 20  # keys of a comparison that are kept to be shown

log = logging.getLogger("mirror.copies")


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison of two listings found."""

    name: str
    objects: int  # in the copy
    bytes: int
    missing: int  # objects of the first that it lacks; they are on their way now
    different: tuple[str, ...]  # keys whose sizes differ, some of them
    extra: int  # objects that the first does not have, and nobody deleted
    returned: tuple[str, ...]  # keys that the first had lost, and has again


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What reading a copy found."""

    objects: int
    bytes: int
    problems: tuple[str, ...]

    def __add__(self, other: "ReadBack") -> "ReadBack":
        return ReadBack(
            self.objects + other.objects, self.bytes + other.bytes, self.problems + other.problems
        )


NOTHING: Final = ReadBack(0, 0, ())


async def due(services: Services) -> None:
    """Bring every copy up to date, and compare those whose time it is. One that fails stops no other.

    Safe to run twice, also at once, and to kill: an object is noted until the copy has it, and creating one
    that is there changes nothing.
    """
    if services.copies.copies:
        await order(services)
        await asyncio.gather(*(_tend(services, place) for place in services.copies.places))


async def order(services: Services) -> None:
    """Take the order of the last switch: this process may not have written anything since."""
    if first := await copies.first(services.db):
        services.copies.reorder(first)


async def _tend(services: Services, place: Place) -> None:
    try:
        if is_copy(services, place):
            if not await answers(services, place):
                return
            if await _is_to_be_listed(services, place):
                await compare(services, place)
        await follow(services, place)
    except EverrefError as error:
        log.warning("the copy %s: %s", place.name, error)


def is_copy(services: Services, place: Place) -> bool:
    """Whether this store is not the first."""
    return place.name != services.copies.places[0].name


async def answers(services: Services, place: Place) -> bool:
    """Whether a copy is there and is the right one, as the database is told."""
    try:
        await place.vault.recognise()
    except EverrefError as error:
        if error.origin is not Origin.VAULT:
            raise
        await copies.away(services.db, place.name, str(error), services.clock())
        log.warning("the copy %s is away: %s", place.name, error)
        return False
    if await copies.back(services.db, place.name):
        log.warning("the copy %s is available again", place.name)
    return True


async def _is_to_be_listed(services: Services, place: Place) -> bool:
    (found,) = await copies.standing(services.db, [place.name])
    return found.listed_at is None or services.clock() - found.listed_at >= LISTED


async def follow(services: Services, place: Place) -> int:
    """Do what was noted for a store, until nothing is due; how many objects it got or lost."""
    total, began = 0, services.clock()
    while batch := await copies.claim(services.db, place.name, began, _BATCH):
        sums = await copies.sums(services.db, [one.key for one in batch])
        for start in range(0, len(batch), _AT_ONCE):
            some = batch[start : start + _AT_ONCE]
            done = await asyncio.gather(*(_follow(services, place, one, sums.get(one.key)) for one in some))
            total += sum(done)
    return total


async def _follow(services: Services, place: Place, one: Due, sum_: Sum | None) -> bool:
    """Have a store get or lose one object; whether it has."""
    now = services.clock()
    try:
        if one.wanted == "delete":
            return await _lose(services, place, one)
        await bring(services, place, one.key, sum_, again=one.again)
    except NoSuchObject as error:
        if one.stored:  # it went before it was copied, or the first lost it, as a comparison will find
            await copies.later(services.db, place.name, one.key, str(error), now + LISTED)
        elif now - one.since > copies.GIVEN_UP:  # who was to store it was killed
            await copies.followed(services.db, place.name, one)
        else:
            await copies.later(services.db, place.name, one.key, None, now + _patience(one))
        return False
    except Differs as error:
        await copies.found_damaged(services.db, place.name, one.key, str(error), now)
        if one.again:
            await copies.later(services.db, place.name, one.key, str(error), now + LISTED)
        return False
    except Locked as locked:
        until = locked.until or now + LISTED
        await copies.later(services.db, place.name, one.key, str(locked), until)
        return False
    except EverrefError as error:
        await copies.later(services.db, place.name, one.key, str(error), now + _patience(one))
        return False
    failpoints.reached("copies: stored")
    await copies.followed(services.db, place.name, one)
    return True


def _patience(one: Due) -> timedelta:
    """How long to wait before the next try: longer each time, half an hour at the most."""
    return min(AWAY * (1 << min(one.tries - 1, 5)), timedelta(minutes=30))


async def _lose(services: Services, place: Place, one: Due) -> bool:
    """Delete from a copy what the first no longer has: never what it still has."""
    first = services.copies.places[0]
    now = services.clock()
    if is_copy(services, place) and await first.vault.stat(one.key) is not None:
        if not one.stored and now - one.since > copies.GIVEN_UP:
            await copies.followed(services.db, place.name, one)
        else:
            await copies.later(services.db, place.name, one.key, None, now + _patience(one))
        return False
    await place.vault.delete(one.key)
    failpoints.reached("copies: deleted")
    await copies.followed(services.db, place.name, one)
    return True


class Differs(Corrupt):
    """A store has other bytes under a key than the others."""


async def bring(services: Services, place: Place, key: str, sum_: Sum | None, *, again: bool = False) -> int:
    """Copy an object to a store from the first, or from another that has it as it was recorded; its bytes.

    With `again`, what is there is replaced, once the sum proves that another store has the right bytes.
    Raises NoSuchObject; Corrupt where no store has the recorded bytes; Differs where nothing says which of
    two objects is right. Safe to run twice, also at once: an object is created whole or not at all.
    """
    sources = sorted(
        (one for one in services.copies.places if one.name != place.name),
        key=lambda one: is_copy(services, one),
    )
    problem: EverrefError | None = None
    for source in sources:
        try:
            return await copy(source.vault, place.vault, key, sum_, again=again)
        except (Differs, Locked):
            raise
        except (Corrupt, NoSuchObject, NetworkError) as error:
            problem = problem or error
    assert problem is not None, "a store has others beside it"
    raise problem


async def copy(source: Vault, target: Vault, key: str, sum_: Sum | None, *, again: bool = False) -> int:
    """Copy an object from one store to another; its bytes. Raises as `bring`."""
    there = await target.stat(key)
    here = await source.stat(key)
    if here is None:
        raise NoSuchObject(f"{key} is not in {source.describe()}")
    if there is not None:
        if not again and there.bytes == here.bytes:
            return 0
        right = None if sum_ is None else Sealed(here.bytes, sum_.sha256)
        if right is None or await streams.sum_of(source.read(key)) != right:
            raise Differs(f"{key} has {there.bytes} bytes here and {here.bytes} in {source.describe()}")
        if await streams.sum_of(target.read(key)) == right:
            return 0  # it was healed meanwhile
        await target.delete(key)
        failpoints.reached("copies: damaged one deleted")
    found: Sealed | None = None
    try:
        async with target.create(key) as writer:
            found = await streams.write(writer, source.read(key))
            if not _is(sum_, found, here.bytes):
                raise Corrupt(f"{key} in {source.describe()} is not as it was stored; it is not copied")
            await writer.commit()
    except AlreadyExists:
        if found is None or await streams.sum_of(target.read(key)) != found:
            raise Differs(f"{key} was stored with other bytes at the same moment") from None
    return found.bytes


def _is(sum_: Sum | None, found: Sealed, listed: int) -> bool:
    if sum_ is None:
        return found.bytes == listed
    return found.sha256 == sum_.sha256 and sum_.bytes in (None, found.bytes)


async def compare(services: Services, place: Place) -> Compared:
    """Compare a copy with the first by their listings, and note what it lacks.

    What the first lost and the database knows goes back there from the copy, where its sum proves it; it is
    created anew, so nothing is overwritten. What else a copy has more is only counted. Safe to run twice.
    """
    now = services.clock()
    first = services.copies.first
    missing, different, extra, returned = list[str](), list[str](), list[str](), list[str]()
    objects = size = total = 0
    async for key, here, there in _both(first, place.vault):
        if there:
            objects, size = objects + 1, size + there.bytes
        if here and there and here.bytes != there.bytes:
            different.append(key)
        elif here and not there:
            missing.append(key)
            total += 1
            if len(missing) == _SOME:
                await copies.want(services.db, place.name, missing, now)
                missing = []
        elif there and not here:
            extra.append(key)
        services.progress.advance(1)
    await copies.want(services.db, place.name, missing, now)
    for key in different:
        await _judge(services, place, key)
    unknown = 0
    for start in range(0, len(extra), _SOME):
        some = extra[start : start + _SOME]
        sums = await copies.sums(services.db, some)
        for key in some:
            if key in sums and await _give_back(services, place, key, sums[key]):
                returned.append(key)
            elif await first.stat(key) is None:
                unknown += 1
    await copies.listed(services.db, place.name, objects, size, unknown, now)
    return Compared(place.name, objects, size, total, tuple(different[:_NAMED]), unknown, tuple(returned))


async def _both(one: Vault, other: Vault) -> AsyncIterator[tuple[str, Stat | None, Stat | None]]:
    """Every key of either, in order, with what each says of it."""
    async with aclosing(one.list()) as mine, aclosing(other.list()) as theirs:
        here, there = await anext(mine, None), await anext(theirs, None)
        while here or there:
            key = min(one.key for one in (here, there) if one)
            yielded = (
                key,
                here if here and here.key == key else None,
                there if there and there.key == key else None,
            )
            if yielded[1]:
                here = await anext(mine, None)
            if yielded[2]:
                there = await anext(theirs, None)
            if key != NAME and not key.startswith(layout.EXPORTS):
                yield yielded


async def _judge(services: Services, place: Place, key: str) -> None:
    """Two stores have objects of other sizes: the copy's is damaged, unless its sum is the recorded one."""
    sum_ = (await copies.sums(services.db, [key])).get(key)
    try:
        if sum_ and (await streams.sum_of(place.vault.read(key))).sha256 == sum_.sha256:
            return  # it is the first that is damaged, as the rotation will find
    except NoSuchObject:
        return
    problem = "its size is not that of the same object in the first vault"
    await copies.found_damaged(services.db, place.name, key, problem, services.clock())


async def _give_back(services: Services, place: Place, key: str, sum_: Sum) -> bool:
    """Bring to the first what it lost, if the copy has the recorded bytes; whether it did."""
    first = services.copies.places[0]
    if await first.vault.stat(key) is not None:
        return False  # it came meanwhile
    try:
        await copy(place.vault, first.vault, key, sum_)
    except (Corrupt, NoSuchObject) as error:
        log.warning("%s is missing from the first vault, and not as it was in the copy: %s", key, error)
        return False
    log.warning("%s was missing from the first vault and came back from the copy %s", key, place.name)
    return True


async def came_back(services: Services, keys: Collection[str]) -> str | None:
    """Bring one of these to the first vault, which lost it, as a copy has it; which copy. None: none has it.

    Its recorded sum decides. Safe to run twice: it is created, and nothing is overwritten.
    """
    for key, sum_ in (await copies.sums(services.db, keys)).items():
        for place in services.copies.copies:
            try:
                await copy(place.vault, services.copies.first, key, sum_)
            except (Corrupt, NoSuchObject, NetworkError, BadCredentials) as error:
                log.warning("%s does not come back from the copy %s: %s", key, place.name, error)
            else:
                return place.name
    return None


async def under(services: Services, place: Place, key: str, new: str, sum_: Sealed) -> None:
    """Store an object of a copy in the vault under another key, if it has the recorded bytes.

    Raises Corrupt, and stores nothing, if it has not; NoSuchObject.
    """
    async with services.copies.create(new) as writer:
        if await streams.write(writer, place.vault.read(key)) != sum_:
            raise Corrupt(f"{key} in {place.vault.describe()} is not as it was stored")
        await writer.commit()


async def read_again(services: Services) -> None:
    """Read back what is due of each copy, no faster than need be. Safe to run twice, and to kill."""
    for place in services.copies.copies:
        try:
            now = services.clock()
            if not await copies.may_read(services.db, place.name, now):
                continue
            prefix = await copies.next_to_read(services.db, place.name, OF_ALL, now, READ_DAYS)
            if prefix is not None:
                await read_prefix(services, place, prefix)
        except EverrefError as error:
            log.warning("reading the copy %s again: %s", place.name, error)


async def read_all(services: Services, place: Place) -> ReadBack:
    """Read every stored byte of a copy now."""
    return await _read(services, place, "")


async def read_prefix(services: Services, place: Place, prefix: str) -> ReadBack:
    """Read everything of a copy under a prefix, and record it."""
    found = await _read(services, place, prefix)
    (known,) = await copies.standing(services.db, [place.name])
    now = services.clock()
    rate = proving.rate((known.bytes or 0) / READ_DAYS)
    pause = timedelta(seconds=found.bytes / rate)
    await copies.read_back(services.db, place.name, prefix, found.bytes, found.objects, now, now + pause)
    return found


async def _read(services: Services, place: Place, prefix: str) -> ReadBack:
    total, some = NOTHING, list[Stat]()
    async with aclosing(place.vault.list(prefix)) as found:
        async for stat in found:
            if stat.key != NAME and not stat.key.startswith(layout.EXPORTS):
                some.append(stat)
            if len(some) == _SOME:
                total += await _read_some(services, place, some)
                some = []
    return total + await _read_some(services, place, some)


async def _read_some(services: Services, place: Place, some: Sequence[Stat]) -> ReadBack:
    """Read these, and note which are damaged: not as recorded, or, where nothing is, not as in the first."""
    sums = await copies.sums(services.db, [one.key for one in some])
    size, problems = 0, list[str]()
    for stat in some:
        try:
            found = await streams.sum_of(place.vault.read(stat.key))
            right = sums.get(stat.key) or await streams.sum_of(services.copies.first.read(stat.key))
        except NoSuchObject:
            continue  # it was deleted since; or the first lacks it, which comparing tells
        services.progress.advance(found.bytes)
        size += found.bytes
        if found.sha256 != right.sha256:
            problem = f"expected sha256 {right.sha256}, found {found.sha256}"
            problems.append(f"{stat.key}: {problem}")
            log.warning("damaged in the copy %s: %s: %s", place.name, stat.key, problem)
            await copies.found_damaged(services.db, place.name, stat.key, problem, services.clock())
    return ReadBack(len(some), size, tuple(problems))
