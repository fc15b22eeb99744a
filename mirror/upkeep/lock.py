"""Extending the locks of what is kept before they end, and bringing back what somebody hid or overwrote.

Who calls: the sweep, as a maintenance task. What retention dropped or compaction replaced is not extended:
its lock ends by itself, and the next prune deletes it.
"""

import asyncio
import logging
import math
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from typing import Final

from mirror.core.errors import EverrefError, NetworkError, NoSuchObject
from mirror.core.formats import layout
from mirror.core.locks import Locking
from mirror.core.model import RepoId
from mirror.core.words import count
from mirror.services import failpoints, worm
from mirror.services.open import Services
from mirror.store.backup import parts
from mirror.store.upkeep import keeping, locks, reseal
from mirror.store.upkeep.locks import Pass
from mirror.vault.contract import Vault

LOOKED: Final = timedelta(days=1)  # between two looks for what was hidden or overwritten
TURN_SECONDS: Final = 50.0  # after which a turn begins nothing more; the next one comes within minutes
# Objects that belong to no repo. Exports of the state are locked when they are made, and replaced daily.
_OTHERS: Final = ("evidence/", layout.MARKER, layout.README, layout.RESTORE)
_AT_ONCE: Final = 16  # requests
_SKEW: Final = timedelta(hours=1)  # by which the clock of a store may differ
_SAVED: Final = 256  # objects between two times that it is recorded how far a pass came

log = logging.getLogger("mirror.lock")


async def prove(services: Services) -> None:
    """Try each day whether the stores that lock still enforce it. A maintenance task.

    Safe to run twice: each attempt has its own canaries. One store that is away stops no other.
    """
    for vault in _locking(services):
        try:
            found = await worm.prove(services.db, vault, services.clock())
        except EverrefError as error:
            log.warning("it could not be tried whether locks hold in %s: %s", vault.describe(), error)
            continue
        for what in found.failed:
            log.error("%s does not enforce Object Lock: %s", vault.describe(), what)
        for what in found.hazards:
            log.warning("the settings of %s endanger what is locked: %s", vault.describe(), what)


async def extend(services: Services) -> None:
    """One turn, as a maintenance task."""
    await turn(services)


async def turn(services: Services, *, at_once: bool = False) -> int:
    """Extend the locks that are due in each store, those that end first before all others; returns how many.

    A lock is due when half of its period is left, so that Everref may be away for as long. `at_once`: go on
    until nothing is due. Safe to run twice, also at once, and to kill: a lock is never shortened, and a pass
    goes on after the last key that was recorded. One store that is away stops no other; raises its error in
    the end.
    """
    clock = asyncio.get_running_loop().time
    until, extended, failure = math.inf if at_once else clock() + TURN_SECONDS, 0, None
    for vault in _locking(services):
        try:
            while clock() < until and (one := await _due(services, vault)):
                extended += await _work(services, vault, one)
        except EverrefError as error:
            log.warning("locks in %s could not be extended: %s", vault.describe(), error)
            failure = failure or error
    if failure:
        raise failure
    return extended


async def hold(services: Services) -> None:
    """Set the store's legal hold on every object of a repo that is on hold, and lift it elsewhere.

    A maintenance task, level-triggered: objects that came since are held by the next run. Safe to run twice
    and to kill: the row is there before the first hold is set, and goes after the last was lifted.
    """
    wanted = {one.repo_id for one in await keeping.held(services.db)}
    for vault in [one.vault for one in services.copies.places]:
        try:
            place = vault.describe()
            marked = await locks.held(services.db, place)
            if not (wanted or marked) or not (await vault.capabilities()).object_lock:
                continue
            for repo_id in sorted(wanted):
                now, since = services.clock(), marked.get(repo_id)
                if repo_id not in marked:
                    await locks.hold(services.db, place, repo_id, None)
                await _hold(vault, repo_id, True, since and since - _SKEW)
                await locks.hold(services.db, place, repo_id, now)
            for repo_id in sorted(marked.keys() - wanted):
                await _hold(vault, repo_id, False, None)
                await locks.lift(services.db, place, repo_id)
        except EverrefError as error:
            log.warning("legal holds could not be brought to %s: %s", vault.describe(), error)


async def _hold(vault: Vault, repo_id: RepoId, on: bool, since: datetime | None) -> None:
    """Set or lift the hold of a repo's objects that were stored since then; None: of all."""
    async with aclosing(vault.list(layout.repo_prefix(repo_id))) as found:
        keys = [stat.key async for stat in found if since is None or stat.modified >= since]
    for start in range(0, len(keys), _AT_ONCE):
        await asyncio.gather(*(_set_hold(vault, key, on) for key in keys[start : start + _AT_ONCE]))
        failpoints.reached("lock: held some")


async def _set_hold(vault: Vault, key: str, on: bool) -> None:
    with suppress(NoSuchObject):  # it was deleted meanwhile
        await vault.hold(key, on)


def _locking(services: Services) -> list[Vault]:
    """The stores that lock what is written, each by itself."""
    return [one.vault for one in services.copies.places if one.vault.locking()]


def _policy(vault: Vault) -> Locking:
    locking = vault.locking()
    assert locking is not None
    return locking


async def _due(services: Services, vault: Vault) -> Pass | None:
    now = services.clock()
    before = now + _policy(vault).period / 2
    return await locks.due(services.db, vault.describe(), _OTHERS, before, now - LOOKED)


async def _work(services: Services, vault: Vault, one: Pass) -> int:
    """Bring back what was hidden under a prefix, then extend its locks if they are due; returns how many."""
    now = services.clock()
    await _uncover(vault, one.prefix)
    await locks.looked(services.db, vault.describe(), one.prefix, now)
    if not _policy(vault).is_due(one.locked_until, now):
        return 0
    return await _extend(services, vault, one, now)


async def _uncover(vault: Vault, prefix: str) -> None:
    """Bring back what somebody with a key of the bucket hid or overwrote under a prefix."""
    keys = list[str]()
    try:
        async with aclosing(vault.uncover(prefix)) as found:
            async for key in found:
                keys.append(key)
    except NetworkError:
        raise
    except EverrefError as error:  # of one object; the locks of the others must not wait for it
        log.error("an object in %s cannot be brought back: %s", vault.describe(), error)
    if keys:
        what = f"{count(len(keys), 'object')} in {vault.describe()}"
        log.error("somebody hid or overwrote %s, now brought back: %s...", what, min(keys))


async def _extend(services: Services, vault: Vault, one: Pass, now: datetime) -> int:
    """Extend the locks of the objects under a prefix that are kept; returns how many."""
    locking, place = _policy(vault), vault.describe()
    # A pass that began long ago would end too early for what it had done first.
    goes_on = one.goal is not None and not locking.is_due(one.goal, now)
    goal = one.goal if goes_on and one.goal else locking.until(now)
    after = one.reached if goes_on and one.reached else ""
    repo_id = layout.repo_of(one.prefix)
    live = {part.key for part in await parts.live(services.db, repo_id)} if repo_id else set()
    live |= {layout.index_key(key) for key in live}
    sealed = {grave.key for grave in await reseal.graves(services.db, repo_id)} if repo_id else set()
    waiting, extended = list[str](), 0

    async def flush() -> None:
        for start in range(0, len(waiting), _AT_ONCE):
            some = waiting[start : start + _AT_ONCE]
            await asyncio.gather(*(_retain(vault, key, goal) for key in some))
        if waiting:
            await locks.reach(services.db, place, one.prefix, goal, waiting[-1])
            failpoints.reached("lock: extended some")
            waiting.clear()

    async with aclosing(vault.list(one.prefix)) as found:
        async for stat in found:
            is_record = layout.is_kept_for_ever(stat.key) and stat.key not in sealed
            is_kept = repo_id is None or stat.key in live or is_record
            if is_kept and stat.key > after:
                waiting.append(stat.key)
                extended += 1
                if len(waiting) == _SAVED:
                    await flush()
    await flush()
    await locks.finish(services.db, place, one.prefix, goal)
    return extended


async def _retain(vault: Vault, key: str, until: datetime) -> None:
    with suppress(NoSuchObject):  # it was replaced and deleted meanwhile
        await vault.retain(key, until)
