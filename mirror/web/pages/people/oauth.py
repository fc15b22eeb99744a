"""OAuth 2 with PKCE (RFC 6749, RFC 7636): asking a person for consent at a forge, and the answer.

A request for consent belongs to the browser that made it: its state and PKCE's
verifier are in a signed cookie of that browser, good for ten minutes; whoever comes
back later is led to where it began, and nothing is done. A state is taken once, a
callback is for the forge that was asked (RFC 9700, mix-up), and the address to come
back to is made of BASE_URL, never of the Host header.

A GET signs in who is signed out, and changes nothing about who is signed in: that
begins with a form of ours, and an account becomes one more way to sign in only by
another form, on a page that names it.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import quote
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from mirror.core import signed, words
from mirror.core.config import App, Product
from mirror.core.errors import EverrefError, Refused
from mirror.core.rules.roles import PersonId, Role
from mirror.core.times import zones
from mirror.discovery import connections
from mirror.forges import oauth
from mirror.forges.contract import Account, Purpose, Tokens
from mirror.people import accounts
from mirror.store.discovery import connections as connection_rows
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.people import attempts, sessions, teams
from mirror.store.people import people as people_rows
from mirror.store.people.people import Person
from mirror.web.dispatch import SAFE, AskAgain, Endpoint, Needs, RequestContext
from mirror.web.templating import called

SECONDS: Final = 600  # for a person to consent
LATE: Final = 3600  # seconds for which a browser that comes back too late is led to where it began
COOKIE: Final = "consent"
DROPPED: Final = (
    "Nothing has been done yet, because you had to confirm who you are first. Press the button once more; "
    "type passwords and tokens again."
)


class Act(StrEnum):
    """What a consent is used for."""

    SIGN_IN = "sign-in"  # of who is signed out
    PROVE = "prove"  # that who is signed in is who they say
    LINK = "link"  # one more account to the ways in which a person signs in
    CONNECT = "connect"  # a team


@dataclass(frozen=True, slots=True)
class Consent:
    """What was asked of a forge for one browser, as the cookie keeps it."""

    host: str
    state: str
    verifier: str
    purpose: str  # in the words of Purpose
    act: str  # in the words of Act
    team: str | None  # whose connection it is to become; None: only to sign in
    next: str  # the page to go on with
    session: str  # whose: the session's SHA-256, as nobody else is to come back with it; empty: signed out
    dropped: bool = False  # what was pressed before was not done, as nobody had proved who they are
    zone: str = ""  # the browser's time zone, as it says
    again: str | None = None  # the connection whose account is asked once more; None: any account will do


def local(path: str | None, otherwise: str = "/") -> str:
    """A path of ours, so that nobody is sent to another site."""
    ok = path and path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if ok and path is not None else otherwise


def app_of(context: RequestContext, forge: str, host: str | None) -> App:
    """The forge that is meant: the only one of its product, or that of the host."""
    for app in context.services.settings.apps:
        if app.forge == forge and host in (None, "", app.host) and app.registered:
            return app
    raise HTTPException(404, "no such forge is set up here")


async def sign_in(context: RequestContext) -> Response:
    """Send a browser that is signed out to the forge, only to learn who it is."""
    app = app_of(context, str(context.path["forge"]), context.query.get("host"))
    if context.person is not None:  # any page of any site can send a browser here
        said = "You are signed in already. To add an account, use its button on this page."
        return context.redirect("/account", said)
    return _ask(context, _Wanted(app, Act.SIGN_IN, to=context.query.get("next")))


async def start(context: RequestContext) -> Response:
    """Send the browser to the forge: to sign in, to prove who it is, to add an account, to connect a team."""
    form = await context.form()
    app = app_of(context, str(context.path["forge"]), str(form.get("host", "")))
    team = str(form.get("team", "")) or None
    purpose = Purpose.SIGN_IN
    act = Act.SIGN_IN if context.person is None else Act.PROVE
    if team is not None:
        act, purpose = Act.CONNECT, Purpose.CREATE if form.get("purpose") == Purpose.CREATE else Purpose.HOOKS
        await _may_connect(context, team)
    elif context.person is not None and form.get("act") == Act.LINK:
        if not context.is_sure:  # a new way in lets in whoever has it
            raise AskAgain("/account")
        act = Act.LINK
    dropped = act is Act.PROVE and bool(form.get("dropped"))
    to, zone = str(form.get("next", "")), str(form.get("zone", ""))[: zones.LONGEST]
    return _ask(context, _Wanted(app, act, purpose, team, to, dropped=dropped, zone=zone))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be asked of a forge, and why; `Consent` has what each of these means."""

    app: App
    act: Act
    purpose: Purpose = Purpose.SIGN_IN
    team: str | None = None
    to: str | None = None  # the page to go on with, as the browser sent it
    dropped: bool = False
    zone: str = ""
    again: str | None = None


def _ask(context: RequestContext, wanted: _Wanted) -> Response:
    """To the consent page of the forge, with a cookie by which the callback is known."""
    app = wanted.app
    asked = Consent(
        host=app.host,
        state=oauth.new_state(),
        verifier=oauth.new_verifier(),
        purpose=wanted.purpose,
        act=wanted.act,
        team=wanted.team,
        next=local(wanted.to),
        session=_session(context),
        dropped=wanted.dropped,
        zone=wanted.zone,
        again=wanted.again,
    )
    back = connections.callback(context.services.settings, app)
    address = context.services.forges.of(app).authorize_url(asked.state, asked.verifier, back, wanted.purpose)
    answer = RedirectResponse(address, 303)
    answer.set_cookie(
        COOKIE,
        signed.sign(context.outside.keyring, "consent", msgspec.json.encode(asked).decode()),
        LATE,
        path="/auth/",
        secure=context.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


def ask_again(context: RequestContext, connection: Connection, to: str) -> Response:
    """To the consent page of a connection's forge, for the account whose token it refuses; then to `to`."""
    app = app_of(context, connection.forge, connection.host)
    asked = _Wanted(app, Act.CONNECT, Purpose.HOOKS, context.of_team().name, to, again=str(connection.id))
    return _ask(context, asked)


async def callback(context: RequestContext) -> Response:
    """What the forge sent the browser back with; of a refused consent, or one not ours, nothing is kept."""
    asked = await _asked(context)
    app = app_of(context, str(context.path["forge"]), asked.host)
    back = f"/{asked.team}/-/connect" if asked.team else _BACK[asked.act]
    returns = asked.again is not None or _is_for_restore(asked)
    if returns:
        back = asked.next
    try:
        if not _kept(context, SECONDS):
            raise Refused(f"That took more than {SECONDS // 60} minutes; nothing was done, so press it again")
        if "error" in context.query:
            raise _refused(app, asked, context.query["error"])
        registered = connections.callback(context.services.settings, app)
        tokens = await context.services.forges.of(app).exchange(
            context.query.get("code", ""), asked.verifier, registered
        )
        answer = await _THEN[asked.act](context, app, asked, tokens)
    except EverrefError as error:
        if not returns:
            back += f"?next={quote(asked.next)}" + ("&dropped=yes" if asked.dropped else "")
        answer = context.redirect(back, words.sentence(str(error)))
    answer.delete_cookie(COOKIE, path="/auth/", httponly=True, samesite="lax")
    return answer


def _is_for_restore(asked: Consent) -> bool:
    """Whether a restore goes on with the connection, at the moment and with the choices that it had."""
    return asked.act == Act.CONNECT and asked.purpose == Purpose.CREATE and asked.next != "/"


def _refused(app: App, asked: Consent, error: str) -> EverrefError:
    """Why no consent came of it, in words for who was asked."""
    if error != "access_denied":
        return oauth.explained(app, error)
    if asked.team:
        return Refused(f"You did not allow access at {app.host}, so nothing was connected")
    return Refused(f"You did not let {app.host} say who you are, so you are not signed in")


def _kept(context: RequestContext, seconds: int) -> str | None:
    """The cookie of the request, as it was signed. None: there is none, or it is older than that."""
    cookie = context.request.cookies.get(COOKIE, "")
    found = signed.read(context.outside.keyring, "consent", cookie, timedelta(seconds=seconds))
    return str(found) if found else None


async def _asked(context: RequestContext) -> Consent:
    """The request that this callback answers."""
    kept = _kept(context, LATE)
    state = context.query.get("state", "")
    try:
        asked = msgspec.json.decode(kept, type=Consent) if kept else None
    except msgspec.ValidationError:  # of an older version of Everref
        asked = None
    if (
        asked is None
        or not hmac.compare_digest(asked.state.encode(), state.encode())
        or not hmac.compare_digest(asked.session.encode(), _session(context).encode())
    ):
        raise HTTPException(400, "this was not started in this browser, or too long ago; start again")
    once = f"consent {hashlib.sha256(state.encode()).hexdigest()}"
    if not await attempts.take(context.services.db, once, 1, timedelta(seconds=SECONDS), context.now):
        raise HTTPException(400, "this was already finished; start again")
    return asked


async def _signed_in(context: RequestContext, app: App, asked: Consent, tokens: Tokens) -> Response:
    """Sign in as whose account it is; nobody is signed in so far, as when it began."""
    account, known = await _whose(context, app, tokens)
    if known is None:
        connected = await connection_rows.of_account(context.services.db, app.forge, app.host, account.id)
        if connected:
            return await _known_account(context, app, account, asked, connected)
    person = await _by_account(context, app, account, door(context, asked.next))
    to = asked.next if known else await landing(context, person.id, asked.next)
    return await begin(context, person.id, to, zone=asked.zone)


async def _whose(context: RequestContext, app: App, tokens: Tokens) -> tuple[Account, Person | None]:
    """Whose account it is, and whom it signs in; the token has served its purpose by that."""
    account = await context.services.forges.of(app).account(tokens.access)
    await connections.signed_in(context.services, app, account, tokens)
    return account, await people_rows.by_identity(context.services.db, app.forge, app.host, account.id)


async def _by_account(
    context: RequestContext, app: App, account: Account, by: accounts.Door | None
) -> Person:
    """Who signs in by this account now; somebody new where this door lets them in."""
    return await accounts.sign_in_with_identity(
        context.services.db,
        app.forge,
        app.host,
        account.id,
        account.login,
        account.name,
        context.now,
        context.address,
        by,
    )


async def _proved(context: RequestContext, app: App, asked: Consent, tokens: Tokens) -> Response:
    """Who is signed in has proved it by an account that signs them in; no other proves anything."""
    account, known = await _whose(context, app, tokens)
    if known is None or known.id != context.owner().id:
        raise Refused(
            f"you do not sign in with {account.login} yet; "
            "confirm who you are in another way first, then add this account"
        )
    person = await _by_account(context, app, account, None)
    return await begin(context, person.id, asked.next, warned=DROPPED if asked.dropped else None)


@dataclass(frozen=True, slots=True)
class OneMore:
    """An account at a forge that is to sign a person in, as the page that asks about it keeps it."""

    forge: Product
    host: str
    id: str
    login: str
    person: str
    session: str  # the SHA-256 of the session in which it was proved
    once: str  # a word of its own: the page is good for one account


async def _one_more(context: RequestContext, app: App, asked: Consent, tokens: Tokens) -> Response:
    """Name the account and say what adding it means; nothing is changed before the button is pressed."""
    account, known = await _whose(context, app, tokens)
    person = context.owner()
    if known is not None:
        if known.id != person.id:
            raise Refused(people_rows.another_persons(account.login, app.host))
        return context.redirect("/account", f"You already sign in with {account.login} at {app.host}.")
    made = OneMore(
        app.forge, app.host, account.id, account.login, str(person.id), _session(context), oauth.new_state()
    )
    return context.render(
        "link-account.html",
        login=account.login,
        host=app.host,
        account=signed.sign(
            context.outside.keyring, "one more", msgspec.json.encode(made).decode(), context.now
        ),
    )


async def link(context: RequestContext) -> Response:
    """Let an account that was proved sign the person in, as its page offered."""
    form = await context.form()
    age = timedelta(seconds=SECONDS)
    kept = signed.read(context.outside.keyring, "one more", str(form.get("account", "")), age, context.now)
    more = msgspec.json.decode(kept, type=OneMore) if kept else None
    person = context.owner()
    if more is None or more.person != str(person.id) or more.session != _session(context):
        raise HTTPException(400, "this page is too old, or not yours; add the account again")
    if not context.is_sure:
        raise AskAgain("/account")
    once = f"one more {hashlib.sha256(more.once.encode()).hexdigest()}"
    if not await attempts.take(context.services.db, once, 1, 2 * age, context.now):
        raise HTTPException(400, "this page was already used; add the account again")
    await accounts.link_identity(
        context.services.db, context.by(), more.forge, more.host, more.id, more.login
    )
    return context.redirect("/account", f"{more.login} at {more.host} can now sign you in, too.")


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account at a forge that somebody proved to be theirs a moment ago, as the page keeps it."""

    forge: Product
    host: str
    id: str
    login: str
    name: str
    once: str  # a word of its own: the page is good for one account


async def _known_account(
    context: RequestContext, app: App, account: Account, asked: Consent, connected: Sequence[Connection]
) -> Response:
    """Say that a team has this account connected, before an empty team is made for the same person."""
    names = [one.name for one in await teams.of_ids(context.services.db, [one.team_id for one in connected])]
    once = oauth.new_state()
    new = NewAccount(app.forge, app.host, account.id, account.login, account.name, once)
    return context.render(
        "known-account.html",
        login=account.login,
        host=app.host,
        names=names,
        account=signed.sign(context.outside.keyring, "new account", msgspec.json.encode(new).decode()),
        next=local(asked.next),
    )


async def new_account(context: RequestContext) -> Response:
    """Create a new account for a forge account that a team has connected, as its page offered."""
    form = await context.form()
    kept = signed.read(
        context.outside.keyring, "new account", str(form.get("account", "")), timedelta(seconds=SECONDS)
    )
    if kept is None:
        raise HTTPException(400, "this page is too old; sign in again")
    new = msgspec.json.decode(kept, type=NewAccount)
    once = f"new account {hashlib.sha256(new.once.encode()).hexdigest()}"
    if not await attempts.take(context.services.db, once, 1, timedelta(seconds=2 * SECONDS), context.now):
        raise HTTPException(400, "this page was already used; sign in again")
    if await people_rows.by_identity(context.services.db, new.forge, new.host, new.id) is not None:
        raise HTTPException(400, "this account now belongs to somebody; sign in again")
    to = str(form.get("next", ""))
    person = await accounts.sign_in_with_identity(
        context.services.db,
        new.forge,
        new.host,
        new.id,
        new.login,
        new.name,
        context.now,
        context.address,
        door=door(context, to),
    )
    return await begin(context, person.id, await landing(context, person.id, to))


def _session(context: RequestContext) -> str:
    """Which session this is, as the consent's cookie tells."""
    return hashlib.sha256(context.raw_session.encode()).hexdigest() if context.raw_session else ""


async def _connected(context: RequestContext, app: App, asked: Consent, tokens: Tokens) -> Response:
    assert asked.team is not None
    await _may_connect(context, asked.team)
    connection = await connections.connect(
        context.services, context.of_team().id, context.owner().id, app, tokens
    )
    await context.audit("connection.add", f"{connection.login} at {connection.host}")
    started = await connections.request_refused(context.services, connection.id, context.hint)
    if asked.again is not None:
        return await _connected_again(context, app, asked, connection, started)
    if asked.purpose == Purpose.CREATE and asked.next != "/":  # a restore that goes on with it
        return context.redirect(asked.next)
    return context.redirect(f"/{asked.team}/-/connect/{connection.id}")


async def _connected_again(
    context: RequestContext, app: App, asked: Consent, connection: Connection, started: int
) -> Response:
    """Back to where the button was, and whose account it is now."""
    assert asked.again is not None
    if str(connection.id) == asked.again:
        return context.redirect(asked.next, accepted(app, connection.login, started))
    meant = await connection_rows.find(
        context.services.db, context.of_team().id, ConnectionId(UUID(asked.again))
    )
    said = f"You allowed access as {connection.login}, so {connection.login} at {app.host} is connected now."
    if meant is not None and meant.state != "works":
        said += (
            f" The token of {meant.login} is still refused: sign in at {app.host} as {meant.login}, "
            "then press the button again."
        )
    return context.redirect(asked.next, warned=said)


def accepted(app: App, login: str, started: int) -> str:
    """What to say once a forge accepts an account's token again; `started`: how many backups that began."""
    said = f"{called(app)} accepts {login}'s token again"
    if not started:
        return f"{said}."
    many = "1 repository is" if started == 1 else f"{started:,} repositories are"
    return f"{said}; {many} being backed up."


async def _may_connect(context: RequestContext, team: str) -> None:
    """The person who asks may connect this team, now as when they asked."""
    if context.person is None:
        raise HTTPException(401, "sign in first")
    found = await teams.membership(context.services.db, context.person.id, team)
    if found is None:
        raise HTTPException(404, "there is nothing here, or it is not yours")
    if not found.role.may(Role.ADMIN):
        raise HTTPException(403, f"connecting a forge needs the role admin; you are {found.role} in {team}")
    context.team, context.role = found.team, found.role


def door(context: RequestContext, to: str) -> accounts.Door:
    """What decides whether who comes may make an account: whoever goes on to an invitation has one."""
    kind, _, raw = local(to).removeprefix("/").partition("/")
    settings = context.services.settings
    invitation = raw if kind == "invitations" and raw else None
    return accounts.Door(settings.signup, context.outside.keyring, invitation, settings.limits)


async def landing(context: RequestContext, person_id: PersonId, to: str) -> str:
    """The page for somebody who has just got an account: where it used up an invitation, its team's."""
    through = door(context, to)
    if through.signup == "open" or through.invitation is None:
        return to
    theirs = await teams.memberships(context.services.db, person_id)
    joined = [one.team.name for one in theirs if one.team.person_id != person_id]
    return f"/{joined[0]}" if joined else "/"


async def begin(
    context: RequestContext,
    person_id: PersonId,
    to: str,
    *,
    warned: str | None = None,
    let_in: tuple[PersonId, UUID] | None = None,
    zone: str = "",
) -> Response:
    """A new session for this person, whatever session the browser had before.

    A person without a time zone takes that of their browser, from the form or as it was told before.
    """
    if not zone and context.request.method not in SAFE:
        zone = str((await context.form()).get("zone", ""))
    await accounts.take_zone(context.services.db, person_id, zone)
    if context.raw_session is not None:
        await sessions.end(context.services.db, context.raw_session)
    agent = context.request.headers.get("user-agent", "")
    raw, _ = await sessions.start(
        context.services.db, person_id, context.now, agent, context.address, let_in=let_in
    )
    return context.sign_in(context.redirect(local(to), warned=warned), raw)


_THEN: Final[Mapping[str, Callable[[RequestContext, App, Consent, Tokens], Awaitable[Response]]]] = {
    Act.SIGN_IN: _signed_in,
    Act.PROVE: _proved,
    Act.LINK: _one_more,
    Act.CONNECT: _connected,
}
_BACK: Final[Mapping[str, str]] = {
    Act.SIGN_IN: "/sign-in",
    Act.PROVE: "/account/sure",
    Act.LINK: "/account",
}  # where one goes on whose consent came to nothing

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("POST", "/auth/link", link, Needs.PERSON),
    Endpoint("POST", "/auth/new-account", new_account, Needs.NOTHING),
    Endpoint("GET", "/auth/{forge}", sign_in, Needs.NOTHING),
    Endpoint("POST", "/auth/{forge}", start, Needs.NOTHING),
    Endpoint("GET", "/auth/{forge}/callback", callback, Needs.NOTHING),
)
