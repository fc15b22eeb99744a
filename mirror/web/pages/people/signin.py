"""Signing in and out: by e-mail and password, by a one-time link, or by a forge (web/pages/people/oauth)."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.core.errors import EverrefError, Refused, TooOften
from mirror.people import accounts, mails
from mirror.store.people import people as store
from mirror.store.people import sessions
from mirror.web import templating
from mirror.web.compression import as_it_is
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.people import oauth
from mirror.web.pages.people.account import given, ticked
from mirror.web.pages.people.oauth import begin, local


async def page(context: RequestContext) -> Response:
    """The ways to sign in."""
    return _page(context, "sign-in.html")


async def sign_in(context: RequestContext) -> Response:
    """By e-mail and password."""
    form = await context.form()
    try:
        person = await accounts.sign_in_with_password(
            context.services.db,
            str(form.get("email", "")),
            str(form.get("password", "")),
            context.now,
            context.address,
        )
    except EverrefError as error:
        return _page(context, "sign-in.html", error=error, email=str(form.get("email", "")))
    return await begin(context, person.id, str(form.get("next", "")))


async def sign_up_page(context: RequestContext) -> Response:
    """The form for a new account, or how to get one where sign-up is closed."""
    try:
        await accounts.check_door(
            context.services.db, oauth.door(context, context.query.get("next", "")), context.now
        )
    except Refused as error:
        return _page(context, "sign-up.html", refused=error)
    return _page(context, "sign-up.html")


async def sign_up(context: RequestContext) -> Response:
    """A new account by e-mail and password, with a team of its own."""
    form = await context.form()
    name, email, to = str(form.get("name", "")), str(form.get("email", "")), str(form.get("next", ""))
    door = oauth.door(context, to)
    try:
        person = await accounts.sign_up(
            context.services.db,
            email,
            str(form.get("password", "")),
            name,
            context.now,
            context.address,
            door,
        )
    except EverrefError as error:
        return _page(context, "sign-up.html", error=error, email=email, name=name)
    return await begin(context, person.id, await oauth.landing(context, person.id, to))


async def link_page(context: RequestContext) -> Response:
    """A one-time link, which only the button on this page uses up: link previews press no button."""
    raw = str(context.path["raw"])
    person, daily, keeps = await accounts.link_is_for(context.services.db, raw, context.now)
    nothing = dict.fromkeys(("identities", "sessions", "tokens", "invited", "shared"), ())
    found = await given(context, person.id) if person and keeps else nothing
    sets = "new-password" in context.query
    return as_it_is(
        context.render("link.html", raw=raw, who=person, daily=daily, sets_password=sets, **found)
    )


async def follow_link(context: RequestContext) -> Response:
    """Sign in by a one-time link; everything given before ends, except what is ticked."""
    form = await context.form()
    raw, keep = str(context.path["raw"]), ticked(form)
    try:
        person = await accounts.sign_in_with_link(
            context.services.db, raw, context.now, context.address, keep
        )
    except Refused as error:
        return context.redirect("/sign-in", str(error))
    let_in = await accounts.let_in_by(context.services.db, raw)
    waiting = [one for one in await store.identities(context.services.db, person.id) if one.doubted_at]
    to = "/account" if waiting or let_in or form.get("new-password") else "/"
    return await begin(context, person.id, to, let_in=let_in)


async def forgot_page(context: RequestContext) -> Response:
    """Ask for the address to which a one-time link is mailed."""
    _check_mails(context)
    return _told(context, None, "forgot.html", sent=mails.SENT if "asked" in context.query else None)


async def forgot(context: RequestContext) -> Response:
    """Mail a one-time link, if that address was confirmed. Nobody learns from the answer whether it was:
    it is the same and comes at once, as everything else is done behind it.
    """
    _check_mails(context)
    email = str((await context.form()).get("email", ""))
    try:
        await mails.check_may_ask(context.services.db, context.address, context.now)
    except TooOften as error:
        return _told(context, error, "forgot.html", sent=None)
    work = mails.reset_password(context.services, email, context.now)
    context.outside.background.begin(f"forgotten password {secrets.token_hex(8)}", work)
    return context.redirect("/forgot?asked=1")


def _check_mails(context: RequestContext) -> None:
    if context.services.settings.smtp is None:
        raise HTTPException(404, "this server sends no mail, so it cannot mail a link")


async def sign_out(context: RequestContext) -> Response:
    """End this session; every one of them with `everywhere`."""
    if context.raw_session is not None:
        await sessions.end(context.services.db, context.raw_session)
    if (await context.form()).get("everywhere"):
        await accounts.sign_out_everywhere(context.services.db, context.by())
    return context.sign_out(context.redirect("/sign-in", "You are signed out."))


async def sure_page(context: RequestContext) -> Response:
    """Ask once more who this is, before something that cannot be undone."""
    return await _sure(context, context.query)


async def _sure(
    context: RequestContext, given: Mapping[str, Any], error: EverrefError | None = None
) -> Response:
    """The page that asks again, with the error of the last answer; the page to return to stays the same."""
    context.check_not_let_in()
    person = context.owner()
    mine = await store.identities(context.services.db, person.id)
    known = {(one.forge, one.host) for one in mine if one.doubted_at is None}
    return _told(
        context,
        error,
        "sure.html",
        next=local(str(given.get("next", ""))),
        dropped=bool(given.get("dropped")),
        has_password=await store.password_hash(context.services.db, person.id) is not None,
        apps=[
            app for app in context.services.settings.apps if app.registered and (app.forge, app.host) in known
        ],
    )


async def be_sure(context: RequestContext) -> Response:
    """Check the password once more. A person without one signs in again by the forge or a new link."""
    form = await context.form()
    if context.raw_session is None:
        raise HTTPException(403, "only people in a browser can do this")
    try:
        await accounts.prove(context.services.db, context.by(), str(form.get("password", "")))
    except EverrefError as error:
        return await _sure(context, form, error)
    await sessions.sure(context.services.db, context.raw_session, context.now)
    to = local(str(form.get("next", "")))
    return context.redirect(to, warned=oauth.DROPPED if form.get("dropped") else None)


def _page(
    context: RequestContext,
    template: str,
    error: EverrefError | None = None,
    email: str = "",
    name: str = "",
    *,
    refused: Refused | None = None,  # why nobody may make an account
) -> Response:
    return _told(
        context,
        error,
        template,
        refused=refused,
        signup=context.services.settings.signup,
        email=email,
        name=name,
        next=local(context.query.get("next")),
        apps=[app for app in context.services.settings.apps if app.registered],
        mail=context.services.settings.smtp is not None,
    )


def _told(context: RequestContext, error: EverrefError | None, template: str, **values: Any) -> Response:
    """A page with its error, if there is one, and how long to wait where waiting helps."""
    status = 200 if error is None else 429 if isinstance(error, TooOften) else 422
    shown = context.render(template, status, error=error, wrong=templating.wrong(error), **values)
    if isinstance(error, TooOften):
        shown.headers["retry-after"] = str(error.seconds)
    return shown


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/sign-in", page, Needs.NOTHING),
    Endpoint("POST", "/sign-in", sign_in, Needs.NOTHING),
    Endpoint("GET", "/sign-up", sign_up_page, Needs.NOTHING),
    Endpoint("POST", "/sign-up", sign_up, Needs.NOTHING),
    Endpoint("GET", "/sign-in/{raw}", link_page, Needs.NOTHING),
    Endpoint("POST", "/sign-in/{raw}", follow_link, Needs.NOTHING),
    Endpoint("GET", "/forgot", forgot_page, Needs.NOTHING),
    Endpoint("POST", "/forgot", forgot, Needs.NOTHING),
    Endpoint("POST", "/sign-out", sign_out, Needs.PERSON),
    Endpoint("GET", "/account/sure", sure_page, Needs.PERSON),
    Endpoint("POST", "/account/sure", be_sure, Needs.PERSON),
    *oauth.ENDPOINTS,
)
