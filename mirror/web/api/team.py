"""A team's calls: its members, invitations, API tokens, audit log and notices."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Annotated, Final

from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from mirror.errors import NotFound
from mirror.flows import people, sshaccess
from mirror.people import PersonId, Role, Scope
from mirror.store import audit, invitations, notices, teams, tokens
from mirror.store.invitations import InvitationId
from mirror.store.teams import Membership as Belonging
from mirror.store.tokens import TokenId
from mirror.web.api.call import Big, Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.shapes import (
    AuditEntry,
    Invitation,
    Invited,
    Member,
    Membership,
    NewToken,
    Notice,
    Page,
    Paged,
    SshKey,
    Token,
    Words,
)
from mirror.web.frame import Needs, Visit

TEAM: Final = "/teams/{team}"
NDJSON: Final = "application/x-ndjson"


class TeamChange(Body, frozen=True, kw_only=True):
    """What a team is called from now on; what is left out stays."""

    name: Words | None = None


class RoleChange(Body, frozen=True, kw_only=True):
    """A member's role from now on."""

    role: Role


class Inviting(Body, frozen=True, kw_only=True):
    """Whom to invite, and as what."""

    role: Role
    email: Words | None = None


class TokenWanted(Body, frozen=True, kw_only=True):
    """What a token may, and for how long."""

    name: Words
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class AuditAsked(Paged, frozen=True, kw_only=True):
    """Which entries."""

    action: Words | None = None


async def team(visit: Visit) -> Membership:
    """The team, and your role in it."""
    assert visit.role is not None
    return Membership.of(Belonging(visit.of_team(), visit.role))


async def change_team(visit: Visit, body: TeamChange) -> Membership:
    """Call the team so; its old addresses lead nowhere then."""
    assert visit.role is not None
    now = visit.of_team()
    if body.name is not None and body.name != now.name:
        await people.rename_team(visit.edges.db, visit.by(), now, body.name)
        now = teams.Team(now.id, body.name, now.person_id)
    return Membership.of(Belonging(now, visit.role))


async def list_members(visit: Visit) -> Page[Member]:
    """The team's people."""
    found = await teams.members(visit.edges.db, visit.of_team().id)
    return Page(items=[Member.of(one) for one in found], next=None)


async def change_role(visit: Visit, body: RoleChange) -> Member:
    """Give a member another role."""
    person = PersonId(uuid_of(visit, "person", "member"))
    db, now = visit.edges.db, visit.of_team()
    owned = visit.edges.settings.person_teams
    await people.change_role(db, visit.by(), now, person, body.role, owned)
    for one in await teams.members(db, now.id):
        if one.person_id == person:
            return Member.of(one)
    raise NotFound("this person is no member of the team any more")


async def remove_member(visit: Visit) -> None:
    """End a membership, and the member's API tokens for the team."""
    person = PersonId(uuid_of(visit, "person", "member"))
    await people.remove_member(visit.edges.db, visit.by(), visit.of_team(), person)


async def leave_team(visit: Visit) -> None:
    """End your own membership."""
    await people.leave(visit.edges.db, visit.by(), visit.of_team())


async def list_invitations(visit: Visit) -> Page[Invitation]:
    """The invitations that can still be accepted."""
    found = await invitations.open_of(visit.edges.db, visit.of_team().id, visit.now)
    return Page(items=[Invitation.of(one) for one in found], next=None)


async def invite(visit: Visit, body: Inviting) -> Invited:
    """Make an invitation; its link is told this once, to be sent by whatever way people use.

    By an API token it is to no role above operator, and ends with the token.
    """
    made, raw = await people.invite(
        visit.edges.db, visit.outside.keyring, visit.by(), visit.of_team(), body.role, body.email
    )
    return Invited(invitation=Invitation.of(made), url=f"{visit.outside.origin}/invitations/{raw}", code=raw)


async def withdraw_invitation(visit: Visit) -> None:
    """Let nobody accept an invitation any more."""
    chosen = InvitationId(uuid_of(visit, "invitation", "invitation"))
    await people.withdraw(visit.edges.db, visit.by(), visit.of_team(), chosen)


async def list_tokens(visit: Visit) -> Page[Token]:
    """The team's API tokens; of those who are no admin, their own."""
    mine = None if visit.may(Role.ADMIN) else visit.owner().id
    found = await tokens.all_of(visit.edges.db, visit.of_team().id, mine)
    return Page(items=[Token.of(one) for one in found], next=None)


async def make_token(visit: Visit, body: TokenWanted) -> NewToken:
    """Make an API token, which is told this once."""
    expires = None if body.days is None else visit.now + timedelta(days=body.days)
    raw, made = await people.make_token(
        visit.edges.db,
        visit.by(),
        visit.of_team(),
        body.name,
        set(body.scopes),
        expires,
        limits=visit.edges.settings.limits,
    )
    return NewToken(token=raw, about=Token.of(made))


async def revoke_token(visit: Visit) -> None:
    """Let an API token not work any more: your own, or as an admin anybody's."""
    chosen = TokenId(uuid_of(visit, "token", "token"))
    await people.revoke_token(visit.edges.db, visit.by(), visit.of_team(), chosen)


async def list_audit(visit: Visit, asked: AuditAsked) -> Page[AuditEntry]:
    """Who did what, newest first."""
    found = await audit.page(
        visit.edges.db,
        visit.of_team().id,
        begin(asked.cursor, Big),
        asked.limit + 1,
        action=asked.action,
    )
    shown = found[: asked.limit]
    more = cursor(shown[-1].number) if len(found) > asked.limit else None
    return Page(items=[AuditEntry.of(one) for one in shown], next=more)


async def export_audit(visit: Visit) -> Response:
    """The whole audit log, one JSON object a line, each with the sum of the one before it."""

    async def lines() -> AsyncIterator[bytes]:
        async for line in audit.export(visit.edges.db, visit.of_team().id):
            yield line

    return StreamingResponse(lines(), media_type=NDJSON)


async def list_notices(visit: Visit, asked: Paged) -> Page[Notice]:
    """What somebody should see, newest first."""
    found = await notices.page(visit.edges.db, visit.of_team().id, begin(asked.cursor, Big), asked.limit + 1)
    shown = found[: asked.limit]
    more = cursor(shown[-1].id) if len(found) > asked.limit else None
    return Page(items=[Notice.of(one) for one in shown], next=more)


async def notice_seen(visit: Visit) -> None:
    """Dismiss a notice. One that was dismissed stays so."""
    number = str(visit.path["notice"])
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise NotFound("there is no such notice")
    await notices.seen(visit.edges.db, visit.of_team().id, int(number), visit.now)


async def ssh_key(visit: Visit) -> SshKey:
    """The team's deploy key for hosts that are reached by ssh, made where it has none."""
    key = await sshaccess.team_key(visit.edges, visit.of_team().id)
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
    call("POST", f"{TEAM}/notices/{{notice}}/seen", notice_seen, Needs.OPERATOR, "backup"),
    call("GET", "/notifications", list_notices, Needs.VIEWER),
    call("POST", "/notifications/{notice}/seen", notice_seen, Needs.OPERATOR, "backup"),
    call("GET", "/settings", team, Needs.VIEWER),
    call("PATCH", "/settings", change_team, Needs.OWNER, "admin", sure=True),
)
