"""A person's own pages: who they are, how they sign in, where they are signed in, and their teams."""

import binascii
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from starlette.datastructures import FormData
from starlette.responses import Response

from mirror.core.errors import EverrefError, NotFound, OverLimit, UsageError
from mirror.core.rules.roles import PersonId
from mirror.core.times import zones
from mirror.people import accounts, api_tokens, members
from mirror.store.notify import channels
from mirror.store.notify.channels import Owner
from mirror.store.people import invitations, sessions, teams, tokens
from mirror.store.people import people as store
from mirror.store.people.invitations import InvitationId
from mirror.store.people.tokens import TokenId
from mirror.store.restore import shares
from mirror.store.restore.shares import ShareId
from mirror.web import templating
from mirror.web.compression import as_it_is
from mirror.web.dispatch import ZONE_KEPT, AskAgain, Endpoint, Needs, RequestContext
from mirror.web.pages.people.oauth import local

ZONE_SECONDS: Final = 365 * 86400  # for which a browser's zone that was turned down is not offered again


async def page(context: RequestContext, error: EverrefError | None = None, **typed: str) -> Response:
    """The account page of the person who is signed in."""
    db, person = context.services.db, context.owner()
    mine = await teams.memberships(db, person.id)
    return context.render(
        "account.html",
        200 if error is None else 429 if isinstance(error, OverLimit) else 422,
        error=error,
        wrong=templating.wrong(error),
        typed=typed,
        zones=sorted(one for one in zones.names() if "/" in one and not one.startswith(("Etc/", "SystemV/"))),
        memberships=mine,
        **await given(context, person.id),
        has_password=await store.password_hash(db, person.id) is not None,
        apps=[app for app in context.services.settings.apps if app.registered],
        mail=context.services.settings.smtp is not None,
        told_at=[one.shown for one in await channels.of(db, Owner(person_id=person.id))],
        email_confirmed=await store.is_email_confirmed(db, person.id),
    )


async def given(context: RequestContext, person_id: PersonId) -> dict[str, Any]:
    """Everything that can sign in or act as this person, for a page that lists it."""
    db = context.services.db
    return {
        "identities": await store.identities(db, person_id),
        "sessions": await sessions.all_of(db, person_id, context.now),
        "tokens": await tokens.of_person(db, person_id, context.now),
        "invited": await invitations.of_person(db, person_id, context.now),
        "shared": await shares.of_person(db, person_id, context.now),
    }


def ticked(form: FormData) -> accounts.Grants:
    """What was ticked to be kept."""
    keys = [text.split(" ") for text in _texts(form, "keep-identity")]
    try:
        return accounts.Grants(
            frozenset(TokenId(UUID(text)) for text in _texts(form, "keep-token")),
            frozenset(binascii.unhexlify(text) for text in _texts(form, "keep-session")),
            frozenset((forge, host, account) for forge, host, account in keys),
            frozenset(InvitationId(UUID(text)) for text in _texts(form, "keep-invitation")),
            frozenset(ShareId(UUID(text)) for text in _texts(form, "keep-share")),
        )
    except (binascii.Error, ValueError):
        raise UsageError("this form is not the one on the page; reload the page and try again") from None


def _texts(form: FormData, name: str) -> list[str]:
    return [str(one) for one in form.getlist(name)]


async def set_profile(context: RequestContext) -> Response:
    """Change the person's name, e-mail and time zone."""
    form = await context.form()
    begins = context.by().let_in and context.owner().email is None  # no password without one
    typed = {name: str(form.get(name, "")) for name in ("name", "email", "zone")}
    other = accounts.is_other_email(context.owner(), typed["email"])
    if other and not context.is_sure and not begins:
        raise AskAgain  # the e-mail is half of what signs in
    try:
        await accounts.set_profile(
            context.services.db,
            context.by(),
            typed["name"],
            typed["email"].strip() or None,
            typed["zone"].strip() or None,
        )
    except UsageError as error:
        return await page(context, error, **typed)
    return context.redirect("/account", "Your profile is saved.")


async def set_zone(context: RequestContext) -> Response:
    """Answer whether pages are to show the browser's time zone or go on with the one they show."""
    form = await context.form()
    zone, person = str(form.get("zone", "")), context.owner()
    to = local(str(form.get("next", "")))
    if form.get("do") == "use":
        await accounts.set_zone(context.services.db, context.by(), zone)
        return context.redirect(to, f"Times are now those of {zone}.")
    if person.zone is None:  # the next sign-in is not to take the browser's
        await accounts.set_zone(context.services.db, context.by(), context.zone.key)
    answer = context.redirect(to)
    if zone in zones.names():
        answer.set_cookie(
            ZONE_KEPT, zone, ZONE_SECONDS, path="/", secure=context.secure, httponly=True, samesite="lax"
        )
    return answer


async def set_password(context: RequestContext) -> Response:
    """Set a new password; everything given before ends, except what is ticked."""
    form = await context.form()
    try:
        await accounts.set_password(
            context.services.db,
            context.by(),
            str(form.get("password", "")),
            context.raw_session,
            ticked(form),
        )
    except UsageError as error:
        return await page(context, error)
    if context.by().let_in:
        return context.redirect("/sign-in", "Your password is set. Sign in with it.")
    return context.redirect("/account", "Your password is set. Everything that you did not tick has ended.")


async def confirm(context: RequestContext) -> Response:
    """Say that an account at a forge is one's own, so that it signs in again."""
    form = await context.form()
    for one in await store.identities(context.services.db, context.owner().id):
        if (one.host, one.account_id) == (form.get("host"), form.get("account")):
            await accounts.confirm_identity(
                context.services.db, context.by(), one.forge, one.host, one.account_id
            )
            return context.redirect("/account", f"{one.login} at {one.host} signs you in again.")
    raise NotFound("you do not sign in with that account")


async def revoke_token(context: RequestContext) -> Response:
    """Revoke one of one's own API tokens."""
    text = str((await context.form()).get("token", ""))
    for one in await tokens.of_person(context.services.db, context.owner().id, context.now):
        if str(one.id) == text:
            await api_tokens.revoke_token(context.services.db, context.by(), one.team, one.id)
            return context.redirect("/account", f"The token {one.name} is revoked.")
    raise NotFound("there is no such token, or it has been revoked")


async def unlink(context: RequestContext) -> Response:
    """Stop signing in with this account at a forge."""
    form = await context.form()
    known = await store.identities(context.services.db, context.owner().id)
    for one in known:
        if (one.host, one.account_id) == (form.get("host"), form.get("account")):
            await accounts.unlink_identity(
                context.services.db, context.by(), one.forge, one.host, one.account_id
            )
            return context.redirect("/account", f"You no longer sign in as {one.login} at {one.host}.")
    raise NotFound("you do not sign in with that account")


async def end_session(context: RequestContext) -> Response:
    """Sign out one browser."""
    try:
        key = binascii.unhexlify(str((await context.form()).get("session", "")))
    except (binascii.Error, ValueError):
        raise NotFound("there is no such session") from None
    if not await sessions.end_one(context.services.db, context.owner().id, key):
        raise NotFound("there is no such session, or it has ended")
    return context.redirect("/account", "That browser is signed out.")


async def new_team(context: RequestContext) -> Response:
    """A team to share repositories in."""
    name = str((await context.form()).get("name", ""))
    try:
        most = context.services.settings.person_teams
        team = await members.new_team(context.services.db, context.by(), name, most)
    except (UsageError, OverLimit) as error:
        return await page(context, error, team=name)
    return context.redirect(f"/{team.name}", f"The team {team.name} is ready. Invite others in its settings.")


async def invitation(context: RequestContext) -> Response:
    """Show what an invitation is for, before it is accepted."""
    raw = str(context.path["raw"])
    found = await members.invitation(context.services.db, context.outside.keyring, raw, context.now)
    return as_it_is(context.render("invitation.html", invitation=found, raw=raw))


async def accept(context: RequestContext) -> Response:
    """Become a member of the team."""
    raw = str(context.path["raw"])
    services, most = context.services, context.services.settings
    team = await members.accept(
        services.db, context.outside.keyring, context.by(), raw, most.limits, most.person_teams
    )
    return context.redirect(f"/{team.name}", f"You are now a member of {team.name}.")


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/account", page, Needs.PERSON),
    Endpoint("POST", "/account/profile", set_profile, Needs.PERSON),
    Endpoint("POST", "/account/zone", set_zone, Needs.PERSON),
    Endpoint("POST", "/account/password", set_password, Needs.PERSON, sure=True, anew=True),
    Endpoint("POST", "/account/unlink", unlink, Needs.PERSON, sure=True),
    Endpoint("POST", "/account/confirm", confirm, Needs.PERSON, sure=True),
    Endpoint("POST", "/account/tokens/revoke", revoke_token, Needs.PERSON),
    Endpoint("POST", "/account/sessions/end", end_session, Needs.PERSON),
    Endpoint("POST", "/account/teams", new_team, Needs.PERSON),
    Endpoint("GET", "/invitations/{raw}", invitation, Needs.PERSON),
    Endpoint("POST", "/invitations/{raw}", accept, Needs.PERSON),
)
