"""Connecting a forge and choosing what is kept, as a person does it on the pages."""

import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from httpx import Response

from mirror.core.config import App
from mirror.core.model import RepoId
from mirror.core.rules.roles import Role
from mirror.forges import github as github_module
from mirror.forges import gitlab as gitlab_module
from mirror.forges.contract import Purpose
from mirror.store import repos
from mirror.store.browse import home
from mirror.store.discovery import connections, ssh
from mirror.store.discovery.connections import ConnectionId
from mirror.store.people import audit, people, teams
from mirror.store.people.people import Person as Someone
from tests.parts.forges import GitHub, GitLab, Person
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

SCOPES = {
    "github": ("repo", "read:org"),
    "gitlab": ("api", "read_user", "read_repository"),
}


@dataclass
class Connecting:
    """Ann, who owns a team, her account at a forge with repositories, and her browser."""

    site: Site
    forge: GitHub | GitLab
    ann: Person
    person: Someone
    browser: Browser

    async def by_token(self, **fields: str) -> str:
        """Connect by a personal access token; the page that it leads to."""
        await self.browser.get("/ann/-/connect")
        token = self.forge.personal_token(self.ann, SCOPES[self.forge.kind])
        fields = {"forge": self.forge.kind, "host": "", "token": token} | fields
        answer = await self.browser.post("/ann/-/connect/token", **fields)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    async def by_consent(self) -> str:
        """Connect by OAuth; the page that it leads to."""
        await self.browser.get("/ann/-/connect")
        answer = await self.browser.post(f"/auth/{self.forge.kind}", host="", team="ann")
        return await self.approved(answer, self.ann)

    async def approved(self, answer: Response, by: Person) -> str:
        """Consent at the forge where this answer leads, and come back; the page that it leads to."""
        assert answer.status_code == 303, answer.text
        parts = urlsplit(await self.forge.approve(answer.headers["location"], by))
        answer = await self.browser.get(f"{parts.path}?{parts.query}")
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    async def refuse(self) -> None:
        """Let the forge refuse the only connection's token, and the backups of its repos fail for it."""
        db, now = self.site.mirror.services.db, self.site.mirror.clock()
        ((connection_id, version),) = await db.fetch("select id, version from connection")
        why = f"the host refuses the token of {self.ann.login}; connect again"
        assert await connections.stop(db, ConnectionId(connection_id), version, why, now)
        for row in await db.fetch("select id from repo where connection_id is not null"):
            await repos.set_failure(db, RepoId(row["id"]), "credentials", why, now)
            await db.execute("update repo set synced_at = wanted_at where id = $1", row["id"])

    async def waiting(self) -> int:
        """How many repos have a sync request that a worker may serve now."""
        found = await self.site.mirror.services.db.fetchval(
            """
            select count(*) from repo where wanted_at is distinct from synced_at and paused_at is null
              and (failure_class is null or retry_at <= now())
            """
        )
        return int(found)

    async def listed(self, address: str) -> str:
        """The page to choose on, once everything is listed."""
        while 'http-equiv="refresh"' in (page := (await self.browser.get(address)).text):
            await self.site.outside.background.quiet()
        return page

    async def kept(self) -> list[str]:
        team = await teams.by_name(self.site.mirror.services.db, "ann")
        assert team is not None
        rows = await self.site.mirror.services.db.fetch("select name from repo where team_id = $1", team.id)
        return sorted(row["name"] for row in rows)


@pytest_asyncio.fixture(params=["github", "gitlab"])
async def connecting(
    request: pytest.FixtureRequest,
    github: GitHub,
    gitlab: GitLab,
    make_site: Callable[..., Awaitable[Site]],
) -> AsyncIterator[Connecting]:
    forge = github if request.param == "github" else gitlab
    ann = forge.add_person("ann", "Ann")
    forge.add_org("acme", owners=[ann])
    for name in ("ann/notes", "acme/api", "acme/site"):
        forge.add_repository(name, private=name == "acme/api")
    app = App(request.param, forge.url, forge.api_url, forge.client_id, forge.client_secret)
    site = await make_site(app)
    person = await site.person("ann")
    yield Connecting(site, forge, ann, person, await site.signed_in(person))


@pytest.mark.parametrize("forge", [github_module.SCOPES, gitlab_module.SCOPES], ids=["github", "gitlab"])
async def test_page_and_documents_name_the_scopes_that_are_asked_for_and_no_other(
    connecting: Connecting, forge: Mapping[Purpose, tuple[str, ...]]
) -> None:
    page = (await connecting.browser.get("/ann/-/connect")).text
    documents = (Path(__file__).parent.parent / "docs" / "connections.md").read_text()
    in_another = {"write_repository"}  # GitLab's `api` includes it
    wanted = {scope for one in (Purpose.READ, Purpose.HOOKS, Purpose.WORKFLOWS) for scope in forge[one]}
    for scope in wanted - in_another:
        assert re.search(rf"\b{scope}\b", page), scope
        assert f"`{scope}`" in documents
    for text in (page, documents):
        assert "repo_hook" not in text


async def test_what_a_token_can_see_is_listed_to_choose_from(connecting: Connecting) -> None:
    page = await connecting.listed(await connecting.by_token())
    for name in ("ann/notes", "acme/api", "acme/site"):
        assert name in page
    assert "3 repositories, 0 of them backed up" in page


async def test_what_is_ticked_is_kept_and_its_forge_tells_of_pushes(connecting: Connecting) -> None:
    address = await connecting.by_token()
    page = await connecting.listed(address)
    number = re.search(r'id="r(\d+)"[^>]*>[^r]*?<th[^>]*><label[^>]*>acme/api', page, re.S)
    assert number is not None
    answer = await connecting.browser.post(f"{address}/choose", repository=[number[1]])
    assert answer.headers["location"] == "/ann"
    assert "1 repository is backed up from now on" in (await connecting.browser.follow(answer)).text
    assert await connecting.kept() == ["acme/api"]
    repository = connecting.forge.repository("acme/api")
    assert repository is not None
    assert len(repository.hooks) == 1


async def test_everything_is_kept_by_a_rule(connecting: Connecting) -> None:
    address = await connecting.by_token()
    await connecting.listed(address)
    answer = await connecting.browser.post(f"{address}/choose", rule="everything")
    assert "3 repositories are backed up" in (await connecting.browser.follow(answer)).text
    assert await connecting.kept() == ["acme/api", "acme/site", "ann/notes"]


async def test_a_pattern_keeps_what_it_matches(connecting: Connecting) -> None:
    address = await connecting.by_token()
    await connecting.listed(address)
    await connecting.browser.post(f"{address}/choose", rule="patterns", patterns="acme/*")
    assert await connecting.kept() == ["acme/api", "acme/site"]


@dataclass
class Shown:
    """What a page to choose on says."""

    count: str
    ticked: list[str]  # as the form would send it
    names: list[str]  # in the list
    buttons: dict[str, str]  # their words, and the value that each sends


def shown(page: str) -> Shown:
    (count,) = re.findall(r"data-count[^>]*>([^<]+)<", page)
    boxes = re.findall(r'<input type="checkbox"[^>]*name="repository" value="(\d+)"([^>]*)>', page)
    ticked = [number for number, rest in boxes if "checked" in rest and "disabled" not in rest]
    names = re.findall(r'<label for="r\d+">([^<]+)</label>', page)
    buttons = re.findall(r'<button class="btn[^>]*value="([^"]*)"[^>]*>([^<]+)</button>', page)
    return Shown(count, ticked, names, {name: html.unescape(value) for value, name in buttons})


class Many:
    """A connection that sees a thousand repositories, none of them backed up."""

    def __init__(self, connecting: Connecting, address: str) -> None:
        self.connecting, self.browser, self.address = connecting, connecting.browser, address

    async def add(self, number: int) -> None:
        db = self.connecting.site.mirror.services.db
        await db.execute(
            """
            insert into listed (
              connection_id, repository_id, full_name, clone_url, web_url,
              private, archived, fork, admin, seen_at
            )
            select connection.id, (900000 + n)::text, 'zoo/animal-' || lpad(n::text, 4, '0'),
              'https://example.org/' || n, 'https://example.org/' || n, n % 2 = 0, false, false, true, now()
            from connection, generate_series(1, $1) as n
            """,
            number,
        )

    async def turn(self, **fields: Any) -> Shown:
        """The form as it is sent by a button that is not its last."""
        answer = await self.browser.post(self.address, **fields)
        assert answer.status_code == 200, answer.text
        return shown(answer.text)


async def test_ticks_outlive_searches_and_pages_without_a_script(connecting: Connecting) -> None:
    many = Many(connecting, await connecting.by_token())
    await connecting.listed(many.address)
    await many.add(1000)
    first = await many.turn(q="animal-04")
    assert len(first.names) == 100 and first.count == "0 chosen, 1,003 not"
    assert "Choose all 100 that match" in first.buttons
    second = await many.turn(q="animal-0999", repository=["900401", "900402"])
    assert second.names == ["zoo/animal-0999"] and second.count == "2 chosen, 1,001 not"
    third = await many.turn(q="", repository=[*second.ticked, "900999"])
    assert sorted(third.ticked) == ["900401", "900402", "900999"]
    turned = await many.turn(repository=third.ticked, after=third.buttons["Next page"])
    assert turned.names[0] == "zoo/animal-0098" and len(turned.ticked) == 3
    everything = await many.turn(repository=turned.ticked, tick="all", q="animal")
    assert len(everything.ticked) == 1000 and everything.count == "1,000 chosen, 3 not"
    assert (await many.turn(repository=everything.ticked, tick="none")).count == "0 chosen, 1,003 not"
    sent = await many.turn(repository=["1"], rule="patterns", patterns="zoo/*-04*")
    assert sent.ticked == []  # there is no such repository
    matching = await many.browser.get(many.address, part="matching", q="animal-000", private="yes")
    assert list(matching.json().values()) == [f"zoo/animal-000{n}" for n in (2, 4, 6, 8)]
    part = (await many.browser.get(many.address, part="list", q="animal-000")).text
    assert part.count("<tr>") == 10 and "<html" not in part


async def test_hundreds_of_ticks_are_one_form_and_none_is_an_error(connecting: Connecting) -> None:
    many = Many(connecting, await connecting.by_token())
    await connecting.listed(many.address)
    await many.add(120)
    answer = await many.browser.post(
        f"{many.address}/choose", rule="patterns", patterns=" ", repository=["1"]
    )
    assert answer.status_code == 422
    assert re.findall(r'<p id="f-patterns-about" class="wrong">([^<]+)', answer.text) == [
        "Enter patterns, such as acme/* or */api."
    ]
    nothing = await many.browser.post(f"{many.address}/choose", rule="none")
    assert nothing.status_code == 422 and "Nothing is chosen yet: tick the repositories" in nothing.text
    chosen = [str(900000 + n) for n in range(1, 121)]
    answer = await many.browser.post(f"{many.address}/choose", rule="none", repository=chosen)
    assert answer.headers["location"] == "/ann" and len(await connecting.kept()) == 120


async def test_ticks_go_on_beside_a_rule_that_ends(connecting: Connecting) -> None:
    address = await connecting.by_token()
    page = await connecting.listed(address)
    number = re.search(r'id="r(\d+)"[^>]*>[^r]*?<th[^>]*><label[^>]*>ann/notes', page, re.S)
    assert number is not None
    await connecting.browser.post(
        f"{address}/choose", rule="patterns", patterns="acme/*", repository=[number[1]]
    )
    assert await connecting.kept() == ["acme/api", "acme/site", "ann/notes"]
    answer = await connecting.browser.post(f"{address}/choose", rule="none", patterns="acme/*")
    assert "Repositories added later are not backed up" in (await connecting.browser.follow(answer)).text
    db = connecting.site.mirror.services.db
    assert await db.fetchval("select patterns = '{}' and not everything from connection")


async def test_a_token_that_the_forge_refuses_is_told_in_a_line_without_it(connecting: Connecting) -> None:
    await connecting.browser.get("/ann/-/connect")
    answer = await connecting.browser.post(
        "/ann/-/connect/token", forge=connecting.forge.kind, host="", token="not-a-token-at-all"
    )
    assert answer.status_code == 422
    (told,) = re.findall(r'<p id="f-token-about" class="wrong">([^<]+)', answer.text)
    assert "refuses the token" in told and "not-a-token-at-all" not in answer.text
    elsewhere = await connecting.browser.post(
        "/ann/-/connect/token", forge="gitlab", host="no@host", token="some-token"
    )
    assert re.findall(r'<p id="f-host-about" class="wrong">([^<]+)', elsewhere.text)
    assert 'value="no@host"' in elsewhere.text


async def test_disconnecting_keeps_the_repos_and_takes_the_hooks_away(connecting: Connecting) -> None:
    address = await connecting.by_token()
    await connecting.listed(address)
    await connecting.browser.post(f"{address}/choose", rule="everything")
    connecting.browser = await connecting.site.signed_in(connecting.person)  # asked of late who she is
    answer = await connecting.browser.post(f"{address}/disconnect")
    assert "Every backup stays." in (await connecting.browser.follow(answer)).text
    assert len(await connecting.kept()) == 3
    assert [one.hooks for one in connecting.forge.repositories] == [[], [], []]
    db = connecting.site.mirror.services.db
    team = await teams.by_name(db, "ann")
    assert team is not None
    assert await connections.of_team(db, team.id) == []
    actions = [one.entry.action for one in await audit.page(db, team.id)]
    assert "connection.add" in actions and "connection.remove" in actions


async def test_after_connecting_again_a_rule_keeps_what_the_disconnection_let_go_and_nobody_else(
    connecting: Connecting,
) -> None:
    address = await connecting.by_token()
    await connecting.listed(address)
    await connecting.browser.post(f"{address}/choose", rule="everything")
    connecting.browser = await connecting.site.signed_in(connecting.person)
    await connecting.browser.post("/ann/acme/site/-/settings/let-go")
    connecting.browser = await connecting.site.signed_in(connecting.person)
    await connecting.browser.post(f"{address}/disconnect")
    page = (await connecting.browser.get("/ann/acme/api/-/settings")).text
    assert "Its connection was removed" in page and "Stop backing up" in page
    connecting.browser = await connecting.site.signed_in(connecting.person)
    await connecting.browser.post("/ann/acme/api/-/settings/let-go")
    assert "Its connection was removed" not in (await connecting.browser.get("/ann/acme/api/-/settings")).text
    address = await connecting.by_token()
    await connecting.listed(address)
    answer = await connecting.browser.post(f"{address}/choose", rule="everything")
    told = (await connecting.browser.follow(answer)).text
    assert "1 repository is backed up from now on" in told
    assert "2 of the matching repositories were paused or stopped before, and stay so" in told
    hooks = {one.full_name: len(one.hooks) for one in connecting.forge.repositories}
    assert hooks == {"ann/notes": 1, "acme/api": 0, "acme/site": 0}


async def test_a_dead_token_is_one_press_to_the_consent_and_back_to_where_it_was(
    connecting: Connecting,
) -> None:
    address = await connecting.by_consent()
    await connecting.listed(address)
    await connecting.browser.post(f"{address}/choose", rule="everything")
    await connecting.refuse()
    assert await connecting.waiting() == 0
    for page in ("/ann", "/ann/acme/api", "/ann/acme/api/-/settings", "/ann/-/connect", address):
        assert f'action="{address}/again"' in (await connecting.browser.get(page)).text, page
    asked = await connecting.browser.post(f"{address}/again", next="/ann?state=failing")
    assert asked.headers["location"].startswith(connecting.forge.url)
    assert await connecting.approved(asked, connecting.ann) == "/ann?state=failing"
    home_page = (await connecting.browser.get("/ann", state="failing")).text
    product = {"github": "GitHub", "gitlab": "GitLab"}[connecting.forge.kind]
    assert re.search(
        rf"{product} at [\d.:]+ accepts ann&#39;s token again; 3 repositories are being backed up\.",
        home_page,
    )
    assert await connecting.waiting() == 3
    db = connecting.site.mirror.services.db
    assert await db.fetchval("select state from connection") == "works"


async def test_a_consent_of_another_account_says_whose_it_is_now(connecting: Connecting) -> None:
    bob = connecting.forge.add_person("bob", "Bob")
    address = await connecting.by_consent()
    await connecting.listed(address)
    await connecting.browser.post(f"{address}/choose", rule="everything")
    await connecting.refuse()
    asked = await connecting.browser.post(f"{address}/again", next="//evil.example")
    assert await connecting.approved(asked, bob) == address
    page = (await connecting.browser.get("/ann/-/connect")).text
    assert "You allowed access as bob, so bob at" in page
    assert "The token of ann is still refused: sign in at" in page
    assert await connecting.waiting() == 0
    denied = await connecting.browser.post(f"{address}/again", next="/ann")
    parts = urlsplit(await connecting.forge.deny(denied.headers["location"], connecting.ann))
    back = await connecting.browser.get(f"{parts.path}?{parts.query}")
    assert back.headers["location"] == "/ann"
    assert "so nothing was connected" in (await connecting.browser.follow(back)).text


async def test_a_dead_pasted_token_leads_to_its_field(connecting: Connecting) -> None:
    address = await connecting.by_token()
    await connecting.listed(address)
    await connecting.browser.post(f"{address}/choose", rule="everything")
    await connecting.refuse()
    answer = await connecting.browser.post(f"{address}/again", next="/ann")
    assert answer.headers["location"] == f"{address}/token?next=%2Fann"
    page = (await connecting.browser.follow(answer)).text
    assert "The host refuses the token of ann; connect again." in page
    bob = connecting.forge.add_person("bob", "Bob")
    scopes = SCOPES[connecting.forge.kind]
    for token, why in (
        ("canary-token", "refuses the token"),
        ("", "paste the token exactly as the host showed it"),
        (connecting.forge.personal_token(bob, scopes), "this token belongs to bob, not to ann"),
    ):
        answer = await connecting.browser.post(f"{address}/token", token=token, next="/ann")
        (told,) = re.findall(r'<p id="f-token-about" class="wrong">([^<]+)', answer.text)
        assert answer.status_code == 422 and why.lower() in told.lower()
        assert 'name="next" value="/ann"' in answer.text and (not token or token not in answer.text)
    good = connecting.forge.personal_token(connecting.ann, scopes)
    answer = await connecting.browser.post(f"{address}/token", token=good, next="/ann")
    assert answer.headers["location"] == "/ann" and await connecting.waiting() == 3
    assert "3 repositories are being backed up" in (await connecting.browser.follow(answer)).text


async def test_who_is_no_admin_connects_nothing(connecting: Connecting) -> None:
    site = connecting.site
    team = await teams.by_name(site.mirror.services.db, "ann")
    assert team is not None
    browser = await site.signed_in(await site.member(team, "oscar", Role.OPERATOR))
    assert (await browser.get("/ann/-/connect")).status_code == 200
    assert (await browser.post("/ann/-/connect/token", forge="github", token="x")).status_code == 403
    address = await connecting.by_token()
    assert (await browser.get(address)).status_code == 403


async def test_any_git_address_is_kept(site: Site) -> None:
    browser = await site.signed_in(await site.person("ann"))
    await browser.get("/ann/-/connect/url")
    answer = await browser.post("/ann/-/connect/url", url="https://git.example.org/you/project.git")
    assert answer.headers["location"] == "/ann/you/project"
    team = await teams.by_name(site.mirror.services.db, "ann")
    assert team is not None
    assert (await home.summary(site.mirror.services.db, team.id, site.mirror.clock.now)).total == 1


@pytest.mark.parametrize("url", ["ssh://git:pw@example.org/x.git", "https:///x", "nonsense with spaces"])
async def test_an_address_that_is_none_is_told_in_a_line(site: Site, url: str) -> None:
    browser = await site.signed_in(await site.person("ann"))
    await browser.get("/ann/-/connect/url")
    answer = await browser.post("/ann/-/connect/url", url=url, name="mine", username="ann")
    assert answer.status_code == 422
    assert len(re.findall(r'<p id="f-url-about" class="wrong">([^<]+)', answer.text)) == 1
    assert 'value="mine"' in answer.text and 'value="ann"' in answer.text


async def test_a_path_of_this_machine_is_for_whoever_runs_everref_here(site: Site, work: Work) -> None:
    work.commit("main")
    stranger = await site.signed_in(await site.person("ann"))
    await stranger.get("/ann/-/connect/url")
    answer = await stranger.post("/ann/-/connect/url", url=str(work.path))
    assert answer.status_code == 422
    assert "the person who runs Everref may use a path on this machine" in answer.text
    owner = await site.signed_in(await people.first_owner(site.mirror.services.db, site.mirror.clock.now))
    await owner.get("/everref/-/connect/url")
    assert (await owner.post("/everref/-/connect/url", url=str(work.path))).status_code == 303


async def test_which_keys_seal_what_is_shown_to_whoever_runs_everref_here(site: Site) -> None:
    owner = await site.signed_in(await people.first_owner(site.mirror.services.db, site.mirror.clock.now))
    page = (await owner.get("/everref/-/settings")).text
    assert ">newest<" in page and "0 values" in page
    ann = await site.signed_in(await site.person("ann"))
    assert "SECRET_KEYS" not in (await ann.get("/ann/-/settings")).text


async def test_a_repository_behind_ssh_is_kept_by_the_teams_deploy_key(site: Site) -> None:
    ann = await site.person("ann")
    browser = await site.signed_in(ann)
    page = (await browser.get("/ann/-/connect/url")).text
    assert "Create the deploy key" in page
    await browser.post("/ann/-/connect/ssh-key")
    page = (await browser.get("/ann/-/connect/url")).text
    found = re.search(r"ssh-ed25519 [A-Za-z0-9+/=]+ everref-[0-9a-f]+", page)
    assert found is not None and "Create the deploy key" not in page
    kept = await browser.post("/ann/-/connect/url", url="git@git.example.org:acme/api.git", name="api")
    assert kept.status_code == 303
    settings = (await browser.get("/ann/api/-/settings")).text
    assert found[0] in settings and "Forget the host" not in settings
    db = site.mirror.services.db
    team = await teams.by_name(db, "ann")
    assert team is not None
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIVIC02vnjFyL+I4RHfvIGNtOgJMe769VTF1VR4EB3ZB"
    await ssh.pin(db, team.id, "git.example.org", 22, [key], site.mirror.clock.now)
    settings = (await browser.get("/ann/api/-/settings")).text
    assert "SHA256:" in settings and "Forget the host" in settings
    browser = await site.signed_in(ann)  # a moment ago, as the clock of the test runs ahead
    answer = await browser.post("/ann/api/-/settings/forget-host")
    assert answer.headers["location"] == "/ann/api/-/settings"
    assert await ssh.host(db, team.id, "git.example.org", 22) is None
