"""A person's own calls: who they are, where they are signed in, and their teams."""

import binascii
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from mirror.errors import NotFound, UsageError
from mirror.flows import people
from mirror.store import people as store
from mirror.store import sessions, teams
from mirror.store.invitations import InvitationId
from mirror.store.people import Person
from mirror.store.teams import Membership as Belonging
from mirror.store.tokens import TokenId
from mirror.web.api import shapes
from mirror.web.api.call import Body, Call, call
from mirror.web.api.entry import Password
from mirror.web.api.shapes import Identity, Invitation, Membership, Nothing, Page, Profile, Session, Words
from mirror.web.frame import AskAgain, Needs, Visit


class ProfileChange(Body, frozen=True, kw_only=True):
    """What a person is called from now on; what is left out stays."""

    name: Words | None = None
    email: Words | None = None
    zone: Words | None = None


class IdentityKept(Body, frozen=True, kw_only=True):
    """An account at a forge that is confirmed to be one's own."""

    forge: Words
    host: Words
    account_id: Words


class NewPassword(Body, frozen=True, kw_only=True):
    """A password, and what of all that was given before does not end with the old one."""

    password: Password
    keep_tokens: Annotated[list[Words], Meta(max_length=1000, description="their ids")] = []
    keep_sessions: Annotated[list[Words], Meta(max_length=1000, description="their ids")] = []
    keep_identities: Annotated[list[IdentityKept], Meta(max_length=100)] = []
    keep_invitations: Annotated[list[Words], Meta(max_length=1000, description="their ids")] = []


class NewTeam(Body, frozen=True, kw_only=True):
    """A team to make."""

    name: Words


async def profile(visit: Visit) -> Profile:
    """Who you are."""
    return await _profile(visit, visit.owner())


async def change_profile(visit: Visit, body: ProfileChange) -> Profile:
    """Change your name, e-mail address or time zone."""
    me = visit.owner()
    if body.email is not None and people.is_other_email(me, body.email) and not visit.is_sure:
        raise AskAgain
    changed = await people.set_profile(
        visit.edges.db,
        visit.by(),
        me.name if body.name is None else body.name,
        me.email if body.email is None else body.email,
        me.zone if body.zone is None else body.zone,
    )
    return await _profile(visit, changed)


async def set_password(visit: Visit, body: NewPassword) -> None:
    """Set your password; sessions, API tokens and invitations end, accounts at forges wait for your word."""
    try:
        keep = people.Given(
            frozenset(TokenId(UUID(one)) for one in body.keep_tokens),
            frozenset(binascii.unhexlify(one) for one in body.keep_sessions),
            frozenset((one.forge, one.host, one.account_id) for one in body.keep_identities),
            frozenset(InvitationId(UUID(one)) for one in body.keep_invitations),
        )
    except (binascii.Error, ValueError):
        raise UsageError("say what is kept by the ids that the lists of them give") from None
    await people.set_password(visit.edges.db, visit.by(), body.password, visit.raw_session, keep)


async def confirm(visit: Visit, body: Nothing) -> Profile:
    """Say that an account at a forge is yours, so that it signs you in again."""
    for one in await store.identities(visit.edges.db, visit.owner().id):
        if (one.forge, one.host, one.account_id) == tuple(
            visit.path[part] for part in ("forge", "host", "account")
        ):
            await people.confirm_identity(visit.edges.db, visit.by(), one.forge, one.host, one.account_id)
            return await _profile(visit, visit.owner())
    raise NotFound("you do not sign in by that account")


async def unlink(visit: Visit) -> None:
    """Sign in by an account at a forge no more."""
    for one in await store.identities(visit.edges.db, visit.owner().id):
        if (one.forge, one.host, one.account_id) == tuple(
            visit.path[part] for part in ("forge", "host", "account")
        ):
            await people.unlink_identity(visit.edges.db, visit.by(), one.forge, one.host, one.account_id)
            return
    raise NotFound("you do not sign in by that account")


async def list_sessions(visit: Visit) -> Page[Session]:
    """Where you are signed in."""
    found = await sessions.all_of(visit.edges.db, visit.owner().id, visit.now)
    return Page(items=[Session.of(one, visit.session) for one in found], next=None)


async def end_session(visit: Visit) -> None:
    """Sign out there."""
    try:
        key = binascii.unhexlify(str(visit.path["session"]))
    except (binascii.Error, ValueError):
        raise NotFound("there is no such session") from None
    if not await sessions.end_one(visit.edges.db, visit.owner().id, key):
        raise NotFound("there is no such session, or it has ended")


async def end_other_sessions(visit: Visit) -> None:
    """Sign out everywhere but here."""
    await people.sign_out_everywhere(visit.edges.db, visit.by(), visit.raw_session)


async def list_teams(visit: Visit) -> Page[Membership]:
    """The teams in which you are; for an API token, its own."""
    return Page(items=await _teams(visit), next=None)


async def new_team(visit: Visit, body: NewTeam) -> Membership:
    """Make a team to share repositories in."""
    most = visit.edges.settings.person_teams
    made = await people.new_team(visit.edges.db, visit.by(), body.name, most)
    found = await teams.membership(visit.edges.db, visit.owner().id, made.name)
    if found is None:
        raise NotFound("the team was removed just now")
    return Membership.of(found)


async def invitation(visit: Visit) -> Invitation:
    """What an invitation is to."""
    raw = str(visit.path["invitation"])
    return Invitation.of(await people.invitation(visit.edges.db, visit.outside.keyring, raw, visit.now))


async def accept_invitation(visit: Visit, body: Nothing) -> Membership:
    """Become a member of the team."""
    raw = str(visit.path["invitation"])
    edges, most = visit.edges, visit.edges.settings
    team = await people.accept(
        edges.db, visit.outside.keyring, visit.by(), raw, most.limits, most.person_teams
    )
    found = await teams.membership(visit.edges.db, visit.owner().id, team.name)
    if found is None:
        raise NotFound("the membership was ended just now")
    return Membership.of(found)


async def _teams(visit: Visit) -> list[Membership]:
    mine = await teams.memberships(visit.edges.db, visit.owner().id)
    return [Membership.of(one) for one in mine if _is_seen(visit, one)]


def _is_seen(visit: Visit, one: Belonging) -> bool:
    return visit.token is None or visit.token.team.id == one.team.id


async def _profile(visit: Visit, person: Person) -> Profile:
    db = visit.edges.db
    return shapes.Profile(
        id=str(person.id),
        name=person.name,
        email=person.email,
        email_proved=False,
        zone=person.zone,
        created_at=person.created_at,
        has_password=await store.password_hash(db, person.id) is not None,
        identities=[Identity.of(one) for one in await store.identities(db, person.id)],
        teams=await _teams(visit),
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
