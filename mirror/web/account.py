"""A person's own pages: who they are, how they sign in, where they are signed in, and their teams."""

import binascii
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from starlette.datastructures import FormData
from starlette.responses import Response

from mirror.errors import EverrefError, NotFound, OverLimit, UsageError
from mirror.flows import people
from mirror.people import PersonId
from mirror.store import invitations, sessions, teams, tokens
from mirror.store import people as store
from mirror.store.invitations import InvitationId
from mirror.store.tokens import TokenId
from mirror.web.frame import AskAgain, Needs, Visit, Way


async def page(visit: Visit, error: EverrefError | None = None) -> Response:
    """Everything about the person who looks."""
    db, person = visit.edges.db, visit.owner()
    mine = await teams.memberships(db, person.id)
    return visit.render(
        "account.html",
        200 if error is None else 429 if isinstance(error, OverLimit) else 422,
        error=error,
        memberships=mine,
        **await given(visit, person.id),
        has_password=await store.password_hash(db, person.id) is not None,
        apps=[app for app in visit.edges.settings.apps if app.registered],
    )


async def given(visit: Visit, person_id: PersonId) -> dict[str, Any]:
    """What lets in as this person, for a page that lists it."""
    db = visit.edges.db
    return {
        "identities": await store.identities(db, person_id),
        "sessions": await sessions.all_of(db, person_id, visit.now),
        "tokens": await tokens.of_person(db, person_id, visit.now),
        "invited": await invitations.of_person(db, person_id, visit.now),
    }


def ticked(form: FormData) -> people.Given:
    """What of it was ticked to be kept."""
    keys = [text.split(" ") for text in _texts(form, "keep-identity")]
    try:
        return people.Given(
            frozenset(TokenId(UUID(text)) for text in _texts(form, "keep-token")),
            frozenset(binascii.unhexlify(text) for text in _texts(form, "keep-session")),
            frozenset((forge, host, account) for forge, host, account in keys),
            frozenset(InvitationId(UUID(text)) for text in _texts(form, "keep-invitation")),
        )
    except (binascii.Error, ValueError):
        raise UsageError("that is not what was on the page; reload it and try again") from None


def _texts(form: FormData, name: str) -> list[str]:
    return [str(one) for one in form.getlist(name)]


async def set_profile(visit: Visit) -> Response:
    """What the person is called, their e-mail and their time zone."""
    form = await visit.form()
    begins = visit.by().let_in and visit.owner().email is None  # who has none sets no password
    other = people.is_other_email(visit.owner(), str(form.get("email", "")))
    if other and not visit.is_sure and not begins:
        raise AskAgain  # it is half of what signs in
    try:
        await people.set_profile(
            visit.edges.db,
            visit.by(),
            str(form.get("name", "")),
            str(form.get("email", "")).strip() or None,
            str(form.get("zone", "")).strip() or None,
        )
    except UsageError as error:
        return await page(visit, error)
    return visit.redirect("/account", "Your profile is saved.")


async def set_password(visit: Visit) -> Response:
    """A new password; what was given before ends, but for what is ticked."""
    form = await visit.form()
    try:
        await people.set_password(
            visit.edges.db, visit.by(), str(form.get("password", "")), visit.raw_session, ticked(form)
        )
    except UsageError as error:
        return await page(visit, error)
    if visit.by().let_in:
        return visit.redirect("/sign-in", "Your password is set. Sign in by it.")
    return visit.redirect("/account", "Your password is set. What you did not keep has ended.")


async def confirm(visit: Visit) -> Response:
    """Say that an account at a forge is one's own, so that it signs in again."""
    form = await visit.form()
    for one in await store.identities(visit.edges.db, visit.owner().id):
        if (one.host, one.account_id) == (form.get("host"), form.get("account")):
            await people.confirm_identity(visit.edges.db, visit.by(), one.forge, one.host, one.account_id)
            return visit.redirect("/account", f"{one.login} at {one.host} signs you in again.")
    raise NotFound("you do not sign in by that account")


async def revoke_token(visit: Visit) -> Response:
    """Let one of one's own API tokens not work any more."""
    text = str((await visit.form()).get("token", ""))
    for one in await tokens.of_person(visit.edges.db, visit.owner().id, visit.now):
        if str(one.id) == text:
            await people.revoke_token(visit.edges.db, visit.by(), one.team, one.id)
            return visit.redirect("/account", f"The token {one.name} is revoked.")
    raise NotFound("there is no such token, or it was revoked already")


async def unlink(visit: Visit) -> Response:
    """Sign in by this account at a forge no more."""
    form = await visit.form()
    known = await store.identities(visit.edges.db, visit.owner().id)
    for one in known:
        if (one.host, one.account_id) == (form.get("host"), form.get("account")):
            await people.unlink_identity(visit.edges.db, visit.by(), one.forge, one.host, one.account_id)
            return visit.redirect("/account", f"You no longer sign in as {one.login} at {one.host}.")
    raise NotFound("you do not sign in by that account")


async def end_session(visit: Visit) -> Response:
    """Sign out one browser."""
    try:
        key = binascii.unhexlify(str((await visit.form()).get("session", "")))
    except (binascii.Error, ValueError):
        raise NotFound("there is no such session") from None
    if not await sessions.end_one(visit.edges.db, visit.owner().id, key):
        raise NotFound("there is no such session, or it has ended")
    return visit.redirect("/account", "That browser is signed out.")


async def new_team(visit: Visit) -> Response:
    """A team to share repositories in."""
    try:
        name = str((await visit.form()).get("name", ""))
        most = visit.edges.settings.person_teams
        team = await people.new_team(visit.edges.db, visit.by(), name, most)
    except (UsageError, OverLimit) as error:
        return await page(visit, error)
    return visit.redirect(f"/{team.name}", f"The team {team.name} is made. Invite others in its settings.")


async def invitation(visit: Visit) -> Response:
    """What an invitation is to, before it is accepted."""
    raw = str(visit.path["raw"])
    found = await people.invitation(visit.edges.db, visit.outside.keyring, raw, visit.now)
    return visit.render("invitation.html", invitation=found, raw=raw)


async def accept(visit: Visit) -> Response:
    """Become a member of the team."""
    raw = str(visit.path["raw"])
    edges, most = visit.edges, visit.edges.settings
    team = await people.accept(
        edges.db, visit.outside.keyring, visit.by(), raw, most.limits, most.person_teams
    )
    return visit.redirect(f"/{team.name}", f"You are a member of {team.name} now.")


WAYS: Final[Sequence[Way]] = (
    Way("GET", "/account", page, Needs.PERSON),
    Way("POST", "/account/profile", set_profile, Needs.PERSON),
    Way("POST", "/account/password", set_password, Needs.PERSON, sure=True, anew=True),
    Way("POST", "/account/unlink", unlink, Needs.PERSON, sure=True),
    Way("POST", "/account/confirm", confirm, Needs.PERSON, sure=True),
    Way("POST", "/account/tokens/revoke", revoke_token, Needs.PERSON),
    Way("POST", "/account/sessions/end", end_session, Needs.PERSON),
    Way("POST", "/account/teams", new_team, Needs.PERSON),
    Way("GET", "/invitations/{raw}", invitation, Needs.PERSON),
    Way("POST", "/invitations/{raw}", accept, Needs.PERSON),
)
