"""A request whose body is held back does nothing that its sender may not do once it has come."""

import json
from urllib.parse import quote, urlencode

import pytest

from mirror.core.errors import Refused
from mirror.core.rules.roles import Role
from mirror.people import accounts as flow
from mirror.people import api_tokens, members
from mirror.people.acting import By
from mirror.store.people import people, sessions, teams, tokens
from mirror.store.people.people import Person
from mirror.web.dispatch import cookie_name
from tests.parts.sockets import HOST, Client, Served, said, serving
from tests.parts.web import ORIGIN, Site
from tests.parts.whole import until

OLD, NEW = "a long enough word", "another horse 2"


async def ann(site: Site) -> Person:
    db, now = site.mirror.services.db, site.mirror.clock.now
    return await flow.sign_up(db, "ann@example.org", OLD, "Ann", now, "192.0.2.1")


async def half(
    site: Site, served: Served, line: str, headers: dict[str, str], body: bytes
) -> tuple[Client, bytes]:
    """Send the first half of a request, and wait till it is taken in; what is left of it."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client = await served.open()
    length = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    before = sum(site.outside.bodies.values())
    client.writer.write(line.encode() + HOST + (head + length).encode() + body[: len(body) // 2])
    await until(lambda: said(sum(site.outside.bodies.values()) > before))
    return client, body[len(body) // 2 :]


async def rest(held: tuple[Client, bytes]) -> str:
    """Send what was held back, and all that is answered."""
    client, more = held
    client.writer.write(more)
    return (await client.ended()).decode()


async def test_a_body_that_was_held_back_does_nothing_for_a_session_that_has_ended(site: Site) -> None:
    site.mirror.clock.step *= 0
    db, person = site.mirror.services.db, await ann(site)
    team = await site.team(person)
    raw, csrf = await site.session(person.id)
    stolen = {"cookie": f"{cookie_name(secure=False)}={quote(raw)}", "origin": ORIGIN, "x-csrf-token": csrf}
    form = {"content-type": "application/x-www-form-urlencoded"}
    call = {"content-type": "application/json"}
    wanted = json.dumps({"name": "backup", "scopes": ["read"]}).encode()
    theirs = urlencode({"csrf": csrf, "password": "the thief's own 1"}).encode()
    own = await site.signed_in(person)
    async with serving(site.app, site) as served:
        token = await half(site, served, f"POST /api/v1/teams/{team.name}/tokens", stolen | call, wanted)
        password = await half(site, served, "POST /account/password", stolen | form, theirs)
        assert (await own.post("/account/password", password=NEW)).status_code == 303
        assert (await rest(token)).startswith("HTTP/1.1 401 ")
        assert (await rest(password)).startswith("HTTP/1.1 401 ")
        await until(lambda: said(not site.outside.bodies))
    assert await tokens.of_person(db, person.id, site.mirror.clock.now) == []
    now = site.mirror.clock.now
    assert (await flow.sign_in_with_password(db, "ann@example.org", NEW, now, "192.0.2.1")).id == person.id


async def test_a_body_that_was_held_back_does_nothing_for_a_token_that_was_revoked(site: Site) -> None:
    site.mirror.clock.step *= 0
    db, ann_ = site.mirror.services.db, await ann(site)
    team = await site.team(ann_)
    bob = await site.member(team, "bob", Role.ADMIN)
    raw = await site.token(bob, team, ("read", "admin"))
    cookie, csrf = await site.session(bob.id)
    by_token = {"authorization": f"Bearer {raw}", "content-type": "application/json"}
    by_page = {
        "cookie": f"{cookie_name(secure=False)}={quote(cookie)}",
        "content-type": "application/x-www-form-urlencoded",
    }
    wanted = json.dumps({"role": "viewer"}).encode()
    form = urlencode({"csrf": csrf, "role": "viewer"}).encode()
    async with serving(site.app, site) as served:
        one = await half(site, served, f"POST /api/v1/teams/{team.name}/invitations", by_token, wanted)
        two = await half(site, served, f"POST /{team.name}/-/settings/invitations", by_page, form)
        await teams.remove_member(db, team.id, bob.id, site.mirror.clock.now)
        assert (await rest(one)).startswith("HTTP/1.1 401 ")
        assert (await rest(two)).startswith("HTTP/1.1 404 ")
    assert not await db.fetchval("select exists (select from invitation)")


async def test_a_password_and_a_token_need_what_let_in_to_be_there_to_the_last(site: Site) -> None:
    db, now = site.mirror.services.db, site.mirror.clock.now
    person = await ann(site)
    team = await site.team(person)
    _, session = await sessions.start(db, person.id, now, "a test", "192.0.2.1")
    by = By(person, now, "192.0.2.1", session.key)
    raw, token = await api_tokens.make_token(db, by, team, "one", ["read"])
    await sessions.end_all(db, person.id)
    before = await people.password_hash(db, person.id)
    with pytest.raises(Refused, match="sign in again"):
        await flow.set_password(db, by, NEW)
    with pytest.raises(Refused, match="sign in again"):
        await api_tokens.make_token(db, by, team, "two", ["read"])
    assert await people.password_hash(db, person.id) == before
    await tokens.revoke(db, team.id, token.id, now)
    with pytest.raises(Refused, match="revoked"):
        await members.invite(
            db, site.outside.keyring, By(person, now, None, token=token.id), team, Role.VIEWER
        )
