"""A program that uses the API, for tests: over the application itself, by a token or an access token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from mirror.core.rules.roles import Scope
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from tests.parts.web import Site

EVERYTHING: tuple[Scope, ...] = ("read", "backup", "restore", "admin")


@dataclass
class Program:
    """A program with a token, or none."""

    client: httpx.AsyncClient
    bearer: str | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        /,
        *,
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """One call; `path` is below /api/v1."""
        sent = {"authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        return await self.client.request(
            method, f"/api/v1{path}", json=body, params=query or None, headers=sent | (headers or {})
        )

    async def get(self, path: str, /, **query: Any) -> Any:
        """What a GET answers."""
        answer = await self.ask("GET", path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, /, **headers: str) -> Any:
        """What a POST answers."""
        answer = await self.ask("POST", path, {} if body is None else body, headers=headers)
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()


async def program(site: Site, bearer: str | None = None) -> Program:
    """A program with this token."""
    return Program((await site.browser()).client, bearer)


async def with_token(site: Site, person: Person, team: Team, scopes: Sequence[Scope] = EVERYTHING) -> Program:
    """A program with an API token of this person's."""
    return await program(site, await site.token(person, team, scopes))
