"""Signing in and out: by e-mail and password, by a one-time link, or by a forge (mirror/web/consent.py)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.errors import EverrefError, Refused, TooOften
from mirror.flows import people
from mirror.store import people as store
from mirror.store import sessions
from mirror.web import consent
from mirror.web.account import given, ticked
from mirror.web.consent import begin, local
from mirror.web.frame import Needs, Visit, Way


async def page(visit: Visit) -> Response:
    """The ways to sign in."""
    return _page(visit, "sign-in.html")


async def sign_in(visit: Visit) -> Response:
    """By e-mail and password."""
    form = await visit.form()
    try:
        person = await people.sign_in_with_password(
            visit.edges.db,
            str(form.get("email", "")),
            str(form.get("password", "")),
            visit.now,
            visit.address,
        )
    except EverrefError as error:
        return _page(visit, "sign-in.html", error=error, email=str(form.get("email", "")))
    return await begin(visit, person.id, str(form.get("next", "")))


async def sign_up_page(visit: Visit) -> Response:
    """The form for a new account; where nobody may make one, how to get in."""
    try:
        await people.check_door(visit.edges.db, consent.door(visit, visit.query.get("next", "")), visit.now)
    except Refused as error:
        return _page(visit, "sign-up.html", refused=error)
    return _page(visit, "sign-up.html")


async def sign_up(visit: Visit) -> Response:
    """A new account by e-mail and password, with a team of its own."""
    form = await visit.form()
    name, email, to = str(form.get("name", "")), str(form.get("email", "")), str(form.get("next", ""))
    door = consent.door(visit, to)
    try:
        person = await people.sign_up(
            visit.edges.db, email, str(form.get("password", "")), name, visit.now, visit.address, door
        )
    except EverrefError as error:
        return _page(visit, "sign-up.html", error=error, email=email, name=name)
    return await begin(visit, person.id, await consent.landing(visit, person.id, to))


async def link_page(visit: Visit) -> Response:
    """A one-time link, which only the button on this page uses up: what looks ahead at links presses none."""
    raw = str(visit.path["raw"])
    person, daily, keeps = await people.link_is_for(visit.edges.db, raw, visit.now)
    nothing = dict.fromkeys(("identities", "sessions", "tokens", "invited"), ())
    found = await given(visit, person.id) if person and keeps else nothing
    return visit.render("link.html", raw=raw, who=person, daily=daily, **found)


async def follow_link(visit: Visit) -> Response:
    """Sign in by a one-time link; what was given before ends, but for what is ticked."""
    raw, keep = str(visit.path["raw"]), ticked(await visit.form())
    try:
        person = await people.sign_in_with_link(visit.edges.db, raw, visit.now, visit.address, keep)
    except Refused as error:
        return visit.redirect("/sign-in", str(error))
    let_in = await people.let_in_by(visit.edges.db, raw)
    waiting = [one for one in await store.identities(visit.edges.db, person.id) if one.doubted_at]
    return await begin(visit, person.id, "/account" if waiting or let_in else "/", let_in=let_in)


async def sign_out(visit: Visit) -> Response:
    """End this session; every one of them with `everywhere`."""
    if visit.raw_session is not None:
        await sessions.end(visit.edges.db, visit.raw_session)
    if (await visit.form()).get("everywhere"):
        await people.sign_out_everywhere(visit.edges.db, visit.by())
    return visit.sign_out(visit.redirect("/sign-in", "You are signed out."))


async def sure_page(visit: Visit) -> Response:
    """Ask once more who this is, before something that cannot be undone."""
    return await _sure(visit, visit.query)


async def _sure(visit: Visit, given: Mapping[str, Any], error: EverrefError | None = None) -> Response:
    """The page that asks it, and what was wrong with an answer; where it goes on stays as it was."""
    visit.check_not_let_in()
    person = visit.owner()
    mine = await store.identities(visit.edges.db, person.id)
    known = {(one.forge, one.host) for one in mine if one.doubted_at is None}
    return _told(
        visit,
        error,
        "sure.html",
        next=local(str(given.get("next", ""))),
        dropped=bool(given.get("dropped")),
        has_password=await store.password_hash(visit.edges.db, person.id) is not None,
        apps=[app for app in visit.edges.settings.apps if app.registered and (app.forge, app.host) in known],
    )


async def be_sure(visit: Visit) -> Response:
    """The password once more. Who has none signs in once more, by the forge or a new link."""
    form = await visit.form()
    if visit.raw_session is None:
        raise HTTPException(403, "this is for people, in a browser")
    try:
        await people.prove(visit.edges.db, visit.by(), str(form.get("password", "")))
    except EverrefError as error:
        return await _sure(visit, form, error)
    await sessions.sure(visit.edges.db, visit.raw_session, visit.now)
    to = local(str(form.get("next", "")))
    return visit.redirect(to, warned=consent.DROPPED if form.get("dropped") else None)


def _page(
    visit: Visit,
    template: str,
    error: EverrefError | None = None,
    email: str = "",
    name: str = "",
    *,
    refused: Refused | None = None,  # why nobody may make an account
) -> Response:
    return _told(
        visit,
        error,
        template,
        refused=refused,
        signup=visit.edges.settings.signup,
        email=email,
        name=name,
        next=local(visit.query.get("next")),
        apps=[app for app in visit.edges.settings.apps if app.registered],
    )


def _told(visit: Visit, error: EverrefError | None, template: str, **values: Any) -> Response:
    """A page with what is wrong, if anything is, and how long to wait where that helps."""
    status = 200 if error is None else 429 if isinstance(error, TooOften) else 422
    shown = visit.render(template, status, error=error, **values)
    if isinstance(error, TooOften):
        shown.headers["retry-after"] = str(error.seconds)
    return shown


WAYS: Final[Sequence[Way]] = (
    Way("GET", "/sign-in", page, Needs.NOTHING),
    Way("POST", "/sign-in", sign_in, Needs.NOTHING),
    Way("GET", "/sign-up", sign_up_page, Needs.NOTHING),
    Way("POST", "/sign-up", sign_up, Needs.NOTHING),
    Way("GET", "/sign-in/{raw}", link_page, Needs.NOTHING),
    Way("POST", "/sign-in/{raw}", follow_link, Needs.NOTHING),
    Way("POST", "/sign-out", sign_out, Needs.PERSON),
    Way("GET", "/account/sure", sure_page, Needs.PERSON),
    Way("POST", "/account/sure", be_sure, Needs.PERSON),
    *consent.WAYS,
)
