"""The call about costs: a team's month."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from mirror.core.rules.keeping.costs import month_named
from mirror.shapes.costs import Costs
from mirror.upkeep import costs
from mirror.web.api.call import Call, Query, call
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext


class CostsAsked(Query, frozen=True, kw_only=True):
    """Of which month."""

    month: Annotated[str | None, Meta(description="such as 2026-11, by UTC; this month unless given")] = None


async def get_costs(context: RequestContext, asked: CostsAsked) -> Costs:
    """What the team's repos had in the vault in a month, what was written and read, and what that costs."""
    team = context.of_team()
    month = month_named(asked.month, context.now)
    return Costs.of(team.name, await costs.of_team(context.services, team.id, month))


CALLS: Final[Sequence[Call]] = (call("GET", f"{TEAM}/costs", get_costs, Needs.VIEWER),)
