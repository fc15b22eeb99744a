"""The limits of one team, as whoever runs Everref sees and sets them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from mirror.flows import operator
from mirror.flows.edges import Edges
from mirror.quotas import Use
from mirror.store import quotas, teams
from mirror.store.database import transaction

DEFAULT: Final = "default"


async def of(
    edges: Edges, name: str, changes: Mapping[str, int | None | str], now: datetime
) -> tuple[str, Sequence[Use]]:
    """What this team uses of its limits, once these are changed; `default`: what goes for all.

    What waited for a limit goes on. Raises NotFound. Safe to run twice.
    """
    team = await operator.team_named(edges, name)
    if changes:
        async with transaction(edges.db) as db:
            await teams.lock(db, team.id)
            for limit, most in changes.items():
                if most == DEFAULT or isinstance(most, str):
                    await quotas.unset(db, team.id, limit)
                else:
                    await quotas.set(db, team.id, limit, most, now)
            told = {limit: "unlimited" if most is None else most for limit, most in changes.items()}
            await operator.did(db, team.id, "team.limits", team.name, told, now)
        await quotas.go_on(edges.db, team.id, now)
    return team.name, await quotas.uses(edges.db, team.id, edges.settings.limits, now)
