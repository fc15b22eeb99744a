"""The calls about share links: making, listing and revoking them, and what was done with one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from mirror.core.errors import NotFound
from mirror.core.model import RepoId
from mirror.core.rules import shares as rules
from mirror.core.rules.shares import Form
from mirror.restore import shares
from mirror.shapes.base import Page
from mirror.shapes.shares import NewShare, Share, ShareUse
from mirror.store.restore import shares as rows
from mirror.store.restore.shares import ShareId
from mirror.web.api.call import Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.moments import moment_of
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.shapes import Paged, When
from mirror.web.api.team import TEAM
from mirror.web.api.work import Globs
from mirror.web.dispatch import Needs, RequestContext
from mirror.web.pages.shared import queue_bundle

Lasts = Annotated[str, Meta(max_length=100, description="days such as 7, or 12h; 1 hour to 90 days")]


class SharesAsked(Paged, frozen=True, kw_only=True):
    """Which share links."""


class ShareWanted(Body, frozen=True, kw_only=True):
    """What to share of a moment, and how."""

    at: When | None = None
    refs: Globs = []
    forms: Annotated[list[Form], Meta(max_length=3, description="none: all of them")] = []
    lasts: Lasts = str(rules.USUAL.days)
    password: Annotated[str, Meta(max_length=1000)] | None = None
    once: Annotated[bool, Meta(description="it ends when it was fetched whole")] = False


async def make_share(context: RequestContext, body: ShareWanted) -> NewShare:
    """Make a share link; its address is shown only once.

    It ends with the role of the person who asks, and by an API token with that token.
    """
    repo, then = await moment_of(context, body.at)
    services, team = context.services, context.of_team()
    wanted = shares.Wanted(
        snapshot=then,
        globs=body.refs,
        forms=rules.forms_of(body.forms or rules.FORMS),
        lasts=rules.lasting(body.lasts, await shares.most_days(services, team)),
        password=body.password,
        once=body.once,
    )
    raw, made = await shares.make(services, context.by(), team, repo, wanted)
    if "bundle" in made.forms:
        await queue_bundle(context, made)
    return NewShare(url=f"{context.outside.origin}/s/{raw}", about=Share.of(made))


async def list_repo_shares(context: RequestContext, asked: SharesAsked) -> Page[Share]:
    """A repo's share links, newest first."""
    return await _listed(context, asked, (await repo_of(context)).id)


async def list_shares(context: RequestContext, asked: SharesAsked) -> Page[Share]:
    """The team's share links, newest first."""
    return await _listed(context, asked, None)


async def _listed(context: RequestContext, asked: SharesAsked, repo_id: RepoId | None) -> Page[Share]:
    found = await rows.of_team(
        context.services.db,
        context.of_team().id,
        context.now,
        repo_id=repo_id,
        before=begin(asked.cursor, tuple[datetime, UUID]),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    more = cursor((shown[-1].created_at, shown[-1].id)) if len(found) > asked.limit else None
    return Page(items=[Share.of(one) for one in shown], next=more)


async def share(context: RequestContext) -> Share:
    """A share link."""
    return Share.of(await _share(context))


async def list_share_uses(context: RequestContext) -> Page[ShareUse]:
    """What was done with a share link, newest first: the last 100 addresses and minutes."""
    found = await rows.uses(context.services.db, (await _share(context)).id)
    return Page(items=[ShareUse.of(use) for use in found], next=None)


async def revoke_share(context: RequestContext) -> Share:
    """Revoke a share link, at once. One that has ended otherwise is revoked as well."""
    chosen = ShareId(uuid_of(context, "share", "share link"))
    return Share.of(await shares.revoke(context.services, context.by(), context.of_team(), chosen))


async def _share(context: RequestContext) -> rows.Share:
    chosen = ShareId(uuid_of(context, "share", "share link"))
    found = await rows.find(context.services.db, context.of_team().id, chosen, context.now)
    if found is None:
        raise NotFound("there is no such share link")
    return found


_SHARE: Final = f"{TEAM}/shares/{{share}}"

CALLS: Final[Sequence[Call]] = (
    call("POST", f"{REPO}/shares", make_share, Needs.OPERATOR, "restore", status=201, sure=True),
    call("GET", f"{REPO}/shares", list_repo_shares, Needs.OPERATOR, "restore"),
    call("GET", f"{TEAM}/shares", list_shares, Needs.OPERATOR, "restore"),
    call("GET", _SHARE, share, Needs.OPERATOR, "restore"),
    call("GET", f"{_SHARE}/uses", list_share_uses, Needs.OPERATOR, "restore"),
    call("DELETE", _SHARE, revoke_share, Needs.OPERATOR, "restore"),
)
