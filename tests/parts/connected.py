"""Everref beside the doubles of forges: it knows their addresses, and they reach its webhook receiver."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from hooks import app as receiving
from mirror.config import App, Product, app_at
from mirror.flows import connections, relist
from mirror.flows import sync as syncing
from mirror.flows.edges import Edges
from mirror.flows.sync import Synced
from mirror.forges.contract import Tokens
from mirror.forges.open import Forges
from mirror.model import Reason, RepoId
from mirror.people import PersonId
from mirror.store import origins, people, teams
from mirror.store.connections import Connection
from mirror.store.origins import Origin
from mirror.store.teams import TeamId
from tests.parts.everref import Clock, Mirror
from tests.parts.forge import served
from tests.parts.forges import GitHub, GitLab
from tests.parts.forges.world import Person as Account
from tests.parts.forges.world import Repository

Host = GitHub | GitLab


@dataclass
class Connected:
    """A team with a person, Everref's edges, and one forge."""

    edges: Edges
    clock: Clock
    host: Host
    team: TeamId
    person: PersonId
    hinted: list[RepoId]

    async def hint(self, repo_id: RepoId) -> None:
        """Where a worker would hear of a wish."""
        self.hinted.append(repo_id)

    async def connect(self, account: Account, scopes: Iterable[str] | None = None) -> Connection:
        """A personal access token as a connection, listed."""
        enough = ("repo", "read:org") if isinstance(self.host, GitHub) else ("api",)
        token = self.host.personal_token(account, enough if scopes is None else scopes)
        made = await connections.connect(self.edges, self.team, self.person, self.app, Tokens(token), "token")
        await relist.refresh_listing(self.edges, made.id)
        return made

    @property
    def app(self) -> App:
        (found,) = self.edges.settings.apps
        return found

    async def origin(self, repository: Repository) -> Origin | None:
        """The repo that follows this repository."""
        return await origins.at_forge(
            self.edges.db, self.team, self.app.forge, self.app.host, str(repository.id)
        )

    async def kept(self, repository: Repository) -> Origin:
        """The repo that follows this repository, which there must be."""
        found = await self.origin(repository)
        assert found is not None
        return found

    async def sync(self, repository: Repository) -> Synced:
        return await syncing.sync(self.edges, (await self.kept(repository)).repo.id, Reason.SWEEP)

    def later(self, by: timedelta) -> None:
        """Let time pass."""
        self.clock.now += by


Beside = Callable[[Host], Awaitable[Connected]]


class _NoQueue:
    """A Redis that takes hints for nobody."""

    async def enqueue_job(self, *_: object, **__: object) -> None: ...


@pytest_asyncio.fixture
async def beside(mirror: Mirror) -> AsyncIterator[Beside]:
    """Everref beside a forge, with the receiver that its hooks reach."""
    async with AsyncExitStack() as stack:

        async def make(host: Host) -> Connected:
            edges = mirror.edges
            assert edges.keyring
            receiver = receiving.application(edges.db, _NoQueue(), edges.keyring)  # type: ignore[arg-type]
            base = await stack.enter_async_context(served(receiver))
            kind: Product = "github" if isinstance(host, GitHub) else "gitlab"
            apps = (app_at(kind, host.url),)
            forges = Forges(apps, allow_private=True)
            stack.push_async_callback(forges.close)
            clock = Clock()
            clock.now = datetime.now(UTC)
            owner = await people.add(edges.db, "Alice", clock.now, team_name="alice")
            (membership,) = await teams.memberships(edges.db, owner.id)
            settings = replace(edges.settings, base_url=base, apps=apps)
            made = replace(edges, forges=forges, settings=settings, clock=clock)
            return Connected(made, clock, host, membership.team.id, owner.id, [])

        yield make


@pytest.fixture(params=["github", "gitlab"])
def either(request: pytest.FixtureRequest) -> Host:
    """Each of the forges in turn."""
    host: Host = request.getfixturevalue(request.param)
    return host


@pytest_asyncio.fixture
async def alongside(beside: Beside, either: Host) -> Connected:
    """Everref beside each of the forges in turn."""
    return await beside(either)
