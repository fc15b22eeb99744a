"""The web application for tests, over real edges and a real Redis, and browsers that visit it by httpx."""

import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx
import pytest_asyncio
from starlette.applications import Starlette
from starlette.types import ASGIApp

from hooks import app as hooks
from mirror.core import signed
from mirror.core.config import App
from mirror.core.rules.roles import PersonId, Role
from mirror.forges.open import opened
from mirror.store.jobs import runs
from mirror.store.people import people, sessions, teams, tokens
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.web import templating
from mirror.web.app import application
from mirror.web.dispatch import Outside, cookie_name
from tests.parts.everref import Mirror

ORIGIN = "http://127.0.0.1:8000"


@dataclass
class Browser:
    """A browser: it keeps cookies, sends Origin with what changes something, and puts tokens into forms."""

    client: httpx.AsyncClient
    csrf: str = ""

    async def get(self, path: str, **query: str) -> httpx.Response:
        """The page, without following where it leads."""
        answer = await self.client.get(path, params=query or None)
        self._look(answer)
        return answer

    async def post(self, path: str, **fields: Any) -> httpx.Response:
        """Send a form from the page that is open; a list is a field given more than once."""
        data = {"csrf": self.csrf} | fields
        answer = await self.client.post(path, data=data, headers={"origin": ORIGIN})
        self._look(answer)
        return answer

    async def follow(self, answer: httpx.Response) -> httpx.Response:
        """The page to which an answer leads."""
        assert answer.status_code in (302, 303), answer.text
        return await self.get(answer.headers["location"])

    def _look(self, answer: httpx.Response) -> None:
        if found := re.search(r'name="csrf" value="([^"]+)"', answer.text):
            self.csrf = html.unescape(found[1])


@dataclass
class Site:
    """Everref's pages as a test speaks to them."""

    mirror: Mirror
    app: Starlette
    outside: Outside
    stack: AsyncExitStack = field(repr=False)

    async def browser(self, app: ASGIApp | None = None) -> Browser:
        """A browser that nobody is signed in with."""
        transport = httpx.ASGITransport(app or self.app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        return Browser(await self.stack.enter_async_context(client))

    async def person(self, name: str) -> Person:
        """Somebody with a team of their own, called like them."""
        return await people.add(
            self.mirror.services.db, name.title(), self.mirror.clock.now, team_name=name.lower()
        )

    async def team(self, person: Person) -> Team:
        """The person's own team."""
        team = await teams.home(self.mirror.services.db, person.id)
        assert team is not None
        return team

    async def member(self, team: Team, name: str, role: Role) -> Person:
        """Somebody who has this role in the team as well."""
        person = await self.person(name)
        await teams.add(self.mirror.services.db, team.id, person.id, role, self.mirror.clock.now)
        return person

    async def signed_in(self, person: Person, app: ASGIApp | None = None) -> Browser:
        """A browser that this person is signed in with."""
        browser = await self.browser(app)
        raw, session = await self.session(person.id)
        browser.client.cookies.set(cookie_name(secure=False), raw, domain="127.0.0.1")
        browser.csrf = session
        return browser

    async def session(self, person_id: PersonId) -> tuple[str, str]:
        """A new session: what its cookie says, and the token of its forms."""
        raw, session = await sessions.start(
            self.mirror.services.db, person_id, self.mirror.clock.now, "a test", "127.0.0.1"
        )
        return signed.sign(self.outside.keyring, "session", raw, self.mirror.clock.now), session.csrf

    async def token(self, person: Person, team: Team, scopes: Sequence[Any] = ("read",)) -> str:
        """An API token."""
        raw, _ = await tokens.make(
            self.mirror.services.db, person.id, team.id, "a test's", scopes, None, self.mirror.clock.now
        )
        return raw


# However long a test takes; and an hour earlier is long ago.
_ALIVE: Final = "update worker set beat_at = beat_at + interval '50 minutes'"


@pytest_asyncio.fixture
async def make_site(mirror: Mirror, redis_url: str) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    """The pages over a fresh database, a fresh vault and a Redis of the test run, with these forges."""
    async with AsyncExitStack() as stack:
        queue = hooks.queue(redis_url)
        stack.push_async_callback(queue.aclose)

        async def make(*apps: App) -> Site:
            services = mirror.services
            if apps:
                settings = replace(services.settings, apps=apps)
                forges = await stack.enter_async_context(opened(settings))
                services = replace(services, settings=settings, forges=forges)
            assert services.keyring is not None
            await runs.beat(services.db, "a test's worker")
            await services.db.execute(_ALIVE)
            outside = Outside(services, queue, services.keyring, ORIGIN, templating.environment())
            stack.push_async_callback(outside.background.end)
            return Site(replace(mirror, services=services), application(outside), outside, stack)

        yield make


@pytest_asyncio.fixture
async def site(make_site: Callable[..., Awaitable[Site]]) -> Site:
    """The pages, with the forges that everybody knows."""
    return await make_site()
