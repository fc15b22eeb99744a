"""By whose token at which address: what each role may have the team's own credentials do in a restore.

A forge has private repositories that one connection of an admin reaches: one that the team keeps, one that
nobody chose, and one that a restore makes. Everybody who may restore at all tries every address.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from mirror.backup import sync
from mirror.core.config import App
from mirror.core.model import Repo
from mirror.core.rules.roles import Role
from mirror.discovery import choose, connections, discover
from mirror.discovery.choose import By
from mirror.forges.contract import Tokens
from mirror.jobs import run as flow
from mirror.jobs.runner import Runner
from mirror.store import repos
from mirror.store.discovery import remotes
from mirror.store.discovery.connections import Connection
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job, JobId
from mirror.store.people import teams
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from tests.parts.api import Program, program, with_token
from tests.parts.forges import GitHub, Repository
from tests.parts.forges.world import Person as Account
from tests.parts.repos import Work, refs_of
from tests.parts.web import ORIGIN, Browser, Site

ADDRESSES = ("kept-url", "kept-repo", "new", "unkept", "lent", "ssh", "path")
TEAMS_OWN = frozenset({"unkept", "ssh", "path"})  # where what the team has would be used beyond what it keeps
REFUSED = {address: {403} for address in ADDRESSES} | {"path": {400, 403}}  # 400: to whoever is no admin
ASKERS = ("operator", "operator's token", "admin", "owner", "admin's token to restore", "admin's token")
MAY_ANYWHERE = frozenset({"admin", "owner", "admin's token"})


@dataclass
class Scene:
    """A team at a forge, with a repo to restore from."""

    site: Site
    forge: GitHub
    account: Account
    owner: Person
    team: Team
    repo: Repo
    connection: Connection
    people: dict[Role, Person]
    kept: Repository
    unkept: Repository

    async def target(self, address: str) -> dict[str, Any]:
        """This address, as the API is told of it."""
        found = await repos.by_name(self.site.mirror.services.db, self.team.id, "acme/kept")
        assert found is not None
        if address == "new":
            owners = await connections.asking(
                self.site.outside.services, self.connection.id, lambda forge, token: forge.owners(token)
            )
            return {"new": {"connection": str(self.connection.id), "owner": owners[0].id, "name": "made"}}
        lent = self.forge.personal_token(self.account, ("repo",))
        return {
            "kept-url": {"url": self.kept.url},
            "kept-repo": {"repo": str(found.id)},
            "unkept": {"url": self.unkept.url},
            "lent": {"url": self.unkept.url, "token": lent},
            "ssh": {"url": "git@127.0.0.1:acme/unkept.git"},
            "path": {"url": str(self.unkept.path)},
        }[address]

    async def asker(self, who: str) -> Program:
        """Somebody who asks by the API."""
        role = Role(who.partition("'")[0])
        person = self.people[role]
        if who.endswith("to restore"):
            return await with_token(self.site, person, self.team, ("read", "restore"))
        if who.endswith("token"):
            full = ("read", "restore", "admin") if role is Role.ADMIN else ("read", "restore")
            return await with_token(self.site, person, self.team, full)  # type: ignore[arg-type]
        raw, csrf = await self.site.session(person.id)
        asking = await program(self.site)
        asking.client.cookies.set("sid", raw, domain="127.0.0.1")
        asking.client.headers.update({"x-csrf-token": csrf, "origin": ORIGIN})
        return asking

    def at(self, path: str) -> str:
        return f"/teams/{self.team.name}/repos/{self.repo.id}/{path}"

    async def restored(self, role: Role, to: dict[str, Any], **more: Any) -> Job:
        """A restore that this role asked for, at its end."""
        asking = await self.asker(str(role))
        job = await asking.post(self.at("restores"), {"to": to, **more})
        return await self.done(job)

    async def done(self, job: dict[str, Any]) -> Job:
        await Runner(self.site.mirror.services).work_off()
        found = await jobs.by_id(self.site.mirror.services.db, JobId(UUID(job["id"])))
        assert found is not None
        return found


@pytest_asyncio.fixture
async def scene(
    github: GitHub,
    make_site: Callable[..., Awaitable[Site]],
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Scene]:
    app = App("github", github.url, github.api_url, github.client_id, github.client_secret)
    site = await make_site(app)
    services = site.mirror.services
    monkeypatch.setattr(teams, "DEFAULT", "ann")  # paths of this machine are her team's
    owner = await site.person("ann")
    team = await site.team(owner)
    account = github.add_person("ann")
    github.add_org("acme", owners=[account])
    kept = github.add_repository("acme/kept", private=True)
    unkept = github.add_repository("acme/unkept", private=True)
    kept.commit("main", {"kept": b"1\n"})
    unkept.commit("main", {"secret": b"1\n"})
    token = github.personal_token(account, ("repo", "read:org"))
    connection = await connections.connect(services, team.id, owner.id, app, Tokens(token), "token")
    await discover.refresh_listing(services, connection.id)
    await choose.choose(services, connection.id, By(owner.id, "Ann"), [str(kept.id)])
    work.commit("rescued", {"a": b"1\n"})
    repo = await repos.add(services.db, team.id, "acme/api", str(work.path), site.mirror.clock.now)
    await sync.sync(services, repo.id)
    site.mirror.clock.step *= 0
    people = {Role.OWNER: owner}
    for role in (Role.OPERATOR, Role.ADMIN):
        people[role] = await site.member(team, f"some-{role}", role)
    yield Scene(site, github, account, owner, team, repo, connection, people, kept, unkept)


def expected(who: str, address: str) -> bool:
    """Whether the team's credentials are used for this."""
    return address not in TEAMS_OWN or who in MAY_ANYWHERE


@pytest.mark.parametrize("who", ASKERS)
async def test_the_teams_token_goes_where_the_role_says(scene: Scene, who: str) -> None:
    asking, wrong = await scene.asker(who), []
    db = scene.site.mirror.services.db
    for address in ADDRESSES:
        to = await scene.target(address)
        before = await db.fetchval("select count(*) from job where kind = 'restore'")
        for endpoint in ("plans", "restores"):
            if address == "ssh" and expected(who, address):
                continue  # nobody listens there
            await db.execute("delete from tries")  # five an hour are enough for people
            answer = await asking.ask("POST", scene.at(endpoint), {"to": to, "refs": ["refs/heads/rescued"]})
            allowed = answer.status_code in (200, 202)
            if allowed != expected(who, address) or (
                not allowed and answer.status_code not in REFUSED[address]
            ):
                wrong.append(f"{endpoint} to {address}: {answer.status_code} {answer.text[:200]}")
            if not allowed and scene.connection.login in answer.json()["detail"].split():
                wrong.append(f"{endpoint} to {address} tells whose connection there is")
        asked = await db.fetchval("select count(*) from job where kind = 'restore'") - before
        if asked != (expected(who, address) and address != "ssh"):
            wrong.append(f"{asked} jobs to {address}")
    assert wrong == []


async def test_what_an_operator_may_is_done(scene: Scene) -> None:
    for address in ("kept-url", "kept-repo", "new", "lent"):
        to = await scene.target(address)
        job = await scene.restored(Role.OPERATOR, to, refs=["refs/heads/rescued"])
        assert job.state == "done", (address, job.failure)
        assert job.result and job.result["verified"], address
    assert b"refs/heads/rescued" in refs_of(scene.kept.path)
    assert b"refs/heads/rescued" in refs_of(scene.unkept.path)
    assert scene.forge.repository("ann/made") is not None


async def test_the_page_of_a_plan_shows_an_operator_nothing_of_what_the_team_does_not_keep(
    scene: Scene,
) -> None:
    for role, status in ((Role.OPERATOR, 403), (Role.ADMIN, 200)):
        browser: Browser = await scene.site.signed_in(scene.people[role])
        path = str(httpx.URL("/ann/acme/api/-/restore/plan", params={"where": "url"}))
        answer = await browser.post(path, url=scene.unkept.url)
        assert answer.status_code == status, answer.text
        assert ("refs/heads/rescued" in answer.text) == (role is Role.ADMIN)
        assert ("only an admin can use the team" in answer.text.lower()) == (role is Role.OPERATOR)


@pytest.mark.parametrize("now", [Role.OPERATOR, Role.VIEWER, None], ids=["operator", "viewer", "gone"])
async def test_a_job_that_waits_is_done_in_the_role_that_its_person_has_by_then(
    scene: Scene, now: Role | None
) -> None:
    before, admin = refs_of(scene.unkept.path), scene.people[Role.ADMIN]
    asking = await scene.asker("admin")
    job = await asking.post(scene.at("restores"), {"to": await scene.target("unkept")})
    db = scene.site.mirror.services.db
    if now is None:
        await teams.remove_member(db, scene.team.id, admin.id, scene.site.mirror.clock.now)
    else:
        await teams.set_role(db, scene.team.id, admin.id, now, scene.site.mirror.clock.now)
    ended = await scene.done(job)
    assert ended.state == "failed" and ended.failure is not None and ended.failure.kind == "refused"
    assert refs_of(scene.unkept.path) == before


async def test_who_left_takes_nothing_along_by_a_token_of_their_own(scene: Scene) -> None:
    operator = scene.people[Role.OPERATOR]
    asking = await scene.asker("operator")
    before = refs_of(scene.unkept.path)
    job = await asking.post(scene.at("restores"), {"to": await scene.target("lent")})
    db = scene.site.mirror.services.db
    await teams.remove_member(db, scene.team.id, operator.id, scene.site.mirror.clock.now)
    ended = await scene.done(job)
    assert ended.failure is not None and "not a member" in ended.failure.message
    assert refs_of(scene.unkept.path) == before


async def test_a_restore_keeps_the_scope_that_it_was_asked_with(scene: Scene) -> None:
    db, before = scene.site.mirror.services.db, refs_of(scene.unkept.path)
    small = await scene.asker("admin's token to restore")
    job = await small.post(scene.at("restores"), {"to": await scene.target("lent")})
    await db.execute(  # as if its credentials were gone, and the connection's at hand
        "update job set sealed = null, asked = asked::jsonb || jsonb_build_object('connection', $1::text)",
        str(scene.connection.id),
    )
    ended = await scene.done(job)
    assert ended.failure is not None and "only an admin" in ended.failure.message
    assert refs_of(scene.unkept.path) == before


async def test_an_operator_neither_repeats_nor_undoes_what_an_admin_did_by_the_teams_token(
    scene: Scene,
) -> None:
    job = await scene.restored(Role.ADMIN, await scene.target("unkept"), refs=["refs/heads/rescued"])
    assert job.state == "done", job.failure
    before = refs_of(scene.unkept.path)
    asking = await scene.asker("operator")
    path = f"/teams/ann/jobs/{job.id}"
    for endpoint in ("retry", "undo/plan", "undo"):
        answer = await asking.ask("POST", f"{path}/{endpoint}", {})
        assert answer.status_code == 403 and "only an admin" in answer.json()["detail"], endpoint
    browser = await scene.site.signed_in(scene.people[Role.OPERATOR])
    page = await browser.get(f"/ann/acme/api/-/restores/{job.id}/undo")
    assert page.status_code == 403 and "Give a token of your own" in page.text
    assert refs_of(scene.unkept.path) == before
    lent = (await scene.target("lent"))["token"]
    page = await browser.post(f"/ann/acme/api/-/restores/{job.id}/undo", token=lent)
    draft = re.search(r'name="draft" value="([^"]+)"', page.text)
    assert page.status_code == 200 and draft is not None
    ended = await scene.done(await asking.post(f"{path}/undo", {"token": lent}))
    assert ended.state == "done", ended.failure
    assert b"refs/heads/rescued" not in refs_of(scene.unkept.path)


async def test_what_a_restore_set_aside_opens_no_address(scene: Scene) -> None:
    services = scene.site.mirror.services
    to = await scene.target("lent")
    wanted = {"to": to, "refs": ["refs/heads/rescued"], "force": True, "confirm": "acme/unkept"}
    asking = await scene.asker("operator's token")
    scene.unkept.commit("rescued", {"theirs": b"1\n"})
    await asking.post(scene.at("restores"), wanted)
    await Runner(services).work_off()
    aside = await repos.by_url(services.db, scene.team.id, scene.unkept.url)
    assert aside is not None
    origin = await remotes.get(services.db, aside.id)
    assert origin.set_aside and origin.connection_id is None
    for target, status in ((scene.unkept.url, 403), (str(scene.unkept.path), 400)):
        answer = await asking.ask("POST", scene.at("plans"), {"to": {"url": target}})
        assert answer.status_code == status


async def test_what_is_set_aside_is_never_read_by_the_teams_ssh_key(scene: Scene) -> None:
    services, db = scene.site.mirror.services, scene.site.mirror.services.db
    url = "ssh://git@127.0.0.1:1/acme/unkept.git"
    aside = await repos.add(db, scene.team.id, "unkept", url, services.clock())
    await remotes.set_aside(db, aside.id, services.clock())
    await flow.ask(services, aside.id, "sync", {"reason": "manual"}, person_id=scene.people[Role.OPERATOR].id)
    await Runner(services).work_off()
    (job,) = await jobs.page(db, scene.team.id, repo_id=aside.id)
    assert job.failure is not None and "added by a restore" in job.failure.message
    assert await db.fetchval("select count(*) from ssh_host") == 0  # it was not even asked for its keys
