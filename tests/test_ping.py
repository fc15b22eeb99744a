"""The dead man's switch: a monitor outside hears that all is well, of trouble once, and then nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from aiohttp import web

from mirror.core.errors import NotFound, UsageError
from mirror.core.rules.health import deadman, objective
from mirror.core.rules.health.deadman import Facts
from mirror.core.rules.roles import Role
from mirror.jobs import sweep
from mirror.store import repos
from mirror.store.people import notices, teams
from mirror.store.upkeep import pings, vaults
from mirror.store.upkeep.pings import Ping
from mirror.upkeep import ping
from tests.parts.repos import Work
from tests.parts.web import Site
from tests.test_cli import Everref, everref

__all__ = ["everref"]

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
WELL = Facts(3, 0, (), workers=True, vault=True, drilled_at=NOW - DAY, read_at=NOW - DAY)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, []),
        ({"drilled_at": None, "read_at": None, "repos": 0}, []),
        ({"workers": False}, ["no worker is running, so nothing is backed up"]),
        ({"vault": False}, ["the vault does not answer"]),
        ({"damaged": 4, "damaged_names": ("a", "b", "c")}, ["damaged in the vault: a, b, c and 1 more"]),
        (
            {"unknown": 2},
            ["the vault has 2 repos that this database does not know: run everref rebuild"],
        ),
        ({"outside": 1, "names": ["a"]}, ["outside its recovery point objective: a"]),
        (
            {"outside": 1200, "names": ["a", "b", "c"]},
            ["outside their recovery point objectives: a, b, c and 1,197 more"],
        ),
        ({"drilled_at": NOW - 36 * DAY}, ["no drill has passed within 35 days"]),
        ({"read_at": NOW - 36 * DAY}, ["some stored bytes were not read again within 35 days"]),
        ({"read_at": NOW - 36 * DAY, "read_age": 40 * DAY}, []),
    ],
)
def test_the_switch_is_silent_for_reasons_that_are_said(known: dict[str, Any], said: list[str]) -> None:
    assert deadman.reasons(replace(WELL, **known), NOW) == said


@pytest.mark.parametrize(
    ("found", "style", "told", "what"),
    [
        ([], "plain", False, "ping"),
        (["x"], "plain", False, None),
        (["x"], "healthchecks", False, "fail"),
        (["x"], "healthchecks", True, None),
    ],
)
def test_trouble_is_told_once_and_then_there_is_silence(
    found: list[str], style: Any, told: bool, what: str | None
) -> None:
    assert deadman.what_to_send(found, style, told) == what


@pytest.mark.parametrize(
    ("text", "said"), [("15m", "15 minutes"), ("60m", "1 hour"), ("24h", "24 hours"), ("2d", "2 days")]
)
def test_an_objective_is_read_and_said(text: str, said: str) -> None:
    assert objective.said(objective.parse(text)) == said
    assert objective.parse(objective.written(objective.parse(text))) == objective.parse(text)


@pytest.mark.parametrize("text", ["", "soon", "4m", "61d", "90s", "-1h", "1000000000000d"])
def test_what_is_no_objective_is_refused_at_its_field(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        objective.parse(text)
    assert raised.value.field == "rpo"


@dataclass
class Monitor:
    """A monitor like healthchecks, at an address of its own."""

    url: str = ""
    heard: list[tuple[str, str]] = field(default_factory=list)
    answer: int = 200

    async def take(self, request: web.Request) -> web.Response:
        self.heard.append((request.path, await request.text()))
        headers = {"location": f"{self.url}/elsewhere"} if self.answer == 301 else {}
        return web.Response(status=self.answer, text="OK", headers=headers)

    def new(self) -> list[tuple[str, str]]:
        """What it heard since it was last asked."""
        heard, self.heard = self.heard, []
        return heard


@pytest_asyncio.fixture
async def monitor() -> AsyncIterator[Monitor]:
    found = Monitor()
    app = web.Application()
    app.router.add_post("/{path:.*}", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/secret-4711"
        yield found
    finally:
        await runner.cleanup()


async def _of(site: Site, team: teams.TeamId) -> Ping:
    found = await pings.of_team(site.mirror.services.db, team)
    assert found is not None
    return found


async def test_a_team_is_pinged_for_while_it_is_well_and_told_of_once_when_it_is_not(
    site: Site, work: Work, monitor: Monitor
) -> None:
    kim = await site.person("Kim")
    team, browser = await site.team(kim), await site.signed_in(kim)
    services, clock = site.mirror.services, site.mirror.clock
    clock.step = timedelta()
    repo = await repos.add(services.db, team.id, "kim/api", "https://x.example/a", clock.now)
    await repos.touch_protected(services.db, repo.id, clock.now)
    await browser.get("/kim/-/settings")
    form = {"style": "healthchecks", "ping_drill_days": "35", "ping_read_days": "35"}
    page = await browser.post("/kim/-/settings/ping", ping="https://kim@x.example/", **form)
    assert page.status_code == 422 and "has a user name" in page.text
    typed = {**form, "ping_drill_days": "often", "ping": monitor.url}
    page = await browser.post("/kim/-/settings/ping", **typed)
    assert page.status_code == 422 and page.text.count("A number of days is between 1 and 366.") == 1
    assert page.text.count(' value="often"') == 1  # and nothing of it where the drills are set
    page = await browser.follow(await browser.post("/kim/-/settings/ping", ping=monitor.url, **form))
    assert "The ping was sent, and 127.0.0.1" in page.text and "secret-4711" not in page.text
    assert monitor.new() == [("/secret-4711", ping.WELL)]
    stored = (await _of(site, team.id)).sealed
    assert stored is not None and b"secret" not in stored

    clock.now += 2 * DAY
    for expected in ([("/secret-4711/fail", "Outside its recovery point objective: kim/api.")], []):
        await ping.due(services)
        assert monitor.new() == expected
    browser = await site.signed_in(kim)  # the session was for a day
    page = await browser.get("/kim/-/settings")
    assert "Everref does not ping 127.0.0.1" in page.text
    assert "Outside its recovery point objective: kim/api." in page.text
    page = await browser.follow(await browser.post("/kim/-/settings/ping/send"))
    assert "No ping was sent to 127.0.0.1" in page.text and monitor.new() == []

    await repos.touch_protected(services.db, repo.id, clock.now)
    await sweep.do_if_due(next(one for one in sweep.TASKS if one.do is ping.due), services)
    assert monitor.new() == [("/secret-4711", ping.WELL)]
    assert (await _of(site, team.id)).pinged_at == clock.now


async def test_a_monitor_that_takes_no_ping_is_shown_and_told_once_and_a_redirect_is_not_followed(
    site: Site, monitor: Monitor
) -> None:
    kim = await site.person("Kim")
    team, services, clock = await site.team(kim), site.mirror.services, site.mirror.clock
    clock.step, monitor.answer = timedelta(), 301
    assert services.keyring is not None
    wanted = ping.wanted(services.settings, monitor.url, "plain", "35", "35")
    await pings.put(services.db, services.keyring, team.id, wanted, clock.now)

    async def told() -> list[str]:
        return [one.kind for one in await notices.open_of(services.db, team.id)]

    for expected in ([], ["channel"], ["channel"]):
        await ping.due(services)
        assert await told() == expected and len(monitor.new()) == 1
        clock.now += deadman.EVERY
    known = await _of(site, team.id)
    assert known.pinged_at is None and known.answer is not None and "301" in known.answer
    assert "secret-4711" not in known.answer
    browser = await site.signed_in(kim)
    assert "took no ping" in (await browser.get("/kim/-/settings")).text
    assert "took no ping" in (await browser.get("/kim")).text
    monitor.answer = 200
    await ping.due(services)
    assert await told() == [] and (await _of(site, team.id)).failing_since is None
    strict = replace(services, settings=replace(services.settings, allow_private_remotes=False))
    await ping.due(strict)
    assert "cannot be reached from here" in ((await _of(site, team.id)).answer or "")


async def test_the_installation_is_pinged_for_while_all_teams_are_well(site: Site, monitor: Monitor) -> None:
    services = site.mirror.services
    with pytest.raises(NotFound):
        await ping.send_now(services, None)
    services = replace(services, settings=replace(services.settings, ping_url=monitor.url))
    team = await teams.default(services.db)
    repo = await repos.add(services.db, team, "a/b", "https://x.example/a", services.clock() - 2 * DAY)
    for _ in range(2):
        await ping.due(services)
    assert monitor.new() == []
    await repos.touch_protected(services.db, repo.id, services.clock())
    assert (await ping.send_now(services, None)).reasons == []
    assert monitor.new() == [("/secret-4711", ping.WELL)]
    damage = "update repo set archived_at = $2, damaged_at = $2, damage = 'x' where id = $1"
    await services.db.execute(damage, repo.id, services.clock())  # it is gone, and what is left is damaged
    assert (await ping.send_now(services, None)).reasons == ["damaged in the vault: a/b"]
    await services.db.execute("update repo set damaged_at = null, damage = null where id = $1", repo.id)
    await vaults.know(services.db, uuid4())
    await vaults.set_unknown(services.db, 2)  # an old dump of the database was restored
    assert "this database does not know" in (await ping.send_now(services, None)).reasons[0]
    await vaults.set_unknown(services.db, 0)
    await services.db.execute("update worker set beat_at = beat_at - interval '1 hour'")
    assert (await ping.send_now(services, None)).reasons == ["no worker is running, so nothing is backed up"]


async def test_monitors_that_take_no_ping_delay_no_others(site: Site) -> None:
    services, now = site.mirror.services, site.mirror.clock.now
    assert services.keyring
    for name, asked, failing in (("a", 3, 9), ("b", 2, None), ("c", 4, None), ("d", None, None)):
        team = await teams.add_named(services.db, name, services.clock())
        wanted = pings.Wanted(f"https://{name}.example/x", f"{name}.example", "plain", 35 * DAY, 35 * DAY)
        await pings.put(services.db, services.keyring, team.id, wanted, services.clock())
        ago = [None if one is None else now - timedelta(minutes=one) for one in (asked, failing)]
        await services.db.execute(
            "update ping set asked_at = $2, failing_since = $3 where team_id = $1", team.id, *ago
        )
    assert [one.team for one in await pings.all(services.db)] == ["d", "c", "b", "a"]


async def test_objectives_are_set_by_admins_on_pages_and_by_programs(site: Site) -> None:
    kim = await site.person("Kim")
    team, browser = await site.team(kim), await site.signed_in(kim)
    services, clock = site.mirror.services, site.mirror.clock
    repo = await repos.add(services.db, team.id, "kim/api", "https://x.example/a", clock.now)
    await browser.get("/kim/-/settings")
    assert "between 5m and 60d" in (await browser.post("/kim/-/settings/objective", rpo="1m")).text
    page = await browser.follow(await browser.post("/kim/-/settings/objective", rpo="4 hours"))
    assert "A backup may be 4 hours old at most." in page.text and 'value="4h"' in page.text
    own = "/kim/kim/api/-/settings"
    await browser.post(f"{own}/schedule", schedule="1d")
    page = await browser.get(own)
    assert page.text.count('name="rpo"') == 1
    assert "twice within its objective of 4 hours" in page.text and "as the team: 4h" in page.text
    page = await browser.follow(await browser.post(f"{own}/objective", rpo="2d"))
    assert 'value="2d"' in page.text and "twice within its objective of" not in page.text
    raw = await site.token(kim, team, ["read", "admin"])
    program = await site.browser()
    program.client.headers["authorization"] = f"Bearer {raw}"
    base = "/api/v1/teams/kim"
    settings = await program.client.patch(f"{base}/repos/{repo.id}/settings", json={"rpo": None})
    assert settings.status_code == 200, settings.text
    assert settings.json()["rpo"] is None, settings.text
    answer = await program.client.put(f"{base}/objective", json={"rpo": "15m"})
    assert answer.json() == {"rpo": "15m"}
    (shown,) = (await program.client.get(f"{base}/repos")).json()["items"]
    assert shown["rpo"] == "15m" and shown["outside_rpo"] is False
    assert (await program.client.get(f"{base}/ping")).json() == {"monitor": None}
    actions = [one["action"] for one in await services.db.fetch("select action from audit order by number")]
    assert actions == ["team.rpo", "repo.schedule", "repo.rpo", "repo.rpo", "team.rpo"]
    ann = await site.member(team, "Ann", Role.OPERATOR)
    other = await site.signed_in(ann)
    await other.get("/kim/-/settings")
    assert (await other.post("/kim/-/settings/objective", rpo="1h")).status_code == 403


async def test_whoever_runs_it_sets_objectives_and_the_monitor_at_the_command_line(
    everref: Everref, work: Work, monitor: Monitor
) -> None:
    work.commit()

    async def said(*words: str, code: int = 0, stdin: str = "") -> Any:
        done = await asyncio.to_thread(everref, *words, "--json", code=code, stdin=stdin)
        return json.loads(done.out) if done.out else json.loads(done.err)["error"]["message"]

    await said("backup", str(work.path), "--name", "api")
    assert (await said("rpo", "--set", "4h"))["rpo"] == "4h"
    told = {"team": "everref", "repo": "api", "rpo": "15m", "own": True, "outside": []}
    assert await said("rpo", "api", "--set", "15m") == told
    assert await said("rpo", "api", "--set", "team") == told | {"rpo": "4h", "own": False}
    assert "between 5m and 60d" in await said("rpo", "--set", "1m", code=2)
    assert "--url-file" in await said("ping", code=3)
    done = await said("ping", "--url-file", "-", stdin=monitor.url, code=1)
    assert done["reasons"] == ["no worker is running, so nothing is backed up"]  # a command is none
    assert [path for path, _ in monitor.new()] == ["/secret-4711/fail"]
    assert await said("ping", "--remove") == {"team": "everref", "removed": True}
    assert await said("ping", "--installation", "--remove", code=2)
    quiet = await asyncio.to_thread(everref, "repos", "--soon")
    assert "nothing is foreseen to fail soon" in quiet.out + quiet.err
