"""Who may go which way: every way of the application, tried by everybody, as the table of ways says.

Nothing here names a way: a new one is tried as soon as it is in the table, and fails
until its path's parts are known here. What is expected follows from what a way needs.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, get_args
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from mirror.backup import sync, uploads
from mirror.core import identities, signed
from mirror.core.model import Repo
from mirror.core.rules.history.rollback import Wanted
from mirror.core.rules.keeping import pending as pending_rules
from mirror.core.rules.keeping.recovery_keys import Kind
from mirror.core.rules.roles import Role, Scope
from mirror.jobs import run as flow
from mirror.people import members, pending
from mirror.people.acting import By
from mirror.restore import mirrors, shares
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.discovery import connections
from mirror.store.discovery.connections import ConnectionId, NewConnection
from mirror.store.jobs import jobs
from mirror.store.notify import channels
from mirror.store.people import keys, links, notices, people, sessions, teams, tokens
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.restore import rollbacks, team_drills
from mirror.web import app as web
from mirror.web.api.call import Body, Call
from mirror.web.app import ENDPOINTS
from mirror.web.dispatch import SAFE, Endpoint, Needs, RequestContext, cookie_name
from tests.parts.repos import Work
from tests.parts.web import ORIGIN, Site

MACHINES = {"/healthz", "/readyz", "/metrics", "/api/{rest:path}"}  # of the application, beside the table
QUIET = {"tries", "migration"}  # tables that say nothing of what anybody may
PASSING = ["seen_at", "used_at"]  # columns that say when somebody was here


@dataclass
class Visitor:
    """Somebody who tries a way."""

    name: str
    role: Role | None = None  # in the team; None: not in it
    session: bool = False  # signed in, by a cookie or an access token
    scopes: frozenset[str] | None = None  # of the API token; None: no token
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass
class World:
    """A team of Alice's with one of everything, and everybody who could want to see it."""

    site: Site
    alice: Person
    mallory: Person
    team: Team
    repo: Repo
    parts: dict[str, str]  # of paths, by their names
    visitors: list[Visitor]


@pytest_asyncio.fixture
async def world(site: Site, work: Work) -> AsyncIterator[World]:
    site.mirror.clock.step *= 0
    db, now, services = site.mirror.services.db, site.mirror.clock.now, site.mirror.services
    alice, mallory = await site.person("alice"), await site.person("mallory")
    team = await site.team(alice)
    work.commit(files={"README.md": b"# One\n"})
    repo = await repos.add(db, team.id, "acme/api", str(work.path), now)
    await sync.sync(services, repo.id)
    job = await flow.ask(services, repo.id, "sync", {"reason": "manual"}, person_id=alice.id)
    packed = await flow.ask(services, repo.id, "bundle", {"snapshot": 1}, person_id=alice.id)
    for one in (job, packed):
        await jobs.cancel(db, team.id, one.id, now)
    assert services.keyring
    connection = ConnectionId(UUID(int=7))
    wanted = NewConnection(team.id, alice.id, "github", "github.com", "1", "octocat", "token", (), None)
    await connections.keep(
        db, connection, wanted, connections.seal(services.keyring, connection, "secret", None), now
    )
    await notices.add(db, team.id, repo.id, "connection", "look", now)
    notice = await db.fetchval("select max(id) from notice")
    bob = await site.member(team, "bob", Role.OPERATOR)
    invited, code = await members.invite(db, services.keyring, By(alice, now), team, Role.VIEWER)
    reading: Scope = "read"
    _, token = await tokens.make(db, alice.id, team.id, "ci", (reading,), None, now)
    _, session = await sessions.start(db, alice.id, now, "a browser", "192.0.2.1")
    await people.link(db, alice.id, "github", "github.com", "1", "octocat", now)
    link = await links.make(db, alice.id, now, members.LINK)
    told = channels.Owner(team.id)
    hook = "https://hooks.example.org/x"
    channel = await channels.add(
        db, services.keyring, told, "webhook", "hooks", "hooks.example.org", hook, now, confirmed=True
    )
    mirrored = await mirrors.add(
        site.mirror.services, None, team, None, mirrors.Wanted("https://git.example.org/acme/{name}")
    )
    drill = await team_drills.begin(db, team.id, now, person_id=alice.id)
    asked_back = Wanted(now - timedelta(days=1), now).asked
    rollback = await rollbacks.add(db, team.id, alice.id, asked_back, [], created=False, moved=False, at=now)
    new = keys.NewKey(identities.made().recipient, Kind.AGE, "Alice's")
    key = await keys.add_recovery(db, team.id, new, alice.id, now)
    asked = await pending.ask(services, None, team, pending_rules.Kind.SHORTEN_DELAY, {"days": 8})
    (snapshot,) = await snapshots.page(db, repo.id, None, 1)
    _, share = await shares.make(services, By(alice, now), team, repo, shares.Wanted(snapshot=snapshot))
    upload = await uploads.begin(services, team.id, alice.id, "api.bundle", 1000)
    parts = {
        "action": str(asked.id),
        "team": team.name,
        "repo": str(repo.id),
        "repo:repo": repo.name,
        "job": str(job.id),
        "backup": str(job.id),
        "packed": str(packed.id),
        "connection": str(connection),
        "notice": str(notice),
        "person": str(bob.id),
        "invitation": str(invited.id),
        "code": code,
        "token": str(token.id),
        "session": session.key.hex(),
        "oid": work.tip().decode(),
        "number": "1",
        "forge": "github",
        "host": "github.com",
        "account": "1",
        "path:path": "README.md",
        "proof": "drill",
        "channel": str(channel.id),
        "mirror": str(mirrored.id),
        "drill": str(drill.id),
        "share": str(share.id),
        "rollback": str(rollback),
        "day": "2026-03-02",
        "key": str(key),
        "upload": str(upload.id),
        "link": link,
        "name": "style.css",
        "file": "api.tar.gz",
    }
    visitors = [Visitor("nobody")]
    visitors.append(await signed_in(site, "another team's owner", mallory, None))
    for role in Role:
        person = alice if role is Role.OWNER else await site.member(team, f"some-{role}", role)
        visitors.append(await signed_in(site, str(role), person, role))
    for scope in ("read", "backup", "restore", "admin"):
        raw = await site.token(alice, team, (scope,))
        visitors.append(by_token(f"owner's token to {scope}", raw, Role.OWNER, scope))
    viewer = await site.member(team, "val", Role.VIEWER)
    visitors.append(by_token("viewer's token to read", await site.token(viewer, team), Role.VIEWER, "read"))
    other = await teams.add_named(db, "elsewhere", now)
    await teams.add(db, other.id, alice.id, Role.OWNER, now)
    raw = await site.token(alice, other, ("read", "backup", "restore", "admin"))
    visitors.append(
        by_token("owner's token for another team", raw, None, "read", "backup", "restore", "admin")
    )
    raw, _ = await sessions.start(db, alice.id, now, "a program", "192.0.2.1", program=True)
    access = signed.sign(site.outside.keyring, "access", raw, now)
    visitors.append(Visitor("owner's program", Role.OWNER, headers={"authorization": f"Bearer {access}"}))
    yield World(site, alice, mallory, team, repo, parts, visitors)


async def signed_in(site: Site, name: str, person: Person, role: Role | None) -> Visitor:
    raw, csrf = await site.session(person.id)
    headers = {"cookie": f"{cookie_name(secure=False)}={raw}", "x-csrf-token": csrf, "origin": ORIGIN}
    return Visitor(name, role, session=True, headers=headers)


def by_token(name: str, raw: str, role: Role | None, *scopes: str) -> Visitor:
    return Visitor(name, role, scopes=frozenset(scopes), headers={"authorization": f"Bearer {raw}"})


def address(endpoint: Endpoint, parts: Mapping[str, str]) -> str:
    """The way's path with something real for each of its parts. A part that is not known fails the test."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name == "raw":
            return parts["link"] if endpoint.path.startswith("/sign-in") else parts["code"]
        if name == "job" and re.search("/-/(restores|bundles)/", endpoint.path):
            return parts["packed"]
        if name == "invitation" and "{team}" not in endpoint.path:
            return parts["code"]
        return parts[name]

    path = re.sub(r"{([^}]+)}", part, endpoint.path)
    meant = endpoint.needs not in (Needs.NOTHING, Needs.PERSON) and "{team}" not in endpoint.path
    return f"{path}?team={parts['team']}" if meant else path


def expected(endpoint: Endpoint, visitor: Visitor) -> int | str:
    """What the visitor must be answered, or "reached": that they come to the endpoint."""
    program = visitor.scopes is not None or visitor.name == "owner's program"
    known = visitor.session or (program and endpoint.is_api)
    if endpoint.git:  # no page can ask as who is signed in there
        known = visitor.scopes is not None
    if endpoint.needs is Needs.NOTHING:
        return "reached"
    if not known:
        return 303 if endpoint.method in SAFE and not (endpoint.is_api or endpoint.git) else 401
    if endpoint.needs is not Needs.PERSON:
        if visitor.role is None:
            return 404
        if not visitor.role.may(Role(endpoint.needs.value)):
            return 403
    if visitor.scopes is not None and endpoint.scope not in visitor.scopes:
        return 403
    return "reached"


async def reached(context: RequestContext) -> Response:
    return Response("reached", 299)


async def tables(db: asyncpg.Pool) -> dict[str, str]:
    """A sum of every table."""
    names = [row[0] for row in await db.fetch("select tablename from pg_tables where schemaname = 'public'")]
    return {
        name: await db.fetchval(
            f"""
            select md5(coalesce(string_agg(line, ',' order by line), ''))
            from (select (to_jsonb(one) - $1::text[])::text as line from {name} one) lines
            """,
            PASSING,
        )
        for name in names
        if name not in QUIET
    }


def test_every_route_is_in_the_table_of_ways(site: Site) -> None:
    paths = {route.path for route in site.app.routes if isinstance(route, Route)}
    assert len(site.app.routes) == len(ENDPOINTS) + len(MACHINES)
    assert paths - {endpoint.path for endpoint in ENDPOINTS} == MACHINES


def test_no_way_is_there_twice() -> None:
    known = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS]
    assert len(known) == len(set(known))


def test_what_changes_something_is_no_get_and_needs_more_than_reading() -> None:
    for endpoint in ENDPOINTS:
        if endpoint.is_api and endpoint.method not in SAFE and endpoint.needs is not Needs.NOTHING:
            assert endpoint.scope != "read", endpoint.path


async def test_everybody_comes_as_far_as_the_ways_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ENDPOINTS", tuple(replace(endpoint, handler=reached) for endpoint in ENDPOINTS))
    browser = await world.site.browser(web.application(world.site.outside))
    db = world.site.mirror.services.db
    wrong, tried = [], 0
    for visitor in world.visitors:
        before = await tables(db)
        for endpoint in ENDPOINTS:
            path = address(endpoint, world.parts)
            answer = await browser.client.request(endpoint.method, path, headers=visitor.headers)
            tried += 1
            got = "reached" if answer.status_code == 299 else answer.status_code
            if got != expected(endpoint, visitor):
                wrong.append(
                    f"{visitor.name}: {endpoint.method} {path}: {got}, not {expected(endpoint, visitor)}"
                )
            if got == 303 and not answer.headers["location"].startswith("/sign-in?next="):
                wrong.append(f"{visitor.name}: {endpoint.method} {path}: to {answer.headers['location']}")
        if await tables(db) != before:
            wrong.append(f"{visitor.name} changed something")
    assert wrong == []
    assert tried == len(world.visitors) * len(ENDPOINTS)


async def test_who_may_not_changes_nothing(world: World) -> None:
    browser = await world.site.browser()
    db = world.site.mirror.services.db
    wrong = []
    for visitor in world.visitors:
        before = await tables(db)
        for endpoint in ENDPOINTS:
            should = expected(endpoint, visitor)
            if endpoint.method in SAFE or should == "reached":
                continue
            answer = await browser.client.request(
                endpoint.method,
                address(endpoint, world.parts),
                headers=visitor.headers,
                **sent(endpoint, world.parts),
            )
            if answer.status_code != should:
                wrong.append(
                    f"{visitor.name}: {endpoint.method} {endpoint.path}: {answer.status_code}, not {should}"
                )
        after = await tables(db)
        wrong += [f"{visitor.name} changed {name}" for name in before if before[name] != after[name]]
    assert wrong == []


async def test_in_a_team_of_ones_own_anothers_objects_are_not_there(world: World) -> None:
    browser = await world.site.browser()
    mallory = await signed_in(world.site, "mallory", world.mallory, Role.OWNER)
    mine = world.parts | {"team": "mallory"}
    before, wrong = await of_team(world), []
    for endpoint in ENDPOINTS:
        names = set(re.findall(r"{([^}]+)}", endpoint.path)) & {
            *("repo", "repo:repo", "job", "backup", "connection", "notice", "token", "person"),
            *("channel", "drill", "share"),
            *(("invitation",) if "{team}" in endpoint.path else ()),
        }
        if not names or endpoint.needs in (Needs.NOTHING, Needs.PERSON) or endpoint.git:
            continue
        answer = await browser.client.request(
            endpoint.method, address(endpoint, mine), headers=mallory.headers, **sent(endpoint, mine)
        )
        dismissed = names == {"notice"} and answer.status_code in (204, 303)  # as one that was dismissed
        if answer.status_code != 404 and not dismissed:
            wrong.append(f"{endpoint.method} {endpoint.path}: {answer.status_code} {answer.text[:200]}")
    assert wrong == []
    assert await of_team(world) == before


async def test_forms_of_ones_own_team_do_nothing_to_anothers(world: World) -> None:
    browser = await world.site.browser()
    mallory = await signed_in(world.site, "mallory", world.mallory, Role.OWNER)
    mine = world.parts | {"team": "mallory"}
    before = await of_team(world)
    for endpoint in ENDPOINTS:
        if endpoint.method not in SAFE and endpoint.needs not in (Needs.NOTHING, Needs.PERSON):
            await browser.client.request(
                endpoint.method, address(endpoint, mine), headers=mallory.headers, **sent(endpoint, mine)
            )
    assert await of_team(world) == before


async def test_the_owner_can_read_everything_there_is(world: World) -> None:
    owner = next(one for one in world.visitors if one.name == "owner")
    wrong = []
    for endpoint in ENDPOINTS:
        if endpoint.method != "GET" or endpoint.path.endswith("/owners"):  # which are a forge's to tell
            continue
        status = await begun(world.site.app, address(endpoint, world.parts), owner.headers)
        if status >= 500 or (status >= 400 and not may_lack(endpoint)):
            wrong.append(f"{endpoint.path}: {status}")
    assert wrong == []


def may_lack(endpoint: Endpoint) -> bool:
    """Whether what the way leads to is not there in this world, or is asked for by more than the path."""
    return (
        endpoint.needs is Needs.NOTHING
        or endpoint.path.endswith(("/hook", "/blob", "/raw"))
        or "/undo" in endpoint.path
        or "/evidence/" in endpoint.path
        or endpoint.path.startswith("/status/")  # of whoever runs Everref
        or "bundle" in endpoint.path
        or endpoint.git is not None  # is asked with a token, never with a cookie
    )


async def begun(app: Starlette, path: str, headers: Mapping[str, str]) -> int:
    """The status of an answer, whose body, which may go on for minutes, is not waited for."""
    found: list[int] = []
    asked: list[bool] = []

    class Enough(Exception):
        """The status is known."""

    async def receive() -> dict[str, Any]:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()  # nobody goes away
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])
            raise Enough

    url = httpx.URL(f"{ORIGIN}{path}")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [
            (name.encode(), value.encode())
            for name, value in ({"host": "127.0.0.1:8000"} | dict(headers)).items()
        ],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    try:
        await app(scope, receive, send)
    except BaseException as error:
        if not found:
            raise
        assert isinstance(error, Enough | BaseExceptionGroup), error
    return found[0]


async def of_team(world: World) -> dict[str, list[str]]:
    """Everything that is Alice's, her team's or its repo's."""
    db = world.site.mirror.services.db
    owned = {"team_id": world.team.id, "repo_id": world.repo.id, "person_id": world.alice.id}
    found: dict[str, list[str]] = {}
    rows = await db.fetch(
        "select table_name, column_name from information_schema.columns where table_schema = 'public'"
    )
    for row in rows:
        name, column = row["table_name"], row["column_name"]
        if column in owned and name not in QUIET:
            lines = await db.fetch(
                f"select (to_jsonb(one) - $2::text[])::text from {name} one where {column} = $1 order by 1",
                owned[column],
                PASSING,
            )
            found[f"{name}.{column}"] = [line[0] for line in lines]
    return found


def sent(endpoint: Endpoint, parts: Mapping[str, str]) -> dict[str, Any]:
    """What goes with the request: JSON as the call takes it, or a form with whatever a form could name."""
    if isinstance(endpoint, Call):
        return {} if endpoint.takes is None else {"json": sample(endpoint.takes, parts)}
    if endpoint.method in SAFE:
        return {}
    named = ("person", "invitation", "token", "session", "job", "connection", "forge", "host", "account")
    form = {name: parts[name] for name in named}
    form |= {"repo": parts["repo"], "repository": "1", "role": "viewer", "name": "fresh-name", "at": "#1"}
    return {
        "data": form | {"url": "https://git.example.org/x/y", "rule": "none", "days": "30", "scope": "read"}
    }


def sample(takes: type[Body], parts: Mapping[str, str]) -> dict[str, Any]:
    """A body that is right as far as its type says."""
    made: dict[str, Any] = {}
    for one in msgspec.structs.fields(takes):
        if one.required:
            made[one.encode_name] = _value(one.encode_name, one.type, parts)
    return made


def _value(name: str, kind: Any, parts: Mapping[str, str]) -> Any:
    plain = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return sample(plain, parts)  # type: ignore[arg-type]
    if plain is Role:
        return "viewer"
    if plain is int:
        return 1
    if name == "scopes":
        return ["read"]
    if name == "repositories":
        return ["1"]
    if name == "forge":
        return "github"
    words = {"repo": parts["repo"], "url": "https://git.example.org/x/y", "name": "fresh-name"}
    return words.get(name, "some words that are long enough")
