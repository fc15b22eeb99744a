"""Everything external that the flows use, opened once by an entry point and passed to each flow."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

from mirror import store
from mirror.core.config import Settings
from mirror.core.errors import DiskFull, Origin, UsageError
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId
from mirror.core.progress import Progress, Silent
from mirror.forges import open as opening
from mirror.forges.open import Forges
from mirror.git.pools import Pools
from mirror.git.reader.processes import Readers
from mirror.git.reader.slots import NOBODY, Requester
from mirror.git.run import Git
from mirror.git.sharing import Shared
from mirror.services import copies, keys
from mirror.services.sealing import TeamKeys
from mirror.vault.contract import Vault
from mirror.vault.copies import Copies
from mirror.vault.sealed import SealedVault

CANCEL_AGAIN_SECONDS: Final = 10.0  # longer than cleaning up takes

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Disk:
    """The worker's own disk: a cache of the vault, and room to work in."""

    root: Path
    pools: Pools  # all of them, which are evicted where there is no room

    async def give_way(self, full: DiskFull) -> bool:
        """Make room on a full disk; returns whether another try is worthwhile."""
        return await self.pools.give_way(Path(full.path) if full.path else None)

    async def make_way(self, path: Path, bytes: int) -> None:
        """Make room for `bytes` at `path`, as far as evicting pools on its disk can."""
        await self.pools.make_room(path, bytes)

    def pool(self, repo_id: RepoId) -> Path:
        """The bare repository that holds one repo's objects."""
        return self.root / "pools" / f"{repo_id}.git"

    def scratch(self, repo_id: RepoId) -> Path:
        """The directory of one repo's scratch views; emptied at the start of each job."""
        return self.root / "scratch" / str(repo_id)


Hint = Callable[[RepoId], Awaitable[None]]  # puts a job for this repo into arq's queue; it may be lost


async def nobody(_: RepoId) -> None:
    """Hint at nothing: the workers find due jobs in PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Services:
    """The external services, as the flows see them."""

    settings: Settings
    git: Git
    db: asyncpg.Pool
    vault: Vault  # seals and opens what teams seal
    keys: TeamKeys  # which it asks
    copies: Copies  # the stores beneath: the first, and those that hold the same objects
    forges: Forges
    disk: Disk
    readers: Readers
    keyring: Keyring | None  # None: no SECRET_KEYS, so no credentials can be stored
    clock: Callable[[], datetime]
    progress: Progress
    away: set[Origin] = field(default_factory=set, compare=False)  # vault, this disk: upkeep/outages
    hint: Hint = nobody
    who: Requester = NOBODY  # for whom something is read
    shared: Shared = field(default_factory=Shared, compare=False)  # views that many clients read at once

    @property
    def stored(self) -> Vault:
        """The vault beneath the sealing: bytes as they are stored, for whoever has no key or needs none."""
        return self.vault.store if isinstance(self.vault, SealedVault) else self.vault


async def together(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Run both at the same time; the first failure cancels the other and is raised unchanged."""
    try:
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None  # in the order in which they failed
    return one.result(), other.result()


async def unbroken(work: Coroutine[Any, Any, A]) -> A:
    """Finish this even if the caller is cancelled, because its outcome must not be lost."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def ended(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel these and wait until they have cleaned up.

    A cancellation can get lost: before Python 3.12 `asyncio.wait_for`, with which redis sends its
    commands, returns its result instead if both happen at once. So a task that still runs after
    CANCEL_AGAIN_SECONDS is cancelled again. https://github.com/python/cpython/issues/86296
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)


def now() -> datetime:
    """This moment, aware, in UTC."""
    return datetime.now(UTC)


def _made(data: Path) -> Path:
    """The data directory, which only its owner can enter."""
    root = data.absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the data directory {root} cannot be created: {error.strerror}; choose another with --data"
        ) from None
    return root


@asynccontextmanager
async def open_services(
    settings: Settings, progress: Progress | None = None, clock: Callable[[], datetime] = now
) -> AsyncIterator[Services]:
    """Open the services that the settings name; the others run embedded for as long as this is open."""
    root = _made(Path(settings.data))
    async with AsyncExitStack() as stack:
        database_url = settings.database_url
        if database_url is None:
            from mirror.services.embedded import embedded_servers

            running = await stack.enter_async_context(embedded_servers(root, redis=False))
            database_url = running.database_url
        db = await stack.enter_async_context(store.opened(database_url))
        await store.migrate(db)
        keyring = keys.keyring(settings, root)
        team_keys = TeamKeys(db, keyring)
        stored = await stack.enter_async_context(copies.opened(settings, db, root, clock))
        readers = Readers.of(settings.git, str(root / "home"))
        stack.push_async_callback(readers.close)
        shared = Shared()
        stack.push_async_callback(shared.close)
        yield Services(
            settings=settings,
            git=Git(settings.git, home=str(root / "home")),
            db=db,
            vault=SealedVault(stored, team_keys),
            keys=team_keys,
            copies=stored,
            forges=await stack.enter_async_context(opening.opened(settings, clock)),
            disk=Disk(root, Pools(root / "pools", settings.pool_bytes)),
            readers=readers,
            keyring=keyring,
            clock=clock,
            progress=progress or Silent(),
            shared=shared,
        )
