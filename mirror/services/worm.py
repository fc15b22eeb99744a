"""Refusing to write to a store that does not enforce Object Lock, where REQUIRE_WORM is on.

Who calls: vault/edge, before what would be written. What was stored before can still be read and restored.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from mirror.core.errors import Refused
from mirror.store.database import Db
from mirror.store.upkeep import locks
from mirror.store.upkeep.locks import Proved
from mirror.vault.contract import Vault

LASTS: Final = timedelta(days=2)  # a proof; the sweep makes another each day
AGAIN: Final = timedelta(minutes=10)  # after which a store that failed is tried again
_REMEMBERED: Final = timedelta(minutes=1)  # in this process, so that not every write asks the database


async def prove(db: Db, vault: Vault, at: datetime) -> Proved:
    """Try to break the locks of a store, and record what came of it.

    Safe to run twice: each attempt has its own canaries. Raises Refused where nothing is locked there.
    """
    locking = vault.locking()
    if locking is None:
        raise Refused(f"{vault.describe()} locks nothing; set VAULT_LOCK, such as compliance:90d")
    await locks.record(db, vault.describe(), locking, await vault.prove_lock(), at)
    found = await locks.proved(db, vault.describe())
    assert found is not None
    return found


class Worm:
    """Whether a store was proved to enforce Object Lock; proves it where nobody has lately."""

    def __init__(self, db: Db, clock: Callable[[], datetime]) -> None:
        self._db, self._clock = db, clock
        self._known: dict[str, datetime] = {}  # stores that enforce it, and when that was read
        self._proving = asyncio.Lock()

    async def check(self, vault: Vault) -> None:
        """Raise Refused unless the store was found to enforce Object Lock; says what it let happen."""
        now, place = self._clock(), vault.describe()
        if place in self._known and abs(now - self._known[place]) < _REMEMBERED:
            return
        async with self._proving:
            found = await locks.proved(self._db, place)
            lasts = AGAIN if found and found.failed else LASTS
            if found is None or found.locking != str(vault.locking()) or abs(now - found.at) >= lasts:
                found = await prove(self._db, vault, now)
        if found.failed:
            raise Refused(
                f"REQUIRE_WORM: {place} does not enforce Object Lock ({found.failed[0]}); nothing is written"
                " there: see everref doctor, and use a bucket that does"
            )
        self._known[place] = now
