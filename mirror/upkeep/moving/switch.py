"""Moving an installation to another store without a pause: the first vault and a copy change places.

Who calls: the command `everref vault switch`.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from mirror.core.errors import Busy, EverrefError, Refused, UsageError
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.upkeep import copies as rows
from mirror.upkeep import copies
from mirror.vault.copies import Place

BEAT_SECONDS: Final = 10.0  # between two signs of life; two minutes without one end the switch
LOOK_SECONDS: Final = 1.0  # between two looks at writes that are under way


def place_of(services: Services, name: str) -> Place:
    """The store of this name. Raises UsageError, naming those that there are."""
    for place in services.copies.places:
        if place.name == name:
            return place
    names = ", ".join(one.name for one in services.copies.copies)
    raise UsageError(
        f"no copy of the vault is called {name}: there are {names}"
        if names
        else f"no copy of the vault is called {name}; add it to VAULT_COPIES, as in {name}=s3://bucket/prefix"
    )


async def switch(services: Services, name: str) -> bool:
    """Make a copy the first vault, and the first a copy; False: it is the first already.

    1. The copy is filled and brought up to date. 2. From then on small objects, the commits among them, are
    written into both at once, so that both agree on which exist. 3. Once every write that began before that
    has ended, the listings are compared again and the copy gets what it still lacks. 4. In one statement the
    two change places, if nothing is missing. Syncs go on all the while: each write asks the database for the
    order of the stores. Killed anywhere, the first stays the first, and two minutes later nothing more is
    written twice; run it again. Raises Busy while a switch to another store goes on, Refused if the copy
    does not get what it lacks.
    """
    await copies.order(services)
    place = place_of(services, name)
    if not copies.is_copy(services, place):
        return False
    await _level(services, place)
    failpoints.reached("switch: up to date")
    since = await rows.begin_switch(services.db, name)
    if since is None:
        raise Busy("a switch to another vault goes on; wait until it has ended")
    failpoints.reached("switch: begun")
    try:
        await _while_alive(services, name, since, _finish(services, place, since))
    except BaseException:
        with suppress(EverrefError):
            await rows.cancel_switch(services.db, name)
        raise
    failpoints.reached("switch: done")
    services.copies.reorder(name)
    return True


async def _finish(services: Services, place: Place, since: Any) -> None:
    services.progress.phase("waiting for writes that had begun")
    while await rows.in_flight(services.db, place.name, since):  # noqa: ASYNC110 - of other processes
        await asyncio.sleep(LOOK_SECONDS)
    await _level(services, place)
    failpoints.reached("switch: level")
    for _ in range(60):  # what others write meanwhile is in both, or noted
        if await rows.end_switch(services.db, place.name, since):
            return
        await copies.follow(services, place)
        if not await rows.beat(services.db, place.name, since):
            raise Busy("the switch took too long to give a sign of life; run it again")
        await asyncio.sleep(LOOK_SECONDS)
    (found,) = await rows.standing(services.db, [place.name])
    raise Refused(
        f"{place.name} still lacks {found.waiting} objects ({found.problem or 'others write faster'}); "
        "nothing was switched"
    )


async def _level(services: Services, place: Place) -> None:
    """Bring a copy up to date by a comparison. Raises Refused if it is away or damaged."""
    if not await copies.answers(services, place):
        raise Refused(f"the copy {place.name} does not answer; nothing was switched")
    services.progress.phase("comparing", None, "objects")
    await copies.compare(services, place)
    services.progress.phase("copying", await rows.waiting(services.db, place.name), "objects")
    await copies.follow(services, place)
    (found,) = await rows.standing(services.db, [place.name])
    if found.damaged:
        raise Refused(f"the copy {place.name} has damaged objects ({found.damage}); nothing was switched")


async def _while_alive(services: Services, name: str, since: Any, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, with a sign of life every few seconds."""

    async def alive() -> None:
        while await rows.beat(services.db, name, since):  # noqa: ASYNC110 - it ends when it is cancelled
            await asyncio.sleep(BEAT_SECONDS)

    beating = asyncio.create_task(alive())
    try:
        await work
    finally:
        beating.cancel()
        await asyncio.wait([beating])
