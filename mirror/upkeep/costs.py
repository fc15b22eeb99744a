"""What a team's month in the vault costs: measured once a day, priced when it is asked for.

Who calls: the sweep measures; the page, the API and the command line ask.
"""

import logging
from contextlib import aclosing
from datetime import UTC, date
from typing import Final

from mirror.core.errors import EverrefError
from mirror.core.rules.keeping import costs as rules
from mirror.core.rules.keeping.costs import Bill, Month
from mirror.services.open import Services
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import costs

PIECE: Final = 8 << 20  # bytes of one request of an upload; vault/s3 has larger ones beyond 54 GiB

log = logging.getLogger("mirror.costs")


async def due(services: Services) -> None:
    """Measure what every repo has in the vault today. Safe to run twice: a day counts once.

    Where objects move to other storage classes, each repo's parts are listed first to see where they are; a
    vault that does not answer leaves them where they were last seen.
    """
    day = services.clock().astimezone(UTC).date()
    if services.settings.storage_class_after:
        try:
            await _classify(services, day)
        except EverrefError as error:
            log.warning("the storage classes of parts could not be listed: %s", error)
    await costs.measure(services.db, day)


async def _classify(services: Services, day: date) -> None:
    for repo_id in await costs.unmeasured(services.db, day):
        async with aclosing(services.stored.list(f"{repo_id}/bundles/")) as found:
            classes = {stat.key: stat.storage_class async for stat in found}
        await costs.classify(services.db, repo_id, classes)


async def of_team(services: Services, team_id: TeamId, month: Month) -> Bill:
    """The team's month: what its repos used, what that costs, and what storing parts saves."""
    db, now, prices = services.db, services.clock(), services.settings.prices
    used = await costs.used(db, team_id, month.start, month.end, PIECE)
    readings = await costs.readings(db, team_id, month.start, month.end)
    return Bill(
        month,
        prices,
        rules.lines(used, readings, month, prices, now),
        await costs.saved(db, team_id),
        await costs.exports(db, team_id),
        month.end <= now,
    )
