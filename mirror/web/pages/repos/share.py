"""Share links for those who make them: a form at a moment, lists of a repo and a team, one link's uses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final
from uuid import UUID

from starlette.responses import Response

from mirror.core.errors import EverrefError, NotFound, OverLimit, Refused, UsageError
from mirror.core.rules import shares as rules
from mirror.restore import shares
from mirror.store.restore import shares as rows
from mirror.store.restore.shares import Share, ShareId
from mirror.web import cursors, once, templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.repos.repo import moment_at
from mirror.web.pages.shared import queue_bundle

LISTED: Final = 100  # links on a page


async def form(
    context: RequestContext,
    error: EverrefError | None = None,
    typed: Mapping[str, str] = MappingProxyType({}),
    forms: tuple[str, ...] = rules.FORMS,
    *,
    locked: bool = False,
) -> Response:
    """What to share of the moment, how, and for how long.

    `locked`: a password was typed. It is never sent back, so that it has to be typed again.
    """
    at = await moment_at(context)
    most = await shares.most_days(context.services, context.of_team())
    return context.render(
        "share.html",
        200 if error is None else 429 if isinstance(error, OverLimit) else 422,
        at=at,
        snapshot=at.saved,
        days=sorted({days for days in rules.CHOICES if days <= most} | {min(most, rules.USUAL.days)}),
        usual=typed.get("days") or str(min(most, rules.USUAL.days)),
        typed=typed,
        forms=forms,
        every=rules.FORMS,
        error=error,
        retype=locked,
        wrong=templating.wrong(error),
    )


async def make(context: RequestContext) -> Response:
    """Make the link, which the page of it shows once."""
    at = await moment_at(context)
    given = await context.form()
    typed = {name: str(given.get(name, "")) for name in ("refs", "days", "once")}
    chosen = tuple(str(one) for one in given.getlist("form"))
    team, services = context.of_team(), context.services
    try:
        asked = shares.Wanted(
            snapshot=at.saved,
            globs=typed["refs"].split(),
            forms=rules.forms_of(chosen),
            lasts=rules.lasting(typed["days"], await shares.most_days(services, team)),
            password=str(given.get("password", "")) or None,
            once=bool(typed["once"]),
        )
        raw, made = await shares.make(services, context.by(), team, at.repo, asked)
    except (UsageError, Refused, OverLimit, NotFound) as error:
        return await form(context, error, typed, chosen, locked=bool(given.get("password")))
    if "bundle" in made.forms:
        await queue_bundle(context, made)
    link = f"{context.outside.origin}/s/{raw}"
    return once.hand_over(context, f"/{team.name}/-/shares/{made.id}", {"link": link})


async def of_team(context: RequestContext) -> Response:
    """The team's links, newest first."""
    return await _list(context)


async def of_repo(context: RequestContext) -> Response:
    """One repo's links, newest first."""
    await context.repo()
    return await _list(context)


async def _list(context: RequestContext) -> Response:
    before = cursors.read(context.query.get("before"), "share links")
    found = await rows.of_team(
        context.services.db,
        context.of_team().id,
        context.now,
        repo_id=context.found.id if context.found else None,
        before=before,
        limit=LISTED + 1,
    )
    last = found[LISTED - 1] if len(found) > LISTED else None
    return context.render(
        "shares.html",
        repo=context.found,
        shares=found[:LISTED],
        why=rules.WHY,
        more=cursors.after(last.created_at, last.id) if last else None,
    )


async def one(context: RequestContext) -> Response:
    """One link and what was done with it; and once, the link itself."""
    shown = await once.taken(context)
    share = await _share(context)
    answer = context.render(
        "share_one.html",
        share=share,
        shown=shown,
        why=rules.WHY,
        gives=rules.told(share.forms),
        uses=await rows.uses(context.services.db, share.id),
    )
    return once.forget(context, answer) if shown else answer


async def revoke(context: RequestContext) -> Response:
    """End a link at once."""
    share = await _share(context)
    await shares.revoke(context.services, context.by(), context.of_team(), share.id)
    said = f"The link to {share.repo_name} at {share.label} is revoked."
    return context.redirect(f"/{context.of_team().name}/-/shares/{share.id}", said)


async def _share(context: RequestContext) -> Share:
    """The link of the path. Raises NotFound."""
    try:
        chosen = ShareId(UUID(str(context.path["share"])))
    except ValueError:
        raise NotFound("there is no such share link") from None
    found = await rows.find(context.services.db, context.of_team().id, chosen, context.now)
    if found is None:
        raise NotFound("there is no such share link")
    return found


_REPO: Final = "/{team}/{repo:repo}/-"
_TEAM: Final = "/{team}/-/shares"

ENDPOINTS: Final = (
    Endpoint("GET", f"{_REPO}/share", form, Needs.OPERATOR, sure=True),
    Endpoint("POST", f"{_REPO}/share", make, Needs.OPERATOR, sure=True),
    Endpoint("GET", f"{_REPO}/shares", of_repo, Needs.OPERATOR),
    Endpoint("GET", _TEAM, of_team, Needs.OPERATOR),
    Endpoint("GET", f"{_TEAM}/{{share}}", one, Needs.OPERATOR),
    Endpoint("POST", f"{_TEAM}/{{share}}/revoke", revoke, Needs.OPERATOR),
)
