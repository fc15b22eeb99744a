"""A team's objective and its dead man's switch."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from mirror.core.errors import NotFound
from mirror.core.rules.health import objective
from mirror.core.rules.health.deadman import Style
from mirror.shapes.base import Page
from mirror.shapes.protection import Foreseen, Monitored, Objective, Switch
from mirror.store.browse import predictions
from mirror.store.jobs import schedules
from mirror.store.upkeep import pings
from mirror.upkeep import ping
from mirror.web.api.call import Body, Call, call
from mirror.web.api.shapes import Nothing
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

Days = Annotated[int, Meta(ge=1, le=ping.MOST_DAYS)]


class ObjectiveWanted(Body, frozen=True, kw_only=True):
    """How old a backup may be."""

    rpo: Annotated[str, Meta(max_length=40, description="15m, 24h, 7d: from 5m to 60d")]


class SwitchWanted(Body, frozen=True, kw_only=True):
    """Whom to ping, and what must be recent for it."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    style: Annotated[Style, Meta(description="healthchecks: trouble is told at URL/fail")] = "healthchecks"
    drill_days: Annotated[Days, Meta(description="without a drill that passed")] = 35
    read_days: Annotated[Days, Meta(description="until every stored byte is read again")] = 35


async def get_objective(context: RequestContext) -> Objective:
    """How old the newest backup of the team's repos may be, where a repo has no objective of its own."""
    return Objective.of(await schedules.team_rpo(context.services.db, context.of_team().id))


async def set_objective(context: RequestContext, body: ObjectiveWanted) -> Objective:
    """Set that; each repo is checked at least twice within it."""
    rpo, team = objective.parse(body.rpo), context.of_team()
    await schedules.set_team_rpo(context.services.db, team.id, rpo, context.now)
    await context.audit("team.rpo", team.name, None, {"rpo": objective.written(rpo)})
    return Objective.of(rpo)


async def get_switch(context: RequestContext) -> Monitored:
    """The team's dead man's switch: whom it pings, and why it is silent, if it is."""
    found = await ping.standing(context.services, context.of_team().id)
    return Monitored(monitor=Switch.of(found) if found else None)


async def set_switch(context: RequestContext, body: SwitchWanted) -> Monitored:
    """Set up the monitor that is pinged every 5 minutes; it replaces an earlier one."""
    team = context.of_team()
    wanted = ping.wanted(
        context.services.settings, body.url, body.style, str(body.drill_days), str(body.read_days)
    )
    await pings.put(context.services.db, context.outside.keyring, team.id, wanted, context.now)
    await context.audit("ping.set", wanted.shown, None, {"style": wanted.style})
    return await get_switch(context)


async def send_ping(context: RequestContext, body: Nothing) -> Switch:
    """Send a ping now, where all is well; the answer has what the monitor said, or why none was sent."""
    async with context.planning():
        return Switch.of(await ping.send_now(context.services, context.of_team().id))


async def remove_switch(context: RequestContext) -> None:
    """Ping no more."""
    known = await pings.of_team(context.services.db, context.of_team().id)
    if known is None or not await pings.remove(context.services.db, context.of_team().id):
        raise NotFound("no monitor is set up")
    await context.audit("ping.remove", known.shown)


async def list_foreseen(context: RequestContext) -> Page[Foreseen]:
    """What will soon fail, by the histories, the soonest first; looked for every hour."""
    found = await predictions.of_team(context.services.db, context.of_team().id)
    return Page(items=[Foreseen.of(one) for one in found], next=None)


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/objective", get_objective, Needs.VIEWER),
    call("PUT", f"{TEAM}/objective", set_objective, Needs.ADMIN, "admin"),
    call("GET", f"{TEAM}/soon", list_foreseen, Needs.VIEWER),
    call("GET", f"{TEAM}/ping", get_switch, Needs.VIEWER),
    call("PUT", f"{TEAM}/ping", set_switch, Needs.ADMIN, "admin"),
    call("POST", f"{TEAM}/ping/send", send_ping, Needs.ADMIN, "admin"),
    call("DELETE", f"{TEAM}/ping", remove_switch, Needs.ADMIN, "admin", sure=True),
)
