"""Noticing that the vault has repos which this database does not know: the one before it was lost.

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

_OBJECTS: Final = 1000  # that are looked at: one page of a bucket's listing


async def look(services: Services) -> int:
    """How many repos the vault has that this database does not know, as far as a glance at it tells.

    The first objects of the vault tell of their repos. Where there are more objects, the newest
    state of a database before this one says how many repos that had. From now on pages have
    the number from the database. Safe to run twice.
    """
    number, is_all = await _found(services)
    if not is_all:
        number = max(number, await _told(services))
    await vaults.set_unknown(services.db, number)
    return number


async def _told(services: Services) -> int:
    """How many repos a state has that was not taken up."""
    strange = await state.strange(services)
    if not strange:
        return 0
    try:
        about = json.loads(await services.vault.get(layout.state_about_key(strange[-1])))
        return max(0, int(about["tables"]["repo"]))
    except (NoSuchObject, ValueError, KeyError, TypeError):  # of a run that was killed, or nothing of ours
        return 0


async def _found(services: Services) -> tuple[int, bool]:
    """How many of the first objects' repos were described and are not known here; whether that is all."""
    seen, left = set[RepoId](), _OBJECTS
    async with aclosing(services.vault.list()) as objects:
        async for stat in objects:
            if repo_id := layout.repo_of(stat.key):
                seen.add(repo_id)
            left -= 1
            if not left:
                break
    unknown = await vaults.unknown_of(services.db, seen)
    number = sum([await services.vault.stat(layout.repo_file(one)) is not None for one in unknown])
    return number, left > 0
