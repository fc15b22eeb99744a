"""What strangers write into paths, queries, forms and JSON: refused before anything looks at it."""

import html
import re
from pathlib import Path

import httpx
import pytest

from mirror.backup import sync
from mirror.core.rules.roles import Role
from mirror.git import address
from mirror.store import repos
from mirror.store.people import teams
from mirror.web.app import ENDPOINTS
from mirror.web.dispatch import Endpoint
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

NUL = "contains a NUL character"


@pytest.fixture
async def ann(site: Site) -> Browser:
    person = await site.person("ann")
    team = await site.team(person)
    await repos.add(
        site.mirror.services.db, team.id, "api", "https://github.com/acme/api", site.mirror.clock.now
    )
    browser = await site.signed_in(person)
    browser.client.headers["x-csrf-token"] = browser.csrf
    browser.client.headers["origin"] = str(browser.client.base_url)
    return browser


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 400 and NUL in answer.text


async def test_a_nul_in_any_path_or_query_is_refused(ann: Browser) -> None:
    missed = []
    for way in ENDPOINTS:
        path = way.path.replace("{team}", "ann").replace("{repo:repo}", "api").replace("{repo}", "api")
        bare = re.sub(r"\{[^}]*\}", "a", path)
        asked = [f"{bare}?by=%00", f"{bare}?%00=by", f"{bare}?q=a%00b&q=c"]
        if "{" in way.path:
            asked.append(re.sub(r"\{[^}]*\}", "a%00b", way.path))
        missed += [one for one in asked if not refused(await ann.client.request(way.method, one))]
    assert missed == []


async def test_a_nul_in_any_form_is_refused(ann: Browser) -> None:
    def is_form(way: Endpoint) -> bool:
        shared = way.path.startswith("/s/")  # a link that does not exist says that alone, whatever is sent
        return way.method == "POST" and not (way.is_api or shared) and way.needs in ("nothing", "person")

    del ann.client.headers["x-csrf-token"]  # it is in the form, which has to be read for it
    forms = [re.sub(r"\{[^}]*\}", "a", way.path) for way in ENDPOINTS if is_form(way)]
    assert "/sign-in" in forms and "/account/sure" in forms
    for path in forms:
        for field in ({"email": "a\0b"}, {"na\0me": "a"}, {"name": ["a", "\0"]}):
            assert refused(await ann.client.post(path, data={"csrf": ann.csrf} | field)), path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/login", {"email": "a\0@example.org", "password": "long enough"}),
        ("/api/v1/teams/ann/repos", {"url": "https://example.org/a\0b"}),
        ("/api/v1/teams/ann/tokens", {"name": "a\0b", "scopes": ["read"]}),
    ],
)
async def test_a_nul_in_the_json_of_a_call_is_refused(
    ann: Browser, path: str, body: dict[str, object]
) -> None:
    assert refused(await ann.client.post(path, json=body))


async def test_a_backslash_before_what_reads_like_one_is_no_nul(ann: Browser) -> None:
    answer = await ann.client.post(
        "/api/v1/login", json={"email": "a\\u0000@b.org", "password": "long enough"}
    )
    assert NUL not in answer.text


async def test_over_the_web_nobody_learns_which_paths_there_are(
    ann: Browser, work: Work, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    paths = [str(work.path), str(tmp_path), f"{tmp_path}/none", f"{tmp_path}/file/below", "../work", "~root"]
    said = set()
    for path in [*paths, *(f"file://{one}" for one in paths[:3])]:
        by_form = await ann.post("/ann/-/connect/url", url=path)
        by_call = await ann.client.post("/api/v1/teams/ann/repos", json={"url": path})
        (told,) = re.findall(r'id="f-url-about" class="wrong">([^<]+)', html.unescape(by_form.text))
        said |= {told.lower(), by_call.json()["detail"].lower().rstrip(".") + "."}
    assert len(said) == 1, said


async def test_a_path_is_for_admins_of_who_runs_everref_alone(
    site: Site, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teams, "DEFAULT", "bob")
    bob = await site.person("bob")
    team = await site.team(bob)
    work.commit()
    added = await (await site.signed_in(bob)).post("/bob/-/connect/url", url=str(work.path))
    assert added.status_code == 303, added.text
    (repo,) = await repos.overview(site.mirror.services.db)
    await sync.sync(site.mirror.services, repo.repo.id)
    oscar = await site.signed_in(await site.member(team, "oscar", Role.OPERATOR))
    oscar.client.headers.update({"x-csrf-token": oscar.csrf, "origin": str(oscar.client.base_url)})
    said = set()
    for path in (str(work.path), f"{work.path}/none"):
        body = {"to": {"url": path}}
        answer = await oscar.client.post(f"/api/v1/teams/bob/repos/{repo.repo.id}/plans", json=body)
        said.add((answer.status_code, answer.json()["detail"]))
    assert said == {(400, address.NO_PATHS)}
