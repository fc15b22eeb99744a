"""`make demo`: forges with people and histories, and an Everref that was told of them."""

import asyncio
import json
import os
import re
import signal
import sys
from html import unescape
from pathlib import Path

import httpx
import pytest

from tests.parts import demo
from tests.parts.forges import GitHub, GitLab, Repository
from tests.parts.processes import processes
from tests.parts.repos import MAIN, fsck


def test_the_demo_has_two_people_and_twelve_repositories(github: GitHub, gitlab: GitLab) -> None:
    demo.fill_github(github)
    demo.fill_gitlab(gitlab)
    repositories = [*github.repositories, *gitlab.repositories]
    assert len(repositories) == 12
    assert {person.login for person in [*github.people, *gitlab.people]} == {"alice", "bob"}
    assert sum(one.private for one in repositories) == 5
    assert [one.full_name for one in repositories if one.archived] == ["alice/old-site", "acme/tools/attic"]
    for repository in repositories:
        fsck(repository.path)


@pytest.fixture
def garden(github: GitHub) -> Repository:
    demo.fill_github(github)
    garden = github.repository("alice/garden")
    assert garden
    return garden


def test_every_button_of_the_demo_does_what_it_says(github: GitHub, garden: Repository) -> None:
    before = garden.work.tip()
    demo.commit(garden)
    assert garden.work.git("rev-parse", "main^").strip() == before
    demo.force(garden)
    assert garden.work.git("rev-parse", "main^").strip() == before
    names = set(garden.work.refs())
    demo.branch(garden)
    demo.tag(garden)
    made = set(garden.work.refs()) - names
    assert len(made) == 2
    demo.tidy(garden)
    assert len(set(garden.work.refs()) & made) == 1
    demo.rename(garden)
    assert github.repository("alice/garden") is None
    assert github.moved["alice/garden"] is garden


async def test_the_buttons_are_on_a_page(github: GitHub, garden: Repository) -> None:
    transport = httpx.ASGITransport(app=demo.desk([github]))
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as browser:
        assert "alice/garden" in (await browser.get("/")).text
        before = garden.work.tip()
        form = {"forge": "github", "repository": "alice/garden", "do": "Push a commit"}
        assert (await browser.post("/", data=form)).status_code == 303
        assert garden.work.refs()[MAIN] != before
        assert (await browser.post("/", data=form | {"do": "Explode"})).status_code == 404
        old = form | {"repository": "alice/old-site"}
        assert (await browser.post("/", data=old)).status_code == 409


def fields(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the form that is sent to this address."""
    form = page.split(f'action="{action}"', 1)[1].split("</form>", 1)[0]
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)
    }


async def test_the_demo_says_where_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.parts.demo", "--json"),
        env=os.environ | {"TMPDIR": str(tmp_path), "DATABASE_URL": "postgresql://nobody@nowhere/none"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    told = json.loads(await process.stdout.readline())
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers={"Origin": told["url"]}) as browser:
        assert (await browser.get(told["url"] + "/healthz")).status_code == 200
        assert (await browser.get(told["github"] + "/api/v3/meta")).status_code == 200
        assert (await browser.get(told["gitlab"] + "/api/v4/version")).status_code == 401
        assert (await browser.get(told["pushes"])).status_code == 200
        assert (await browser.get(told["sign_in"])).status_code == 200
        asks = await browser.get(told["url"] + "/sign-in")
        asks = await browser.post(told["url"] + "/auth/github", data=fields(asks.text, "/auth/github"))
        consents = await browser.get(asks.headers["location"])
        address = told["github"] + "/login/oauth/authorize"
        choice = {"person": "bob", "decision": "approve"}
        back = await browser.post(address, data=fields(consents.text, address) | choice)
        signed_in = await browser.get(back.headers["location"])
        assert signed_in.status_code == 303 and signed_in.cookies
        home = await browser.get(told["url"], follow_redirects=True)
        assert "bob" in home.text and "/sign-in" not in str(home.url)
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0
    assert os.listdir(tmp_path) == []
    assert processes(tmp_path) == {}
