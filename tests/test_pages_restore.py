"""Restoring from the pages: the plan, the job, what came of it, a bundle to download, and undoing it."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import pytest_asyncio
from starlette.types import Message

from mirror.backup import sync
from mirror.core import lowspeed
from mirror.core.config import App
from mirror.core.model import RefName, Repo, Target
from mirror.core.rules.roles import Role
from mirror.discovery import connections
from mirror.forges import oauth
from mirror.forges.contract import Purpose, Tokens
from mirror.jobs.runner import Runner
from mirror.people import passwords
from mirror.restore.export import KEPT as BUNDLE_KEPT
from mirror.store import repos
from mirror.store.discovery.connections import Connection
from mirror.store.people import audit, teams
from mirror.store.people import people as people_rows
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.upkeep import state
from mirror.vault.directory import DirectoryVault
from mirror.web import dispatch
from mirror.web.pages.people import oauth as oauth_page
from mirror.web.pages.repos import download
from mirror.web.pages.repos.restores import Row, groups
from tests.parts.forges import GitHub, GitLab
from tests.parts.forges.world import Person as Account
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.sockets import HOST, hang_up, serving
from tests.parts.web import Browser, Site

MAIN, SIDE = RefName(b"refs/heads/main"), RefName(b"refs/heads/side")
SCOPES = {"github": ("repo", "read:org"), "gitlab": ("api",)}
HERE = "/ann/acme/api/-"


@dataclass
class Restoring:
    """Ann with a kept repository of two snapshots: in the second main was forced and side is gone."""

    site: Site
    ann: Person
    team: Team
    repo: Repo
    work: Work
    browser: Browser
    lost: bytes  # what main was
    gone: bytes  # what side was

    async def planned(self, fields: dict[str, str], *, status: int = 200) -> str:
        """The page of a plan to an address, by a form; `at` and what is restored are in it."""
        query = {key: fields.pop(key) for key in ("at", "ref", "as", "commit") if key in fields}
        address = str(httpx.URL(f"{HERE}/restore/plan", params=query))
        answer = await self.browser.post(address, where="url", **fields)
        assert answer.status_code == status, answer.text
        return answer.text

    async def pressed(self, page: str, path: str = "/restore", **fields: str) -> httpx.Response:
        """Press the button of a plan."""
        return await self.browser.post(f"{HERE}{path}", draft=hidden(page, "draft"), **fields)

    async def done(self, answer: httpx.Response) -> str:
        """The page of a job that was asked for, after a worker did it."""
        assert answer.status_code == 303, answer.text
        await Runner(self.site.mirror.services).work_off()
        page = await self.browser.follow(answer)
        assert page.status_code == 200, page.text
        return page.text

    async def sure(self) -> None:
        """Sign in anew, so that nobody asks who she is."""
        self.browser = await self.site.signed_in(self.ann)

    async def actions(self) -> list[str]:
        return [one.entry.action for one in await audit.page(self.site.mirror.services.db, self.team.id)]


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page
    return unescape(found[1])


def link(page: str, words: str) -> str:
    """Where the link with these words leads."""
    found = re.search(rf'<a[^>]* href="([^"]+)"[^>]*>(?:<[^>]+>)*{re.escape(words)}', page)
    assert found, page
    return unescape(found[1])


def plain(refs: Any) -> dict[bytes, bytes]:
    return {name: oid for name, oid in refs.items() if name != b"HEAD"}


async def restoring_at(site: Site, work: Work) -> Restoring:
    lost = work.commit("main", {"a": b"1\n"})
    gone = work.commit("side", {"b": b"1\n"})
    ann = await site.person("ann")
    team = await site.team(ann)
    services = site.mirror.services
    repo = await repos.add(services.db, team.id, "acme/api", str(work.path), site.mirror.clock())
    await sync.sync(services, repo.id)
    work.commit("main", {"c": b"1\n"}, parents=[])
    work.update({SIDE: None})
    await sync.sync(services, repo.id)
    return Restoring(site, ann, team, repo, work, await site.signed_in(ann), lost, gone)


@pytest_asyncio.fixture
async def restoring(site: Site, work: Work, monkeypatch: pytest.MonkeyPatch) -> Restoring:
    monkeypatch.setattr(teams, "DEFAULT", "ann")  # it is she who runs Everref: paths are hers to restore to
    return await restoring_at(site, work)


async def test_the_ways_to_restore_a_moment_are_offered_with_what_they_mean(restoring: Restoring) -> None:
    page = (await restoring.browser.get(f"{HERE}/restore", at="#1")).text
    assert "Restore as of" in page and "2 refs" in page
    for words in (
        "Into a new repository",
        "Only create what is missing",
        "Put everything back",
        "git address",
    ):
        assert words in page
    assert "newer refs stay" in page and "Make a bundle to download" in page
    assert '<button class="btn main">' not in page, "nothing is planned yet, so there is nothing to press"
    url = (await restoring.browser.get(f"{HERE}/restore", at="#1", where="url")).text
    assert 'name="url" type="text" inputmode="url"' in url, "git@host:path is no URL to a browser"
    assert 'name="token"' in url and url.count('<button class="btn main">') == 1


async def test_a_forced_branch_is_shown_on_two_sides_and_planned_as_a_branch_at_once(
    restoring: Restoring,
) -> None:
    page = (await restoring.browser.get(f"{HERE}/restore", at="#1", ref="refs/heads/main")).text
    assert "main now" in page and "main before" in page and "no commit in common" in page
    assert restoring.lost.decode()[:10] in page and restoring.work.tip().decode()[:10] in page
    assert re.search(r'value="branch" checked', page)
    assert "main loses this commit, which is saved first, and gets back 1 commit." in page
    button = re.findall(r'<button class="btn main">([^<]*)', page)
    assert len(button) == 1 and re.fullmatch(r"Create restored/main-\d{4}-\d{4} in acme/api", button[0])
    told = await restoring.done(await restoring.pressed(page))
    name = button[0].split()[1]
    assert restoring.work.refs()[RefName(f"refs/heads/{name}".encode())] == restoring.lost
    assert f"<h1>Created {name} in acme/api</h1>" in told and "by Ann" in told
    assert f"git fetch origin {name} &amp;&amp; git switch {name}" in told
    assert re.search(r"SHA-256 of the list[^<]*<span[^>]*>[0-9a-f]{64}<", told)
    assert "btn danger" not in told and "Undo this restore" in told
    again = (await restoring.browser.get(f"{HERE}/restore", at="#1", ref="refs/heads/main")).text
    assert f"Create {name}-2 in acme/api" not in again, "it is not saved yet that the name is taken"


async def test_a_forced_branch_is_put_back_alone_and_only_with_the_name_typed(restoring: Restoring) -> None:
    query = {"at": "#1", "ref": "refs/heads/main", "where": "back"}
    page = (await restoring.browser.get(f"{HERE}/restore", **query)).text
    assert re.findall(r'<button class="btn danger">([^<]*)', page) == ["Put main back in acme/api"]
    assert '<button class="btn main">' not in page and "loses 1 commit" in page
    before = restoring.work.refs()
    action = unescape(re.findall(r'action="([^"]*/restore/over[^"]*)"', page)[0])
    wrong = await restoring.browser.post(action, draft=hidden(page, "draft"), name="main")
    assert wrong.status_code == 422 and "Put main back in acme/api" in wrong.text
    assert (await restoring.pressed(page)).status_code == 400
    assert restoring.work.refs() == before
    answer = await restoring.browser.post(action, draft=hidden(page, "draft"), name="acme/api")
    told = await restoring.done(answer)
    assert plain(restoring.work.refs()) == {**plain(before), MAIN: restoring.lost}
    assert "<h1>Put main back in acme/api</h1>" in told and "In its place before: 1 commit" in told
    (job,) = await restoring.site.mirror.services.db.fetch("select asked from job where kind = 'restore'")
    asked = json.loads(job["asked"])
    assert (asked["globs"], asked["snapshot"], asked["force"]) == (["refs/heads/main"], 1, True)


async def test_a_deleted_branch_comes_back_under_its_own_name_and_nothing_is_overwritten(
    restoring: Restoring,
) -> None:
    page = (await restoring.browser.get(f"{HERE}/restore", at="#1", ref="refs/heads/side")).text
    assert re.search(r'value="back" checked', page) and "Creates side again and touches nothing else" in page
    assert "does not exist any more" in page and "that no ref has now" in page
    told = await restoring.done(await restoring.pressed(page))
    assert restoring.work.refs()[SIDE] == restoring.gone
    assert "<h1>Put side back in acme/api</h1>" in told


@pytest.mark.parametrize("name", ["--upload-pack=touch${IFS}hit;false", "+main", "tag", "1" * 40])
async def test_a_line_of_git_to_copy_takes_every_name_for_a_branch(
    restoring: Restoring, tmp_path: Path, name: str
) -> None:
    """Git took a branch called `--upload-pack=...` for its option, and ran the command in it."""
    work, clone, ref = restoring.work, tmp_path / "clone", RefName(f"refs/heads/{name}".encode())
    run_git("clone", str(work.path), str(clone))
    for target in (Target(restoring.gone), None):
        work.update({ref: target})
        await sync.sync(restoring.site.mirror.services, restoring.repo.id)
    page = (await restoring.browser.get(f"{HERE}/restore", at="#3", ref=ref.decode())).text
    told = await restoring.done(await restoring.pressed(page))
    (line,) = re.findall(r'data-copy="(git fetch[^"]*)"', told)
    ran = await asyncio.create_subprocess_shell(unescape(line), cwd=clone)
    assert await ran.wait() == 0
    assert not (clone / "hit").exists()
    assert run_git("rev-parse", "HEAD", cwd=clone).strip() == restoring.gone


async def test_only_what_is_missing_is_created_in_the_same_repository(restoring: Restoring) -> None:
    before = restoring.work.refs()
    page = (await restoring.browser.get(f"{HERE}/restore", at="#1", where="missing")).text
    assert "Create 1 ref in acme/api" in page and "is there already, with something else, and stays" in page
    told = await restoring.done(await restoring.pressed(page))
    assert plain(restoring.work.refs()) == {**plain(before), SIDE: restoring.gone}
    assert "<h1>Created 1 ref in acme/api</h1>" in told


async def test_what_else_is_rewound_is_said_first_with_who_wrote_it(restoring: Restoring) -> None:
    work = restoring.work
    work.commit("release/2.4", {"r": b"1\n"}, message="Begin the release")
    await sync.sync(restoring.site.mirror.services, restoring.repo.id)
    work.commit("release/2.4", {"r": b"2\n"}, message="Ship it")
    work.commit("main", {"d": b"1\n"}, parents=[])
    await sync.sync(restoring.site.mirror.services, restoring.repo.id)
    page = (await restoring.browser.get(f"{HERE}/restore", at="#3", where="back")).text
    assert re.search(r"Also rewinds\s+<span class=\"ref\">release/2.4</span>: loses 1 commit by \w+", page)
    assert "Only create what is missing</a>" in page and "Put main back</a>" in page
    assert "Put everything back in acme/api" in page and "Ship it" in page
    assert page.index("Also rewinds") < page.index('<dl class="facts">')
    alone = (await restoring.browser.get(link(page, "Put main back"))).text
    assert "Put main back in acme/api" in alone and "release/2.4" not in alone


async def test_what_somebody_wrote_puts_no_sentence_of_a_page_in_another_order(restoring: Restoring) -> None:
    """A message or a name with an override showed the rest of the plan's line backwards."""
    restoring.work.commit("main", {"d": b"1\n"}, message="\u202eevil \u2066 \u200fnot", parents=[])
    await sync.sync(restoring.site.mirror.services, restoring.repo.id)
    for path in ("/restore?at=%231&ref=refs/heads/main&where=back", "/commits", "/pushes", "/pushes/3"):
        page = (await restoring.browser.get(f"{HERE}{path}")).text
        assert "\ufffdevil \ufffd" in page and "\u202e" not in page and "\u2066" not in page, path


async def test_a_plan_writes_nothing_and_one_press_does_what_it_said(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    target = make_work("target.git")
    page = await restoring.planned({"at": "#1", "url": str(target.path)})
    assert "refs/heads/side" in page and "create" in page
    assert plain(target.refs()) == {}
    answer = await restoring.pressed(page)
    told = await restoring.done(answer)
    assert "were read back from" in told and "Undo this restore" in told
    assert plain(target.refs())[MAIN] == restoring.lost
    assert await restoring.pressed(page)  # pressed twice, it is done once
    assert (await restoring.browser.get(f"{HERE}/restores")).text.count("<tr data-row>") == 1
    assert (await restoring.actions()).count("restore.push") == 1


@pytest.mark.parametrize("where", ["branch", "back"])
async def test_two_presses_at_once_are_one_restore_and_both_lead_to_it(
    restoring: Restoring, where: str
) -> None:
    """The second was told of an internal error while the first had begun."""
    query = {"at": "#1", "ref": "refs/heads/main", "where": where}
    page = (await restoring.browser.get(f"{HERE}/restore", **query)).text
    path = "/restore/over" if where == "back" else "/restore"
    address = str(httpx.URL(path, params=query))
    answers = await asyncio.gather(*(restoring.pressed(page, address, name="acme/api") for _ in range(4)))
    assert {one.status_code for one in answers} == {303}
    assert len({one.headers["location"] for one in answers}) == 1
    db = restoring.site.mirror.services.db
    assert await db.fetchval("select count(*) from job where kind = 'restore'") == 1
    assert (await restoring.actions()).count("restore.push") == 1


async def test_only_chosen_refs_are_restored(restoring: Restoring, make_work: Callable[..., Work]) -> None:
    target = make_work("target.git")
    page = await restoring.planned({"at": "#1", "ref": "si*", "url": str(target.path)})
    await restoring.done(await restoring.pressed(page))
    assert set(plain(target.refs())) == {SIDE}


async def test_overwriting_wants_the_name_typed_and_is_undone_to_what_was_there(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    target = make_work("target.git")
    target.commit("main", {"theirs": b"1\n"})
    target.commit("other")
    before = target.refs()
    page = await restoring.planned({"at": "#1", "url": str(target.path)})
    assert "Nothing would be written, because refs are refused" in page and "Overwrite target" not in page
    page = await restoring.planned({"at": "#1", "draft": hidden(page, "draft"), "force": "yes"})
    assert "Type <span" in page
    wrong = await restoring.pressed(page, "/restore/over", name="something else")
    assert wrong.status_code == 422 and "Nothing was done" in wrong.text
    assert (await restoring.pressed(page)).status_code == 400  # not without its name either
    assert target.refs() == before
    name = re.search(r'Type <span class="mono">([^<]+)<', page)
    assert name is not None
    told = await restoring.done(await restoring.pressed(page, "/restore/over", name=name[1]))
    assert "What the target held before is in" in told
    assert target.refs()[MAIN] == restoring.lost and SIDE in target.refs()
    await restoring.sure()
    page = (await restoring.browser.get(link(told, "Undo this restore"))).text
    assert "Put back" in page and "Remove" in page
    undo = link(told, "Undo this restore").removeprefix("/ann/acme/api/-")
    told = await restoring.done(await restoring.pressed(page, f"{undo}/now"))
    assert target.refs() == before, told
    assert "restore.undo" in await restoring.actions()
    page = (await restoring.browser.get(link(told, "restore"))).text
    assert "Undone" in page


async def test_an_address_that_is_none_is_told_beside_it(restoring: Restoring) -> None:
    page = await restoring.planned({"url": "ssh://git@example.org/x.git"}, status=422)
    assert 'role="alert"' in page and 'name="token"' in page
    page = await restoring.planned({"url": "/no/such/place"}, status=422)
    assert 'role="alert"' in page and 'value="/no/such/place"' in page


async def test_who_has_not_proved_it_of_late_is_asked_before_anything_is_overwritten(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    target = make_work("target.git")
    for _ in range(12):
        restoring.site.mirror.clock()
    address = f"{HERE}/restore/plan?at=%231&where=kept&repo=acme%2Fapi&force=yes"
    answer = await restoring.browser.get(address)
    assert answer.status_code == 303 and answer.headers["location"].startswith("/account/sure?next=")
    assert plain(target.refs()) == {}


async def proved(restoring: Restoring, answer: httpx.Response) -> httpx.Response:
    """Prove who one is where an answer asks for it; the page that comes then."""
    assert answer.status_code == 303, answer.text
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    password = "a long enough word"
    hashed = passwords.HASHER.hash(password)
    db = restoring.site.mirror.services.db
    await db.execute("update person set email = 'ann@example.org' where id = $1", restoring.ann.id)
    await people_rows.set_password(db, restoring.ann.id, hashed)
    fields = {name: value for name, (value,) in asked.items()}
    page = await restoring.browser.post("/account/sure", password=password, **fields)
    while page.status_code == 303:
        page = await restoring.browser.follow(page)
    return page


async def test_who_had_to_prove_it_finds_the_same_plan_again_and_is_told_to_press_once_more(
    restoring: Restoring,
) -> None:
    address = f"{HERE}/restore/plan?at=%231&where=kept&repo=acme%2Fapi&force=yes&archive=yes&ref=main"
    page = (await restoring.browser.get(address)).text
    action = unescape(re.findall(r'action="([^"]*/restore/over[^"]*)"', page)[0])
    restoring.site.mirror.clock.now += timedelta(minutes=11)
    answer = await restoring.browser.post(action, draft=hidden(page, "draft"), name="acme/api")
    came = await proved(restoring, answer)
    assert "Nothing has been done yet" in came.text and "Snapshot #1" in came.text
    assert "Put 1 ref back in acme/api" in came.text
    asked = dict(httpx.URL(address).params) | {"where": "back"}
    assert dict(came.url.params) == asked, "as it was, in the present word for that way"


async def test_a_plan_to_an_address_keeps_all_but_its_token_over_a_proof(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    target = make_work("target.git")
    restoring.site.mirror.clock.now += timedelta(minutes=11)
    answer = await restoring.browser.post(
        f"{HERE}/restore/plan?at=%231&ref=main",
        where="url",
        url=str(target.path),
        username="me",
        token="a secret word",
        force="yes",
    )
    assert "secret" not in answer.headers["location"]
    came = await proved(restoring, answer)
    assert "Nothing has been done yet" in came.text and "Snapshot #1" in came.text
    assert f'value="{target.path}"' in came.text and 'value="me"' in came.text
    assert 'name="force" value="yes" checked' in came.text
    assert 'name="ref" type="text" value="main"' in came.text


async def test_a_repository_that_is_not_there_is_told_above_the_plan(restoring: Restoring) -> None:
    page = await restoring.browser.get(f"{HERE}/restore/plan?at=%231&where=kept&repo=acme%2Fapy&force=yes")
    assert page.status_code == 422 and "There is no repository acme/apy in ann" in page.text
    assert link(page.text, "Another moment") == "/ann/acme/api?at=%231"


async def test_an_error_beside_a_restores_fields_leaves_what_was_typed(restoring: Restoring) -> None:
    fields = {"url": "/no/such/place", "username": "me", "token": "a secret word", "force": "yes"}
    text = await restoring.planned(fields | {"at": "#1"}, status=422)
    assert re.search(r'name="username" type="text" value="me"', text)
    assert re.search(r'name="url" type="text"[^>]*value="/no/such/place"[^>]* aria-invalid="true"', text)
    assert re.search(r'name="force" value="yes" checked', text) and "a secret word" not in text


async def test_what_the_host_refuses_is_told(restoring: Restoring, make_work: Callable[..., Work]) -> None:
    target = make_work("target.git")
    hook = target.git_dir / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        '#!/bin/sh\n[ "$1" != refs/heads/side ] || { echo "refs/heads/side is protected"; exit 1; }\n'
    )
    hook.chmod(0o755)
    page = await restoring.planned({"at": "#1", "url": str(target.path)})
    told = await restoring.done(await restoring.pressed(page))
    assert "refs/heads/side is protected" in told and "1 ref was refused" in told
    assert set(plain(target.refs())) == {MAIN}


async def test_a_lost_commit_comes_back_as_a_branch_of_the_repository_it_came_from(
    restoring: Restoring,
) -> None:
    page = (await restoring.browser.get(f"{HERE}/lost")).text
    address = link(page, "Bring back as a branch")
    page = (await restoring.browser.get(address)).text
    query = httpx.URL(address).params
    assert f"Create {query['as'].removeprefix('refs/heads/')} in acme/api" in page
    told = await restoring.done(await restoring.pressed(page))
    assert "was read back from acme/api" in told
    came = restoring.work.refs()
    was = restoring.lost if query["ref"] == "refs/heads/main" else restoring.gone
    assert came[RefName(query["as"].encode())] == was


async def test_a_commit_comes_back_by_its_id(restoring: Restoring, make_work: Callable[..., Work]) -> None:
    target = make_work("target.git")
    asked = {"commit": restoring.lost.decode(), "as": "rescue/main", "url": str(target.path)}
    await restoring.done(await restoring.pressed(await restoring.planned(asked)))
    assert plain(target.refs()) == {b"refs/heads/rescue/main": restoring.lost}
    unknown = {"commit": "f" * 40, "as": "x", "url": str(target.path)}
    assert 'role="alert"' in await restoring.planned(unknown, status=422)


async def test_a_bundle_is_made_and_fetched_in_pieces_that_git_clones(
    restoring: Restoring, tmp_path: Path
) -> None:
    told = await restoring.done(await restoring.browser.post(f"{HERE}/bundles?at=%231"))
    assert "git clone acme-api-1.bundle" in told
    address = link(told, "Download")
    whole = await restoring.browser.get(address)
    assert whole.headers["content-disposition"] == 'attachment; filename="acme-api-1.bundle"'
    tag, size = whole.headers["etag"], len(whole.content)
    client = restoring.browser.client
    first = await client.get(address, headers={"range": "bytes=0-99"})
    rest = await client.get(address, headers={"range": "bytes=100-", "if-range": tag})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert rest.headers["content-range"] == f"bytes 100-{size - 1}/{size}"
    assert first.content + rest.content == whole.content
    assert (await client.get(address, headers={"range": f"bytes={size}-"})).status_code == 416
    file = tmp_path / "x.bundle"
    file.write_bytes(first.content + rest.content)
    run_git("clone", "-q", "--mirror", file, tmp_path / "x.git")
    assert refs_of(tmp_path / "x.git")[MAIN] == restoring.lost
    assert (await restoring.actions()).count("restore.download") == 2  # the whole, and what began anew
    disk = restoring.site.mirror.services.disk.root
    assert not (disk / "bundles").exists()  # the vault has it, which any web process reads
    restoring.site.mirror.clock.now += BUNDLE_KEPT
    await restoring.sure()
    assert (await restoring.browser.get(address)).status_code == 404


async def test_a_download_that_is_hung_up_on_leaves_no_trace_in_the_log(
    restoring: Restoring, caplog: pytest.LogCaptureFixture
) -> None:
    told = await restoring.done(await restoring.browser.post(f"{HERE}/bundles?at=%231"))
    cookie = "; ".join(f"{name}={value}" for name, value in restoring.browser.client.cookies.items())
    asked = f"GET {link(told, 'Download')}".encode() + HOST + f"cookie: {cookie}\r\n\r\n".encode()
    caplog.clear()
    async with serving(restoring.site.app, restoring.site) as served:
        assert await served.ask(asked) == b"HTTP/1.1 200 OK"
        await hang_up(served, asked)
    assert [one for one in caplog.records if one.exc_info or one.levelno >= logging.ERROR] == []


async def test_a_bundle_is_handed_over_by_the_store_where_it_can(
    restoring: Restoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await restoring.done(await restoring.browser.post(f"{HERE}/bundles?at=%231"))
    asked: list[tuple[str, timedelta, str]] = []

    async def presign(self: DirectoryVault, key: str, expires: timedelta, filename: str) -> str:
        asked.append((key, expires, filename))
        return "https://store.example/exports/x?X-Amz-Signature=abc"

    monkeypatch.setattr(DirectoryVault, "presign", presign)
    answer = await restoring.browser.get(link(told, "Download"))
    assert answer.status_code == 303
    assert answer.headers["location"] == "https://store.example/exports/x?X-Amz-Signature=abc"
    ((key, expires, filename),) = asked
    assert re.fullmatch(r"exports/[0-9a-f]{64}\.bundle", key) and expires == timedelta(minutes=15)
    assert filename == "acme-api-1.bundle" and key.split("/")[1] not in told
    assert (await restoring.actions()).count("restore.download") == 1
    head = await restoring.browser.client.head(link(told, "Download"))
    assert head.status_code == 200 and int(head.headers["content-length"]) > 0


async def test_after_a_rebuild_the_list_of_restores_says_since_when_it_is_not_whole(
    restoring: Restoring,
) -> None:
    services = restoring.site.mirror.services
    assert "The database was lost" not in (await restoring.browser.get(f"{HERE}/restores")).text
    taken_at = services.clock() + timedelta(minutes=1)
    await state.settle(services.db, "state/x", taken_at, "taken-up", {})
    page = (await restoring.browser.get(f"{HERE}/restores")).text
    assert "restores between then and the rebuild are missing" in page
    assert "Nothing has been restored yet, as far as is known." in page


@pytest.mark.parametrize("led_by", ["cross-site", "same-origin", "none"])
async def test_a_link_of_another_site_has_no_address_reached(restoring: Restoring, led_by: str) -> None:
    """A key was made for it, and the host's was pinned, for whoever followed a link to a plan.

    Where the link was that of a sign-in which goes on to it, the browser said `same-origin` in the end.
    """
    query = {"where": "url", "url": "ssh://git@127.0.0.1:9/x.git"}
    led = {"sec-fetch-site": led_by}
    answer = await restoring.browser.client.get(f"{HERE}/restore/plan", params=query, headers=led)
    assert answer.status_code == 200 and "ssh://git@127.0.0.1:9/x.git" in answer.text
    db = restoring.site.mirror.services.db
    assert await db.fetchval("select count(*) from ssh_key") == 0
    await restoring.browser.post(f"{HERE}/restore/plan", **query)  # of one's own accord
    assert await db.fetchval("select count(*) from ssh_key") == 1


async def test_a_viewer_restores_nothing_and_another_team_finds_nothing(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    told = await restoring.done(await restoring.browser.post(f"{HERE}/bundles"))
    address = link(told, "Download")
    viewer = await restoring.site.signed_in(
        await restoring.site.member(restoring.team, "victor", Role.VIEWER)
    )
    stranger = await restoring.site.signed_in(await restoring.site.person("sue"))
    for path in (f"{HERE}/restore", f"{HERE}/restore/plan?where=url", address):
        assert (await viewer.get(path)).status_code == 403
        assert (await stranger.get(path)).status_code == 404
    assert (await viewer.get(f"{HERE}/restores")).status_code == 200
    for path in (f"{HERE}/restore", f"{HERE}/bundles", f"{HERE}/restore/over"):
        assert (await viewer.post(path, draft="x")).status_code == 403
        assert (await stranger.post(path, draft="x")).status_code == 404


async def test_a_plan_is_for_who_saw_it_and_for_its_repo(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    target = make_work("target.git")
    page = await restoring.planned({"at": "#1", "url": str(target.path)})
    oscar = await restoring.site.signed_in(
        await restoring.site.member(restoring.team, "oscar", Role.OPERATOR)
    )
    answer = await oscar.post(f"{HERE}/restore", draft=hidden(page, "draft"))
    assert answer.status_code == 400 and "plan was not shown to you" in answer.text
    assert (await restoring.browser.post(f"{HERE}/restore", draft="nonsense")).status_code == 400


async def test_a_sixth_restore_within_an_hour_waits(
    restoring: Restoring, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_work("target.git")
    clock = restoring.site.mirror.clock
    began = clock.now
    answers = []
    for _ in range(6):
        clock.now = began
        page = await restoring.planned({"at": "#1", "url": str(target.path)})
        answers.append((await restoring.pressed(page)).status_code)
    assert answers == [303] * 5 + [429]


async def test_a_token_is_in_no_page_and_in_no_row(
    restoring: Restoring, make_work: Callable[..., Work]
) -> None:
    target = make_work("target.git")
    page = await restoring.planned({"at": "#1", "url": str(target.path), "token": "hunter2-hunter2"})
    assert "hunter2" not in page
    answer = await restoring.pressed(page)
    assert "hunter2" not in str(
        [dict(row) for row in await restoring.site.mirror.services.db.fetch("select * from job")]
    )
    told = await restoring.done(answer)
    await restoring.sure()
    page = (await restoring.browser.get(link(told, "Undo this restore"))).text
    assert "used once and forgotten" in page  # it is asked for again


def test_many_refs_of_a_kind_are_folded_and_what_takes_away_comes_first() -> None:
    rows = [Row(f"refs/tags/v{n}", "1" * 40, "created", "", "") for n in range(500)]
    rows += [Row("refs/heads/main", "1" * 40, "updated", "", "2" * 40)]
    found = groups(rows)
    assert [(one.folder, one.total, len(one.rows)) for one in found] == [("", 1, 1), ("refs/tags", 500, 200)]


# At a forge


@dataclass
class AtForge:
    """The same, with Ann's account at a forge."""

    here: Restoring
    forge: GitHub | GitLab
    account: Account

    async def connect(self, *scopes: str) -> Connection:
        site = self.here.site
        (app,) = site.outside.services.settings.apps
        token = self.forge.personal_token(self.account, scopes or SCOPES[self.forge.kind])
        return await connections.connect(
            site.outside.services, self.here.team.id, self.here.ann.id, app, Tokens(token), "token"
        )


@pytest_asyncio.fixture(params=["github", "gitlab"])
async def at_forge(
    request: pytest.FixtureRequest,
    github: GitHub,
    gitlab: GitLab,
    make_site: Callable[..., Awaitable[Site]],
    work: Work,
) -> AtForge:
    forge = github if request.param == "github" else gitlab
    account = forge.add_person("ann", "Ann")
    forge.add_org("acme", owners=[account])
    app = App(request.param, forge.url, forge.api_url, forge.client_id, forge.client_secret)
    return AtForge(await restoring_at(await make_site(app), work), forge, account)


async def test_a_new_repository_is_made_and_restored_to(at_forge: AtForge) -> None:
    here, connection = at_forge.here, await at_forge.connect()
    query = {"at": "#1", "where": "new", "connection": str(connection.id)}
    page = (await here.browser.get(f"{HERE}/restore", **query)).text
    assert 'value="api-restored"' in page
    owner = re.search(r'<option value="(\d+)"[^>]*>acme', page)
    assert owner is not None
    asked = query | {"owner": owner[1], "name": "api-restored", "private": "yes"}
    page = (await here.browser.get(f"{HERE}/restore/plan", **asked)).text
    assert "a new private repository" in page
    assert at_forge.forge.repository("acme/api-restored") is None
    told = await here.done(await here.pressed(page))
    made = at_forge.forge.repository("acme/api-restored")
    assert made is not None and made.private, told
    assert plain(made.work.refs())[MAIN] == here.lost
    assert "was made for this" in told
    assert "restore.create" in await here.actions()
    answer = await here.browser.get(f"{HERE}/restore/plan", **asked)
    assert answer.status_code == 422 and "choose another name" in answer.text
    page = (await here.browser.get(f"{HERE}/restore", at="#1")).text
    assert "Restore to acme/api-restored-2" in page, "a name that is free is proposed"


async def test_a_forge_address_is_written_with_the_connection_and_undone(at_forge: AtForge) -> None:
    here = at_forge.here
    await at_forge.connect()
    there = at_forge.forge.add_repository("acme/other", private=True)
    there.commit("main", {"more": b"1\n"})
    before = there.work.refs()
    page = await here.planned({"at": "#1", "url": there.url, "force": "yes"})
    assert "with the connection of ann" in page
    name = re.search(r'Type <span class="mono">([^<]+)<', page)
    assert name is not None
    told = await here.done(await here.pressed(page, "/restore/over", name=name[1]))
    assert there.work.refs()[MAIN] == here.lost, told
    await here.sure()
    page = (await here.browser.get(link(told, "Undo this restore"))).text
    undo = link(told, "Undo this restore").removeprefix("/ann/acme/api/-")
    told = await here.done(await here.pressed(page, f"{undo}/now"))
    assert refs_of(there.path) == before, told


@pytest.mark.parametrize("other", [True, False], ids=["beside another branch", "alone"])
async def test_undoing_into_a_repository_that_was_made_ends_with_its_default_branch_too(
    at_forge: AtForge, other: bool
) -> None:
    """Hosts keep their default branch: another is made it; where there is none, the page says what to do."""
    here, connection = at_forge.here, await at_forge.connect()
    query = {"at": "#1", "where": "new", "connection": str(connection.id)}
    page = (await here.browser.get(f"{HERE}/restore", **query)).text
    owner = re.search(r'<option value="(\d+)"[^>]*>acme', page)
    assert owner is not None
    asked = query | {"owner": owner[1], "name": "api-restored", "private": "yes"}
    page = (await here.browser.get(f"{HERE}/restore/plan", **asked)).text
    told = await here.done(await here.pressed(page))
    made = at_forge.forge.repository("acme/api-restored")
    assert made is not None
    if other:
        made.commit("theirs", {"more": b"1\n"})
    await here.sure()
    page = (await here.browser.get(link(told, "Undo this restore"))).text
    changes = re.search(r"changes from <span class=.ref.>main</span> to <span class=.ref.>theirs<", page)
    assert bool(changes) == other, "a change of the default branch is in the plan"
    undo = link(told, "Undo this restore").removeprefix("/ann/acme/api/-")
    told = await here.done(await here.pressed(page, f"{undo}/now"))
    left = {name for name in refs_of(made.path) if name.startswith(b"refs/heads/")}
    if other:
        assert (left, made.default_branch) == ({b"refs/heads/theirs"}, "theirs"), told
    else:
        assert left == {MAIN} and "delete the repository there" in told


async def test_a_default_branch_that_may_not_be_removed_is_the_default_one_again(at_forge: AtForge) -> None:
    here, connection = at_forge.here, await at_forge.connect()
    asked = {"at": "#1", "where": "new", "connection": str(connection.id), "name": "api-restored"}
    page = (await here.browser.get(f"{HERE}/restore", **asked)).text
    told = await here.done(await here.pressed(page))
    made = at_forge.forge.repository("acme/api-restored")
    assert made is not None
    made.commit("theirs", {"more": b"1\n"})
    made.work.git("config", "receive.denyDeletes", "true")  # as a host protects its branches
    await here.sure()
    page = (await here.browser.get(link(told, "Undo this restore"))).text
    undo = link(told, "Undo this restore").removeprefix("/ann/acme/api/-")
    told = await here.done(await here.pressed(page, f"{undo}/now"))
    assert made.default_branch == "main" and MAIN in refs_of(made.path)
    assert "stays the default branch: unprotect this one there and undo this again" in unescape(told)


async def test_what_a_connection_may_not_is_named_with_what_to_do(at_forge: AtForge) -> None:
    if at_forge.forge.kind == "github":
        scopes = ("repo", "read:org")
        assert await at_forge.connect(*scopes)
        return
    connection = await at_forge.connect("read_user", "read_api", "read_repository")
    page = (
        await at_forge.here.browser.get(f"{HERE}/restore", where="new", connection=str(connection.id))
    ).text
    assert "has not allowed this connection to make repositories" in page and "api" in page


WORKFLOW = {".github/workflows/ci.yml": b"on: push\n"}


async def asked_for_new(at_forge: AtForge, connection: Connection, name: str) -> dict[str, str]:
    """A restore of the latest moment to a new repository of Ann's."""
    services = at_forge.here.site.outside.services
    owners = await connections.asking(services, connection.id, lambda forge, token: forge.owners(token))
    mine = next(one for one in owners if one.personal)
    new = {"where": "new", "connection": str(connection.id), "owner": mine.id, "name": name}
    return {"at": "#3", "ref": ""} | new


async def with_workflow(at_forge: AtForge) -> None:
    """The repository has a branch with a workflow file, and one without, which its HEAD names."""
    here = at_forge.here
    here.work.commit("ci", WORKFLOW)
    await sync.sync(here.site.mirror.services, here.repo.id)


async def test_what_github_would_refuse_is_in_the_plan_and_explained_in_the_result(at_forge: AtForge) -> None:
    here = at_forge.here
    connection = await at_forge.connect()
    await with_workflow(at_forge)
    asked = await asked_for_new(at_forge, connection, "back")
    page = (await here.browser.get(f"{HERE}/restore/plan", **asked)).text
    told = await here.done(await here.pressed(page))
    made = at_forge.forge.repository("ann/back")
    assert made is not None and MAIN in refs_of(made.path)
    if at_forge.forge.kind == "gitlab":
        assert "workflow files" not in page and b"refs/heads/ci" in refs_of(made.path), told
        return
    assert "refuses branches and tags with workflow files" in page
    assert "connect by a token that has it" in page
    assert b"refs/heads/ci" not in refs_of(made.path)
    assert "only from a token with the scope workflow" in told
    assert "refusing to allow a Personal Access Token" in told  # its own words, too


@pytest.mark.parametrize("at_forge", ["github"], indirect=True)
async def test_what_github_would_refuse_is_allowed_from_the_plan_and_then_arrives_whole(
    at_forge: AtForge,
) -> None:
    here, github, services = at_forge.here, at_forge.forge, at_forge.here.site.outside.services
    assert isinstance(github, GitHub)
    await with_workflow(at_forge)
    (app,) = services.settings.apps
    forge, verifier = services.forges.of(app), oauth.new_verifier()
    back = connections.callback(services.settings, app)
    consent = await github.approve(
        forge.authorize_url("s", verifier, back, Purpose.HOOKS), at_forge.account, ("repo", "read:org")
    )
    tokens = await forge.exchange(parse_qs(urlsplit(consent).query)["code"][0], verifier, back)
    before = await connections.connect(services, here.team.id, here.ann.id, app, tokens)
    assert before.state == "works" and "workflow" not in before.scopes
    listed = (await here.browser.get("/ann/-/connect")).text
    assert "works" in listed and "connect again" not in listed
    assert "Without workflow" not in (await here.browser.get(f"/ann/-/connect/{before.id}")).text
    asked = await asked_for_new(at_forge, before, "back")
    page = (await here.browser.get(f"{HERE}/restore/plan", **asked)).text
    assert f"Allow it at {before.host}" in page
    fields = {name: hidden(page, name) for name in ("host", "team", "purpose", "next")}
    sent = await here.browser.post("/auth/github", **fields)
    consent = sent.headers["location"]
    assert set(parse_qs(urlsplit(consent).query)["scope"][0].split()) == {"repo", "read:org", "workflow"}
    answer = await here.browser.get(await github.approve(consent, at_forge.account))
    page = (await here.browser.follow(answer)).text
    assert "Restore to ann/back" in page and "workflow files" not in page
    told = await here.done(await here.pressed(page))
    made = github.repository("ann/back")
    assert made is not None and plain(refs_of(made.path)) == plain(here.work.refs()), told


async def test_a_run_that_was_killed_while_it_made_the_repository_makes_no_second_one(
    at_forge: AtForge,
) -> None:
    here, connection = at_forge.here, await at_forge.connect()
    services = here.site.outside.services
    owners = await connections.asking(services, connection.id, lambda forge, token: forge.owners(token))
    asked = {
        "at": "#1",
        "where": "new",
        "connection": str(connection.id),
        "owner": owners[0].id,
        "name": "again",
    }
    page = (await here.browser.get(f"{HERE}/restore/plan", **asked)).text
    answer = await here.pressed(page)
    await services.db.execute("""update job set result = '{"making": "x"}'""")  # as a killed run leaves it
    await connections.asking(
        services, connection.id, lambda forge, token: forge.create_repository(token, owners[0], "again")
    )
    told = await here.done(answer)
    made = at_forge.forge.repository("ann/again")
    assert made is not None and plain(made.work.refs())[MAIN] == here.lost, told
    assert len([one for one in at_forge.forge.repositories if one.name.startswith("again")]) == 1


async def test_a_target_that_drips_holds_a_plan_for_seconds_and_few_of_one_person(
    restoring: Restoring, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_server.add(restoring.work.path, "slow.git")
    git_server.add(restoring.work.path, "quick.git")
    git_server.faults["slow"] = Fault(silent=True)
    url = f"{git_server.url}/slow.git"
    address = f"{HERE}/restore/plan?at=%231"
    asked = [asyncio.create_task(restoring.browser.post(address, where="url", url=url)) for _ in range(8)]
    while git_server.count("slow") < dispatch.PLANS.person:  # noqa: ASYNC110 - it is another thread's doing
        await asyncio.sleep(0.01)
    refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert all("are already loading" in one.result().text for one in refused)
    assert git_server.count("slow") == dispatch.PLANS.person
    ben = await restoring.site.member(restoring.team, "ben", Role.OPERATOR)
    browser = await restoring.site.signed_in(ben)
    quick = await browser.post(address, where="url", url=f"{git_server.url}/quick.git")
    assert quick.status_code == 200 and "would be written" in quick.text
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)


async def test_a_plan_that_takes_too_long_says_so(
    restoring: Restoring, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_server.add(restoring.work.path, "slow.git")
    git_server.faults["slow"] = Fault(silent=True)
    monkeypatch.setattr(dispatch, "PLANNING", 0.3)
    page = await restoring.planned({"at": "#1", "url": f"{git_server.url}/slow.git"}, status=422)
    assert "host of the target did not answer within 0.3 s" in page


@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_whoever_takes_nothing_of_a_download_holds_it_for_a_minute(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(lowspeed, "TIME", 0.05)
    monkeypatch.setattr(lowspeed, "LIMIT", 1 << 30)
    closed, sent = asyncio.Event(), bytearray()

    async def stored() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed.set()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody says anything")

    async def send(message: Message) -> None:
        sent.extend(message.get("body", b""))
        if len(sent) > 3 * download.PIECE:
            await asyncio.Event().wait()

    stream = download.Stream(stored(), 200, {})
    await stream({"type": "http", "asgi": {"spec_version": version}}, receive, send)
    assert closed.is_set() and len(sent) == 4 * download.PIECE


@pytest.mark.parametrize("at_forge", ["gitlab"], indirect=True)
async def test_a_host_is_connected_from_the_page_which_comes_back_to_the_moment_also_when_refused(
    at_forge: AtForge,
) -> None:
    here = at_forge.here
    page = (await here.browser.get(f"{HERE}/restore", at="#1")).text
    assert "you come back to this moment" in page and "Connect GitLab" in page
    form = page[page.index('id="connect-1"') :]
    fields = {name: hidden(form, name) for name in ("host", "team", "purpose", "next")}
    sent = await here.browser.post("/auth/gitlab", **fields)
    state = parse_qs(urlsplit(sent.headers["location"]).query)["state"][0]
    answer = await here.browser.get("/auth/gitlab/callback", error="access_denied", state=state)
    assert answer.headers["location"] == fields["next"], "no moment is lost by a No"
    came = await here.browser.follow(answer)
    assert "You did not allow access" in came.text and "Snapshot #1" in came.text


@pytest.mark.parametrize("at_forge", ["gitlab"], indirect=True)
async def test_a_consent_that_took_too_long_ends_at_the_moment_where_it_began(
    at_forge: AtForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = at_forge.here
    page = (await here.browser.get(f"{HERE}/restore", at="#1", ref="refs/heads/main")).text
    form = page[page.index('id="connect-1"') :]
    fields = {name: hidden(form, name) for name in ("host", "team", "purpose", "next")}
    sent = await here.browser.post("/auth/gitlab", **fields)
    came = urlsplit(await at_forge.forge.approve(sent.headers["location"], at_forge.account))
    monkeypatch.setattr(oauth_page, "SECONDS", -61)  # as if it had taken longer
    answer = await here.browser.get(f"{came.path}?{came.query}")
    assert answer.headers["location"] == fields["next"]
    shown = (await here.browser.follow(answer)).text
    assert "nothing was done, so press it again" in shown and "Snapshot #1" in shown
    assert await here.site.mirror.services.db.fetchval("select count(*) from connection") == 0
