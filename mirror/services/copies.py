"""The stores of the vault as this installation has them: opened, recognised, and their journal.

Who calls: services/open, for everything that goes to the vault; upkeep/copies, which has the copies follow.
"""

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mirror.core import config
from mirror.core.config import Settings
from mirror.core.errors import AlreadyExists, EverrefError, NetworkError, NoSuchObject, Refused, UsageError
from mirror.core.formats import layout, marker
from mirror.services import vault_marker
from mirror.services.worm import Worm
from mirror.store.database import Db
from mirror.store.upkeep import copies, vaults
from mirror.vault.contract import Vault
from mirror.vault.copies import Copies, Order, Place
from mirror.vault.edge import Recognise
from mirror.vault.open import open_vault

if TYPE_CHECKING:
    from mirror.services.open import Services

NAME: Final = "copy.json"  # the object by which a copy says what it is called; no other store has it
_LIMIT: Final = 4096  # bytes of it

log = logging.getLogger("mirror.copies")


def all(services: "Services") -> Sequence[Place]:
    """Every store that holds objects of the vault, the first of them first: whoever erases asks each."""
    return services.copies.places


class Journal:
    """The journal of the stores, in the database."""

    def __init__(self, db: Db, names: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._db, self._names, self._clock = db, names, clock

    async def begins(self, key: str, wanted: str) -> Order:
        if len(self._names) == 1:
            return Order(self._names[0])
        return Order(*await copies.begins(self._db, self._names, self._names[0], key, wanted, self._clock()))

    async def stored(self, key: str) -> None:
        """What the database cannot be told is found by `copies.BEGUN`, so the object counts all the same."""
        if len(self._names) > 1:
            try:
                await copies.stored(self._db, key, self._clock())
            except EverrefError as error:
                log.warning("copies get %s a minute later: %s", key, error)

    async def dropped(self, key: str) -> None:
        if len(self._names) > 1:
            await copies.dropped(self._db, key)

    async def read_elsewhere(self, name: str, key: str, why: str) -> None:
        log.warning("%s was read from the copy %s: %s", key, name, why)
        try:
            await copies.read_elsewhere(self._db, name, why, self._clock())
        except EverrefError as error:
            log.warning("it could not be counted that a copy was read: %s", error)


@asynccontextmanager
async def opened(
    settings: Settings, db: Db, root: Path, clock: Callable[[], datetime]
) -> AsyncIterator[Copies]:
    """The vault of these settings in all its stores; the one of the last switch is the first.

    Raises UsageError where the settings do not name that one.
    """
    here = config.Place(settings.vault_name, settings.vault_url)
    first = await copies.first(db) or here.name
    places = sorted((here, *settings.vault_copies), key=lambda one: one.name != first)
    if places[0].name != first:
        raise UsageError(
            f"everref vault switch made {first} the first vault, which the settings do not name; "
            f"name it there, as in VAULT_URL={first}=URL"
        )
    permit = Worm(db, clock).check if settings.require_worm else None
    opening = partial(open_vault, data_dir=root, locking=settings.vault_lock, permit=permit, clock=clock)
    async with _each(places, db, opening) as found:
        if len(found) > 1:
            await copies.register(db, {one.name: one.vault.describe() for one in found}, clock())
        stored = Copies(found, Journal(db, [here.name, *(one.name for one in settings.vault_copies)], clock))
        try:
            yield stored
        finally:
            await stored.aclose()


@asynccontextmanager
async def _each(
    places: Sequence[config.Place], db: Db, opening: Callable[..., AbstractAsyncContextManager[Vault]]
) -> AsyncIterator[list[Place]]:
    if not places:
        yield []
        return
    *before, last = places
    async with _each(before, db, opening) as found:
        recognise: Recognise = partial(_recognise_first, db, last.name)
        if before:
            recognise = partial(_recognise_copy, db, last.name, found[0].vault)
        is_begun = await (copies.is_marked(db, last.name) if before else vaults.is_begun(db))
        async with AsyncExitStack() as stack:
            try:
                vault = await stack.enter_async_context(
                    opening(last.url, recognise=recognise, make=not is_begun)
                )
            except (
                Refused,
                UsageError,
            ):  # a disk that is not mounted yet: the copy is away, and all else works
                if not before:
                    raise
                vault = await stack.enter_async_context(opening(last.url, recognise=recognise, make=False))
            yield [*found, Place(last.name, vault)]


async def _recognise_first(db: Db, name: str, vault: Vault) -> UUID:
    """As any vault; but a store that says that it is a copy, and that no switch made the first, is not it."""
    identity = await vault_marker.recognise(db, vault)
    called = await _called(vault)
    if called is not None and called != name and await copies.is_marked(db, called):
        raise NetworkError(
            f"{vault.describe()} is the copy {called} of this vault, not the first; correct VAULT_URL or "
            f"VAULT_COPIES, or write VAULT_URL={called}=URL if it is the first now"
        )
    return identity


async def _recognise_copy(db: Db, name: str, first: Vault, vault: Vault) -> UUID:
    """See that a store is this copy of this vault; an empty one becomes it, once.

    Raises NetworkError, as for a store that is away, otherwise: nothing is written there then. Safe to
    run twice, also at once: all write the same.
    """
    known = await vaults.known(db)
    if known is None:
        raise NetworkError("the first vault was not used yet; its copies are made after that")
    found = await _get(vault, layout.MARKER)
    if found is None:
        if await copies.is_marked(db, name):
            marker.check(None, known, vault.describe())
        async for stat in vault.list():
            raise NetworkError(
                f"{vault.describe()} has objects ({stat.key}) and no vault.json, so it is no copy of this "
                "vault; name an empty place. Nothing is written there"
            )
        await _put(vault, layout.MARKER, marker.encode(known))
        found = await vault.get(layout.MARKER, limit=marker.LIMIT)
    marker.check(found, known, vault.describe())
    called = await _called(vault)
    if called is None:
        await _put(vault, NAME, json.dumps({"format": 1, "vault": str(known), "copy": name}).encode() + b"\n")
        called = await _called(vault)
    if called != name:
        raise NetworkError(
            f"{vault.describe()} is the copy {called} of this vault, not {name}; correct VAULT_COPIES. "
            "Nothing is written there"
        )
    if not await copies.is_marked(db, name):
        if await _called(first) == name:
            await vault.delete(NAME)
            raise NetworkError(
                f"{vault.describe()} is the same place as the first vault; name another one in VAULT_COPIES"
            )
        await copies.set_marked(db, name)
    return known


async def pair(source: Vault, target: Vault) -> UUID:
    """See that two stores are the same vault; an empty target becomes it. Raises Refused, Corrupt."""
    there = await _get(source, layout.MARKER)
    if there is None:
        raise Refused(f"{source.describe()} has no vault.json, so it is no vault of Everref")
    identity = marker.decode(there)
    here = await _get(target, layout.MARKER)
    if here is None:
        async for stat in target.list():
            raise Refused(
                f"{target.describe()} has objects ({stat.key}) and no vault.json; name an empty place"
            )
        await _put(target, layout.MARKER, there)
        here = await target.get(layout.MARKER, limit=marker.LIMIT)
    if (other := marker.decode(here)) != identity:
        raise Refused(f"{target.describe()} is vault {other}, and {source.describe()} is vault {identity}")
    return identity


async def _called(vault: Vault) -> str | None:
    """What a store says that it is called. None: nothing, so it was never a copy."""
    found = await _get(vault, NAME)
    try:
        return None if found is None else str(json.loads(found)["copy"])
    except (ValueError, KeyError, TypeError):
        return "(unreadable)"


async def _get(vault: Vault, key: str) -> bytes | None:
    try:
        return await vault.get(key, limit=_LIMIT)
    except NoSuchObject:
        return None


async def _put(vault: Vault, key: str, data: bytes) -> None:
    try:
        await vault.put(key, data)
    except AlreadyExists:
        pass  # another process did it at the same moment
