"""A person's own calls: who they are, where they are signed in, and their teams."""

import binascii
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from mirror.core.errors import NotFound, UsageError
from mirror.people import accounts, members
from mirror.shapes.base import Page
from mirror.shapes.people import Identity, Invitation, Membership, Profile, Session
from mirror.store.people import people as store
from mirror.store.people import sessions, teams
from mirror.store.people.invitations import InvitationId
from mirror.store.people.people import Person
from mirror.store.people.teams import Membership as Belonging
from mirror.store.people.tokens import TokenId
from mirror.store.restore.shares import ShareId
from mirror.web.api.call import Body, Call, call
from mirror.web.api.entry import Password
from mirror.web.api.shapes import Nothing, Words
from mirror.web.dispatch import AskAgain, Needs, RequestContext


class ProfileChange(Body, frozen=True, kw_only=True):
    """Changes to the profile; fields that are left out stay."""

    name: Words | None = None
    email: Words | None = None
    zone: Words | None = None


class IdentityKept(Body, frozen=True, kw_only=True):
    """An account at a host that is confirmed to be one's own."""

    forge: Words
    host: Words
    account_id: Words


class NewPassword(Body, frozen=True, kw_only=True):
    """A new password, and what to keep of everything that ends with the old one."""

    password: Password
    keep_tokens: Annotated[list[Words], Meta(max_length=1000, description="their ids")] = []
    keep_sessions: Annotated[list[Words], Meta(max_length=1000, description="their ids")] = []
    keep_identities: Annotated[list[IdentityKept], Meta(max_length=100)] = []
    keep_invitations: Annotated[list[Words], Meta(max_length=1000, description="their ids")] = []
    keep_shares: Annotated[list[Words], Meta(max_length=1000, description="ids of share links")] = []


class NewTeam(Body, frozen=True, kw_only=True):
    """A team to create."""

    name: Words


async def profile(context: RequestContext) -> Profile:
    """Who you are."""
    return await _profile(context, context.owner())


async def change_profile(context: RequestContext, body: ProfileChange) -> Profile:
    """Change your name, e-mail address or time zone."""
    me = context.owner()
    if body.email is not None and accounts.is_other_email(me, body.email) and not context.is_sure:
        raise AskAgain
    changed = await accounts.set_profile(
        context.services.db,
        context.by(),
        me.name if body.name is None else body.name,
        me.email if body.email is None else body.email,
        me.zone if body.zone is None else body.zone,
    )
    return await _profile(context, changed)


async def set_password(context: RequestContext, body: NewPassword) -> None:
    """Set your password; sessions, tokens, invitations and share links end, accounts must be confirmed."""
    try:
        keep = accounts.Grants(
            frozenset(TokenId(UUID(one)) for one in body.keep_tokens),
            frozenset(binascii.unhexlify(one) for one in body.keep_sessions),
            frozenset((one.forge, one.host, one.account_id) for one in body.keep_identities),
            frozenset(InvitationId(UUID(one)) for one in body.keep_invitations),
            frozenset(ShareId(UUID(one)) for one in body.keep_shares),
        )
    except (binascii.Error, ValueError):
        raise UsageError("name what should go on working by the ids from the lists") from None
    await accounts.set_password(context.services.db, context.by(), body.password, context.raw_session, keep)


async def confirm(context: RequestContext, body: Nothing) -> Profile:
    """Say that an account at a host is yours, so that it signs you in again."""
    for one in await store.identities(context.services.db, context.owner().id):
        if (one.forge, one.host, one.account_id) == tuple(
            context.path[part] for part in ("forge", "host", "account")
        ):
            await accounts.confirm_identity(
                context.services.db, context.by(), one.forge, one.host, one.account_id
            )
            return await _profile(context, context.owner())
    raise NotFound("you do not sign in with that account")


async def unlink(context: RequestContext) -> None:
    """Stop signing in with an account at a host."""
    for one in await store.identities(context.services.db, context.owner().id):
        if (one.forge, one.host, one.account_id) == tuple(
            context.path[part] for part in ("forge", "host", "account")
        ):
            await accounts.unlink_identity(
                context.services.db, context.by(), one.forge, one.host, one.account_id
            )
            return
    raise NotFound("you do not sign in with that account")


async def list_sessions(context: RequestContext) -> Page[Session]:
    """Where you are signed in."""
    found = await sessions.all_of(context.services.db, context.owner().id, context.now)
    return Page(items=[Session.of(one, context.session) for one in found], next=None)


async def end_session(context: RequestContext) -> None:
    """Sign out one session."""
    try:
        key = binascii.unhexlify(str(context.path["session"]))
    except (binascii.Error, ValueError):
        raise NotFound("there is no such session") from None
    if not await sessions.end_one(context.services.db, context.owner().id, key):
        raise NotFound("there is no such session, or it has ended")


async def end_other_sessions(context: RequestContext) -> None:
    """Sign out everywhere else."""
    await accounts.sign_out_everywhere(context.services.db, context.by(), context.raw_session)


async def list_teams(context: RequestContext) -> Page[Membership]:
    """Your teams; for an API token, its own team."""
    return Page(items=await _teams(context), next=None)


async def new_team(context: RequestContext, body: NewTeam) -> Membership:
    """Create a team to share repositories in."""
    most = context.services.settings.person_teams
    made = await members.new_team(context.services.db, context.by(), body.name, most)
    found = await teams.membership(context.services.db, context.owner().id, made.name)
    if found is None:
        raise NotFound("the team has just been removed")
    return Membership.of(found)


async def invitation(context: RequestContext) -> Invitation:
    """What an invitation is for."""
    raw = str(context.path["invitation"])
    return Invitation.of(
        await members.invitation(context.services.db, context.outside.keyring, raw, context.now)
    )


async def accept_invitation(context: RequestContext, body: Nothing) -> Membership:
    """Become a member of the team."""
    raw = str(context.path["invitation"])
    services, most = context.services, context.services.settings
    team = await members.accept(
        services.db, context.outside.keyring, context.by(), raw, most.limits, most.person_teams
    )
    found = await teams.membership(context.services.db, context.owner().id, team.name)
    if found is None:
        raise NotFound("the membership has just ended")
    return Membership.of(found)


async def _teams(context: RequestContext) -> list[Membership]:
    mine = await teams.memberships(context.services.db, context.owner().id)
    return [Membership.of(one) for one in mine if _is_seen(context, one)]


def _is_seen(context: RequestContext, one: Belonging) -> bool:
    return context.token is None or context.token.team.id == one.team.id


async def _profile(context: RequestContext, person: Person) -> Profile:
    db = context.services.db
    return Profile(
        id=str(person.id),
        name=person.name,
        email=person.email,
        email_proved=await store.is_email_confirmed(db, person.id),
        zone=person.zone,
        created_at=person.created_at,
        has_password=await store.password_hash(db, person.id) is not None,
        identities=[Identity.of(one) for one in await store.identities(db, person.id)],
        teams=await _teams(context),
    )


CALLS: Final[Sequence[Call]] = (
    call("GET", "/profile", profile, Needs.PERSON),
    call("PATCH", "/profile", change_profile, Needs.PERSON, "account"),
    call("PUT", "/profile/password", set_password, Needs.PERSON, "account", sure=True, anew=True),
    call(
        "DELETE", "/profile/identities/{forge}/{host}/{account}", unlink, Needs.PERSON, "account", sure=True
    ),
    call(
        "POST",
        "/profile/identities/{forge}/{host}/{account}/confirm",
        confirm,
        Needs.PERSON,
        "account",
        sure=True,
    ),
    call("GET", "/sessions", list_sessions, Needs.PERSON, "account"),
    call("DELETE", "/sessions", end_other_sessions, Needs.PERSON, "account"),
    call("DELETE", "/sessions/{session}", end_session, Needs.PERSON, "account"),
    call("GET", "/teams", list_teams, Needs.PERSON),
    call("POST", "/teams", new_team, Needs.PERSON, "account", status=201),
    call("GET", "/invitations/{invitation}", invitation, Needs.PERSON, "account"),
    call("POST", "/invitations/{invitation}/accept", accept_invitation, Needs.PERSON, "account"),
)
