"""Recognising the vault: its marker identifies it, and the database knows which vault it belongs to.

Who calls: vault/edge, before a process's first request to the vault, and in each probe.
"""

from contextlib import aclosing
from uuid import UUID, uuid4

from mirror.core.errors import AlreadyExists, EverrefError, NetworkError, NoSuchObject
from mirror.core.formats import layout, marker
from mirror.store.database import Db
from mirror.store.upkeep import locks, vaults
from mirror.vault.contract import Vault


async def recognise(db: Db, vault: Vault) -> UUID:
    """Return the vault's identity, and store it in the database.

    Raises NetworkError, as for a vault that is unavailable, if this is not the vault that the
    database belongs to; nothing is written then.

    1. The database knows an identity: the marker must say the same, as it is or as it was first stored.
    2. It knows none but has snapshots, because it is older than markers: the vault must
       have the manifest of one of the latest snapshots.
    3. A vault without a marker gets one; the database takes over what the marker says.

    Safe to run twice, at the same time, and after a killed run: all write the same marker.
    """
    found = await _marker(vault)
    if (known := await vaults.known(db)) is None:
        await _check_history(db, vault)
        if found is None:
            found = await _mark(db, vault)
        known = await vaults.know(db, marker.decode(found))
    elif not _is_right(found, known):
        found = await _brought_back(db, vault, found)
    marker.check(found, known, vault.describe())
    return known


def _is_right(found: bytes | None, known: UUID) -> bool:
    try:
        return found is not None and marker.decode(found) == known
    except EverrefError:
        return False


async def _brought_back(db: Db, vault: Vault, found: bytes | None) -> bytes | None:
    """The marker as it was first stored, where somebody hid or overwrote it in a bucket that keeps versions.

    Whoever did that had the bucket's key, so all other objects are looked at as soon as possible.
    """
    async with aclosing(vault.uncover(layout.MARKER)) as keys:
        if not [key async for key in keys]:
            return found
    await locks.look_again(db, vault.describe())
    return await _marker(vault)


async def _marker(vault: Vault) -> bytes | None:
    try:
        return await vault.get(layout.MARKER, limit=marker.LIMIT)
    except NoSuchObject:
        return None


async def _check_history(db: Db, vault: Vault) -> None:
    newest = await vaults.newest(db)
    for repo_id, number in newest:
        for is_sealed in (False, True):
            if await vault.stat(layout.manifest_key(repo_id, number, is_sealed)):
                return
    if newest:
        raise NetworkError(
            f"{vault.describe()} has none of the snapshots that the database knows; is its disk mounted,"
            " and VAULT_URL right? Nothing is written there"
        )


async def _mark(db: Db, vault: Vault) -> bytes:
    try:
        await vault.put(layout.MARKER, marker.encode(await vaults.propose(db, uuid4())))
    except AlreadyExists:
        pass  # another process began at the same moment
    return await vault.get(layout.MARKER, limit=marker.LIMIT)
