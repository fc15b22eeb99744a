"""SIGNUP: who may make an account, at every door, and that one invitation makes one."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from mirror.core.errors import Refused
from mirror.core.rules.roles import Role
from mirror.discovery import choose
from mirror.people import accounts, acting, members
from mirror.store.people import audit, notices, sessions, teams
from mirror.store.people import people as people_rows
from mirror.store.people.people import Person
from mirror.web.app import application
from tests.parts.web import Browser, Site

FORM = {"name": "Bob", "email": "bob@example.org", "password": "a long enough word"}


def with_signup(site: Site, signup: Any) -> Site:
    """The same pages where accounts are made like this."""
    services = replace(site.outside.services, settings=replace(site.outside.services.settings, signup=signup))
    outside = replace(site.outside, services=services)
    return replace(
        site, mirror=replace(site.mirror, services=services), app=application(outside), outside=outside
    )


async def invited_by(site: Site, owner: Person) -> str:
    """What stands in an invitation's link to the owner's team."""
    by = acting.By(owner, site.mirror.clock.now)
    team = await site.team(owner)
    _, raw = await members.invite(site.mirror.services.db, site.outside.keyring, by, team, Role.OPERATOR)
    return raw


async def count(site: Site) -> int:
    found: int = await site.mirror.services.db.fetchval("select count(*) from person")
    return found


async def sign_up(browser: Browser, to: str = "", **form: str) -> Any:
    return await browser.post(f"/sign-up?next={to}", next=to, **(FORM | form))


@pytest.mark.parametrize("signup", ["invited", "closed"])
async def test_nobody_makes_an_account_where_that_is_not_open(site: Site, signup: str) -> None:
    site = with_signup(site, signup)
    browser = await site.browser()
    page = await browser.get("/sign-up")
    assert 'name="password"' not in page.text
    assert ("everref sign-in" if signup == "invited" else "SIGNUP") in page.text
    for to in (
        "",
        "/invitations/",
        "/invitations/forged",
        "/invitations/a.b.c",
        "//evil.example/invitations/x",
    ):
        assert (await sign_up(browser, to)).status_code == 422
    answer = await browser.client.post("/api/v1/register", json=FORM | {"invitation": "forged"})
    assert answer.status_code == 409, answer.text
    with pytest.raises(Refused):
        await accounts.sign_in_with_identity(
            site.mirror.services.db,
            *("github", "github.com", "7", "bob", None, site.mirror.clock.now, "192.0.2.1"),
            door=accounts.Door(site.outside.services.settings.signup, site.outside.keyring),
        )
    assert await count(site) == 0
    assert "/sign-up" not in (await browser.get("/sign-in")).text


async def test_whoever_runs_everref_gets_in_where_nobody_may_sign_up(site: Site) -> None:
    site = with_signup(site, "closed")
    path = await accounts.sign_in_path(site.mirror.services.db, site.mirror.clock.now)
    browser = await site.browser()
    await browser.get(path)
    home = await browser.follow(await browser.post(path))
    assert home.status_code in (200, 303)
    assert await count(site) == 1


async def test_who_is_invited_makes_an_account_and_is_in_the_team(site: Site) -> None:
    site = with_signup(site, "invited")
    ann = await site.person("ann")
    raw, browser = await invited_by(site, ann), await site.browser()
    to = f"/invitations/{raw}"
    page = (await browser.get("/sign-up", next=to)).text
    assert 'name="password"' in page and "If you create an account, you join it at once" in page
    page = (await browser.get("/sign-in", next=to)).text
    assert "create one: you join the team at once" in page and "Forgot your password?" in page
    answer = await sign_up(browser, to)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ann")
    bob = await people_rows.by_email(site.mirror.services.db, "bob@example.org")
    assert bob
    team = await site.team(ann)
    assert await teams.role_of(site.mirror.services.db, team.id, bob.id) == Role.OPERATOR
    assert await people_rows.invited_to(site.mirror.services.db, bob.id) == team.id


async def test_twenty_who_share_one_invitation_make_one_account(site: Site) -> None:
    site = with_signup(site, "invited")
    ann = await site.person("ann")
    raw, browser = await invited_by(site, ann), await site.browser()
    door = accounts.Door("invited", site.outside.keyring, raw)
    made = await asyncio.gather(
        *(
            accounts.sign_in_with_identity(
                site.mirror.services.db,
                *("github", "github.com", str(number), f"guest-{number}", None, site.mirror.clock.now, "::1"),
                door=door,
            )
            for number in range(20)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Person) for one in made) == 1
    assert await count(site) == 2
    assert (await sign_up(browser, f"/invitations/{raw}")).status_code == 422


async def test_an_invitation_makes_no_account_where_none_is_made(site: Site) -> None:
    raw = await invited_by(site, await site.person("ann"))
    closed = with_signup(site, "closed")
    assert (await sign_up(await closed.browser(), f"/invitations/{raw}")).status_code == 422
    assert await count(site) == 1


# An owner lets a member in again.


async def guest(site: Site, owner: Person, number: str = "7") -> Person:
    """Somebody whose account an invitation to the owner's team made."""
    door = accounts.Door("invited", site.outside.keyring, await invited_by(site, owner))
    return await accounts.sign_in_with_identity(
        site.mirror.services.db,
        *("github", "github.com", number, f"guest-{number}", None, site.mirror.clock.now, "192.0.2.1"),
        door=door,
    )


async def test_an_owner_lets_a_member_in_again_who_is_told(site: Site) -> None:
    ann = await site.person("ann")
    bob, browser = await guest(site, ann), await site.signed_in(ann)
    await browser.get("/ann/-/settings")
    page = await browser.follow(await browser.post("/ann/-/settings/members/link", person=str(bob.id)))
    found = re.search(r"/sign-in/[\w-]{20,}", page.text)
    assert found, page.text
    theirs = await site.browser()
    await theirs.get(found[0])
    assert (await theirs.post(found[0])).status_code == 303
    assert "Sign out" in (await theirs.get("/account")).text
    assert (await theirs.post(found[0])).headers["location"] == "/sign-in"
    db = site.mirror.services.db
    home = await teams.home(db, bob.id)
    assert home
    (told,) = await notices.open_of(db, home.id)
    assert told.message.startswith("Ann, who owns ann, made a one-time link that signs in as guest-7")
    noted = await audit.page(db, (await site.team(ann)).id, None, 10)
    assert "member.link" in {one.entry.action for one in noted}


async def test_no_owner_takes_over_an_account_by_which_more_is_to_be_had(site: Site) -> None:
    db, now = site.mirror.services.db, site.mirror.clock.now
    ann, eve = await site.person("ann"), await site.person("eve")
    team, by = await site.team(ann), acting.By(ann, now)
    stranger = await site.member(team, "stranger", Role.VIEWER)  # who had an account before
    in_two, has_repo = await guest(site, ann, "1"), await guest(site, ann, "2")
    await teams.add(db, (await site.team(eve)).id, in_two.id, Role.VIEWER, now)
    await choose.add_url(
        site.mirror.services,
        (await site.team(has_repo)).id,
        choose.By(None, "x"),
        "https://127.0.0.1:9/x.git",
    )
    for member in (stranger, in_two, has_repo):
        with pytest.raises(Refused, match="only for an account that an invitation to ann made"):
            await members.let_in_again(db, by, team, member.id)
    with pytest.raises(Refused):
        await members.let_in_again(db, by, team, ann.id)
    boss = await site.member(team, "boss", Role.ADMIN)
    with pytest.raises(Refused, match="needs the role owner"):
        await members.let_in_again(db, acting.By(boss, now), team, (await guest(site, ann, "3")).id)


async def test_a_link_of_an_owner_works_no_more_once_more_is_to_be_had_by_it(site: Site) -> None:
    db, now = site.mirror.services.db, site.mirror.clock.now
    ann, eve = await site.person("ann"), await site.person("eve")
    bob, team = await guest(site, ann), await site.team(ann)
    path = await members.let_in_again(db, acting.By(ann, now), team, bob.id)
    await teams.add(db, (await site.team(eve)).id, bob.id, Role.VIEWER, now)
    with pytest.raises(Refused, match="has been used or has expired"):
        await accounts.sign_in_with_link(db, path.removeprefix("/sign-in/"), now, "192.0.2.1")


async def test_an_owners_link_keeps_nothing_and_lets_in_for_a_password_alone(site: Site) -> None:
    site.mirror.clock.step *= 0
    db, now = site.mirror.services.db, site.mirror.clock.now
    ann = await site.person("ann")
    bob, team = await guest(site, ann), await site.team(ann)
    await people_rows.set_profile(db, bob.id, name="Bob", email="bob@example.org", zone=None)
    own, home = await site.signed_in(bob), await site.team(bob)
    path = await members.let_in_again(db, acting.By(ann, now), team, bob.id)
    owner = await site.browser()
    assert "keep-" not in (await owner.get(path)).text
    (kept,) = await sessions.all_of(db, bob.id, now)
    await owner.post(path, **{"keep-session": [kept.key.hex()]})
    assert (await own.get("/account")).status_code == 303  # nothing is kept
    page = (await owner.get("/guest-7")).text
    assert "made a one-time link" in page and "/notices/" not in page
    (told,) = await notices.open_of(db, home.id)
    await owner.post(f"/guest-7/-/notices/{told.id}/seen")
    assert len(await notices.open_of(db, home.id)) == 1
    for way, form in (("settings/tokens", {"name": "x", "scope": "read"}), ("settings/invitations", {})):
        refused = await owner.post(f"/guest-7/-/{way}", **form)
        assert refused.status_code == 403 and "set a new password first" in refused.text
    done = await owner.post("/account/password", password="another horse 2")
    assert done.headers["location"] == "/sign-in"
    assert (await owner.get("/account")).status_code == 303  # they sign in by it
    assert len(await notices.open_of(db, home.id)) == 1
    themselves = await site.signed_in(bob)
    await themselves.post("/account/password", password="another horse 3")
    assert await notices.open_of(db, home.id) == []


async def test_who_was_let_in_by_an_owner_is_out_once_more_is_to_be_had_and_after_hours(site: Site) -> None:
    site.mirror.clock.step *= 0
    db, now = site.mirror.services.db, site.mirror.clock.now
    ann, eve = await site.person("ann"), await site.person("eve")
    team = await site.team(ann)
    bob, bill = await guest(site, ann), await guest(site, ann, "8")
    browsers = []
    for one in (bob, bill):
        path = await members.let_in_again(db, acting.By(ann, now), team, one.id)
        browsers.append(await site.browser())
        await browsers[-1].post(path)
        assert (await browsers[-1].get("/account")).status_code == 200
    await teams.add(db, (await site.team(eve)).id, bob.id, Role.VIEWER, now)
    assert [(await one.get("/account")).status_code for one in browsers] == [303, 200]
    site.mirror.clock.now += sessions.LET_IN
    assert [(await one.get("/account")).status_code for one in browsers] == [303, 303]
