"""What is asked of PostgreSQL: statements for a page and for a push, counted where they are asked."""

import math
from contextlib import aclosing
from typing import Final

import httpx

from bench import sources
from bench.cases.pages import signed_in
from bench.figures import Row
from bench.room import Room
from bench.service import servers
from bench.statements import counted
from hooks import app as hooks
from mirror.backup import sync as syncing
from mirror.jobs.runner import Runner
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.people import people, teams
from mirror.web import templating
from mirror.web.app import application
from mirror.web.dispatch import Outside

ORIGIN: Final = "http://127.0.0.1:8000"
A_PAGE: Final = 12
A_PUSH: Final = 25
PAGES: Final = (
    ("home", "/acme"),
    ("a repo", "/acme/acme/api"),
    ("a repo in the past", "/acme/acme/api?at=%231"),
    ("its refs in the past", "/acme/acme/api/-/refs?at=%231"),
    ("its files in the past", "/acme/acme/api/-/files?at=%231"),
    ("its restore", "/acme/acme/api/-/restore"),
    ("activity", "/acme/-/activity"),
)


async def statements(room: Room) -> list[Row]:
    """Statements of PostgreSQL for each page, and for a push from its wish to the end of its run."""
    source = sources.generated(room.new("asked"), 60, 20)
    chain, url = room.chain(source, source.mainline()[0])
    async with servers(room.new("statements")) as services:
        kim = await people.add(services.db, "Kim", services.clock(), team_name="acme")
        team = await teams.home(services.db, kim.id)
        assert team is not None
        repo = await repos.add(services.db, team.id, "acme/api", url, services.clock())
        await syncing.sync(services, repo.id)
        chain.invent(1)
        await repos.request_sync(services.db, repo.id, services.clock())
        with counted() as asked:
            await Runner(services).serve(repo.id, math.inf)
        rows = [_row("a push, until its run has ended", asked[: _end(asked)], A_PUSH)]
        cookies = await signed_in(services, kim.id)
        return rows + await _pages(services, cookies)


def _end(asked: list[str]) -> int:
    """Where the run ended: after that comes the look for what is next."""
    return max(place for place, one in enumerate(asked, 1) if one.startswith("delete from run"))


async def _pages(services: Services, cookies: dict[str, str]) -> list[Row]:
    assert services.keyring is not None and services.settings.redis_url is not None
    rows = []
    async with aclosing(hooks.queue(services.settings.redis_url)) as queue:
        app = application(Outside(services, queue, services.keyring, ORIGIN, templating.environment()))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, cookies=cookies) as browser:
            for name, path in PAGES:
                with counted() as asked:
                    answer = await browser.get(path)
                assert answer.status_code == 200, f"{path}: {answer.status_code}"
                rows.append(_row(name, asked, A_PAGE))
    return rows


def _row(what: str, asked: list[str], goal: int) -> Row:
    resets = sum("advisory_unlock_all" in one for one in asked)
    return Row(what, "small", (float(len(asked)),), "statements", goal=goal, remark=f"{resets} resets")
