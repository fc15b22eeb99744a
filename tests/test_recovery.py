"""What ends with an old password, a one-time link and a role; and what an e-mail address does not give."""

import asyncio
import html
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest

from mirror.core.config import App
from mirror.core.errors import BadCredentials, TooOften
from mirror.core.rules.roles import Role
from mirror.jobs import run as jobs_flow
from mirror.people import accounts as flow
from mirror.people import members, passwords
from mirror.people.acting import By
from mirror.store import repos
from mirror.store.jobs import jobs
from mirror.store.people import audit, links, people, sessions, teams, tokens
from mirror.store.people.people import Person
from tests.parts.api import program, with_token
from tests.parts.forge import served
from tests.parts.forges import GitHub
from tests.parts.repos import Work
from tests.parts.web import ORIGIN, Browser, Site

NEW = "another horse 2"
ANN = ("github", "github.com", "7")


async def ann(site: Site) -> Person:
    """Somebody with an e-mail address, a password, and an account at a forge."""
    db, now = site.mirror.services.db, site.mirror.clock.now
    person = await flow.sign_up(db, "ann@example.org", "a long enough word", "Ann", now, "192.0.2.1")
    await people.link(db, person.id, "github", "github.com", "7", "ann-at-work", now)
    return person


def ticks(page: str, name: str) -> list[str]:
    """What can be ticked under this name."""
    return [html.unescape(one) for one in re.findall(rf'name="{name}" value="([^"]+)"', page)]


async def doubted(site: Site, person: Person) -> list[str]:
    return [
        one.login for one in await people.identities(site.mirror.services.db, person.id) if one.doubted_at
    ]


async def works(site: Site, raw: str) -> bool:
    """Whether an API token does."""
    return (await (await program(site, raw)).ask("GET", "/teams")).status_code == 200


async def is_in(browser: Browser) -> bool:
    return (await browser.get("/account")).status_code == 200


async def test_a_new_password_ends_what_was_given_before(site: Site) -> None:
    site.mirror.clock.step *= 0
    person = await ann(site)
    team = await site.team(person)
    here, there = await site.signed_in(person), await site.signed_in(person)
    raw = await site.token(person, team)
    shared = await teams.add_named(site.mirror.services.db, "shared", site.mirror.clock.now)
    await teams.add(site.mirror.services.db, shared.id, person.id, Role.OPERATOR, site.mirror.clock.now)
    other = await site.token(person, shared)
    answer = await here.post("/account/password", password=NEW)
    assert answer.headers["location"] == "/account"
    page = (await here.get("/account")).text
    assert "Everything that you did not tick has ended" in page and "not confirmed yet" in page
    assert not await is_in(there)
    assert not await works(site, raw) and not await works(site, other)
    assert await doubted(site, person) == ["ann-at-work"]
    for one in (team, shared):
        entries = [entry.entry.action for entry in await audit.page(site.mirror.services.db, one.id)]
        assert "token.revoke" in entries


async def test_what_is_ticked_stays_when_a_password_changes(site: Site) -> None:
    site.mirror.clock.step *= 0
    person = await ann(site)
    team = await site.team(person)
    here, there = await site.signed_in(person), await site.signed_in(person)
    raw, lost = await site.token(person, team), await site.token(person, team)
    page = (await here.get("/account")).text
    identities, found = ticks(page, "keep-identity"), ticks(page, "keep-token")
    (session,) = ticks(page, "keep-session")  # this one is not asked about
    assert identities == [" ".join(ANN)] and len(found) == 2
    kept = await tokens.of(site.mirror.services.db, raw, site.mirror.clock.now)
    assert kept is not None
    fields = {"keep-identity": identities, "keep-token": [str(kept.id)], "keep-session": [session]}
    await here.post("/account/password", password=NEW, **fields)
    assert await is_in(here) and await is_in(there)
    assert await works(site, raw) and not await works(site, lost)
    assert await doubted(site, person) == []


async def test_nothing_of_another_person_is_kept_or_ended(site: Site) -> None:
    site.mirror.clock.step *= 0
    person, bob = await ann(site), await site.person("bob")
    team = await site.team(bob)
    raw, here, theirs = await site.token(bob, team), await site.signed_in(person), await site.signed_in(bob)
    (token,) = await tokens.of_person(site.mirror.services.db, bob.id, site.mirror.clock.now)
    assert (await here.post("/account/tokens/revoke", token=str(token.id))).status_code == 404
    await here.post("/account/password", password=NEW, **{"keep-token": [str(token.id)]})
    assert await works(site, raw) and await is_in(theirs)
    wrong = await here.post("/account/password", password=NEW, **{"keep-token": ["nonsense"]})
    assert wrong.status_code == 422


async def test_a_one_time_link_names_whom_it_lets_in_and_ends_what_was_given_before(site: Site) -> None:
    site.mirror.clock.step *= 0
    person = await ann(site)
    thief = await site.signed_in(person)
    raw = await site.token(person, await site.team(person))
    db, now = site.mirror.services.db, site.mirror.clock.now
    link, unused = [await links.make(db, person.id, now, timedelta(hours=1)) for _ in range(2)]
    browser = await site.browser()
    page = (await browser.get(f"/sign-in/{link}")).text
    assert "signs you in as Ann" in page and "ann-at-work" in page
    assert [len(ticks(page, f"keep-{one}")) for one in ("identity", "token", "session")] == [1, 1, 1]
    assert "checked" not in page
    assert await is_in(thief) and await works(site, raw)  # looking at it ends nothing
    answer = await browser.post(f"/sign-in/{link}")
    assert answer.headers["location"] == "/account"  # where what waits is confirmed
    assert not await is_in(thief) and not await works(site, raw)
    assert await doubted(site, person) == ["ann-at-work"]
    again = await (await site.browser()).post(f"/sign-in/{unused}")
    assert again.headers["location"] == "/sign-in"


async def test_who_only_signs_in_by_a_link_keeps_what_they_tick(site: Site) -> None:
    site.mirror.clock.step *= 0
    person = await ann(site)
    elsewhere = await site.signed_in(person)
    raw = await site.token(person, await site.team(person))
    link = await links.make(site.mirror.services.db, person.id, site.mirror.clock.now, timedelta(hours=1))
    browser = await site.browser()
    page = (await browser.get(f"/sign-in/{link}")).text
    named = ("keep-identity", "keep-token", "keep-session")
    answer = await browser.post(f"/sign-in/{link}", **{name: ticks(page, name) for name in named})
    assert answer.headers["location"] == "/"
    assert await is_in(elsewhere) and await works(site, raw)
    assert await doubted(site, person) == []


async def test_the_link_of_who_runs_everref_ends_only_what_they_untick(site: Site) -> None:
    """Whoever opens the link of `everref up` each day, and presses the button, loses nothing."""
    site.mirror.clock.step *= 0
    db, now = site.mirror.services.db, site.mirror.clock.now
    first = await links.make(db, None, now, timedelta(hours=1))
    owner = await flow.sign_in_with_link(db, first, now, "127.0.0.1")
    raw = await site.token(owner, await site.team(owner))
    link = await links.make(db, None, now, timedelta(hours=1))
    browser = await site.browser()
    page = (await browser.get(f"/sign-in/{link}")).text
    (box,) = re.findall(r'<input type="checkbox"[^>]*name="keep-token"[^>]*>', page)
    assert " checked" in box and "Untick what should stop now" in page
    await browser.post(f"/sign-in/{link}", **{"keep-token": ticks(page, "keep-token")})
    assert await works(site, raw)
    last = await links.make(db, None, now, timedelta(hours=1))
    await (await site.browser()).post(f"/sign-in/{last}")
    assert not await works(site, raw)


async def test_an_account_that_is_not_confirmed_signs_nobody_in(
    github: GitHub, make_site: Callable[..., Awaitable[Site]]
) -> None:
    """The attack: a thief's account was linked, and the person sets another password."""
    site = await make_site(App("github", github.url, github.api_url, github.client_id, github.client_secret))
    site.mirror.clock.step *= 0
    db, now = site.mirror.services.db, site.mirror.clock.now
    person = await flow.sign_up(db, "ann@example.org", "a long enough word", "Ann", now, "192.0.2.1")
    account, host = github.add_person("mallory"), urlsplit(github.url).netloc
    await people.link(db, person.id, "github", host, str(account.id), "mallory", now)
    here, thief = await site.signed_in(person), await site.browser()

    async def sign_in(browser: Browser) -> str:
        asked = await browser.post("/auth/github")
        back = urlsplit(await github.approve(asked.headers["location"], account))
        return str((await browser.get(f"{back.path}?{back.query}")).headers["location"])

    await here.post("/account/password", password=NEW)
    assert (await sign_in(thief)).startswith("/sign-in")
    assert "waits to be confirmed" in (await thief.get("/sign-in")).text and not await is_in(thief)
    assert (await sign_in(here)).startswith("/account/sure")  # nor does it prove anything
    key = {"host": host, "account": str(account.id)}
    stranger = await site.signed_in(await site.person("bob"))
    assert (await stranger.post("/account/confirm", **key)).status_code == 404
    assert (await here.post("/account/confirm", **key)).headers["location"] == "/account"
    assert await sign_in(thief) == "/"


async def test_who_is_made_less_loses_the_tokens_that_need_more(site: Site) -> None:
    site.mirror.clock.step *= 0
    owner = await site.person("kim")
    team = await site.team(owner)
    bob = await site.member(team, "bob", Role.ADMIN)
    full = await with_token(site, bob, team)
    reading = await with_token(site, bob, team, ("read",))
    path = f"/{team.name}/-/settings/members/role"
    kim = await site.signed_in(owner)
    await kim.post(path, person=str(bob.id), role="viewer")
    assert (await full.ask("GET", "/teams/kim/repos")).status_code == 401
    assert (await reading.ask("GET", "/teams/kim/repos")).status_code == 200
    await kim.post(path, person=str(bob.id), role="admin")
    assert (await full.ask("GET", "/teams/kim/repos")).status_code == 401  # it does not come back


async def test_no_token_has_a_scope_beyond_the_role_of_its_person_now(site: Site) -> None:
    owner = await site.person("kim")
    team = await site.team(owner)
    bob = await site.member(team, "bob", Role.ADMIN)
    raw = await site.token(bob, team, ("read", "restore", "admin"))
    db = site.mirror.services.db
    for role, scopes in ((Role.OPERATOR, {"read", "restore"}), (Role.VIEWER, {"read"})):
        await db.execute(
            "update member set role = $1 where person_id = $2 and team_id = $3", role, bob.id, team.id
        )
        found = await tokens.of(db, raw, site.mirror.clock.now)
        assert found is not None and found.scopes == scopes


async def test_who_is_removed_is_out_at_once(site: Site) -> None:
    site.mirror.clock.step *= 0
    owner = await site.person("kim")
    team = await site.team(owner)
    bob = await site.member(team, "bob", Role.ADMIN)
    theirs, raw = await site.signed_in(bob), await with_token(site, bob, team)
    _, invitation = await members.invite(
        site.mirror.services.db, site.outside.keyring, By(bob, site.mirror.clock.now), team, Role.ADMIN
    )
    kim = await site.signed_in(owner)
    await kim.post(f"/{team.name}/-/settings/members/remove", person=str(bob.id))
    assert (await theirs.get(f"/{team.name}")).status_code == 404
    assert (await raw.ask("GET", "/teams/kim/repos")).status_code == 401
    assert (await theirs.get(f"/invitations/{invitation}")).status_code == 404


async def test_a_persons_tokens_are_listed_and_revoked_on_their_page(site: Site) -> None:
    person = await site.person("kim")
    raw = await site.token(person, await site.team(person))
    browser = await site.signed_in(person)
    page = (await browser.get("/account")).text
    (token,) = ticks(page, "keep-token")
    assert "Your API tokens" in page
    assert (await browser.post("/account/tokens/revoke", token=token)).status_code == 303
    assert not await works(site, raw)


async def test_the_api_ends_and_keeps_the_same(site: Site) -> None:
    site.mirror.clock.step *= 0
    entered = await (await program(site)).post(
        "/register", {"name": "Ann", "email": "ann@example.org", "password": "a long enough word"}
    )
    mine = await program(site, entered["access_token"])
    profile = await mine.get("/profile")
    assert profile["email_proved"] is False
    db = site.mirror.services.db
    person = await people.by_email(db, "ann@example.org")
    assert person is not None
    await people.link(db, person.id, "github", "github.com", "7", "ann", site.mirror.clock.now)
    team = await site.team(person)
    raw, kept = await site.token(person, team), await site.token(person, team)
    token = await tokens.of(db, kept, site.mirror.clock.now)
    assert token is not None
    wrong = {"password": NEW, "keep_tokens": ["x"]}
    assert (await mine.ask("PUT", "/profile/password", wrong)).status_code == 400
    wanted = {"password": NEW, "keep_tokens": [str(token.id)]}
    assert (await mine.ask("PUT", "/profile/password", wanted)).status_code == 204
    assert await works(site, kept) and not await works(site, raw)
    (identity,) = (await mine.get("/profile"))["identities"]
    assert identity["doubted_at"] is not None
    confirmed = await mine.post("/profile/identities/github/github.com/7/confirm")
    assert confirmed["identities"][0]["doubted_at"] is None


async def test_an_e_mail_address_is_said_to_be_unproved_and_gives_nothing(site: Site) -> None:
    """The attack: to sign up under the address to which an invitation was meant."""
    site.mirror.clock.step *= 0
    db, now = site.mirror.services.db, site.mirror.clock.now
    owner = await site.person("kim")
    team = await site.team(owner)
    await members.invite(db, site.outside.keyring, By(owner, now), team, Role.ADMIN, "boss@example.org")
    fake = await flow.sign_up(db, "boss@example.org", "a long enough word", "The Boss", now, "192.0.2.1")
    browser = await site.signed_in(fake)
    assert "It is not verified" in (await browser.get("/account")).text
    assert await teams.membership(db, fake.id, team.name) is None
    assert (await browser.get(f"/{team.name}")).status_code == 404
    await teams.add(db, team.id, fake.id, Role.VIEWER, now)
    kim = await site.signed_in(owner)
    assert "boss@example.org (not verified)" in (await kim.get(f"/{team.name}/-/settings")).text


async def test_sessions_that_are_kept_are_the_persons_own(site: Site) -> None:
    db, now = site.mirror.services.db, site.mirror.clock.now
    kim, bob = await site.person("kim"), await site.person("bob")
    _, theirs = await sessions.start(db, bob.id, now, "", "192.0.2.1")
    await sessions.start(db, kim.id, now, "", "192.0.2.1")
    assert await sessions.end_all(db, kim.id, keep=[theirs.key]) == 1
    assert len(await sessions.all_of(db, bob.id)) == 1


async def test_a_page_that_shows_itself_anew_ends_with_what_let_its_reader_in(site: Site, work: Work) -> None:
    """A stream of events goes on for minutes: longer than a role, a session or a token of who reads it."""
    site.mirror.clock.step *= 0
    db, services, now = site.mirror.services.db, site.mirror.services, site.mirror.clock.now
    owner = await site.person("kim")
    team = await site.team(owner)
    repo = await repos.add(db, team.id, "acme/api", str(work.path), now)
    gone, out, cut = [await site.member(team, name, Role.VIEWER) for name in ("gone", "out", "cut")]
    job = await jobs_flow.ask(services, repo.id, "drill", {}, person_id=owner.id)
    by_page, by_api = f"/kim/-/activity/{job.id}/events", f"/api/v1/teams/kim/jobs/{job.id}/events"
    raw = await site.token(cut, team)
    readers = [
        (by_page, {"cookie": f"sid={(await site.session(gone.id))[0]}"}),
        (by_page, {"cookie": f"sid={(await site.session(out.id))[0]}"}),
        (by_api, {"authorization": f"Bearer {raw}"}),
        (by_page, {"cookie": f"sid={(await site.session(owner.id))[0]}"}),
    ]
    async with served(site.app) as base, AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60, base_url=base))
        streams = []
        for path, headers in readers:
            answer = await stack.enter_async_context(client.stream("GET", path, headers=headers))
            lines = answer.aiter_lines()
            assert await anext(lines) == "event: part"
            streams.append(lines)
        await teams.remove_member(db, team.id, gone.id, now)
        await sessions.end_all(db, out.id)
        await tokens.revoke_all(db, cut.id, (), now)
        await jobs.cancel(db, team.id, job.id, now)
        told = ["event: end" in [line async for line in lines] for lines in streams]
    assert told == [False, False, False, True]


async def test_an_invitation_wants_its_maker_sure_and_ends_with_what_they_were_given(site: Site) -> None:
    site.mirror.clock.step *= 0
    person = await ann(site)
    team = (await site.team(person)).name
    here, stolen = await site.signed_in(person), await site.signed_in(person)
    links_ = [await invited(here, team, role) for role in ("owner", "viewer")]
    page = (await here.get("/account")).text
    kept, _ = ticks(page, "keep-invitation")  # the newest first, or either
    site.mirror.clock.now += timedelta(minutes=11)
    asked = await stolen.post(f"/{team}/-/settings/invitations", role="owner")
    assert asked.headers["location"].startswith("/account/sure?")
    headers = {"origin": ORIGIN, "x-csrf-token": stolen.csrf}
    call = await stolen.client.post(
        f"/api/v1/teams/{team}/invitations", json={"role": "viewer"}, headers=headers
    )
    assert call.status_code == 403
    again = await site.signed_in(person)
    await again.post("/account/password", password=NEW, **{"keep-invitation": [kept]})
    guest = await site.signed_in(await site.person("bob"))
    assert sorted([(await guest.get(link)).status_code for link in links_]) == [200, 404]
    entries = await audit.page(site.mirror.services.db, (await site.team(person)).id)
    assert [one.entry.action for one in entries].count("invitation.withdraw") == 1


async def test_an_api_token_invites_nobody_above_operator_and_its_invitations_end_with_it(
    site: Site,
) -> None:
    site.mirror.clock.step *= 0
    person = await ann(site)
    team = await site.team(person)
    raw = await with_token(site, person, team, ("read", "admin"))
    for role in ("admin", "owner"):
        refused = await raw.ask("POST", f"/teams/{team.name}/invitations", {"role": role})
        assert refused.status_code == 403 and "operator" in refused.json()["detail"]
    code = (await raw.post(f"/teams/{team.name}/invitations", {"role": "operator"}))["code"]
    guest = await site.signed_in(await site.person("bob"))
    assert (await guest.get(f"/invitations/{code}")).status_code == 200
    here = await site.signed_in(person)
    page = (await here.get("/account")).text
    fields = {name: ticks(page, name) for name in ("keep-invitation", "keep-session")}
    assert len(fields["keep-invitation"]) == 1
    await here.post("/account/password", password=NEW, **fields)  # its token is not kept
    assert (await guest.get(f"/invitations/{code}")).status_code == 404


async def invited(browser: Browser, team: str, role: str) -> str:
    """The path of a new invitation."""
    made = await browser.post(f"/{team}/-/settings/invitations", role=role)
    page = (await browser.follow(made)).text
    found = re.search(r"/invitations/[^\"<\s]{20,}", page)
    assert found
    return html.unescape(found[0])


async def test_a_session_that_guesses_the_password_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.mirror.clock.step *= 0
    monkeypatch.setattr(flow, "PROVED", 3)
    person = await ann(site)
    stolen, own = await site.signed_in(person), await site.signed_in(person)
    for place in range(3):
        stolen.client.headers["x-forwarded-for"] = f"198.51.100.{place}"
        assert await is_in(stolen)
        wrong = await stolen.post("/account/sure", password=f"guess {place}")
    assert "this session has ended" in html.unescape(wrong.text)
    assert not await is_in(stolen) and await is_in(own)
    assert (await own.post("/account/sure", password="a long enough word")).status_code == 303


async def test_guesses_of_all_sessions_of_a_person_are_counted_together(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.mirror.clock.step *= 0
    monkeypatch.setattr(flow, "TRIES_AS", 3)  # the first counts though it was right
    db, person = site.mirror.services.db, await ann(site)
    for place, right in (("192.0.2.1", True), ("192.0.2.2", False), ("192.0.2.3", False)):
        by = By(person, site.mirror.clock.now, place)
        if right:
            await flow.prove(db, by, "a long enough word")
        else:
            with pytest.raises(BadCredentials):
                await flow.prove(db, by, "a wrong word")
    with pytest.raises(TooOften):
        await flow.prove(db, By(person, site.mirror.clock.now, "192.0.2.4"), "a wrong word")


async def test_one_persons_many_passwords_leave_others_their_turn(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "MADE", 20)
    at_once = most = 0
    lock = threading.Lock()
    hashing = passwords.HASHER.hash

    def watched(password: bytes) -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return hashing(password)
        finally:
            with lock:
                at_once -= 1

    db, now, person = site.mirror.services.db, site.mirror.clock.now, await ann(site)
    monkeypatch.setattr(passwords, "HASHER", SimpleNamespace(hash=watched))
    by = By(person, now, "192.0.2.1")
    told = await asyncio.gather(*(flow.set_password(db, by, NEW) for _ in range(30)), return_exceptions=True)
    assert most == 1  # of the two that there are
    assert [type(one) for one in told if one is not None] == [TooOften] * 10
