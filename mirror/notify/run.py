"""Telling people, as work that goes on beside all other: looks, and deliveries.

Who calls: the workers; and each web process, which steps in while no worker is alive, as somebody must
hear of just that.
"""

import asyncio
import logging
from typing import Final

from mirror.core.errors import EverrefError
from mirror.notify import look
from mirror.notify.deliver import Delivery, Sender
from mirror.services.open import Services
from mirror.store.jobs import runs
from mirror.store.upkeep import maintenance

CHORE: Final = "look what people should hear of"
INSTEAD_SECONDS: Final = 20.0  # between two checks whether any worker is alive

log = logging.getLogger("mirror.notify")


async def look_if_due(services: Services) -> None:
    """Look, unless somebody did within look.EVERY. Safe to run twice, also at once."""
    if await maintenance.begin(services.db, CHORE, services.clock(), look.EVERY):
        await look.look(services)


async def deliver(services: Services, send: Sender) -> None:
    """Send what is due until cancelled."""
    await Delivery(services, send).work()


async def step_in(services: Services, send: Sender) -> None:
    """Look and send while no worker is alive, until cancelled."""
    while True:
        await asyncio.sleep(INSTEAD_SECONDS)
        try:
            if not await runs.is_anyone_alive(services.db):
                await look_if_due(services)
                await Delivery(services, send).once()
        except EverrefError as error:  # the database is away
            log.warning("telling people: %s", error)
        except Exception:
            log.exception("a bug in telling people")
