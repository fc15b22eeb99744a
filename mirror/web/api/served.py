"""The calls about serving: the way to a team's repos while a host is down, and the page for everybody."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from mirror.browse import served as looking
from mirror.people import status_page
from mirror.shapes.served import Failover, StatusPageSetting
from mirror.store.browse import served as rows
from mirror.store.browse.served import StatusPage
from mirror.web.api.call import Body, Call, call
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext


class StatusPageWanted(Body, frozen=True, kw_only=True):
    """What everybody may see."""

    shows: Annotated[StatusPage | None, Meta(description="names: those of all repos, too; null: nothing")]


async def get_failover(context: RequestContext) -> Failover:
    """The commands with which git fetches the team's repos from here while their host is down."""
    team, services = context.of_team(), context.services
    repos = await rows.repos_of(services.db, team.id)
    return Failover.of(looking.rules_of(services.settings, context.outside.origin, team.name, repos))


async def get_status_page(context: RequestContext) -> StatusPageSetting:
    """Whether everybody may see how the team's repos are served, and at which address."""
    return _setting(context, await rows.status_page(context.services.db, context.of_team().id))


async def set_status_page(context: RequestContext, body: StatusPageWanted) -> StatusPageSetting:
    """Switch that page on, with or without the names of repos, or off."""
    found = await status_page.show(context.services, context.by(), context.of_team(), body.shows)
    return _setting(context, found)


def _setting(context: RequestContext, shows: StatusPage | None) -> StatusPageSetting:
    url = f"{context.outside.origin}/status/{context.of_team().name}"
    return StatusPageSetting(shows=shows, url=url if shows else None)


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/failover", get_failover, Needs.VIEWER),
    call("GET", f"{TEAM}/status-page", get_status_page, Needs.VIEWER),
    call("PUT", f"{TEAM}/status-page", set_status_page, Needs.OWNER, "admin"),
)
