"""What both doubles do alike: keep a world, let in by token, count requests, fail when told to, serve git."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import ssl
from abc import ABC, abstractmethod
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from mirror.core.model import ObjectFormat
from tests.parts.forges import smart
from tests.parts.forges.calls import Call, Handler, Refused, Route
from tests.parts.forges.outbox import Outbox
from tests.parts.forges.world import (
    ADMIN,
    READ,
    WRITE,
    Code,
    Delivery,
    Hook,
    Json,
    Move,
    Owner,
    Person,
    Repository,
    Token,
)
from tests.parts.repos import Work

CODE_LIFE: Final = timedelta(minutes=10)  # of a consent, at both
_GIT: Final = re.compile(r"/(?P<name>[^?]+?)(?:\.git)?/(?P<what>info/refs|git-upload-pack|git-receive-pack)")

H = TypeVar("H", bound="Host")


@dataclass
class Fault:
    """What goes wrong with the next requests."""

    piece: str  # of the address; "": any
    times: int
    status: int | None = None  # None: it is answered, but late
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    method: str | None = None
    do: Callable[[], object] = lambda: None  # what happens just before
    endless: bool = False  # each answer names a next page


class Host(ABC):
    """A forge on loopback, as an ASGI application. Its clock is ours, and can be put on."""

    kind: str  # as Everref calls it: "github" or "gitlab"
    api_url: str  # where its REST API is

    def __init__(self, url: str, room: Path) -> None:
        self.url = url
        self.room = room  # where the bare repositories are
        self.client_id = secrets.token_hex(10)
        self.client_secret = secrets.token_hex(20)
        self.people: list[Person] = []
        self.owners: list[Owner] = []
        self.repositories: list[Repository] = []
        self.tokens: list[Token] = []
        self.codes: list[Code] = []
        self.moved: dict[str, Repository] = {}  # by the name that it had, in lower case
        self.requests: list[str] = []  # "GET /api/v3/user?page=1", in order of arrival
        self.outbox = Outbox(self.answered, self.may_send)
        self.ca_pem = b""  # of the authority that signed the certificate, where there is TLS
        self.closing = asyncio.Event()
        self.most = 100  # of a page, at both
        self.routes: list[Route] = []
        self._put_on = timedelta()
        self._faults: list[Fault] = []
        self._serial = 1000
        self._used: dict[int, list[datetime]] = {}  # by person's id: the requests that count

    # The world

    def now(self) -> datetime:
        return datetime.now(UTC) + self._put_on

    def advance(self, seconds: float) -> None:
        """Put the clock on: tokens and codes run out, limits are lifted."""
        self._put_on += timedelta(seconds=seconds)

    def next_id(self) -> int:
        self._serial += 1
        return self._serial

    def add_person(self, login: str, name: str | None = None, email: str | None = None) -> Person:
        person = Person(self.next_id(), login, name or login.title(), email or f"{login}@example.org")
        self.people.append(person)
        self.owners.append(Owner(person.id, login, person))
        return person

    def add_org(self, login: str, owners: Sequence[Person] = (), members: Sequence[Person] = ()) -> Owner:
        """An organisation or a group: owners may do everything, members push."""
        access = {person.id: WRITE for person in members} | {person.id: ADMIN for person in owners}
        owner = Owner(self.next_id(), login, None, access)
        self.owners.append(owner)
        return owner

    def owner(self, login: str) -> Owner | None:
        return next((owner for owner in self.owners if owner.login.lower() == login.lower()), None)

    def add_repository(
        self,
        full_name: str,
        *,
        private: bool = False,
        archived: bool = False,
        commits: int = 1,
        access: Mapping[Person, int] | None = None,
        object_format: ObjectFormat = "sha1",
    ) -> Repository:
        """A repository with so many commits on main; its owner must be there."""
        login, _, name = full_name.rpartition("/")
        owner = self.owner(login)
        assert owner, f"nobody is {login}: add_person or add_org first"
        repository = self._make(owner, name, private, object_format)
        repository.archived = archived
        repository.access = {person.id: level for person, level in (access or {}).items()}
        for number in range(commits):
            text = f"{full_name}, which is number {repository.id}\n" * (number + 1)
            repository.work.commit("main", {"README.md": text.encode()})
        repository.settle()
        return repository

    def _make(self, owner: Owner, name: str, private: bool, object_format: ObjectFormat) -> Repository:
        number, now = self.next_id(), self.now()
        work = Work(self.room / f"{number}.git", object_format)
        repository = Repository(self, number, owner, name, work, now, now, private)
        repository.settle()
        self.moved.pop(repository.full_name.lower(), None)  # a new one of the name ends the redirect
        self.repositories.append(repository)
        return repository

    def repository(self, full_name: str) -> Repository | None:
        """The one of this name, whatever its letters' case."""
        wanted = full_name.lower()
        return next((one for one in self.repositories if one.full_name.lower() == wanted), None)

    def numbered(self, number: int) -> Repository | None:
        return next((one for one in self.repositories if one.id == number), None)

    def visible(self, repository: Repository, person: Person | None) -> bool:
        return not repository.private or repository.level(person) > 0

    # What happens to it

    def rename(self, repository: Repository, name: str) -> None:
        """Give it another name; the old one leads to it."""
        old = repository.name
        self.moved[repository.full_name.lower()] = repository
        repository.name = name
        self.moved.pop(repository.full_name.lower(), None)
        self.tell_change(repository, "renamed", {"repository": {"name": {"from": old}}})

    def transfer(self, repository: Repository, owner: Owner | Person) -> None:
        """Give it to somebody else; the old name leads to it."""
        to = self.owner(owner.login) if isinstance(owner, Person) else owner
        assert to
        old = repository.owner
        self.moved[repository.full_name.lower()] = repository
        repository.owner = to
        self.moved.pop(repository.full_name.lower(), None)
        self.tell_change(repository, "transferred", self.change_of_owner(old))

    def delete(self, repository: Repository) -> None:
        """It is gone, and so are its hooks and what led to it."""
        self.tell_change(repository, "deleted", {})
        self.repositories.remove(repository)
        self.moved = {name: one for name, one in self.moved.items() if one is not repository}
        repository.hooks.clear()

    def replace(self, repository: Repository) -> Repository:
        """Delete it, and make another of the same name with a history of its own."""
        self.delete(repository)
        return self.add_repository(repository.full_name, private=repository.private)

    def make_private(self, repository: Repository, private: bool = True) -> None:
        repository.private = private
        self.tell_change(repository, "privatized" if private else "publicized", {})

    def archive(self, repository: Repository, archived: bool = True) -> None:
        repository.archived = archived
        self.tell_change(repository, "archived" if archived else "unarchived", {})

    def block(self, repository: Repository, blocked: bool = True) -> None:
        """Take it down, as after a notice."""
        repository.blocked = blocked

    def forget(self, person: Person) -> None:
        """Delete an account, its repositories and its tokens."""
        for repository in [one for one in self.repositories if one.owner.person is person]:
            self.delete(repository)
        person.deleted = True
        self.people.remove(person)
        self.owners = [owner for owner in self.owners if owner.person is not person]
        for token in self.tokens:
            token.revoked |= token.person is person

    # Tokens

    @abstractmethod
    def personal_token(self, person: Person, scopes: Iterable[str] = ()) -> str:
        """A token that a person made in the settings."""

    def token(self, value: str) -> Token | None:
        return next((token for token in self.tokens if token.value == value), None)

    def live(self, value: str) -> Token | None:
        """The token, unless it ran out or was revoked."""
        token = self.token(value)
        if token is None or token.revoked or (token.expires_at and token.expires_at <= self.now()):
            return None
        return token

    def expire(self, value: str) -> None:
        """Its time is over."""
        token = self.token(value)
        assert token
        token.expires_at = self.now()

    def revoke(self, value: str) -> None:
        """Somebody withdrew it; what could be had for its refresh token is withdrawn with it."""
        token = self.token(value)
        assert token
        token.revoked = True
        token.refresh = None

    async def approve(self, authorize_url: str, person: Person, scopes: Iterable[str] | None = None) -> str:
        """Consent as a browser would; the address that it is sent to. `scopes`: what is granted instead."""
        return await self._decide(authorize_url, person, "approve", scopes)

    async def deny(self, authorize_url: str, person: Person) -> str:
        """Cancel as a browser would; the address that it is sent to."""
        return await self._decide(authorize_url, person, "cancel", None)

    async def _decide(self, url: str, person: Person, decision: str, scopes: Iterable[str] | None) -> str:
        trust = ssl.create_default_context(cadata=self.ca_pem.decode()) if self.ca_pem else True
        async with httpx.AsyncClient(trust_env=False, timeout=60, verify=trust) as browser:
            page = await browser.get(url)
            if page.is_redirect:
                return page.headers["location"]
            assert page.status_code == 200, page.text
            form = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
            form |= {"person": person.login, "decision": decision}
            if scopes is not None:
                form["scope"] = " ".join(scopes)
            answer = await browser.post(urlsplit(url)._replace(query="").geturl(), data=form)
        assert answer.is_redirect, answer.text
        return answer.headers["location"]

    def consent(self, action: str, asked: Mapping[str, str], scopes: Iterable[str]) -> Response:
        """The page that asks a person; whose account it is can be chosen."""
        hidden = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
            for name, value in asked.items()
        )
        people = "".join(
            f'<label><input type="radio" name="person" value="{escape(person.login)}"'
            f"{' checked' if person is self.people[0] else ''}> {escape(person.name)}"
            f" ({escape(person.login)})</label><br>"
            for person in self.people
        )
        wants = ", ".join(escape(scope) for scope in scopes) or "public information only"
        title = f"Authorize at {self.kind.title()}"
        return HTMLResponse(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><main>'
            f"<h1>{title}</h1><p>Everref asks for: {wants}</p>"
            f'<form method="post" action="{action}">{hidden}<fieldset><legend>Who are you?</legend>{people}'
            '</fieldset><p><button name="decision" value="approve">Approve</button> '
            '<button name="decision" value="cancel">Cancel</button></p></form></main></html>'
        )

    def give_code(
        self, person: Person, scopes: tuple[str, ...], redirect_uri: str | None, asked: Mapping[str, str]
    ) -> Code:
        code = Code(
            secrets.token_hex(10),
            person,
            scopes,
            redirect_uri,
            asked.get("code_challenge") or None,
            asked.get("code_challenge_method", "plain"),
            self.now(),
        )
        self.codes.append(code)
        return code

    def take_code(self, value: str, verifier: str | None) -> Code | None:
        """The consent that is exchanged; None: unknown, used, too old, or of another verifier."""
        code = next((one for one in self.codes if one.value == value), None)
        if code is None or code.used or self.now() - code.created_at > CODE_LIFE:
            return None
        if code.challenge is not None and not _proves(verifier or "", code.challenge, code.method):
            return None
        return code

    # Hooks

    @abstractmethod
    def tell_push(self, repository: Repository, moves: Sequence[Move], by: Person) -> None:
        """Queue the deliveries of one push."""

    @abstractmethod
    def tell_change(self, repository: Repository, action: str, changes: Json) -> None:
        """Queue the deliveries of what happened to the repository itself."""

    def change_of_owner(self, old: Owner) -> Json:
        return {}

    @abstractmethod
    def answered(self, delivery: Delivery) -> None:
        """A delivery was sent; `delivery.status` is None where nobody answered."""

    def may_send(self, hook: Hook) -> bool:
        return hook.active

    async def deliver(self) -> None:
        """Notice what tests changed in the repositories, and wait until every delivery was answered."""
        for repository in list(self.repositories):
            repository.pushed()
        await self.outbox.empty()

    def drop(self, times: int = 1) -> None:
        """The next deliveries are lost."""
        self.outbox.drop(times)

    def duplicate(self, times: int = 1) -> None:
        """The next deliveries are sent twice."""
        self.outbox.duplicate(times)

    def hold(self, *events: str) -> None:
        """Send nothing, or nothing of these events, until `release`."""
        self.outbox.hold(events)

    async def release(self, *, reverse: bool = False, at_once: bool = False) -> None:
        """Send what was held: in order, in the opposite one, or all at the same time."""
        await self.outbox.release(reverse=reverse, at_once=at_once)

    async def redeliver(self, delivery: Delivery) -> None:
        """Send it again, and wait for the answer."""
        self.outbox.put(self.again(delivery))
        await self.outbox.empty()

    @abstractmethod
    def again(self, delivery: Delivery) -> Delivery:
        """The same delivery, to be sent once more."""

    def deliveries(self, repository: Repository) -> list[Delivery]:
        """Everything that was sent for a repository, in order."""
        sent = [delivery for hook in repository.hooks for delivery in hook.deliveries]
        return sorted(sent, key=lambda delivery: delivery.id)

    # Faults

    def fail(
        self,
        status: int = 500,
        times: int = 1,
        piece: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: str = "",
        method: str | None = None,
    ) -> None:
        """The next requests whose address has this piece get this status."""
        self._faults.append(Fault(piece, times, status, 0.0, headers or {}, body, method))

    def slow(self, seconds: float, times: int = 1, piece: str = "") -> None:
        """The next requests are answered so much later."""
        self._faults.append(Fault(piece, times, None, seconds))

    def when(self, piece: str, do: Callable[[], object], times: int = 1) -> None:
        """Just before the next requests whose address has this piece are answered, this happens."""
        self._faults.append(Fault(piece, times, do=do))

    def never_end(self, piece: str, body: str = "[]") -> None:
        """From now on every page of this listing names a next one that it did not name before."""
        self._faults.append(Fault(piece, 1 << 30, 200, body=body, endless=True))

    def heal(self) -> None:
        """From now on nothing fails."""
        self._faults.clear()

    def count(self, piece: str) -> int:
        """How many requests had this in their first line."""
        return sum(piece in request for request in self.requests)

    def _fault(self, method: str, address: str) -> Fault | None:
        for fault in self._faults:
            if fault.times and fault.piece in address and fault.method in (None, method):
                fault.times -= 1
                return fault
        return None

    # Limits

    def spend(self, who: int, window: timedelta) -> int:
        """Count one request, and how many there were in this window."""
        self.forget_spent(who, window)
        self._used[who].append(self.now())
        return len(self._used[who])

    def spent(self, who: int, window: timedelta) -> int:
        self.forget_spent(who, window)
        return len(self._used[who])

    def forget_spent(self, who: int, window: timedelta) -> None:
        """A window begins with its first request, and all of it ends at once."""
        used = self._used.setdefault(who, [])
        if used and self.now() - used[0] >= window:
            used.clear()

    def window_ends(self, who: int, window: timedelta) -> int:
        used = self._used.get(who)
        return int(((used[0] if used else self.now()) + window).timestamp())

    # Serving

    def route(self, method: str, path: str, handler: Handler) -> None:
        """Answer a path, whose `{name}` stands for one segment as it was sent."""
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
        self.routes.append(Route(method, re.compile(pattern), handler))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        raw = scope["raw_path"].decode("ascii").partition("?")[0]
        query = scope["query_string"].decode("latin-1")
        address = f"{raw}?{query}" if query else raw
        self.requests.append(f"{request.method} {address}")
        fault = self._fault(request.method, address)
        if fault:
            fault.do()
        if fault and fault.seconds:
            try:
                await asyncio.wait_for(self.closing.wait(), fault.seconds)
            except TimeoutError:
                pass
        if fault and fault.status:
            await request.body()
            response: Response = Response(fault.body, fault.status, dict(fault.headers))
            if fault.endless:
                response.headers["Link"] = f'<{request.url.replace(query=f"page={fault.times}")}>; rel="next"'
        elif match := _GIT.fullmatch(unquote(raw)):
            await self._git(match["name"], match["what"], request, send)
            return
        else:
            response = await self._answer(request, raw)
        await response(scope, receive, send)

    async def _answer(self, request: Request, raw: str) -> Response:
        allowed = False
        for route in self.routes:
            if match := route.pattern.fullmatch(raw):
                allowed = True
                if route.method == request.method:
                    parts = {name: unquote(value) for name, value in match.groupdict().items()}
                    call = Call(request, parts, dict(request.query_params), await request.body())
                    try:
                        return await self.guarded(route, call)
                    except Refused as refused:
                        return refused.response
        if allowed:
            return JSONResponse({"message": "405 Method Not Allowed"}, 405)
        if raw.startswith(urlsplit(self.api_url).path + "/"):
            return JSONResponse({"message": "Not Found"}, 404)
        return self.page(raw)

    @abstractmethod
    async def guarded(self, route: Route, call: Call) -> Response:
        """Let the call in, and answer it with the headers of this forge."""

    def page(self, raw: str) -> Response:
        """What a browser sees here."""
        if repository := self.repository(unquote(raw).strip("/")):
            if repository.private:
                return PlainTextResponse("Not Found\n", 404)
            return HTMLResponse(
                f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(repository.full_name)}'
                f"</title><h1>{escape(repository.full_name)}</h1><p>git clone {escape(repository.url)}</p>"
            )
        return PlainTextResponse("Not Found\n", 404)

    # Git

    async def _git(self, name: str, what: str, request: Request, send: Send) -> None:
        service = request.query_params.get("service", "") if what == "info/refs" else what
        try:
            if service not in (smart.UPLOAD, smart.RECEIVE):
                raise Refused(PlainTextResponse("Please upgrade your git client.\n", 403))
            writes = service == smart.RECEIVE
            repository, person = self.enter(name, what, writes, request, self.basic(request))
        except Refused as refused:
            await request.body()
            await refused.response(request.scope, request.receive, send)
            return

        def pushed() -> None:
            repository.learn()
            repository.pushed(person)

        if what == "info/refs":
            await smart.advertise(repository.path, service, request, send)
        elif writes:
            repository.pushed()  # what a test changed by itself is a push of its own
            rules = self.push_rules(self.basic(request))
            await smart.serve(repository.path, service, request, send, pushed, rules)
        else:
            await smart.serve(repository.path, service, request, send)

    @abstractmethod
    def enter(
        self, name: str, what: str, writes: bool, request: Request, given: tuple[str, str] | None
    ) -> tuple[Repository, Person | None]:
        """The repository that git may have, and who comes. Raises Refused."""

    def push_rules(self, given: tuple[str, str] | None) -> tuple[str, ...]:
        """Settings of git by which it refuses some refs of a push."""
        return ()

    @staticmethod
    def basic(request: Request) -> tuple[str, str] | None:
        """The user and the password of basic authentication."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, colon, password = b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            return None
        return (user, password) if colon else None

    def level_for(self, repository: Repository, person: Person | None) -> int:
        """What somebody may do, where anybody may read what is public."""
        return max(repository.level(person), 0 if repository.private else READ)


def _proves(verifier: str, challenge: str, method: str) -> bool:
    """PKCE: https://www.rfc-editor.org/rfc/rfc7636#section-4.6"""
    if not re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier):
        return False
    if method == "plain":
        return verifier == challenge
    digest = hashlib.sha256(verifier.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
