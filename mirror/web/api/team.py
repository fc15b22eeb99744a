"""A team's calls: its members, invitations, API tokens, audit log and notices."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from mirror.core.errors import NotFound
from mirror.core.rules.roles import PersonId, Role, Scope
from mirror.people import api_tokens, members
from mirror.services import ssh_access
from mirror.shapes.base import Page
from mirror.shapes.discovery import SshKey
from mirror.shapes.people import (
    AuditEntry,
    Invitation,
    Invited,
    Member,
    Membership,
    Message,
    NewToken,
    Notice,
    Token,
)
from mirror.store.notify import messages
from mirror.store.people import audit, invitations, notices, teams, tokens
from mirror.store.people.invitations import InvitationId
from mirror.store.people.teams import Membership as Belonging
from mirror.store.people.tokens import TokenId
from mirror.web.api.call import Big, Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.shapes import Paged, Words
from mirror.web.dispatch import Needs, RequestContext

TEAM: Final = "/teams/{team}"
NDJSON: Final = "application/x-ndjson"


class TeamChange(Body, frozen=True, kw_only=True):
    """What a team is called from now on; what is left out stays."""

    name: Words | None = None


class RoleChange(Body, frozen=True, kw_only=True):
    """A member's role from now on."""

    role: Role


class Inviting(Body, frozen=True, kw_only=True):
    """Whom to invite, and in which role."""

    role: Role
    email: Words | None = None


class TokenWanted(Body, frozen=True, kw_only=True):
    """What a token may do, and for how long."""

    name: Words
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class AuditAsked(Paged, frozen=True, kw_only=True):
    """Which entries."""

    action: Words | None = None


async def team(context: RequestContext) -> Membership:
    """The team, and your role in it."""
    assert context.role is not None
    return Membership.of(Belonging(context.of_team(), context.role))


async def change_team(context: RequestContext, body: TeamChange) -> Membership:
    """Rename the team; links with the old name stop working."""
    assert context.role is not None
    now = context.of_team()
    if body.name is not None and body.name != now.name:
        await members.rename_team(context.services.db, context.by(), now, body.name)
        now = teams.Team(now.id, body.name, now.person_id)
    return Membership.of(Belonging(now, context.role))


async def list_members(context: RequestContext) -> Page[Member]:
    """The team's people."""
    found = await teams.members(context.services.db, context.of_team().id)
    return Page(items=[Member.of(one) for one in found], next=None)


async def change_role(context: RequestContext, body: RoleChange) -> Member:
    """Give a member another role."""
    person = PersonId(uuid_of(context, "person", "member"))
    db, now = context.services.db, context.of_team()
    owned = context.services.settings.person_teams
    await members.change_role(db, context.by(), now, person, body.role, owned)
    for one in await teams.members(db, now.id):
        if one.person_id == person:
            return Member.of(one)
    raise NotFound("this person is not a member of the team any more")


async def remove_member(context: RequestContext) -> None:
    """End a membership, and the member's API tokens for the team."""
    person = PersonId(uuid_of(context, "person", "member"))
    await members.remove_member(context.services.db, context.by(), context.of_team(), person)


async def leave_team(context: RequestContext) -> None:
    """End your own membership."""
    await members.leave(context.services.db, context.by(), context.of_team())


async def list_invitations(context: RequestContext) -> Page[Invitation]:
    """The invitations that can still be accepted."""
    found = await invitations.open_of(context.services.db, context.of_team().id, context.now)
    return Page(items=[Invitation.of(one) for one in found], next=None)


async def invite(context: RequestContext, body: Inviting) -> Invited:
    """Create an invitation; its link is shown only once, to be sent in any way that people use.

    By an API token it is to no role above operator, and ends with the token.
    """
    made, raw = await members.invite(
        context.services.db, context.outside.keyring, context.by(), context.of_team(), body.role, body.email
    )
    return Invited(
        invitation=Invitation.of(made), url=f"{context.outside.origin}/invitations/{raw}", code=raw
    )


async def withdraw_invitation(context: RequestContext) -> None:
    """Withdraw an invitation."""
    chosen = InvitationId(uuid_of(context, "invitation", "invitation"))
    await members.withdraw(context.services.db, context.by(), context.of_team(), chosen)


async def list_tokens(context: RequestContext) -> Page[Token]:
    """The team's API tokens; without the role admin, only your own."""
    mine = None if context.may(Role.ADMIN) else context.owner().id
    found = await tokens.all_of(context.services.db, context.of_team().id, mine)
    return Page(items=[Token.of(one) for one in found], next=None)


async def make_token(context: RequestContext, body: TokenWanted) -> NewToken:
    """Create an API token, which is shown only once."""
    expires = None if body.days is None else context.now + timedelta(days=body.days)
    raw, made = await api_tokens.make_token(
        context.services.db,
        context.by(),
        context.of_team(),
        body.name,
        set(body.scopes),
        expires,
        limits=context.services.settings.limits,
    )
    return NewToken(token=raw, about=Token.of(made))


async def revoke_token(context: RequestContext) -> None:
    """Revoke an API token: your own, or as an admin anybody's."""
    chosen = TokenId(uuid_of(context, "token", "token"))
    await api_tokens.revoke_token(context.services.db, context.by(), context.of_team(), chosen)


async def list_audit(context: RequestContext, asked: AuditAsked) -> Page[AuditEntry]:
    """Who did what, newest first."""
    found = await audit.page(
        context.services.db,
        context.of_team().id,
        begin(asked.cursor, Big),
        asked.limit + 1,
        action=asked.action,
    )
    shown = found[: asked.limit]
    more = cursor(shown[-1].number) if len(found) > asked.limit else None
    return Page(items=[AuditEntry.of(one) for one in shown], next=more)


async def export_audit(context: RequestContext) -> Response:
    """The whole audit log, one JSON object a line, each with the checksum of the one before it."""

    async def lines() -> AsyncIterator[bytes]:
        async for line in audit.export(context.services.db, context.of_team().id):
            yield line

    return StreamingResponse(lines(), media_type=NDJSON)


async def list_notices(context: RequestContext, asked: Paged) -> Page[Notice]:
    """The team's notices, newest first."""
    found = await notices.page(
        context.services.db, context.of_team().id, begin(asked.cursor, Big), asked.limit + 1
    )
    shown = found[: asked.limit]
    more = cursor(shown[-1].id) if len(found) > asked.limit else None
    return Page(items=[Notice.of(one) for one in shown], next=more)


async def list_messages(context: RequestContext, asked: Paged) -> Page[Message]:
    """What the team's people were told, newest first, with where it went and what became of it."""
    about = messages.About(team_id=context.of_team().id)
    place = begin(asked.cursor, tuple[datetime, UUID])
    found = await messages.page(context.services.db, about, place, asked.limit + 1)
    shown = found[: asked.limit]
    last = shown[-1].message if len(found) > asked.limit else None
    reader = context.person.id if context.person else None
    return Page(
        items=[Message.of(one, messages.reached_for(one.reached, reader)) for one in shown],
        next=cursor((last.at, last.id)) if last else None,
    )


async def notice_seen(context: RequestContext) -> None:
    """Dismiss a notice. A dismissed notice stays dismissed."""
    number = str(context.path["notice"])
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise NotFound("there is no such notice")
    await notices.seen(context.services.db, context.of_team().id, int(number), context.now)


async def ssh_key(context: RequestContext) -> SshKey:
    """The team's deploy key for ssh hosts; it is created if there is none."""
    key = await ssh_access.team_key(context.services, context.of_team().id)
    return SshKey(public_key=key.public)


CALLS: Final[Sequence[Call]] = (
    call("POST", f"{TEAM}/ssh-key", ssh_key, Needs.ADMIN, "admin"),
    call("GET", TEAM, team, Needs.VIEWER),
    call("PATCH", TEAM, change_team, Needs.OWNER, "admin", sure=True),
    call("GET", f"{TEAM}/members", list_members, Needs.VIEWER),
    call("PATCH", f"{TEAM}/members/{{person}}", change_role, Needs.ADMIN, "admin", sure=True),
    call("DELETE", f"{TEAM}/members/{{person}}", remove_member, Needs.ADMIN, "admin", sure=True),
    call("POST", f"{TEAM}/leave", leave_team, Needs.VIEWER, "account", sure=True),
    call("GET", f"{TEAM}/invitations", list_invitations, Needs.ADMIN, "admin"),
    call("POST", f"{TEAM}/invitations", invite, Needs.ADMIN, "admin", status=201, sure=True),
    call("DELETE", f"{TEAM}/invitations/{{invitation}}", withdraw_invitation, Needs.ADMIN, "admin"),
    call("GET", f"{TEAM}/tokens", list_tokens, Needs.VIEWER),
    call("POST", f"{TEAM}/tokens", make_token, Needs.VIEWER, "account", status=201, sure=True),
    call("DELETE", f"{TEAM}/tokens/{{token}}", revoke_token, Needs.VIEWER, "account"),
    call("GET", f"{TEAM}/audit", list_audit, Needs.ADMIN, "admin"),
    call("GET", f"{TEAM}/audit/export", export_audit, Needs.ADMIN, "admin", media=NDJSON),
    call("GET", f"{TEAM}/notices", list_notices, Needs.VIEWER),
    call("GET", f"{TEAM}/messages", list_messages, Needs.VIEWER),
    call("POST", f"{TEAM}/notices/{{notice}}/seen", notice_seen, Needs.OPERATOR, "backup"),
    call("GET", "/notifications", list_notices, Needs.VIEWER),
    call("POST", "/notifications/{notice}/seen", notice_seen, Needs.OPERATOR, "backup"),
    call("GET", "/settings", team, Needs.VIEWER),
    call("PATCH", "/settings", change_team, Needs.OWNER, "admin", sure=True),
)
