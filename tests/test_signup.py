"""SIGNUP: who may make an account, at every door, and that one invitation makes one."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mirror.errors import Refused
from mirror.flows import people
from mirror.people import Role
from mirror.store import people as people_rows
from mirror.store import teams
from mirror.store.people import Person
from mirror.web.app import application
from tests.parts.web import Browser, Site

FORM = {"name": "Bob", "email": "bob@example.org", "password": "a long enough word"}


def with_signup(site: Site, signup: Any) -> Site:
    """The same pages where accounts are made like this."""
    edges = replace(site.outside.edges, settings=replace(site.outside.edges.settings, signup=signup))
    outside = replace(site.outside, edges=edges)
    return replace(site, mirror=replace(site.mirror, edges=edges), app=application(outside), outside=outside)


async def invited_by(site: Site, owner: Person) -> str:
    """What stands in an invitation's link to the owner's team."""
    by = people.By(owner, site.mirror.clock.now)
    team = await site.team(owner)
    _, raw = await people.invite(site.mirror.edges.db, site.outside.keyring, by, team, Role.OPERATOR)
    return raw


async def count(site: Site) -> int:
    found: int = await site.mirror.edges.db.fetchval("select count(*) from person")
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
        await people.sign_in_with_identity(
            site.mirror.edges.db,
            *("github", "github.com", "7", "bob", None, site.mirror.clock.now, "192.0.2.1"),
            door=people.Door(site.outside.edges.settings.signup, site.outside.keyring),
        )
    assert await count(site) == 0
    assert "/sign-up" not in (await browser.get("/sign-in")).text


async def test_whoever_runs_everref_gets_in_where_nobody_may_sign_up(site: Site) -> None:
    site = with_signup(site, "closed")
    path = await people.sign_in_path(site.mirror.edges.db, site.mirror.clock.now)
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
    assert 'name="password"' in (await browser.get("/sign-up", next=to)).text
    answer = await sign_up(browser, to)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ann")
    bob = await people_rows.by_email(site.mirror.edges.db, "bob@example.org")
    assert bob
    team = await site.team(ann)
    assert await teams.role_of(site.mirror.edges.db, team.id, bob.id) == Role.OPERATOR
    assert await people_rows.invited_to(site.mirror.edges.db, bob.id) == team.id


async def test_twenty_who_share_one_invitation_make_one_account(site: Site) -> None:
    site = with_signup(site, "invited")
    ann = await site.person("ann")
    raw, browser = await invited_by(site, ann), await site.browser()
    door = people.Door("invited", site.outside.keyring, raw)
    made = await asyncio.gather(
        *(
            people.sign_in_with_identity(
                site.mirror.edges.db,
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
