"""The calls about what is pending: listing, confirming and cancelling it, and letting a repo's backups go."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from mirror.people import pending as flow
from mirror.shapes.base import Page
from mirror.shapes.pending import Pending, PendingDays
from mirror.store.people import pending as rows
from mirror.store.people.pending import PendingId
from mirror.upkeep.erasure import forget
from mirror.web.api.call import Body, Call, call, uuid_of
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

LISTED: Final = 500  # that are shown, the newest


class Reason(Body, frozen=True, kw_only=True):
    """Why it is asked for."""

    why: Annotated[str, Meta(max_length=1000)] = ""


class DaysWanted(Body, frozen=True, kw_only=True):
    """How many days the team's pending actions shall wait."""

    days: Annotated[int, Meta(ge=7, le=365)]


async def list_pending(context: RequestContext) -> Page[Pending]:
    """What was asked for in this team that deletes something for ever, newest first, and its result."""
    found = await rows.of_team(context.services.db, context.of_team().id, limit=LISTED)
    return Page(items=[Pending.of(one, context.now) for one in found], next=None)


async def confirm_pending(context: RequestContext) -> Pending:
    """Confirm it as the second person; its days begin."""
    chosen = PendingId(uuid_of(context, "action", "pending action"))
    done = await flow.confirm(context.services, context.by(), chosen, context.of_team())
    return Pending.of(done, context.now)


async def cancel_pending(context: RequestContext) -> Pending:
    """Cancel it; nothing is changed then."""
    chosen = PendingId(uuid_of(context, "action", "pending action"))
    done = await flow.cancel(context.services, context.by(), chosen, context.of_team())
    return Pending.of(done, context.now)


async def set_pending_days(context: RequestContext, body: DaysWanted) -> PendingDays:
    """Set how many days pending actions wait: more at once; fewer are themselves asked for."""
    team = context.of_team()
    asked = await flow.set_days(context.services, context.by(), team, body.days)
    days = await rows.days(context.services.db, team.id)
    return PendingDays(days=days, asked=None if asked is None else Pending.of(asked, context.now))


async def forget_repo(context: RequestContext, body: Reason) -> Pending:
    """Ask for all backups of the repo to be deleted, which another admin or owner must confirm."""
    repo = await repo_of(context)
    asked = await forget.ask(context.services, context.by(), context.of_team(), repo, body.why)
    return Pending.of(asked, context.now)


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/pending", list_pending, Needs.VIEWER),
    call("PUT", f"{TEAM}/pending/days", set_pending_days, Needs.OWNER, "account", sure=True),
    call("POST", f"{TEAM}/pending/{{action}}/confirm", confirm_pending, Needs.ADMIN, "account", sure=True),
    call("POST", f"{TEAM}/pending/{{action}}/cancel", cancel_pending, Needs.ADMIN, "admin"),
    call("POST", f"{REPO}/forget", forget_repo, Needs.OWNER, "account", status=202, sure=True),
)
