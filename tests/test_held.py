"""A repo's whole life, in which nothing outside is waited for while a connection to the database is held."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from mirror.backup import sync as syncing
from mirror.core.model import Remote
from mirror.discovery import choose, discover, webhooks
from mirror.discovery.choose import By
from mirror.forges.http import Http
from mirror.git.run import Git
from mirror.git.upstream import Upstream
from mirror.jobs import sweep
from mirror.restore import drill, restore
from mirror.store import repos
from mirror.store.database import Connections
from mirror.upkeep import compact, prune, verify
from mirror.vault.directory import DirectoryVault
from tests.parts.connected import Beside
from tests.parts.everref import Mirror
from tests.parts.forges import GitHub
from tests.parts.githttp import GitServer
from tests.parts.repos import Work

OUTSIDE: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Git, ("run", "process")),
    (Upstream, ("ls_refs", "fetch")),
    (Http, ("ask",)),
    (DirectoryVault, ("create", "put", "read", "get", "stat", "list", "delete", "discard")),
)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What is asked of the outside, each time with how many connections whoever asks then holds."""
    held: ContextVar[int] = ContextVar("held", default=0)  # tasks that are begun meanwhile inherit it
    acquire, release = Connections._acquire, Connections.release
    asked: dict[str, list[int]] = {}

    async def acquired(self: Connections, *args: Any) -> Any:
        connection = await acquire(self, *args)
        held.set(held.get() + 1)
        return connection

    async def released(self: Connections, *args: Any, **kwargs: Any) -> None:
        held.set(held.get() - 1)
        await release(self, *args, **kwargs)

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            asked.setdefault(name, []).append(held.get())
            return real(*args, **kwargs)

        return ask

    monkeypatch.setattr(Connections, "_acquire", acquired)
    monkeypatch.setattr(Connections, "release", released)
    for part, names in OUTSIDE:
        for name in names:
            monkeypatch.setattr(part, name, noting(f"{part.__name__}.{name}", getattr(part, name)))
    return asked


async def test_who_waits_with_a_connection_is_found_out(
    mirror: Mirror, outside: dict[str, list[int]]
) -> None:
    async with mirror.services.db.acquire():
        await mirror.services.vault.stat("anything")
    await mirror.services.vault.stat("anything")
    assert outside["DirectoryVault.stat"] == [1, 0]


async def test_no_work_on_a_repo_waits_with_a_connection(
    mirror: Mirror,
    work: Work,
    git_server: GitServer,
    make_work: Callable[..., Work],
    outside: dict[str, list[int]],
) -> None:
    services = mirror.services
    work.commit()
    url = f"{git_server.url}/remote.git"
    repo = (await mirror.backup(url)).repo
    for _ in range(9):
        work.commit()
        await repos.request_sync(services.db, repo.id, mirror.clock())
        await syncing.sync(services, repo.id)
    last = await mirror.snapshot(repo, 10)
    to = Remote(str(make_work().path))
    assert (await restore.to_remote(services, repo, await mirror.snapshot(repo, 5), to)).verified
    assert (await restore.to_bundle(services, repo, last, mirror.place / "all.bundle")).verified
    assert (await drill.drill(services, repo, last)).problems == ()
    assert (await compact.compact(services, repo, 0)).merged
    assert (await verify.verify(services, repo)).problems == ()
    await prune.prune(services, timedelta(0), repo)
    await sweep.tick(services)
    assert outside.keys() >= {"Git.run", "Upstream.ls_refs", "Upstream.fetch", "DirectoryVault.put"}
    assert {name: max(held) for name, held in outside.items() if max(held)} == {}


async def test_no_work_at_a_forge_waits_with_a_connection(
    github: GitHub, beside: Beside, outside: dict[str, list[int]]
) -> None:
    connected = await beside(github)
    services, alice, me = connected.services, github.add_person("alice"), By(None, "the test")
    garden, shed = github.add_repository("alice/garden"), github.add_repository("alice/shed")
    garden.commit()
    connection = await connected.connect(alice)
    await choose.choose(services, connection.id, me, [str(garden.id), str(shed.id)])
    await connected.sync(garden)
    github.rename(garden, "alice/meadow")
    connected.later(timedelta(hours=25))
    await discover.refresh_listing(services, connection.id)
    await webhooks.due(services)
    await choose.let_go(services, (await connected.kept(shed)).repo.id, me)
    await choose.disconnect(services, connection.id, me)
    assert outside["Http.ask"]
    assert {name: max(held) for name, held in outside.items() if max(held)} == {}
