"""Everref itself for tests of flows: open edges over a fresh database, a fresh vault and a fresh disk."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.config import Settings
from mirror.core.model import Refs, Repo, Snapshot
from mirror.discovery import add
from mirror.restore import restore
from mirror.services.open import Services, open_services
from mirror.store.backup import snapshots
from tests.parts import forked
from tests.parts.repos import Work, refs_of


class Clock:
    """A clock that goes on by a minute at each look, or by another step."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
        self.step = timedelta(minutes=1)

    def __call__(self) -> datetime:
        self.now += self.step
        return self.now


@dataclass
class Mirror:
    """Everref as a test speaks to it."""

    services: Services
    clock: Clock
    place: Path  # for what is restored

    async def backup(self, work: Work | str, name: str | None = None) -> Synced:
        """Add the repository if it is new and sync it."""
        address = work if isinstance(work, str) else str(work.path)
        return await syncing.sync(self.services, (await self.repo(address, name)).id)

    async def repo(self, address: str, name: str | None = None) -> Repo:
        return await add.repo_for(self.services, address, name)

    async def snapshot(self, repo: Repo, number: int) -> Snapshot:
        found = await snapshots.get(self.services.db, repo.id, number)
        assert found is not None
        return found

    async def restored(self, repo: Repo, number: int, globs: Sequence[str] = ()) -> Path:
        """A directory with this snapshot in it."""
        path = self.place / f"restored-{repo.id}-{number}-{len(list(self.place.iterdir()))}"
        done = await restore.to_directory(
            self.services, repo, await self.snapshot(repo, number), path, restore.What(globs)
        )
        assert done.verified
        return path

    async def refs(self, repo: Repo, number: int) -> Refs:
        """What git finds in a restored directory."""
        return refs_of(await self.restored(repo, number))

    async def keys(self) -> list[str]:
        """Everything that is in the vault."""
        return [stat.key async for stat in self.services.vault.list()]


@pytest_asyncio.fixture
async def mirror(tmp_path: Path, database: str) -> AsyncIterator[Mirror]:
    """Everref with nothing in it."""
    clock = Clock()
    settings = Settings(
        data=str(tmp_path / "data"),
        database_url=database,
        allow_private_remotes=True,
        secret_keys=("k" * 40,),
    )
    place = tmp_path / "place"
    place.mkdir()
    async with open_services(settings, clock=clock) as services:
        yield Mirror(services, clock, place)


@pytest.fixture
def everref(mirror: Mirror) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line over the same data as `mirror`; with `kill`, until that step."""
    settings = mirror.services.settings
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": settings.data,
        "EVERREF_DATA": settings.data,
        "DATABASE_URL": settings.database_url or "",
        "SECRET_KEYS": ",".join(settings.secret_keys),
        "VAULT_URL": f"file://{settings.data}/vault",
        "ALLOW_PRIVATE_REMOTES": "1",
    }

    def run(*args: str, kill: str = "") -> subprocess.CompletedProcess[str]:
        return forked.run("tests.parts.crashing", [kill, *args], env=environment, timeout=240)

    return run
