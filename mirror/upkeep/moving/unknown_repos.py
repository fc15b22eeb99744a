"""Noticing repos in the vault that this database does not know, because an earlier database was lost.

Who calls: the worker, whenever it has recognised the vault; `everref repos`, `everref doctor`, and a rebuild.
"""

import json
from contextlib import aclosing
from typing import Final

from mirror.core.errors import NoSuchObject
from mirror.core.formats import layout
from mirror.core.model import RepoId
from mirror.services.open import Services
from mirror.store.upkeep import vaults
from mirror.upkeep import state

_OBJECTS: Final = 1000  # that are read: one page of a bucket's listing


async def look(services: Services) -> int:
    """Estimate how many repos the vault has that this database does not know, and store the number.

    The first objects in the vault show their repos. If there are more objects, the newest
    state of an earlier database says how many repos that had. From now on pages read
    the number from the database. Safe to run twice.
    """
    number, is_all = await _found(services)
    if not is_all:
        number = max(number, await _told(services))
    await vaults.set_unknown(services.db, number)
    return number


async def _told(services: Services) -> int:
    """The number of repos in a state that was not imported."""
    foreign = await state.foreign(services)
    if not foreign:
        return 0
    try:
        about = json.loads(await services.vault.get(layout.state_about_key(foreign[-1])))
        return max(0, int(about["tables"]["repo"]))
    except (NoSuchObject, ValueError, KeyError, TypeError):  # of a run that was killed, or nothing of ours
        return 0


async def _found(services: Services) -> tuple[int, bool]:
    """The number of unknown, described repos among the first objects, and whether these were all objects."""
    seen, left = set[RepoId](), _OBJECTS
    async with aclosing(services.vault.list()) as objects:
        async for stat in objects:
            if repo_id := layout.repo_of(stat.key):
                seen.add(repo_id)
            left -= 1
            if not left:
                break
    unknown = await vaults.unknown_of(services.db, seen)
    number = sum([await _is_described(services, one) for one in unknown])
    return number, left > 0


async def _is_described(services: Services, repo_id: RepoId) -> bool:
    for is_sealed in (False, True):
        if await services.vault.stat(layout.sealed(layout.repo_file(repo_id), is_sealed)) is not None:
            return True
    return False
