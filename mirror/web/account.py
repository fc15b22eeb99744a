"""A person's own pages: who they are, how they sign in, where they are signed in, and their teams."""

import binascii
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from mirror.errors import EverrefError, NotFound, OverLimit, UsageError
from mirror.flows import people
from mirror.store import people as store
from mirror.store import sessions, teams
from mirror.web.frame import Needs, Visit, Way


async def page(visit: Visit, error: EverrefError | None = None) -> Response:
    """Everything about the person who looks."""
    db, person = visit.edges.db, visit.owner()
    mine = await teams.memberships(db, person.id)
    return visit.render(
        "account.html",
        200 if error is None else 429 if isinstance(error, OverLimit) else 422,
        error=error,
        memberships=mine,
        identities=await store.identities(db, person.id),
        sessions=await sessions.all_of(db, person.id, visit.now),
        has_password=await store.password_hash(db, person.id) is not None,
        apps=[app for app in visit.edges.settings.apps if app.registered],
    )


async def set_profile(visit: Visit) -> Response:
    """What the person is called, their e-mail and their time zone."""
    form = await visit.form()
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
    """A new password; every other session ends."""
    form = await visit.form()
    try:
        await people.set_password(
            visit.edges.db, visit.by(), str(form.get("password", "")), visit.raw_session
        )
    except UsageError as error:
        return await page(visit, error)
    return visit.redirect("/account", "Your password is set. Every other session was signed out.")


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
    team = await people.accept(
        visit.edges.db, visit.outside.keyring, visit.by(), raw, visit.edges.settings.limits
    )
    return visit.redirect(f"/{team.name}", f"You are a member of {team.name} now.")


WAYS: Final[Sequence[Way]] = (
    Way("GET", "/account", page, Needs.PERSON),
    Way("POST", "/account/profile", set_profile, Needs.PERSON),
    Way("POST", "/account/password", set_password, Needs.PERSON, sure=True),
    Way("POST", "/account/unlink", unlink, Needs.PERSON, sure=True),
    Way("POST", "/account/sessions/end", end_session, Needs.PERSON),
    Way("POST", "/account/teams", new_team, Needs.PERSON),
    Way("GET", "/invitations/{raw}", invitation, Needs.PERSON),
    Way("POST", "/invitations/{raw}", accept, Needs.PERSON),
)
