"""Signing in as people do it: by password, by link, and by a forge that asks for consent."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from mirror.core.config import App
from mirror.core.rules.roles import Role
from mirror.people import accounts
from mirror.store.discovery import connections
from mirror.store.people import links, sessions, teams
from mirror.web.app import application
from tests.parts.forges import GitHub, GitLab, Person
from tests.parts.web import Browser, Site

ORIGIN = "http://127.0.0.1:8000"


@dataclass
class Forged:
    """A site that knows one forge, and a person there."""

    site: Site
    forge: GitHub | GitLab
    ann: Person

    async def consent(self, browser: Browser, person: Person | None = None, **fields: str) -> str:
        """Ask for consent and give it at the forge; where the browser is sent then."""
        answer = await browser.post(f"/auth/{self.forge.kind}", **fields)
        assert answer.status_code == 303, answer.text
        return await self.forge.approve(answer.headers["location"], person or self.ann)

    async def come_back(self, browser: Browser, address: str) -> str:
        """Open the callback; the path that it leads to."""
        parts = urlsplit(address)
        assert f"{parts.scheme}://{parts.netloc}" == ORIGIN
        answer = await browser.get(f"{parts.path}?{parts.query}")
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])


@pytest_asyncio.fixture(params=["github", "gitlab"])
async def forged(
    request: pytest.FixtureRequest,
    github: GitHub,
    gitlab: GitLab,
    make_site: Callable[..., Awaitable[Site]],
) -> AsyncIterator[Forged]:
    forge = github if request.param == "github" else gitlab
    app = App(request.param, forge.url, forge.api_url, forge.client_id, forge.client_secret)
    site = await make_site(app)
    yield Forged(site, forge, forge.add_person("ann", "Ann"))


async def test_a_first_sign_in_by_a_forge_makes_a_person_with_a_team_of_their_own(forged: Forged) -> None:
    browser = await forged.site.browser()
    assert await forged.come_back(browser, await forged.consent(browser)) == "/"
    home = await browser.follow(await browser.get("/"))
    assert home.status_code == 200
    assert "Ann" in home.text


async def test_a_link_to_a_forge_signs_in_too(forged: Forged) -> None:
    browser = await forged.site.browser()
    answer = await browser.get(f"/auth/{forged.forge.kind}", next="/account")
    address = await forged.forge.approve(answer.headers["location"], forged.ann)
    assert await forged.come_back(browser, address) == "/account"


async def test_signing_in_asks_for_no_access_to_repositories(forged: Forged) -> None:
    browser = await forged.site.browser()
    answer = await browser.post(f"/auth/{forged.forge.kind}")
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked.get("scope", [""])[0] in ("", "read:user", "read_user")
    assert asked["code_challenge_method"] == ["S256"]


async def test_the_same_account_is_the_same_person_whatever_it_is_called_now(forged: Forged) -> None:
    db = forged.site.mirror.services.db
    one, two = await forged.site.browser(), await forged.site.browser()
    await forged.come_back(one, await forged.consent(one))
    forged.ann.login = "ann-renamed"
    await forged.come_back(two, await forged.consent(two))
    assert await db.fetchval("select count(*) from person") == 1


async def test_an_e_mail_address_makes_nobody_the_same_person(forged: Forged) -> None:
    db, clock = forged.site.mirror.services.db, forged.site.mirror.clock
    await accounts.sign_up(db, forged.ann.email, "a long enough word", "Ann", clock.now, "127.0.0.1")
    browser = await forged.site.browser()
    await forged.come_back(browser, await forged.consent(browser))
    assert await db.fetchval("select count(*) from person") == 2


async def test_a_callback_in_another_browser_signs_nobody_in(forged: Forged) -> None:
    attacker, victim = await forged.site.browser(), await forged.site.browser()
    address = urlsplit(await forged.consent(attacker))
    answer = await victim.get(f"{address.path}?{address.query}")
    assert answer.status_code == 400
    assert "was not started in this browser" in answer.text


async def test_a_callback_works_once(forged: Forged) -> None:
    browser = await forged.site.browser()
    address = await forged.consent(browser)
    cookie = browser.client.cookies["consent"]
    await forged.come_back(browser, address)
    browser.client.cookies.set("consent", cookie)
    parts = urlsplit(address)
    assert (await browser.get(f"{parts.path}?{parts.query}")).status_code == 400


async def test_a_consent_that_was_refused_is_told_in_a_line(forged: Forged) -> None:
    browser = await forged.site.browser()
    answer = await browser.post(f"/auth/{forged.forge.kind}")
    address = await forged.forge.deny(answer.headers["location"], forged.ann)
    to = await forged.come_back(browser, address)
    assert to.startswith("/sign-in")
    said = (await browser.get(to)).text
    assert "You did not let 127.0.0.1" in said and "you are not signed in" in said
    assert await forged.site.mirror.services.db.fetchval("select count(*) from person") == 0


async def test_a_code_of_another_state_is_refused(forged: Forged) -> None:
    browser = await forged.site.browser()
    address = re.sub(r"state=[^&]+", "state=guessed", await forged.consent(browser))
    parts = urlsplit(address)
    assert (await browser.get(f"{parts.path}?{parts.query}")).status_code == 400


async def test_signing_in_never_leads_to_another_site(forged: Forged) -> None:
    for where in ("https://evil.example/", "//evil.example/", "/\\evil.example"):
        browser = await forged.site.browser()
        assert await forged.come_back(browser, await forged.consent(browser, next=where)) == "/"


async def test_connecting_asks_for_what_is_needed_and_keeps_the_grant(forged: Forged) -> None:
    browser = await forged.site.browser()
    await forged.come_back(browser, await forged.consent(browser))
    await browser.follow(await browser.get("/"))
    to = await forged.come_back(browser, await forged.consent(browser, team="ann"))
    db = forged.site.mirror.services.db
    team = await teams.by_name(db, "ann")
    assert team is not None
    (kept,) = await connections.of_team(db, team.id)
    assert to == f"/ann/-/connect/{kept.id}"
    assert (kept.login, kept.state, kept.grant_kind) == ("ann", "works", "oauth")


async def test_a_consent_to_connect_that_was_refused_says_that_nothing_was_connected(forged: Forged) -> None:
    browser = await forged.site.browser()
    await forged.come_back(browser, await forged.consent(browser))
    await browser.follow(await browser.get("/"))
    answer = await browser.post(f"/auth/{forged.forge.kind}", team="ann")
    to = await forged.come_back(browser, await forged.forge.deny(answer.headers["location"], forged.ann))
    assert to.startswith("/ann/-/connect")
    assert "so nothing was connected" in (await browser.get(to)).text


async def test_an_account_that_was_connected_can_be_added_as_a_way_to_sign_in(forged: Forged) -> None:
    site = forged.site
    ann = await site.person("ann")
    browser = await site.signed_in(ann)
    page = await forged.come_back(browser, await forged.consent(browser, team="ann"))
    assert "Sign in with ann too" in (await browser.get(page)).text
    answer = await browser.post(f"{page}/sign-in")
    assert answer.headers["location"] == page
    assert "Sign in with ann too" not in (await browser.get(page)).text
    other = await site.browser()
    await forged.come_back(other, await forged.consent(other))
    assert "ann" in (await other.get("/account")).text
    assert await site.mirror.services.db.fetchval("select count(*) from person") == 1


async def identities(forged: Forged) -> list[str]:
    rows = await forged.site.mirror.services.db.fetch("select login from identity order by login")
    return [row["login"] for row in rows]


async def asked_to_link(forged: Forged, browser: Browser, account: Person) -> tuple[str, str]:
    """The page that asks whether to add the account that the forge proved, and what its form holds."""
    address = urlsplit(await forged.consent(browser, account, act="link", next="/account"))
    page = await browser.get(f"{address.path}?{address.query}")
    assert page.status_code == 200, page.text
    found = re.search(r'name="account" value="([^"]+)"', page.text)
    assert found is not None
    return page.text, found[1]


async def test_one_more_account_is_added_only_by_the_button_of_a_page_that_names_it(forged: Forged) -> None:
    browser = await forged.site.signed_in(await forged.site.person("kim"))
    page, account = await asked_to_link(forged, browser, forged.ann)
    assert "Is ann yours?" in page and "can sign in here as Kim" in page
    assert await identities(forged) == []  # a GET adds nothing
    assert (await browser.post("/auth/link", account=account, csrf="")).status_code == 403
    assert (await browser.post("/auth/link", account=account + "x")).status_code == 400
    assert (await browser.post("/auth/link", account=account)).headers["location"] == "/account"
    assert await identities(forged) == ["ann"]
    assert (await browser.post("/auth/link", account=account)).status_code == 400
    other = await forged.site.browser()
    await forged.come_back(other, await forged.consent(other))
    assert "Kim" in (await other.get("/account")).text


async def test_a_page_that_offers_an_account_is_good_for_who_saw_it(forged: Forged) -> None:
    site, kim = forged.site, await forged.site.person("kim")
    browser = await site.signed_in(kim)
    _, account = await asked_to_link(forged, browser, forged.ann)
    for other in (await site.signed_in(await site.person("mallory")), await site.signed_in(kim)):
        assert (await other.post("/auth/link", account=account)).status_code == 400
    site.mirror.clock.now += timedelta(minutes=11)
    assert (await browser.post("/auth/link", account=account)).status_code == 400
    assert await identities(forged) == []


async def test_a_link_of_another_site_begins_nothing_for_who_is_signed_in(forged: Forged) -> None:
    """The attack: an image that leads to the sign-in, in a browser where the forge knows the attacker."""
    victim = await forged.site.signed_in(await forged.site.person("kim"))
    for path in (f"/auth/{forged.forge.kind}", f"/auth/{forged.forge.kind}?act=link&team=kim&next=/account"):
        answer = await victim.get(path)
        assert answer.headers["location"] == "/account"
        assert "consent" not in victim.client.cookies
    for fields in ({"act": "link"}, {"team": "kim"}):
        crossed = await victim.post(f"/auth/{forged.forge.kind}", csrf="", **fields)
        assert crossed.status_code == 403 and "consent" not in victim.client.cookies


async def test_a_consent_that_a_link_began_ends_in_no_session_that_came_later(forged: Forged) -> None:
    site, victim = forged.site, await forged.site.browser()
    kim = await site.person("kim")
    began = await victim.get(f"/auth/{forged.forge.kind}")
    address = urlsplit(await forged.forge.approve(began.headers["location"], forged.ann))
    raw = await links.make(site.mirror.services.db, kim.id, site.mirror.clock.now, timedelta(hours=1))
    assert (await victim.post(f"/sign-in/{raw}")).status_code == 303
    assert (await victim.get(f"{address.path}?{address.query}")).status_code == 400
    assert await identities(forged) == []


async def test_an_account_that_proves_nothing_becomes_no_way_in(forged: Forged) -> None:
    forged.site.mirror.clock.step *= 0
    kim = await forged.site.signed_in(await forged.site.person("kim"))
    assert (await forged.come_back(kim, await forged.consent(kim))).startswith("/account/sure")
    assert "You do not sign in with ann yet" in (await kim.get("/account/sure")).text
    bob = await forged.site.browser()
    await forged.come_back(bob, await forged.consent(bob))  # ann signs somebody else in now
    assert (await forged.come_back(kim, await forged.consent(kim))).startswith("/account/sure")
    refused = await forged.come_back(kim, await forged.consent(kim, act="link"))
    assert refused.startswith("/account")
    assert "another person" in (await kim.get("/account")).text
    assert await identities(forged) == ["ann"]


async def test_who_has_not_proved_it_of_late_adds_no_account(forged: Forged) -> None:
    kim = await forged.site.signed_in(await forged.site.person("kim"))
    forged.site.mirror.clock.now += timedelta(minutes=11)
    answer = await kim.post(f"/auth/{forged.forge.kind}", act="link")
    assert answer.headers["location"].startswith("/account/sure")
    profile = await kim.post("/account/profile", name="Kim", email="other@example.org", zone="")
    assert profile.headers["location"].startswith("/account/sure")
    assert (await kim.post("/account/profile", name="Kimberly", email="", zone="")).status_code == 303
    assert (
        await forged.site.mirror.services.db.fetchval("select email from person where name = 'Kimberly'")
        is None
    )


async def test_only_who_connected_an_account_adds_it_to_their_ways_to_sign_in(forged: Forged) -> None:
    site = forged.site
    browser = await site.signed_in(await site.person("ann"))
    page = await forged.come_back(browser, await forged.consent(browser, team="ann"))
    db = site.mirror.services.db
    bob = await site.person("bob")
    team = await teams.by_name(db, "ann")
    assert team is not None
    await teams.add(db, team.id, bob.id, Role.ADMIN, site.mirror.clock.now)
    theirs = await site.signed_in(bob)
    assert "Sign in with ann too" not in (await theirs.get(page)).text
    assert (await theirs.post(f"{page}/sign-in")).status_code == 409
    assert await db.fetchval("select count(*) from identity") == 0


async def test_signing_in_by_an_account_that_a_team_has_connected_says_so(forged: Forged) -> None:
    site = forged.site
    browser = await site.signed_in(await site.person("kim"))
    await forged.come_back(browser, await forged.consent(browser, team="kim"))
    db = site.mirror.services.db
    stranger = await site.browser()
    address = urlsplit(await forged.consent(stranger, next="/account"))
    said = await stranger.get(f"{address.path}?{address.query}")
    assert said.status_code == 200 and "is connected to the team kim" in said.text
    assert await db.fetchval("select count(*) from person") == 1
    found = re.search(r'name="account" value="([^"]+)"', said.text)
    assert found is not None
    assert (await stranger.post("/auth/new-account", account=found[1] + "x")).status_code == 400
    begun = await stranger.post("/auth/new-account", account=found[1], next="/account")
    assert begun.headers["location"] == "/account"
    assert await db.fetchval("select count(*) from person") == 2
    other = await site.browser()
    await other.get("/sign-in")
    assert (await other.post("/auth/new-account", account=found[1], next="/")).status_code == 400


async def test_nobody_connects_another_team(forged: Forged) -> None:
    await forged.site.person("bob")
    browser = await forged.site.browser()
    await forged.come_back(browser, await forged.consent(browser))
    await browser.follow(await browser.get("/"))
    assert (await browser.post(f"/auth/{forged.forge.kind}", team="bob")).status_code == 404


async def test_a_link_signs_in_once_and_only_by_its_button(site: Site) -> None:
    db, clock = site.mirror.services.db, site.mirror.clock
    raw = await links.make(db, None, clock.now, timedelta(hours=1))
    browser = await site.browser()
    assert (await browser.get(f"/sign-in/{raw}")).status_code == 200
    assert (await browser.get(f"/sign-in/{raw}")).status_code == 200
    answer = await browser.post(f"/sign-in/{raw}")
    assert answer.headers["location"] == "/"
    assert (await browser.get("/")).headers["location"] == "/everref"
    again = await (await site.browser()).post(f"/sign-in/{raw}")
    assert again.headers["location"] == "/sign-in"


async def test_a_password_signs_in_and_a_wrong_one_does_not_say_why(site: Site) -> None:
    browser = await site.browser()
    made = await browser.post("/sign-up", name="Ann", email="ann@example.org", password="a long enough word")
    assert made.status_code == 303
    other = await site.browser()
    wrong = await other.post("/sign-in", email="ann@example.org", password="another long word")
    nobody = await other.post("/sign-in", email="nobody@example.org", password="another long word")
    assert (wrong.status_code, nobody.status_code) == (422, 422)
    for answer in (wrong, nobody):
        assert "The e-mail address or the password is wrong" in answer.text
    right = await other.post("/sign-in", email="Ann@Example.org", password="a long enough word")
    assert right.headers["location"] == "/"


async def test_an_eleventh_try_in_a_minute_is_told_to_wait(site: Site) -> None:
    browser = await site.browser()
    for _ in range(10):
        site.mirror.clock.now -= timedelta(minutes=1)  # each look at it puts it on by a minute
        await browser.post("/sign-in", email="ann@example.org", password="a wrong word")
    site.mirror.clock.now -= timedelta(minutes=1)
    answer = await browser.post("/sign-in", email="ann@example.org", password="a wrong word")
    assert answer.status_code == 429


PASSWORD = "a long enough word"


@dataclass
class Door:
    """The pages behind a proxy that is trusted: each try comes from where the test says, at one moment."""

    site: Site

    async def tries(
        self, address: str, password: str = "a wrong word", email: str = "ann@example.org"
    ) -> int:
        """What a sign-in is answered."""
        clock = self.site.mirror.clock
        before = clock.now
        browser = await self.site.browser()
        browser.client.headers["x-forwarded-for"] = address
        answer = await browser.post("/sign-in", email=email, password=password)
        clock.now = before  # each look at it puts it on by a minute
        assert (answer.status_code == 429) == ("retry-after" in answer.headers)
        return answer.status_code


@pytest_asyncio.fixture
async def at_the_door(site: Site) -> Door:
    made = Door(site)
    db, clock = site.mirror.services.db, site.mirror.clock
    await accounts.sign_up(db, "ann@example.org", PASSWORD, "Ann", clock.now, "203.0.113.1")
    return made


async def test_a_wrong_password_is_told_at_its_field_and_changes_nothing_of_what_comes_after(
    at_the_door: Door,
) -> None:
    browser = await at_the_door.site.browser()
    await browser.post("/sign-in", email="ann@example.org", password=PASSWORD)
    to = "/ann/acme/api/-/restore/plan?at=%231&where=kept&force=yes"
    await browser.get("/account/sure", next=to)
    wrong = await browser.post("/account/sure", password="a wrong word", next=to)
    assert wrong.status_code == 422
    assert 'aria-invalid="true"' in wrong.text and "The password is wrong" in wrong.text
    kept = re.search(r'name="next" value="([^"]*)"', wrong.text)
    assert kept and unescape(kept[1]) == to
    right = await browser.post("/account/sure", password=PASSWORD, next=unescape(kept[1]))
    assert right.headers["location"] == to


@pytest.mark.parametrize(
    ("path", "page", "fields"),
    [
        ("/account/password", "/account", {"password": "another long word"}),
        ("/account/profile", "/account", {"name": "Ann", "email": "other@example.org"}),
        ("/account/unlink", "/account", {"host": "github.com", "account": "1"}),
        ("/auth/github", "/account", {"host": "github.com", "act": "link"}),
        ("/ann/-/settings/tokens", "/ann/-/settings", {"name": "ci", "scope": "read"}),
        ("/ann/-/settings/name", "/ann/-/settings", {"name": "other"}),
    ],
)
async def test_what_was_pressed_before_a_proof_is_said_to_be_not_done(
    at_the_door: Door,
    make_site: Callable[..., Awaitable[Site]],
    path: str,
    page: str,
    fields: dict[str, str],
) -> None:
    app = App("github", "https://github.com", "https://api.github.com", "id", "secret")
    door = Door(await make_site(app))
    browser = await door.site.browser()
    await browser.post("/sign-in", email="ann@example.org", password=PASSWORD)
    assert (await browser.get("/account")).status_code == 200
    door.site.mirror.clock.now += timedelta(minutes=11)
    asked = await browser.follow(await browser.post(path, **fields))
    assert "After you confirm, you are back on the page" in asked.text
    kept = {
        name: unescape(value)
        for name, value in re.findall(r'type="hidden" name="(next|dropped)" value="([^"]*)"', asked.text)
    }
    came = await browser.post("/account/sure", password=PASSWORD, **kept)
    assert came.headers["location"] == page
    shown = (await browser.get(page)).text
    assert re.search(r'role="alert">Nothing has been done yet[^<]*Press the button once more', shown)
    assert "Nothing has been done yet" not in (await browser.get(page)).text


async def test_a_proof_by_a_forge_says_too_that_nothing_was_done(forged: Forged) -> None:
    browser = await forged.site.browser()
    await forged.come_back(browser, await forged.consent(browser))
    await browser.get("/account")
    forged.site.mirror.clock.now += timedelta(minutes=11)
    answer = await browser.post("/ann/-/settings/tokens", name="ci", scope="read")
    assert "dropped=yes" in answer.headers["location"]
    proved = await forged.consent(browser, next="/ann/-/settings", dropped="yes")
    assert await forged.come_back(browser, proved) == "/ann/-/settings"
    assert "Nothing has been done yet" in (await browser.get("/ann/-/settings")).text


async def test_who_guesses_keeps_nobody_out_but_themselves(
    at_the_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TRIES_AS", 15)
    monkeypatch.setattr(accounts, "TRIES_FROM", 25)
    told = [await at_the_door.tries("198.51.100.7") for _ in range(accounts.TRIES + 1)]
    assert told == [422] * accounts.TRIES + [429]
    for number in range(8, 8 + 15 - accounts.TRIES):
        assert await at_the_door.tries(f"198.51.100.{number}") == 422
    told = [await at_the_door.tries(f"198.51.100.{number}") for number in (100, 101)]
    assert told == [422, 429]  # all places that are not hers, together: one a minute beyond that
    at_the_door.site.mirror.clock.now += timedelta(minutes=1)
    assert await at_the_door.tries("192.0.2.77", PASSWORD) == 303  # where she never was
    assert await at_the_door.tries("203.0.113.1", PASSWORD) == 303
    assert await at_the_door.tries("::ffff:203.0.113.1", PASSWORD) == 303


async def test_who_guesses_at_many_addresses_is_slowed_by_their_own(
    at_the_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "TRIES_FROM", 3)
    told = [
        await at_the_door.tries("203.0.113.1", email=f"nobody{number}@example.org") for number in range(4)
    ]
    assert told == [422, 422, 422, 429]
    assert await at_the_door.tries("203.0.113.1", PASSWORD) == 303  # she has signed in from there before
    assert await at_the_door.tries("203.0.113.2", email="bob@example.org") == 422


async def test_one_subscribers_addresses_are_one_place(at_the_door: Door) -> None:
    told = [await at_the_door.tries(f"2606:4700:0:1::{number:x}") for number in range(accounts.TRIES + 1)]
    assert told[-1] == 429
    assert await at_the_door.tries("2606:4700:0:2::1") == 422


async def test_getting_in_counts_against_no_place(at_the_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "TRIES_FROM", 2)
    site = at_the_door.site
    for name in ("bob", "eve", "kim", "pat"):
        email = f"{name}@example.org"
        await accounts.sign_up(
            site.mirror.services.db, email, PASSWORD, name, site.mirror.clock.now, f"192.0.2.{len(email)}"
        )
        assert await at_the_door.tries("203.0.113.50", PASSWORD, email) == 303


async def test_a_header_of_who_is_no_proxy_of_ours_changes_nothing(at_the_door: Door) -> None:
    site = at_the_door.site
    settings = replace(site.mirror.services.settings, forwarded=())
    outside = replace(site.outside, services=replace(site.mirror.services, settings=settings))
    at_the_door.site = replace(site, app=application(outside))
    told = [await at_the_door.tries(f"198.51.100.{number}") for number in range(accounts.TRIES + 1)]
    assert told[-1] == 429


async def test_a_weak_password_is_refused_with_what_would_do(site: Site) -> None:
    browser = await site.browser()
    answer = await browser.post("/sign-up", name="Ann", email="ann@example.org", password="short")
    assert answer.status_code == 422
    assert "10 characters or more" in answer.text


async def test_signing_in_gives_the_browser_a_new_session(site: Site) -> None:
    ann = await site.person("ann")
    browser = await site.signed_in(ann)
    before = browser.client.cookies["sid"]
    raw = await links.make(site.mirror.services.db, ann.id, site.mirror.clock.now, timedelta(hours=1))
    await browser.post(f"/sign-in/{raw}")
    assert browser.client.cookies["sid"] != before
    assert len(await sessions.all_of(site.mirror.services.db, ann.id)) == 1


async def test_signing_out_everywhere_ends_every_session(site: Site) -> None:
    ann = await site.person("ann")
    here, there = await site.signed_in(ann), await site.signed_in(ann)
    assert (await there.get("/account")).status_code == 200
    answer = await here.post("/sign-out", everywhere="1")
    assert answer.headers["location"] == "/sign-in"
    assert (await there.get("/account")).status_code == 303
