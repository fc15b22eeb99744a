"""What every page and every API call goes through: one table of endpoints, each with what it needs.

An endpoint that is not in a table is not served, and it cannot be in a table without
saying who may use it. The handler is called only if the visitor may use it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache, partial
from typing import Any, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from arq.connections import ArqRedis
from jinja2 import Environment
from redis.exceptions import RedisError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive

from mirror.core import peer, signed
from mirror.core.errors import NetworkError, NotFound
from mirror.core.keyring import Keyring
from mirror.core.model import Repo, RepoId
from mirror.core.rules.roles import PersonId, Role
from mirror.core.rules.work.job import SYNC
from mirror.core.times import zones
from mirror.discovery.choose import By as Chooser
from mirror.git.reader.slots import Bounds, Requester, Slots
from mirror.net.reach import is_public
from mirror.people.acting import By
from mirror.services.open import Services
from mirror.services.queue import NoQueue
from mirror.services.server import bodies
from mirror.services.server.bodies import Body, Budget
from mirror.store import repos
from mirror.store.people import audit, sessions, teams, tokens
from mirror.store.people.people import Person
from mirror.store.people.sessions import Session
from mirror.store.people.teams import Membership, Team
from mirror.store.people.tokens import ApiToken
from mirror.web import csrf
from mirror.web.background import Background
from mirror.web.glances import Glances
from mirror.web.strangers import Strangers

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
FORM_FIELDS: Final = 5000  # of one form: a page of chosen refs or repositories
BODY: Final = 1 << 20  # bytes of one request, of somebody who is signed in
LARGE_BODY: Final = 8 << 20  # the same, of a form of chosen repositories
STRANGERS_BODY: Final = 64 << 10  # bytes of one request of anybody else
BODIES: Final = 16 << 20  # bytes of all requests of one person that are at work in a process
ROOM: Final = 64 << 20  # bytes of all bodies in a process that are larger than a stranger's
ROOM_SECONDS: Final = 8  # for a larger one to find room there
SURE: Final = timedelta(minutes=10)  # since the person last proved who they are
ACCESS: Final = timedelta(hours=12)  # for which an access token is good
ZONE_KEPT: Final = "zone-kept"  # a cookie: the browser's time zone that somebody turned down
SAID_SECONDS: Final = 60  # for a one-time message to be read
SAID_AGE: Final = timedelta(hours=1)  # of one; what it tells of may have taken its time
BEARER: Final = {"www-authenticate": "Bearer"}
BASIC: Final = {"www-authenticate": 'Basic realm="Everref", charset="UTF-8"'}
PLANNING: Final = 20.0  # seconds for hosts to answer while a page waits for a plan
BUNDLES: Final = Bounds(at_once=32, team=16, person=16, waiting_person=64, waiting=256)  # of each web process
PLANS: Final = Bounds(at_once=8, team=3, person=2, waiting_person=4, waiting=64)  # of each web process
PUSHES: Final = Bounds(at_once=16, team=4, person=4, waiting=64, patience=60.0)  # of each web process
REQUESTS: Final = Bounds(at_once=1, team=1, person=1, waiting_person=4, waiting=64)  # of each web process
HINT_SECONDS: Final = 0.5  # for Redis to take a hint; a person waits meanwhile

log = logging.getLogger("mirror.web")


class Needs(StrEnum):
    """What an endpoint requires of its visitor."""

    NOTHING = "nothing"
    PERSON = "person"  # somebody who is signed in
    VIEWER = "viewer"  # a member of the path's {team}, or of the one that is meant, with this role or more
    OPERATOR = "operator"
    ADMIN = "admin"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Outside:
    """The outside world, as far as the web application uses it."""

    services: Services
    queue: ArqRedis | NoQueue
    keyring: Keyring
    origin: str  # scheme and host under which people reach it
    pages: Environment
    background: Background = field(default_factory=Background)
    plans: Slots = field(default_factory=partial(Slots, PLANS))
    pushes: Slots = field(default_factory=partial(Slots, PUSHES))
    bundles: Slots = field(default_factory=partial(Slots, BUNDLES))  # that clones read from the vault
    requests: Slots = field(default_factory=partial(Slots, REQUESTS))  # of git, that are large, to be read
    bodies: Counter[PersonId] = field(default_factory=Counter)  # bytes that are at work, by who sent them
    room: Budget = field(default_factory=partial(Budget, ROOM, STRANGERS_BODY))  # memory for large bodies
    streams: Counter[PersonId] = field(default_factory=Counter)  # that are open, by who follows them
    glances: Glances = field(default_factory=Glances)  # what strangers may see
    strangers: Strangers = field(default_factory=Strangers)  # with share links


@dataclass(slots=True)
class RequestContext:
    """One request, with who makes it and what they may do."""

    request: Request
    outside: Outside
    now: datetime
    endpoint: "Endpoint"
    person: Person | None = None  # None: signed out, which only endpoints that need NOTHING allow
    session: Session | None = None  # None: signed out, or a program with a token
    token: ApiToken | None = None
    team: Team | None = None  # the path's
    role: Role | None = None  # in that team
    teams: Sequence[Membership] = ()  # the person's, on a page of a team
    memberships: Sequence[Membership] = ()  # the person's, as they came with the session
    masked_csrf: str = field(default="", repr=False)
    status: int = 200  # of a page that is rendered, unless it says another
    said: str | None = None  # a message to show once
    warned: str | None = None  # one that must be seen: what was pressed was not done
    found: Repo | None = None  # the path's repo, once it was asked for
    raw_session: str | None = field(default=None, repr=False)
    held: int = 0  # bytes of the request's body, as far as it came
    counted: int = 0  # bytes that count for the sender, which are at least those
    body: Body | None = None  # what this one has of the memory for large bodies; None: nothing
    sender: PersonId | None = None  # for whom these bytes count: who it was when they began to come
    bearer: bool = False  # a program, which says in a header who it is: no page of another site can send that
    other_scope: str | None = None  # that a token needs here instead of the endpoint's: git asks for a push
    # and for a clone at one address

    @property
    def services(self) -> Services:
        """The services, as this person of this team may use them."""
        if self.person is None:
            return self.outside.services
        return replace(
            self.outside.services, who=Requester(self.team.id if self.team else None, self.person.id)
        )

    @property
    def csrf(self) -> str:
        """The token of the session's forms, for this answer alone; empty: signed out."""
        if self.session is not None and not self.masked_csrf:
            self.masked_csrf = csrf.masked(self.session.csrf)
        return self.masked_csrf

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the person, in which pages show and read times; UTC where it is not known."""
        return zones.named(self.person.zone if self.person else None)

    @property
    def zone_kept(self) -> str:
        """The time zone of the browser that the person turned down; mostly nothing."""
        return self.request.cookies.get(ZONE_KEPT, "")

    @property
    def path(self) -> Mapping[str, Any]:
        """The parts of the path."""
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def address(self) -> str:
        """Where the request came from; through proxies, as far as they are trusted."""
        told = self.request.client.host if self.request.client else "unknown"
        forwarded = self.request.headers.getlist("x-forwarded-for")
        trusted = self.services.settings.forwarded
        if forwarded and not peer.is_among(told, trusted) and not is_public(told):
            _tell_of_proxy(told)
        return peer.client(told, forwarded, trusted)

    @asynccontextmanager
    async def planning(self) -> AsyncIterator[None]:
        """A slot to ask other hosts while somebody waits for the answer, for PLANNING seconds at most.

        Raises NetworkError when they have passed, TooOften, Crowded.
        """
        async with self.outside.plans.slot(self.services.who):
            try:
                async with asyncio.timeout(PLANNING) as limit:
                    yield
            except TimeoutError:
                if not limit.expired():
                    raise
                raise NetworkError(
                    f"the host of the target did not answer within {PLANNING:g} s; try again later"
                ) from None

    def owner(self) -> Person:
        """The person, where the endpoint needs one."""
        assert self.person is not None
        return self.person

    def by(self) -> By:
        """Who does something, when, from where, and by which session or token."""
        session = None if self.session is None else self.session.key
        token = None if self.token is None else self.token.id
        let_in = self.session is not None and self.session.let_in
        return By(self.owner(), self.now, self.address, session, token, let_in)

    def as_logged(self) -> Chooser:
        """Who does something, as the audit log names them."""
        return Chooser(self.owner().id, self.actor, self.address)

    def of_team(self) -> Team:
        """The team, where the endpoint is a team's."""
        assert self.team is not None
        return self.team

    @property
    def scope(self) -> str:
        """The scope that an API token needs for this request."""
        return self.other_scope or self.endpoint.scope

    def may(self, role: Role) -> bool:
        """Whether the person's role in this team is that one or more."""
        return self.role is not None and self.role.may(role)

    @property
    def acting(self) -> Role:
        """The role in which this is requested: a token never acts above its scopes."""
        assert self.role is not None
        if self.token is None or "admin" in self.token.scopes:
            return self.role
        return self.role if Role.OPERATOR.may(self.role) else Role.OPERATOR

    async def repo(self) -> Repo:
        """The path's {repo}, of this team. Raises NotFound, as for one that another team has."""
        text = str(self.path["repo"])
        found = await repos.by_name(self.services.db, self.of_team().id, text)
        if found is None:
            raise NotFound(f"there is no repository {text} in {self.of_team().name}")
        self.found = found
        return found

    async def form(self) -> FormData:
        """The form that was sent; its token was checked."""
        try:
            form = await self.request.form(max_fields=FORM_FIELDS)
            texts = [one for item in form.multi_items() for one in item if isinstance(one, str)]
            "".join(texts).encode()  # a sender who chooses the encoding can make text that is none
        except ValueError:
            raise HTTPException(400, "the form is not in UTF-8; send it as the page has it") from None
        check_text(texts)
        return form

    def render(self, template: str, status: int | None = None, **values: Any) -> HTMLResponse:
        """A page. Its template has `context`."""
        text = self.outside.pages.get_template(template).render(context=self, now=self.now, **values)
        answer = HTMLResponse(text, status or self.status)
        if self.said is not None or self.warned is not None:
            answer.delete_cookie("said", path="/", httponly=True, samesite="lax")
        return answer

    def redirect(self, to: str, said: str | None = None, *, warned: str | None = None) -> Response:
        """To another page of ours by GET, with a message or a warning that is shown there once."""
        answer = RedirectResponse(to, 303)
        if said is not None or warned is not None:
            purpose = "said" if warned is None else "warned"
            text = signed.sign(self.outside.keyring, purpose, warned or said, self.now)
            answer.set_cookie(
                "said", text, SAID_SECONDS, path="/", secure=self.secure, httponly=True, samesite="lax"
            )
        return answer

    @property
    def secure(self) -> bool:
        """Whether the browser reaches us by https, so that cookies can be bound to that."""
        return by_https(self.outside.origin)

    def sign_in(self, answer: Response, raw: str) -> Response:
        """Let the browser keep this session."""
        answer.set_cookie(
            cookie_name(self.secure),
            signed.sign(self.outside.keyring, "session", raw, self.now),
            int(sessions.ABSOLUTE.total_seconds()),
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    def sign_out(self, answer: Response) -> Response:
        """Let the browser forget its session."""
        answer.delete_cookie(
            cookie_name(self.secure), path="/", secure=self.secure, httponly=True, samesite="lax"
        )
        return answer

    @property
    def is_sure(self) -> bool:
        """Whether the person has recently proved who they are; always true without a session."""
        return self.session is None or (not self.session.let_in and self.now - self.session.sure_at <= SURE)

    def check_not_let_in(self) -> None:
        """Raise 403 where an owner's link began the session: it sets a password, and gives nothing else."""
        if self.session is not None and self.session.let_in:
            raise HTTPException(
                403, "you signed in by an owner's link: set a new password first, then sign in with it"
            )

    async def is_still_let_in(self) -> bool:
        """Whether the visitor may still use this endpoint: for answers that go on for minutes."""
        if self.person is None or self.team is None:
            return True
        db, needed = self.services.db, Role(self.endpoint.needs.value)
        role = await teams.role_of(db, self.team.id, self.person.id)
        if role is None or not role.may(needed):
            return False
        if self.token is not None:
            found = await tokens.find(db, self.team.id, self.token.id)
            return found is not None and self.scope in found.scopes
        return self.session is None or await sessions.is_there(db, self.session.key)

    async def audit(
        self,
        action: str,
        subject: str,
        repo_id: RepoId | None = None,
        detail: Mapping[str, Any] | None = None,
        result: str = "done",
    ) -> None:
        """Write down in the team's audit log that this person did this."""
        entry = audit.Entry(
            person_id=self.person.id if self.person else None,
            actor=self.actor,
            action=action,
            repo_id=repo_id,
            subject=subject,
            detail=dict(detail or {}),
            address=self.address,
            result=result,
        )
        await audit.add(self.services.db, self.of_team().id, entry, self.now)

    @property
    def actor(self) -> str:
        """Who this is, in words."""
        name = self.person.name if self.person else "somebody signed out"
        return f"{name}, by token {self.token.name}" if self.token else name

    async def hint(self, repo_id: RepoId | None = None) -> None:
        """Tell the workers that something is due, for this repo or for any.

        If that fails, they find it by themselves.
        """
        about = () if repo_id is None else (str(repo_id),)
        try:
            async with asyncio.timeout(HINT_SECONDS):
                await self.outside.queue.enqueue_job(SYNC, *about)
        except (RedisError, OSError) as error:
            log.warning("no hint to the workers (%s); they find it later", type(error).__name__)


Handler = Callable[[RequestContext], Awaitable[Response]]
Recognise = Callable[[RequestContext], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path: its handler, and what it needs."""

    method: str
    path: str
    handler: Handler
    needs: Needs
    scope: str = "read"  # of an API token, for paths under /api/; one that no token has: people only
    sure: bool = False  # the person must have recently proved who they are
    reads: bool = False  # a repository, which may take long: it ends where the visitor hangs up
    anew: bool = False  # somebody let in by an owner's link need not be sure here: they set a password
    foreign: bool = False  # its address alone lets in: a mail program sends it, with no page of ours before
    large: bool = False  # what is sent may be as large as a form with thousands of choices
    streams: bool = False  # the body comes for as long as it takes, once who sends it was admitted
    git: Recognise | None = None  # git asks, and this finds out for whom: web/remote/smart_http. The handler
    # reads the body, with limits of its own, and errors are plain text. None: a browser asks, or a program

    @property
    def is_api(self) -> bool:
        return self.path.startswith("/api/")

    @property
    def largest(self) -> int:
        """Bytes of the largest body that is read here."""
        return LARGE_BODY if self.large else BODY


class AskAgain(Exception):
    """The person must prove who they are before this."""

    def __init__(self, back: str | None = None) -> None:
        super().__init__()
        self.back = back  # the page to go on with; None: this one, or that of the form


def routes(endpoints: Sequence[Endpoint], outside: Outside) -> list[Route]:
    """The routes of these endpoints, in their order."""
    return [
        Route(endpoint.path, _served(endpoint, outside), methods=[endpoint.method]) for endpoint in endpoints
    ]


def _served(endpoint: Endpoint, outside: Outside) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        context = RequestContext(request, outside, outside.services.clock(), endpoint)
        if endpoint.git is None:
            context.request = request = Request(request.scope, _bounded(request.receive, context))
        request.state.context = context
        try:
            return await _answered(context)
        finally:
            await request.close()  # the files of a form
            if context.sender is not None and context.counted:
                outside.bodies[context.sender] -= context.counted
                if not outside.bodies[context.sender]:
                    del outside.bodies[context.sender]
            if context.body is not None:
                context.body.end()

    return serve


async def _answered(context: RequestContext) -> Response:
    request, endpoint = context.request, context.endpoint
    _check_host(context)
    check_text([request.scope["path"]])
    check_text(text for item in request.query_params.multi_items() for text in item)
    await (endpoint.git or _recognise)(context)
    context.sender = context.person.id if context.person else None
    if endpoint.method not in SAFE and endpoint.git is None:
        await _take_body(context)
    await _admit(context)
    if endpoint.streams:
        bodies.streams(request.scope)
    return await (_while_there(context) if endpoint.reads else endpoint.handler(context))


async def _take_body(context: RequestContext) -> None:
    """Read all of the body, from a page of ours, and then check again who this is: a body may be held back.

    What let its sender in when they began to send may have ended meanwhile. So the whole
    body is here before anybody is admitted to change something.
    """
    if not context.bearer and not context.endpoint.foreign:
        _check_origin(context)
    if context.person is None:
        await _admit(context)
    length = context.request.headers.get("content-length", "")
    if length.isdecimal():
        _check_size(context, int(length))
        _count(context, int(length))
    if context.sender is not None:
        most = int(length) if length.isdecimal() else context.endpoint.largest
        context.body = context.outside.room.body(most, ROOM_SECONDS)
    if await context.request.body() or "transfer-encoding" in context.request.headers:
        await _recognise(context)
    if not context.bearer and not context.endpoint.foreign:
        await _check_csrf(context)


async def _while_there(context: RequestContext) -> Response:
    """The handler's answer, unless the visitor hangs up first: nothing is read for nobody."""
    answering = asyncio.ensure_future(context.endpoint.handler(context))
    leaving = asyncio.ensure_future(_left(context.request))
    try:
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        leaving.result()
        return Response(status_code=499)  # which nobody sees
    finally:
        leaving.cancel()
        answering.cancel()
        await asyncio.wait([answering, leaving])


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _bounded(receive: Receive, context: RequestContext) -> Receive:
    """The request's body up to its limit, so that nobody fills the memory, signed in or not."""

    async def bounded() -> Message:
        message = await receive()
        size = len(message.get("body", b""))
        context.held += size
        _count(context, context.held)
        _check_size(context, context.held)
        await _have_room(context)
        return message

    return bounded


async def _have_room(context: RequestContext) -> None:
    """Have memory for as much of a large body as has come; all together never have much more than ROOM.

    Raises 503 where none becomes free in time.
    """
    if context.body is None:
        return
    try:
        await context.body.reach(context.held)
    except TimeoutError:
        raise HTTPException(
            503, "the server is receiving too much at once; try again in a few seconds", {"retry-after": "5"}
        ) from None


def _count(context: RequestContext, size: int) -> None:
    """So many bytes of this body count for who sends it."""
    if context.sender is None or size <= context.counted:
        return
    context.outside.bodies[context.sender] += size - context.counted
    context.counted = size
    if context.outside.bodies[context.sender] > BODIES:
        raise HTTPException(429, "you are sending too much at once; wait a few seconds", {"retry-after": "5"})


def _check_size(context: RequestContext, size: int) -> None:
    most = STRANGERS_BODY if context.sender is None else context.endpoint.largest
    if size > most:
        raise HTTPException(413, f"the body is larger than {most} bytes; send less at once")


@lru_cache(16)
def _tell_of_proxy(address: str) -> None:
    log.warning(
        "%s sends X-Forwarded-For and is not in FORWARDED_ALLOW_IPS: all its visitors count as one",
        address,
    )


def cookie_name(secure: bool) -> str:
    """`__Host-` binds a cookie to this host and to https; plain http on loopback cannot have it."""
    return "__Host-sid" if secure else "sid"


def check_text(texts: Iterable[str]) -> None:
    """Refuse NUL, which no name here can contain and PostgreSQL stores in no text.

    This is the one place that checks for it: in the path and the query of every
    request, in the fields of every form, and in every text of a call's JSON.
    """
    if any("\0" in text for text in texts):
        raise HTTPException(400, "the request contains a NUL character; send it without")


def on_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    try:
        return (urlsplit(f"//{host}").hostname or "") in LOOPBACK
    except ValueError:  # it is no host at all
        return False


def by_https(origin: str) -> bool:
    """Whether people reach us by https, and therefore through a proxy."""
    return urlsplit(origin).scheme == "https"


def is_local(request: Request, origin: str) -> bool:
    """Whether the request comes from this machine, as its socket tells, and by a loopback name.

    A header alone tells nothing: whoever sends it, or a proxy that passes another
    on, chooses it. Where people reach us by https nobody is local, as a proxy is.
    """
    near = request.client is not None and peer.is_loopback(request.client.host)
    return not by_https(origin) and near and on_loopback(request.headers.get("host", ""))


def _is_ours(context: RequestContext) -> bool:
    """Whether the request uses a name of this machine, where people reach us by one."""
    named = on_loopback(context.request.headers.get("host", ""))
    at_home = not by_https(context.outside.origin) and on_loopback(urlsplit(context.outside.origin).netloc)
    return is_local(context.request, context.outside.origin) or (named and at_home)


def _check_host(context: RequestContext) -> None:
    """Answer only to our own names, so that no foreign name can be made to point here.

    A proxy may pass a name of this machine on; that is no foreign one, and opens nothing.
    """
    host = context.request.headers.get("host", "").lower()
    if not on_loopback(host) and host != urlsplit(context.outside.origin).netloc.lower():
        raise HTTPException(400, "Everref is not served under this host name; use the address in BASE_URL")


async def _recognise(context: RequestContext) -> None:
    """Find out who asks: by a token under /api/, else by the session's cookie."""
    db, request = context.services.db, context.request
    bearer = request.headers.get("authorization", "")
    if context.endpoint.is_api and bearer[:7].lower() == "bearer ":
        context.bearer = True
        await _recognise_program(context, bearer[7:].strip())
        return
    context.person = context.session = context.raw_session = None
    kept = request.cookies.get(cookie_name(context.secure))
    raw = (
        signed.read(context.outside.keyring, "session", kept, sessions.ABSOLUTE, context.now)
        if kept
        else None
    )
    if isinstance(raw, str):
        if context.endpoint.is_api:
            context.session = await sessions.of(db, raw, context.now)
        else:
            context.session, context.memberships = await sessions.with_teams(db, raw, context.now)
        if context.session is not None:
            context.person, context.raw_session = context.session.person, raw
    said = request.cookies.get("said")
    if said and not context.endpoint.is_api:
        context.said = signed.read(context.outside.keyring, "said", said, SAID_AGE, context.now)
        context.warned = signed.read(context.outside.keyring, "warned", said, SAID_AGE, context.now)


async def _recognise_program(context: RequestContext, bearer: str) -> None:
    """An API token, or the access token of a program that signed in as a person."""
    db = context.services.db
    context.person = context.session = context.raw_session = context.token = None
    if bearer.startswith(tokens.PREFIX):
        context.token = await tokens.of(db, bearer, context.now)
        context.person = context.token.person if context.token else None
    else:
        raw = signed.read(context.outside.keyring, "access", bearer, ACCESS, context.now)
        context.session = await sessions.of(db, raw, context.now) if isinstance(raw, str) else None
        if context.session is not None:
            context.person, context.raw_session = context.session.person, str(raw)
    if (
        context.person is None and context.endpoint.needs is not Needs.NOTHING
    ):  # an old one is sent along to refresh it
        raise HTTPException(401, "the token is unknown, revoked or expired", BEARER)


def _check_origin(context: RequestContext) -> None:
    """What changes something comes from a page of ours, as its headers tell."""
    headers = context.request.headers
    origin = headers.get("origin")
    ours = {context.outside.origin}
    if _is_ours(context):
        ours.add(f"http://{headers.get('host', '')}")
    site = headers.get("sec-fetch-site")
    if origin == "null" and site == "same-origin":
        origin = (
            None  # a form of ours under our Referrer-Policy: https://fetch.spec.whatwg.org/#origin-header
        )
    if (origin is not None and origin not in ours) or site not in (None, "same-origin", "none"):
        raise HTTPException(403, "this was sent by another site; go back to Everref's own page and try again")


async def _check_csrf(context: RequestContext) -> None:
    """It comes with the token of the session's pages."""
    if context.session is None:
        return
    given = context.request.headers.get("x-csrf-token")
    if given is None and not context.endpoint.is_api:
        given = str((await context.form()).get("csrf", ""))
    if not csrf.is_right(given or "", context.session.csrf):
        raise HTTPException(403, "this page was open for too long; reload it and try again")


async def _admit(context: RequestContext) -> None:
    """Admit the visitor, or raise 401 (signed out), 404 (another team's) or 403 (role or token)."""
    endpoint = context.endpoint
    if endpoint.needs is Needs.NOTHING:
        return
    if context.person is None:
        challenge = BASIC if endpoint.git else BEARER if endpoint.is_api else None
        raise HTTPException(401, "sign in first", challenge)
    if endpoint.needs is not Needs.PERSON:
        await _admit_to_team(context, Role(endpoint.needs.value))
    if context.token is not None and context.scope not in context.token.scopes:
        raise HTTPException(403, f"the token {context.token.name} does not have the scope {context.scope}")
    if (
        endpoint.sure
        and not context.is_sure
        and not (endpoint.anew and context.session and context.session.let_in)
    ):
        context.check_not_let_in()
        raise AskAgain


async def _admit_to_team(context: RequestContext, needed: Role) -> None:
    assert context.person is not None
    name = str(context.path["team"]) if "team" in context.path else await _team_meant(context, context.person)
    if context.endpoint.is_api or context.endpoint.git:
        found = await teams.membership(context.services.db, context.person.id, name)
    else:
        context.teams = context.memberships
        found = next((one for one in context.teams if one.team.name == name), None)
    if found is None or (context.token is not None and context.token.team.id != found.team.id):
        if context.endpoint.git:
            raise HTTPException(404, f"there is no team {name} here, or you have no access to it")
        raise HTTPException(404, "this page does not exist, or you have no access to it")
    context.team, context.role = found.team, found.role
    if not found.role.may(needed):
        raise HTTPException(403, f"this needs the role {needed}; you are {found.role} in {name}")


async def _team_meant(context: RequestContext, person: Person) -> str:
    """The team where the path names none: that of the query, else the token's, else the person's own."""
    if named := context.query.get("team"):
        return named
    team = context.token.team if context.token else await teams.home(context.services.db, person.id)
    if team is None:
        raise HTTPException(404, "you are not in a team; create one, or ask somebody to invite you")
    return team.name
