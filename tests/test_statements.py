"""Pages and pushes ask the database little: at most so many statements each, and no resets between them."""

import math
from datetime import timedelta

import pytest

from bench.statements import counted
from mirror.backup import sync as syncing
from mirror.git.run import DAY
from mirror.jobs import run as jobbing
from mirror.jobs.runner import Runner
from mirror.services import lease
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.web.pages.repos import repo as pages
from tests.parts.everref import Mirror
from tests.parts.githttp import GitServer
from tests.parts.repos import Work
from tests.parts.web import Site
from tests.test_pages_repo import _kept

A_PAGE = 12
A_PUSH = 25


async def test_a_page_asks_at_most_twelve_statements(
    site: Site, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        work.commit()
    _, repo, browser = await _kept(site, work)
    services = site.mirror.services
    work.set("side", work.tip())
    await syncing.sync(services, repo.id)
    work.commit()
    work.commit("side", files={"README.md": b"# The garden"})
    await syncing.sync(services, repo.id)
    work.delete("side")
    await syncing.sync(services, repo.id)
    await jobbing.ask(services, repo.id, "verify", {})
    monkeypatch.setattr(pages, "DENSE", 1)  # more pushes than a picture can tell apart
    asked: dict[str, list[str]] = {}
    for path in (
        "/acme",
        "/acme/acme/api",
        "/acme/acme/api?at=%232",
        "/acme/acme/api?at=%232&window=week",
        "/acme/acme/api/-/pushes",
        "/acme/acme/api/-/refs?at=%232",
        "/acme/acme/api/-/commits?at=%232",
        "/acme/acme/api/-/files?at=%232",
        "/acme/acme/api/-/difference?at=%233",
        "/acme/acme/api/-/lost",
        "/acme/acme/api/-/restore",
        "/acme/acme/api/-/restore?at=%232",
        "/acme/-/activity",
        "/acme/-/drills",
        "/acme/-/costs",
        "/acme/-/incident?since=30d+ago",
        "/acme/-/incident?since=30d+ago&untold=yes",
        "/acme/-/retention",
        "/acme/acme/api/-/retention",
        "/acme/-/connect",
        "/acme/-/bring",
        "/acme/acme/api/-/restores",
        "/account",
        "/acme/-/settings",
        "/acme/-/failover",
        "/acme/-/pending",
        "/acme/-/mirrors",
        "/acme/acme/api/-/mirrors",
        "/acme/-/shares",
    ):
        site.mirror.clock.now += timedelta(minutes=2)  # since the session was last seen
        with counted() as statements:
            answer = await browser.get(path)
        assert answer.status_code == 200, path
        asked[path] = statements
    too_many = {path: found for path, found in asked.items() if len(found) > A_PAGE}
    for path, found in too_many.items():
        print(path, *(one[:110] for one in found), sep="\n   ")
    assert not too_many
    assert not [one for found in asked.values() for one in found if "unlock_all" in one]


async def test_a_push_asks_at_most_25_statements(
    mirror: Mirror, work: Work, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobbing, "PROGRESS_SECONDS", DAY)  # what a slow machine asks beside it, once a second
    monkeypatch.setattr(lease, "_BEAT", DAY)
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(f"{git_server.url}/remote.git")).repo
    work.commit()
    await syncing.sync(services, repo.id)
    work.commit()
    await repos.request_sync(services.db, repo.id, mirror.clock())
    runner = Runner(services)
    with counted() as asked:
        await runner.serve(repo.id, math.inf)
    latest = await snapshots.latest(services.db, repo.id)
    assert latest and latest.number == 3
    (end,) = [place for place, one in enumerate(asked, 1) if one.startswith("delete from run")]
    assert end <= A_PUSH, asked[:end]  # after that comes the look for what is next
    assert not [one for one in asked if "unlock_all" in one]
