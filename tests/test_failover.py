"""Failover: the lines with which git fetches from here while a host is down, and the page for everybody."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from mirror.backup import sync
from mirror.browse import served
from mirror.core.errors import NetworkError
from mirror.core.model import Refs
from mirror.core.rules import failover
from mirror.core.rules.failover import Named
from mirror.people import status_page
from mirror.store import repos
from mirror.store.browse import served as rows
from mirror.store.people import audit, teams, tokens
from mirror.store.people.teams import Team
from mirror.upkeep import failover as trying
from mirror.web.glances import A_MINUTE
from tests.parts.everref import Mirror
from tests.parts.gitclient import World, world
from tests.parts.repos import Work
from tests.parts.web import Browser, Site
from tests.test_cli import Everref, everref, surroundings

__all__ = ["everref", "surroundings", "world"]

HERE = "https://everref.example"
BASE = f"{HERE}/git/acme/"
HUB = "https://github.com/"


class Machine:
    """Somebody's machine, with stock git and a configuration of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.git("init", "-q", "work")

    def git(self, *words: str) -> str:
        environment = {"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C"}
        done = subprocess.run(
            ["git", *words], cwd=self.home, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def type(self, lines: list[str]) -> None:
        environment = {"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        subprocess.run(["sh", "-ec", "\n".join(lines)], env=environment, check=True, capture_output=True)

    def fetches(self, url: str) -> str:
        return self.git("ls-remote", "--get-url", url)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


CASES: dict[str, tuple[list[Named], int]] = {  # the repos, and how many rules they need
    "one folder": ([Named("acme/api", f"{HUB}acme/api"), Named("acme/web", f"{HUB}acme/web.git")], 1),
    "names that differ": ([Named("acme/api", f"{HUB}acme/api"), Named("the site", f"{HUB}acme/web")], 2),
    "the beginning of another": (
        [
            Named("acme/api-docs", f"{HUB}acme/api-docs"),
            Named("acme/web", f"{HUB}acme/web"),
            Named("old/api", f"{HUB}acme/api"),
        ],
        3,
    ),
    "folders within folders": (
        [
            Named("sub/one", "https://gitlab.com/group/sub/one"),
            Named("group/two", "https://gitlab.com/group/two"),
            Named("deep/three", "https://gitlab.com/group/sub/deep/three.git"),
        ],
        3,
    ),
    "letters": ([Named("acme/über uns", "https://git.example.org/acme/%C3%BCber%20uns")], 1),
    "ssh": ([Named("acme/api", "ssh://git@github.com/acme/api.git")], 1),
    "ssh elsewhere": ([Named("srv/api", "ssh://git@git.example.org:2222/srv/api")], 1),
    "none": ([Named("api", "/srv/api"), Named("laptop", "everref:1"), Named("old", f"{HUB}a/b#before-1")], 0),
}


@pytest.mark.parametrize("case", CASES)
def test_git_fetches_every_repo_from_its_own_address_at_everref(machine: Machine, case: str) -> None:
    repos, number = CASES[case]
    rules = failover.rules(BASE, repos, ["github.com", "gitlab.com"])
    assert len(rules) == number
    (machine.home / "file").write_text(failover.as_file(rules))
    machine.git("config", "--global", "include.path", "~/file")
    for one in repos if rules else ():
        bare, right = one.url.removesuffix(".git"), failover.clone_url(HERE, "acme", one.name)
        assert [machine.fetches(bare), machine.fetches(f"{bare}.git")] == [right, f"{right}.git"]
        assert failover.replaced(rules, bare) == right


def test_the_two_lines_lead_fetches_away_and_leave_pushes_at_the_host(machine: Machine) -> None:
    rules = failover.rules(BASE, [Named("acme/api", f"{HUB}acme/api")], ["github.com"])
    lines = failover.switch_on(rules)
    assert lines[:2] == [
        "git config --global --add url.https://everref.example/git/acme/acme/.insteadOf https://github.com/acme/",
        "git config --global --add url.https://github.com/acme/.pushInsteadOf https://github.com/acme/",
    ]
    for _ in range(2):  # typed twice
        machine.type(lines)
    urls = [f"{HUB}acme/api", "git@github.com:acme/api.git", "ssh://git@github.com/acme/api.git"]
    for number, url in enumerate(urls):
        machine.git("-C", "work", "remote", "add", f"r{number}", url)
        fetched = machine.git("-C", "work", "remote", "get-url", f"r{number}")
        assert fetched.removesuffix(".git") == f"{BASE}acme/api"
        assert machine.git("-C", "work", "remote", "get-url", "--push", f"r{number}") == url
    # What git does not spare: a push address that a remote has of its own is replaced as a fetch is.
    machine.git("-C", "work", "remote", "set-url", "--push", "r0", f"{HUB}acme/api.git")
    assert machine.git("-C", "work", "remote", "get-url", "--push", "r0") == f"{BASE}acme/api.git"
    machine.git("config", "--global", f"url.{HUB}acme/.insteadOf", "gh:")  # a line of their own
    machine.type(failover.switch_off(rules))
    assert [machine.fetches(url) for url in urls] == urls
    assert machine.fetches("gh:api") == f"{HUB}acme/api"


def test_thousands_of_repos_with_names_of_their_own_get_a_rule_each() -> None:
    repos = [Named(f"n{number}", f"{HUB}acme/r{number}") for number in range(2000)]
    rules = failover.rules(BASE, repos)
    assert sum(len(rule.names) for rule in rules) == len(repos) == len(rules)


async def _team(site: Site, work: Work) -> Browser:
    """A team with two repos of a host, one of which is backed up; its owner."""
    person = await site.person("acme")
    team = await site.team(person)
    db, now = site.mirror.services.db, site.mirror.clock.now
    work.commit()
    repo = await repos.add(db, team.id, "acme/api", str(work.path), now)
    await sync.sync(site.mirror.services, repo.id)
    await db.execute("update repo set url = $1", f"{HUB}acme/api")
    await repos.add(db, team.id, "acme/the-site", f"{HUB}acme/web", now)
    return await site.signed_in(person)


async def test_the_page_gives_the_lines_for_every_repo_and_a_file_with_all_of_them(
    site: Site, work: Work, machine: Machine
) -> None:
    browser = await _team(site, work)
    page = await browser.get("/acme/-/failover")
    here = "http://127.0.0.1:8000/git/acme"
    assert f"git config --global --add url.{here}/acme/.insteadOf {HUB}acme/" in page.text
    assert f"git config --global --add url.{HUB}acme/.pushInsteadOf {HUB}acme/" in page.text
    (machine.home / "everref.gitconfig").write_text((await browser.get("/acme/-/failover?as=file")).text)
    machine.git("config", "--global", "--add", "include.path", "~/everref.gitconfig")
    assert machine.fetches("git@github.com:acme/api.git") == f"{here}/acme/api.git"
    assert machine.fetches(f"{HUB}acme/web") == f"{here}/acme/the-site"


async def test_the_page_for_everybody_is_off_until_the_owner_switches_it_on(site: Site, work: Work) -> None:
    owner, anybody = await _team(site, work), await site.browser()
    site.mirror.clock.step *= 0
    nowhere = await anybody.get("/status/no-such-team")
    off = await anybody.get("/status/acme")
    assert (off.status_code, off.text) == (nowhere.status_code, nowhere.text)
    assert off.status_code == (await anybody.get("/status/acme.json")).status_code == 404
    await owner.get("/acme/-/failover")
    await owner.post("/acme/-/failover/status", shows="counts")
    site.mirror.clock.now += timedelta(seconds=40)
    page = await anybody.get("/status/acme")
    assert "Serving, as of" in page.text and "1 repository can be cloned." in page.text
    assert "acme/api" not in page.text and page.headers["x-robots-tag"] == "noindex, nofollow"
    found = (await anybody.get("/status/acme.json")).json()
    assert (found["serving"], found["repositories"], found["unsaved"], found["repos"]) == (True, 1, 1, None)
    as_of = await site.mirror.services.db.fetchval("select max(protected_as_of) from repo")
    assert found["age_seconds"] == int((site.mirror.clock.now - as_of).total_seconds()) >= 40
    await owner.post("/acme/-/failover/status", shows="names")
    site.mirror.clock.now += timedelta(seconds=10)
    assert [one["name"] for one in (await anybody.get("/status/acme.json")).json()["repos"]] == [
        "acme/api",
        "acme/the-site",
    ]
    await owner.post("/acme/-/failover/status", shows="")
    site.mirror.clock.now += timedelta(seconds=10)
    assert (await anybody.get("/status/acme")).status_code == 404


async def test_it_says_when_clones_would_fail_and_asks_little(
    site: Site, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, anybody = await _team(site, work), await site.browser()
    await owner.get("/acme/-/failover")
    await owner.post("/acme/-/failover/status", shows="counts")
    asked = 0

    async def away(*_: object) -> bytes:
        nonlocal asked
        asked += 1
        raise NetworkError("the store at secret.example does not answer")

    monkeypatch.setattr(type(site.mirror.services.vault), "get", away)
    site.mirror.clock.step *= 0
    for _ in range(3):
        answer = await anybody.get("/status/acme")
        assert answer.status_code == 503
        assert "Not serving" in answer.text and "The store of the backups does not answer." in answer.text
        assert "secret.example" not in answer.text
    assert asked == 1
    codes = [(await anybody.get("/status/acme.json")).status_code for _ in range(A_MINUTE)]
    assert codes[0] == 503 and codes[-1] == 429
    site.mirror.clock.now += timedelta(minutes=1)
    assert (await anybody.get("/status/acme.json")).json()["reason"] is not None


async def test_the_doctor_lets_git_list_every_place_through_the_lines(
    world: World, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, origin = world.site.mirror.services, f"http://127.0.0.1:{world.served.port}"
    work.commit()
    work.tag("v1")
    repo = await world.backup(work)
    await services.db.execute("update repo set url = $1", f"{HUB}acme/api")
    await repos.add(services.db, world.team.id, "acme/the-site", f"{HUB}acme/web", world.site.mirror.clock())
    known = await rows.repos_of(services.db, world.team.id)
    rules = served.rules_of(services.settings, origin, world.team.name, known)
    api, web = await trying.check(services, origin, world.team, rules)
    leads_to = f"{origin}/git/alice/acme/api"
    assert api.ok and api.value.startswith(f"git fetches 2 refs from {leads_to}, as of ")
    assert (web.ok, web.value) == (False, "nothing is saved yet")
    only = await repos.get(services.db, repo.id)
    nowhere = "http://127.0.0.1:1"
    away_from_here = served.rules_of(services.settings, nowhere, world.team.name, known)
    (away,) = await trying.check(services, nowhere, world.team, away_from_here, only)
    assert not away.ok and f"git cannot list {nowhere}/git/alice/acme/api: " in away.value

    async def others(*_: object) -> Refs:
        return {}

    monkeypatch.setattr(trying, "_refs", others)  # as if what answered were another service
    (wrong,) = await trying.check(services, origin, world.team, rules, only)
    assert not wrong.ok and "not those of #1" in wrong.value
    assert [one.name for one in await tokens.all_of(services.db, world.team.id, None)] == ["a test's"]


def test_a_command_switches_the_page_for_everybody_where_up_really_is(everref: Everref) -> None:
    off = {"team": "everref", "shows": None, "url": None}
    on = off | {"shows": "names", "url": "http://127.0.0.1:8123/status/everref"}
    assert everref.json("status-page").one == off
    (Path(everref.env["EVERREF_DATA"]) / "up.lock").write_text("http://127.0.0.1:8123\n")
    assert everref.json("status-page", "names").one == on
    assert everref("status-page").out.startswith("http://127.0.0.1:8123/status/everref  on: ")
    assert everref.json("status-page", "off").one == everref.json("status-page").one == off
    said = everref("status-page", "counts", "--team", "nobody", code=3).err
    assert "there is no team nobody" in said and "choose from" in everref("status-page", "all", code=2).err


async def test_who_switched_the_page_for_everybody_is_in_the_audit_log(mirror: Mirror) -> None:
    db = mirror.services.db
    team = Team(await teams.default(db), teams.DEFAULT)
    await status_page.show(mirror.services, None, team, "counts")
    (entry,) = await audit.page(db, team.id)
    said = entry.entry
    assert (said.actor, said.action, said.detail) == (
        "whoever runs Everref",
        "team.status-page",
        {"shows": "counts"},
    )
