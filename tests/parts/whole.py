"""Everref as a whole beside a forge: receiver, queue, workers and vault; and what must hold in the end."""

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from hooks import app as receiving
from mirror.core.config import Settings, app_at
from mirror.core.formats import layout
from mirror.core.model import Refs, RepoId, Snapshot
from mirror.core.rules.roles import PersonId
from mirror.discovery import choose, connections, discover
from mirror.discovery.choose import By
from mirror.forges import oauth as granting
from mirror.forges.contract import Purpose, Tokens
from mirror.jobs import runner, sweep
from mirror.jobs.runner import Runner
from mirror.restore import restore
from mirror.services import queue as queueing
from mirror.services import startup
from mirror.services.embedded import queue as embedded_queue
from mirror.services.open import Services, ended, open_services
from mirror.services.queue import Queue, WorkerQueue
from mirror.services.startup import READY, Ties
from mirror.store import leases, repos
from mirror.store.backup import history, moments, reported_updates, snapshots
from mirror.store.discovery.connections import Connection
from mirror.store.people import people, teams
from mirror.store.people.teams import TeamId
from mirror.store.repos import Overview
from mirror.upkeep import verify
from mirror.upkeep.moving import rebuild
from mirror.vault.contract import Unfinished
from mirror.worker import carry, working
from tests.parts.forge import served
from tests.parts.forges import GitHub, GitLab, Move, Person, Repository
from tests.parts.postgres import Server
from tests.parts.repos import refs_of

Host = GitHub | GitLab
T = TypeVar("T")

SECRET_KEY = "canary-of-the-secret-keys-" + "k" * 20
LATER = timedelta(minutes=8)  # every repo's next look is due, and the next try of what failed once
_serial = count(1)


async def until(true: Callable[[], Awaitable[T]]) -> T:
    """Wait until something holds; the limit of the test run ends a wait that is in vain."""
    while not (found := await true()):  # noqa: ASYNC110 - it is another program's doing
        await asyncio.sleep(0.02)
    return found


class Ahead:
    """A clock that is right until it is put on."""

    def __init__(self) -> None:
        self.by = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.by


@dataclass(frozen=True)
class State:
    """Every ref of a repository, as a push left it."""

    refs: Refs
    at: datetime


@dataclass
class Whole:
    """A team with a person who connected an account at a forge, and everything that serves them."""

    services: Services
    clock: Ahead
    host: Host
    alice: Person  # at the forge
    team: TeamId
    person: PersonId
    connection: Connection
    redis_url: str
    queue: Queue  # as the receiver has it
    postgres: Server
    room: Path
    kept: dict[Repository, RepoId] = field(default_factory=dict)
    states: dict[Repository, list[State]] = field(default_factory=dict)  # every one that there ever was
    killed_at: datetime | None = None  # when the last worker that is a process ended

    # What people do

    def add(self, *names: str, private: bool = False) -> list[Repository]:
        """New repositories of Alice's."""
        return [self.host.add_repository(f"alice/{name}", private=private) for name in names]

    async def protected(self, *names: str, private: bool = False) -> list[Repository]:
        """New repositories of Alice's that are kept and protected."""
        made = self.add(*names, private=private)
        async with self.working():
            await self.keep(*made)
            await self.at_rest()
        return made

    async def connect(self, account: Person) -> Connection:
        """Connect an account by a new token of its own."""
        (app,) = self.services.settings.apps
        tokens = await personal(self.services, self.host, account)
        return await connections.connect(self.services, self.team, self.person, app, tokens, "token")

    async def keep(self, *repositories: Repository, connection: Connection | None = None) -> None:
        """Choose these: from now on they are kept, and their pushes told."""
        connection = connection or self.connection
        for one in repositories:
            self.states[one] = [State(one.work.refs(), self.clock())]
        await discover.refresh_listing(self.services, connection.id)
        ids = [str(one.id) for one in repositories]
        chosen = await choose.choose(
            self.services, connection.id, By(self.person, "Alice"), ids, hint=self.hint, at_once=choose.ALL
        )
        assert {one.hook for one in chosen} <= {"registered", "reused"}  # a sweep may have been faster
        by_url = {one.repo.url: one.repo.id for one in chosen}
        self.kept |= {one: by_url[one.url] for one in repositories}
        await self.host.deliver()

    async def hint(self, repo_id: RepoId) -> None:
        await self.queue.enqueue_job("sync_repo", str(repo_id))

    def later(self, by: timedelta) -> None:
        """Let time pass, here and at the forge."""
        self.clock.by += by
        self.host.advance(by.total_seconds())

    # What works for them

    @asynccontextmanager
    async def working(self, services: Services | None = None) -> AsyncIterator[Runner]:
        """A worker in this process that does nothing by the clock; stopped at the end as by a signal."""
        queue = WorkerQueue.at(self.redis_url)
        async with working(services or self.services, queue, periodical=False) as ctx:
            carrying = asyncio.create_task(carry(ctx, queue, cron_jobs=()))
            try:
                yield ctx["runner"]
            finally:
                await ended(carrying)
                await queue.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def process(self, *, kill_at: str | None = None) -> AsyncIterator[Process]:
        """A worker as a process of its own; with `kill_at`, one that is killed at that step."""
        words = ["mirror.worker"] if kill_at is None else ["tests.parts.crashing", kill_at, "worker"]
        with self.log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *words, *Ties(os.getpid()).arguments()),
                env=startup.environment(self.services.settings, os.environ),
                stdout=PIPE,
                stderr=log,
            )
        assert child.stdout
        try:
            assert await child.stdout.readline() == READY, self.log.read_text()
            yield child
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            self.killed_at = datetime.now(UTC)

    @property
    def log(self) -> Path:
        """What the workers that are processes said."""
        return self.room / "log"

    @asynccontextmanager
    async def elsewhere(self) -> AsyncIterator[Services]:
        """Everref's edges on another machine: the same database and vault, another disk."""
        settings = self.services.settings
        data = str(self.room / f"data-{next(_serial)}")
        vault = settings.vault_url or f"file://{settings.data}/vault"
        other = replace(settings, data=data, vault_url=vault)
        async with open_services(other, clock=self.clock) as services:
            yield services

    async def sweep(self) -> None:
        """What the scheduler does when everybody's time has come."""
        await sweep.tick(self.services)
        await sweep.tend(self.services)
        await sweep.tidy(self.services)
        await self.host.deliver()  # what hook care asked for

    # How it stands

    async def overview(self, repository: Repository) -> Overview:
        return await repos.overview_of(self.services.db, self.kept[repository])

    async def snapshots(self, repository: Repository) -> int:
        return (await self.overview(repository)).snapshots

    async def is_protected(self, repository: Repository) -> bool:
        """Whether everything is here, as far as anybody told."""
        shown = await self.overview(repository)
        return (
            shown.state == "protected" and await self._newest(repository) == self.states[repository][-1].refs
        )

    async def is_failing(self, repository: Repository) -> bool:
        return (await self.overview(repository)).state == "failing"

    async def is_down(self) -> bool:
        """Whether the database does not answer."""
        return self.postgres.process.poll() is not None

    async def has_asked(self, piece: str) -> bool:
        """Whether the forge was asked for such an address."""
        return self.host.count(piece) > 0

    async def held(self) -> int:
        """How much some worker has taken up."""
        held: int = await self.services.db.fetchval(
            "select (select count(*) from run) + (select count(*) from lease where owner is not null)"
        )
        return held

    async def at_rest(self, *bad: Repository) -> None:
        """Wait until nothing is under way, and everything but what is bad is protected as it is upstream."""
        await until(lambda: self._is_at_rest(bad))

    async def _is_at_rest(self, bad: Collection[Repository]) -> bool:
        if await self.services.db.fetchval(_BUSY):
            return False
        for repository in self.kept.keys() - set(bad):
            shown = await self.overview(repository)
            if (
                shown.state != "protected"
                or await self._newest(repository) != self.states[repository][-1].refs
            ):
                return False
        return True

    async def _newest(self, repository: Repository) -> Refs:
        last = await snapshots.latest(self.services.db, self.kept[repository])
        return await history.refs_at(self.services.db, self.kept[repository], last.number) if last else {}

    # What must hold

    async def holds(
        self, *, bad: Mapping[Repository, str] | None = None, lost: Mapping[Repository, int] | None = None
    ) -> None:
        """Once everything came to rest, and no worker works.

        1. Every state that a repository ever had can be restored, with nothing but the vault;
           so many as are `lost` are shown as that; and nothing is there that never was. Where one
           look found what two pushes made of two refs, and only the first had been told by then, each
           of the refs can be restored.
        2. What is shown is true: what is `bad` is archived, or fails with this class; the rest is protected.
        3. Nothing is stuck, held or left behind.
        """
        bad, lost = bad or {}, lost or {}
        for repository in self.kept:
            await self._is_shown_truly(repository, bad.get(repository))
        await self._left_nothing(bad)
        await self._restorable(bad, lost)

    async def _is_shown_truly(self, repository: Repository, why: str | None) -> None:
        shown, latest = await self.overview(repository), self.states[repository][-1]
        has_all = await self._newest(repository) == latest.refs
        assert shown.protected_as_of and shown.protected_as_of <= self.clock()
        if why is None:
            assert (shown.state, shown.failure, shown.behind_since) == ("protected", None, None)
            assert has_all and latest.refs == repository.work.refs()
            assert latest.at <= shown.protected_as_of
        elif why == "archived":
            assert shown.state == "archived" and has_all
        else:
            assert (shown.state, shown.failure and shown.failure.kind) == ("failing", why)
            assert shown.behind_since and shown.protected_as_of <= shown.behind_since
            assert has_all or shown.protected_as_of < latest.at

    async def _left_nothing(self, bad: Collection[Repository]) -> None:
        assert await self.services.db.fetchval(_BUSY) == 0
        await leases.release_over(self.services.db)  # as every heartbeat does for runs that were broken off
        for table, where in (("run", "true"), ("lease", "owner is not null"), ("intent", "true")):
            assert await self.services.db.fetchval(f"select count(*) from {table} where {where}") == 0, table
        good = [repo_id for repository, repo_id in self.kept.items() if repository not in bad]
        assert await self.services.db.fetchval(_UNANSWERED, good) == 0
        parts = {row["key"] for row in await self.services.db.fetch("select key from part")}
        left = await self.services.vault.unfinished()
        assert [one for one in left if not self._may_be_left(one, parts)] == []
        await asyncio.gather(*(self._is_sound(repo_id) for repo_id in self.kept.values()))

    def _may_be_left(self, one: Unfinished, parts: Collection[str]) -> bool:
        """Whether this unfinished upload is one that waits for prune and does no harm, by its name.

        Under a part's key: its store lost the answer to the beginning of an upload, and was asked again.
        Every other bundle has an intent, by which the next run removes it. Under the key of something
        small: another job of a worker was writing it as that was killed.
        """
        if layout.parse_bundle_key(one.key) is not None:
            return one.key in parts
        small = layout.is_kept_for_ever(one.key) or one.key.startswith(layout.STATES)
        small = small or one.key in (layout.README, layout.RESTORE, layout.MARKER)
        return small and self.killed_at is not None and one.since <= self.killed_at

    async def _is_sound(self, repo_id: RepoId) -> None:
        scratch = self.services.disk.scratch(repo_id)
        assert not scratch.exists() or not list(scratch.iterdir())
        repo = await repos.get(self.services.db, repo_id)
        found = await verify.verify(self.services, repo)
        assert (found.problems, found.strays, found.damaged) == ((), (), ()), repo.name

    async def _restorable(self, bad: Collection[Repository], lost: Mapping[Repository, int]) -> None:
        async with self._from_the_vault_alone() as services:
            await asyncio.gather(
                *(
                    self._restorable_from(services, repository, lost.get(repository, 0))
                    for repository in self.kept
                )
            )

    @asynccontextmanager
    async def _from_the_vault_alone(self) -> AsyncIterator[Services]:
        """Everref on a machine that has nothing but the vault."""
        name = f"alone_{next(_serial)}"
        await self.postgres.sql(f"create database {name} template migrated")
        settings = self.services.settings
        alone = replace(
            settings,
            data=str(self.room / name),
            database_url=self.postgres.url(name),
            vault_url=settings.vault_url or f"file://{settings.data}/vault",
        )
        try:
            async with open_services(alone) as services:
                await rebuild.rebuild(services)
                yield services
        finally:
            await self.postgres.sql(f"drop database {name} with (force)")

    async def _restorable_from(self, services: Services, repository: Repository, lost: int) -> None:
        repo = await repos.get(services.db, self.kept[repository])
        last = await snapshots.latest(services.db, repo.id)
        taken: list[Snapshot] = []
        for number in range(1, last.number + 1 if last else 1):
            within = await moments.within(services.db, repo.id, number)
            found = [await moments.get(services.db, repo.id, number, one.number) for one in within]
            found.append(await snapshots.get(services.db, repo.id, number))
            taken += [one for one in found if one]
        kept: list[Refs] = [
            await history.refs_at(services.db, repo.id, one.number, one.moment) for one in taken
        ]
        shown = await self.overview(repository)
        due = [one for one in self.states[repository] if self._is_due(one, shown)]
        were = {stay for one in self.states[repository] for stay in one.refs.items()}
        assert all(refs.items() <= were for refs in kept), f"{repository.full_name} never was like that"
        stays = {stay for refs in kept for stay in refs.items()}
        missing = [one for one in due if not one.refs.items() <= stays]
        assert len(missing) == lost, f"{repository.full_name}: {len(missing)} of {len(due)} are missing"
        assert len(await reported_updates.lost(self.services.db, repo.id)) == lost
        for refs in _once(one.refs for one in due if one.refs in kept):
            snapshot = taken[kept.index(refs)]
            path = self.room / f"restored-{next(_serial)}"
            done = await restore.to_directory(services, repo, snapshot, path)
            assert done.verified
            assert await asyncio.to_thread(refs_of, path) == refs

    def _is_due(self, state: State, shown: Overview) -> bool:
        """Whether this must be in the vault: as is said, everything up to a moment is."""
        return shown.protected_as_of is not None and state.at <= shown.protected_as_of


def _once(maps: Any) -> list[Refs]:
    found: list[Refs] = []
    for one in maps:
        if one not in found:
            found.append(one)
    return found


_BUSY = """
select (select count(*) from run) + (select count(*) from job where state in ('queued', 'running'))
"""
_UNANSWERED = """
select count(*) from claim join delivery on delivery.id = delivery_id join hook on hook.id = hook_id
where open and repo_id = any($1::uuid[])
"""

Begin = Callable[..., Awaitable[Whole]]


@pytest_asyncio.fixture
async def begin(
    tmp_path: Path, postgres: Server, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Begin]:
    """Begins Everref beside a forge at which Alice has an account: `await begin(github)`."""
    for module, name in ((runner, "LOOK_SECONDS"), (runner, "BEAT_SECONDS"), (queueing, "AWAY_SECONDS")):
        monkeypatch.setattr(module, name, 0.3)  # of workers in this process
    async with AsyncExitStack() as stack:

        async def make(
            host: Host,
            *,
            vault_url: str | None = None,
            server: Server = postgres,
            database_url: str = database,
            redis_at: str = redis_url,
            oauth: bool = False,
        ) -> Whole:
            clock = Ahead()
            app = app_at("github" if isinstance(host, GitHub) else "gitlab", host.url)
            if oauth:
                app = replace(app, client_id=host.client_id, client_secret=host.client_secret)
            settings = Settings(
                data=str(tmp_path / "data"),
                database_url=database_url,
                redis_url=redis_at,
                vault_url=vault_url,
                secret_keys=(SECRET_KEY,),
                allow_private_remotes=True,
                apps=(app,),
            )
            services = await stack.enter_async_context(open_services(settings, clock=clock))
            queue = Queue.at(redis_at)
            stack.push_async_callback(queue.aclose)
            await queue.flushall()
            assert services.keyring
            receiver = receiving.application(services.db, queue, services.keyring, clock)
            base = await stack.enter_async_context(served(receiver))
            services = replace(services, settings=replace(settings, base_url=base))
            person = await people.add(services.db, "Alice", clock(), team_name="alice")
            (membership,) = await teams.memberships(services.db, person.id)
            alice = host.add_person("alice")
            tokens = await (granted if oauth else personal)(services, host, alice)
            connection = await connections.connect(
                services, membership.team.id, person.id, app, tokens, "oauth" if oauth else "token"
            )
            whole = Whole(
                *(services, clock, host, alice, membership.team.id, person.id, connection),
                *(redis_at, queue, server, tmp_path),
            )
            real = host.tell_push

            def tell_push(repository: Repository, moves: Sequence[Move], by: Person) -> None:
                if repository in whole.states:
                    whole.states[repository].append(State(repository.seen, clock()))
                real(repository, moves, by)

            monkeypatch.setattr(host, "tell_push", tell_push)
            return whole

        yield make


async def personal(services: Services, host: Host, account: Person) -> Tokens:
    """A token that somebody made in the forge's settings."""
    scopes = ("repo", "read:org") if isinstance(host, GitHub) else ("api",)
    return Tokens(host.personal_token(account, scopes))


async def granted(services: Services, host: Host, account: Person) -> Tokens:
    """What a browser and a callback bring."""
    (app,) = services.settings.apps
    forge, verifier = services.forges.of(app), granting.new_verifier()
    back = connections.callback(services.settings, app)
    url = await host.approve(forge.authorize_url("state", verifier, back, Purpose.HOOKS), account)
    return await forge.exchange(parse_qs(urlsplit(url).query)["code"][0], verifier, back)


@dataclass
class OwnRedis:
    """A Redis that a test stops and starts again at the same address."""

    data: Path
    url: str = ""
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        url = await self._running.enter_async_context(embedded_queue(self.data))
        assert self.url in ("", url)
        self.url = url

    async def stop(self) -> None:
        await self._running.aclose()


@pytest_asyncio.fixture
async def own_redis() -> AsyncIterator[OwnRedis]:
    """A Redis for this test alone."""
    with tempfile.TemporaryDirectory(prefix="everref-redis-") as data:  # pytest's are too deep for a socket
        redis = OwnRedis(Path(data))
        await redis.start()
        yield redis
        await redis.stop()
