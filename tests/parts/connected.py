"""Everref beside the doubles of forges: it knows their addresses, and they reach its webhook receiver."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from hooks import app as receiving
from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.config import App, Product, app_at
from mirror.core.model import Reason, RepoId
from mirror.core.rules.roles import PersonId
from mirror.discovery import connections, discover
from mirror.forges.contract import Tokens
from mirror.forges.open import Forges
from mirror.services.open import Services
from mirror.services.queue import NoQueue
from mirror.store.discovery import remotes
from mirror.store.discovery.connections import Connection
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.people import people, teams
from mirror.store.people.teams import TeamId
from tests.parts.everref import Clock, Mirror
from tests.parts.forge import served
from tests.parts.forges import GitHub, GitLab
from tests.parts.forges.world import Person as Account
from tests.parts.forges.world import Repository

Host = GitHub | GitLab


@dataclass
class Connected:
    """A team with a person, Everref's edges, and one forge."""

    services: Services
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
        made = await connections.connect(
            self.services, self.team, self.person, self.app, Tokens(token), "token"
        )
        await discover.refresh_listing(self.services, made.id)
        return made

    @property
    def app(self) -> App:
        (found,) = self.services.settings.apps
        return found

    async def origin(self, repository: Repository) -> RemoteRepository | None:
        """The repo that follows this repository."""
        return await remotes.at_forge(
            self.services.db, self.team, self.app.forge, self.app.host, str(repository.id)
        )

    async def kept(self, repository: Repository) -> RemoteRepository:
        """The repo that follows this repository, which there must be."""
        found = await self.origin(repository)
        assert found is not None
        return found

    async def sync(self, repository: Repository) -> Synced:
        return await syncing.sync(self.services, (await self.kept(repository)).repo.id, Reason.SWEEP)

    def later(self, by: timedelta) -> None:
        """Let time pass."""
        self.clock.now += by


Beside = Callable[[Host], Awaitable[Connected]]


@pytest_asyncio.fixture
async def beside(mirror: Mirror) -> AsyncIterator[Beside]:
    """Everref beside a forge, with the receiver that its hooks reach."""
    async with AsyncExitStack() as stack:

        async def make(host: Host) -> Connected:
            services = mirror.services
            assert services.keyring
            receiver = receiving.application(services.db, NoQueue(), services.keyring)
            base = await stack.enter_async_context(served(receiver))
            kind: Product = "github" if isinstance(host, GitHub) else "gitlab"
            apps = (app_at(kind, host.url),)
            forges = Forges(apps, allow_private=True)
            stack.push_async_callback(forges.close)
            clock = Clock()
            clock.now = datetime.now(UTC)
            owner = await people.add(services.db, "Alice", clock.now, team_name="alice")
            (membership,) = await teams.memberships(services.db, owner.id)
            settings = replace(services.settings, base_url=base, apps=apps)
            made = replace(services, forges=forges, settings=settings, clock=clock)
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
