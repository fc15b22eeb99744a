"""The limits of one team, as the command line shows and sets them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from mirror.core.quotas import Use
from mirror.people import operator
from mirror.services.open import Services
from mirror.store.database import transaction
from mirror.store.people import quotas, teams

DEFAULT: Final = "default"


async def of(
    services: Services, name: str, changes: Mapping[str, int | None | str], now: datetime
) -> tuple[str, Sequence[Use]]:
    """Change these limits of the team, and say how much it uses of each; `default` unsets one.

    Jobs that waited for a limit go on. Raises NotFound. Safe to run twice.
    """
    team = await operator.team_named(services, name)
    if changes:
        async with transaction(services.db) as db:
            await teams.lock(db, team.id)
            for limit, most in changes.items():
                if most == DEFAULT or isinstance(most, str):
                    await quotas.unset(db, team.id, limit)
                else:
                    await quotas.set(db, team.id, limit, most, now)
            told = {limit: "unlimited" if most is None else most for limit, most in changes.items()}
            await operator.did(db, team.id, "team.limits", team.name, told, now)
        await quotas.go_on(services.db, team.id, now)
    return team.name, await quotas.uses(services.db, team.id, services.settings.limits, now)
