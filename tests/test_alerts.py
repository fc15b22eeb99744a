"""Prometheus and Alertmanager themselves, from /metrics to a receiver: an alert, and a watchdog's silence."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml  # type: ignore[import-untyped]
from aiohttp import web

from mirror.store import repos
from mirror.store.people import teams
from tests.parts.forge import served
from tests.parts.s3 import free_ports
from tests.parts.web import Site

PROMETHEUS: Final = Path(__file__).parents[1] / "deploy" / "prometheus"
SECONDS: Final = 90.0  # for something to arrive, on a machine that is busy
TICK: Final = "250ms"
SCRAPE: Final = "2s"  # also what an answer may take: what is slower counts as not there


@dataclass
class Receiver:
    """What alerts are sent to: each request waits to be read."""

    url: str = ""
    heard: asyncio.Queue[tuple[str, str, str]] = field(default_factory=asyncio.Queue)

    async def take(self, request: web.Request) -> web.Response:
        for alert in (await request.json())["alerts"]:
            self.heard.put_nowait((request.path, alert["labels"]["alertname"], alert["status"]))
        return web.Response()

    async def until(self, wanted: tuple[str, str, str]) -> None:
        """Wait until this was heard. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS):
            while await self.heard.get() != wanted:
                pass


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    found, app = Receiver(), web.Application()
    app.router.add_post("/{path:.*}", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield found
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(*command: str | Path) -> AsyncIterator[None]:
    """A program, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield
        assert process.returncode is None, f"{command[0]} ended by itself"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def quick_rules() -> dict[str, Any]:
    """The rules as they are shipped, but that an alert waits for nothing."""
    rules: dict[str, Any] = yaml.safe_load((PROMETHEUS / "everref.rules.yml").read_text())
    for group in rules["groups"]:
        group["interval"] = TICK
        for rule in group["rules"]:
            rule.pop("for", None)
    return rules


@pytest_asyncio.fixture
async def alerts(site: Site, tmp_path: Path) -> AsyncIterator[Receiver]:
    """Prometheus reads /metrics, judges by the shipped rules, and tells by the shipped routes."""
    if shutil.which("prometheus") is None or shutil.which("alertmanager") is None:
        pytest.skip("this test wants Debian's packages prometheus and prometheus-alertmanager: make programs")
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving())
        origin = await stack.enter_async_context(served(site.app))
        address, prometheus = (f"127.0.0.1:{port}" for port in free_ports(2))
        routes: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text())
        quick = {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1s"}
        routes["route"] |= quick
        for route in routes["route"]["routes"]:
            route |= quick
        for one in routes["receivers"]:
            (hook,) = one["webhook_configs"]
            hook["url"] = f"{receiver.url}/{one['name']}"
        config = {
            "global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": TICK},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]},
            "scrape_configs": [
                {
                    "job_name": "everref",
                    "scrape_timeout": SCRAPE,
                    "static_configs": [{"targets": [origin.removeprefix("http://")]}],
                }
            ],
        }
        for name, text in (("prometheus", config), ("rules", quick_rules()), ("alertmanager", routes)):
            (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(text))
        await stack.enter_async_context(
            running(
                "alertmanager",
                f"--config.file={tmp_path / 'alertmanager.yml'}",
                f"--storage.path={tmp_path / 'alerts'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            )
        )
        await stack.enter_async_context(
            running(
                "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'series'}",
                f"--web.listen-address={prometheus}",
            )
        )
        yield receiver


@pytest.mark.timeout(300)
async def test_an_alert_arrives_when_a_repo_is_outside_its_objective_and_the_watchdog_falls_silent(
    site: Site, alerts: Receiver
) -> None:
    db, clock = site.mirror.services.db, site.mirror.clock
    clock.now, clock.step = datetime.now(UTC), timedelta()
    repo = await repos.add(db, await teams.default(db), "acme/api", "https://x.example/a", clock.now)
    await repos.touch_protected(db, repo.id, clock.now)
    await db.execute("update worker set beat_at = 'infinity'")  # it lives for as long as the test
    await alerts.until(("/monitor", "EverrefWatchdog", "firing"))
    await db.execute("update repo set protected_as_of = $1", clock.now - timedelta(hours=25))
    await alerts.until(("/team", "EverrefReposOutsideObjective", "firing"))
    await repos.touch_protected(db, repo.id, clock.now)
    await alerts.until(("/team", "EverrefReposOutsideObjective", "resolved"))
    await alerts.until(("/monitor", "EverrefWatchdog", "firing"))
