"""The calls about evidence: the signed statements about a repo, and its badge."""

import secrets
from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

from starlette.responses import Response

from mirror.backup import evidence
from mirror.core.errors import NotFound, UsageError
from mirror.core.times import when
from mirror.shapes.base import Page
from mirror.shapes.evidence import Badge, Day, Statement
from mirror.store.browse import badges
from mirror.store.evidence import daily as daily_rows
from mirror.store.evidence import statements
from mirror.upkeep import daily
from mirror.web.api.call import Call, begin, call, cursor
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.shapes import Paged
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

_ENVELOPE: Final = "application/vnd.dsse.envelope.v1+json"


class EvidenceAsked(Paged, frozen=True, kw_only=True):
    """Which statements."""


async def listed(context: RequestContext, asked: EvidenceAsked) -> Page[Statement]:
    """The signed statements about a repo, newest first."""
    repo, place = await repo_of(context), begin(asked.cursor, str)
    before = when.parse(place, context.now) if place is not None else None
    if before is not None and not isinstance(before, datetime):
        raise UsageError("the cursor is not from this list; start without one")
    found = await statements.of_repo(context.services.db, repo.id, before, asked.limit + 1)
    shown = found[: asked.limit]
    more = cursor(shown[-1].at) if len(found) > asked.limit else None
    return Page(items=[Statement.of(row) for row in shown], next=more)


async def statement(context: RequestContext) -> Response:
    """One signed statement as it is stored: a DSSE envelope."""
    repo, name = await repo_of(context), str(context.path["name"])
    row = await statements.named(context.services.db, repo.id, name)
    if row is None:
        raise NotFound(f"{repo.name} has no evidence with this name")
    return Response(await evidence.stored(context.services, row), media_type=_ENVELOPE)


async def days(context: RequestContext, asked: EvidenceAsked) -> Page[Day]:
    """The signed statements about what was read back each day, newest first."""
    place = begin(asked.cursor, str)
    try:
        before = date.fromisoformat(place) if place is not None else None
    except ValueError:
        raise UsageError("the cursor is not from this list; start without one") from None
    found = await daily_rows.of_team(context.services.db, context.of_team().id, before, asked.limit + 1)
    shown = found[: asked.limit]
    more = cursor(shown[-1].day.isoformat()) if len(found) > asked.limit else None
    return Page(items=[Day.of(row) for row in shown], next=more)


async def of_day(context: RequestContext) -> Response:
    """The signed statement about one day, such as 2026-03-02, as it is stored: a DSSE envelope."""
    found = await daily.of_day(context.services, context.of_team().id, str(context.path["day"]))
    return Response(found, media_type=_ENVELOPE)


async def badge(context: RequestContext) -> Badge:
    """The address of a repo's badge."""
    repo = await repo_of(context)
    return _badge(context, await badges.of(context.services.db, repo.id))


async def switch_on(context: RequestContext) -> Badge:
    """Switch the badge on, under a new address; an older one is gone."""
    repo, name = await repo_of(context), secrets.token_hex(16)
    await badges.set_badge(context.services.db, repo.id, name)
    await context.audit("repo.badge", repo.name, repo.id, {"on": True})
    return _badge(context, name)


async def switch_off(context: RequestContext) -> None:
    """Switch the badge off; its address is gone."""
    repo = await repo_of(context)
    await badges.set_badge(context.services.db, repo.id, None)
    await context.audit("repo.badge", repo.name, repo.id, {"on": False})


def _badge(context: RequestContext, name: str | None) -> Badge:
    return Badge(url=f"{context.outside.origin}/badges/{name}.svg" if name else None)


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{REPO}/evidence", listed, Needs.VIEWER),
    call("GET", f"{REPO}/evidence/{{name}}", statement, Needs.VIEWER, media=_ENVELOPE),
    call("GET", f"{TEAM}/evidence", days, Needs.VIEWER),
    call("GET", f"{TEAM}/evidence/{{day}}", of_day, Needs.VIEWER, media=_ENVELOPE),
    call("GET", f"{REPO}/badge", badge, Needs.ADMIN),
    call("PUT", f"{REPO}/badge", switch_on, Needs.ADMIN, "admin"),
    call("DELETE", f"{REPO}/badge", switch_off, Needs.ADMIN, "admin", status=204),
)
