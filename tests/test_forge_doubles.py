"""The doubles of GitHub and GitLab refuse what the real ones would, as a strict client sees it."""

import asyncio
import json
import secrets
import subprocess
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx
import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hooks import events, verify
from hooks.errors import BadSignature
from mirror.core.model import RefName, Target
from tests.parts.forge import served
from tests.parts.forges import MAINTAIN, WRITE, GitHub, GitLab, Person, Repository
from tests.parts.forges.host import H
from tests.parts.repos import ENVIRONMENT, refs_of, run_git

SECRET = "a secret of forty letters for a test only"
SIGNING = "whsec_" + b64encode(b"k" * 32).decode()


@dataclass
class Receiver:
    """Whatever was posted to it, with lower-case header names."""

    url: str = ""
    status: int = 202
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.got.append((dict(request.headers), await request.body()))
        await Response(status_code=self.status)(scope, receive, send)

    def names(self, header: str) -> list[str]:
        return [headers[header] for headers, _ in self.got]


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    here = Receiver()
    async with served(here) as url:
        here.url = url + "/hooks/here"
        yield here


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def alice(github: GitHub) -> Person:
    return github.add_person("alice")


@pytest.fixture
def garden(github: GitHub, alice: Person) -> Repository:
    return github.add_repository("alice/garden", private=True)


@pytest.fixture
def anna(gitlab: GitLab) -> Person:
    return gitlab.add_person("anna")


@pytest.fixture
def meadow(gitlab: GitLab, anna: Person) -> Repository:
    return gitlab.add_repository("anna/meadow", private=True)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def pkce() -> tuple[str, str]:
    verifier = secrets.token_urlsafe(48)
    return verifier, urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def answer_of(url: str) -> dict[str, str]:
    """The query of an address that a browser was sent to."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def git(*args: str | Path, fails: bool = False) -> bytes:
    """Stock git in a thread: the doubles answer in this one."""
    if fails:
        with pytest.raises(AssertionError) as failed:
            await asyncio.to_thread(run_git, *args)
        return str(failed.value).encode()
    return await asyncio.to_thread(run_git, *args)


def with_token(url: str, token: str, user: str = "oauth2") -> str:
    return url.replace("://", f"://{user}:{token}@", 1)


# OAuth at GitHub

BACK = "http://127.0.0.1:8123/auth/github/callback"


def ask_github(github: GitHub, **more: str) -> str:
    asked = {"client_id": github.client_id, "redirect_uri": BACK, "state": "st&ate", "scope": "repo"}
    return f"{github.url}/login/oauth/authorize?{urlencode(asked | more)}"


async def exchange(http: httpx.AsyncClient, github: GitHub, **fields: str) -> dict[str, str]:
    form = {"client_id": github.client_id, "client_secret": github.client_secret} | fields
    answer = await http.post(
        f"{github.url}/login/oauth/access_token", data=form, headers={"Accept": "application/json"}
    )
    assert answer.status_code == 200  # errors too
    told: dict[str, str] = answer.json()
    return told


async def test_a_consent_at_github_becomes_a_token_once(
    github: GitHub, alice: Person, http: httpx.AsyncClient
) -> None:
    verifier, challenge = pkce()
    url = ask_github(github, code_challenge=challenge, code_challenge_method="S256")
    back = await github.approve(url, alice)
    assert back.startswith(BACK)
    assert answer_of(back)["state"] == "st&ate"
    code = answer_of(back)["code"]
    wrong = await exchange(http, github, code=code, code_verifier="w" * 43)
    assert wrong["error"] == "bad_verification_code"
    given = await exchange(http, github, code=code, code_verifier=verifier, redirect_uri=BACK)
    assert given["scope"] == "repo" and given["token_type"] == "bearer"
    again = await exchange(http, github, code=code, code_verifier=verifier)
    assert again["error"] == "bad_verification_code"
    user = await http.get(f"{github.api_url}/user", headers=bearer(given["access_token"]))
    assert user.json()["id"] == alice.id
    assert user.headers["x-oauth-scopes"] == "repo"


async def test_a_code_of_github_lasts_ten_minutes(
    github: GitHub, alice: Person, http: httpx.AsyncClient
) -> None:
    code = answer_of(await github.approve(ask_github(github), alice))["code"]
    github.advance(601)
    assert (await exchange(http, github, code=code))["error"] == "bad_verification_code"


async def test_github_says_who_cancelled_and_what_does_not_match(
    github: GitHub, alice: Person, http: httpx.AsyncClient
) -> None:
    denied = answer_of(await github.deny(ask_github(github), alice))
    assert denied["error"] == "access_denied" and denied["state"] == "st&ate"
    elsewhere = await github.approve(ask_github(github, redirect_uri="http://127.0.0.1/auth"), alice)
    assert answer_of(elsewhere)["error"] == "redirect_uri_mismatch"
    assert elsewhere.startswith(github.callback)
    plain = await github.approve(
        ask_github(github, code_challenge="c" * 43, code_challenge_method="plain"), alice
    )
    assert answer_of(plain)["error"] == "invalid_request"
    assert (await http.get(ask_github(github, client_id="another"))).status_code == 404
    wrong = await exchange(http, github, client_secret="wrong", code="c")
    assert wrong["error"] == "incorrect_client_credentials"


async def test_a_person_may_grant_fewer_scopes_than_were_asked_for(
    github: GitHub, alice: Person, http: httpx.AsyncClient
) -> None:
    back = await github.approve(ask_github(github, scope="repo admin:repo_hook"), alice, scopes=["read:org"])
    assert (await exchange(http, github, code=answer_of(back)["code"]))["scope"] == "read:org"


async def test_an_app_asks_whether_its_token_is_good(
    github: GitHub, alice: Person, http: httpx.AsyncClient
) -> None:
    code = answer_of(await github.approve(ask_github(github), alice))["code"]
    token = (await exchange(http, github, code=code))["access_token"]
    url = f"{github.api_url}/applications/{github.client_id}/token"
    auth = (github.client_id, github.client_secret)
    told = await http.post(url, json={"access_token": token}, auth=auth)
    assert told.json()["user"]["login"] == "alice" and told.json()["scopes"] == ["repo"]
    assert (await http.request("DELETE", url, json={"access_token": token}, auth=auth)).status_code == 204
    assert (await http.post(url, json={"access_token": token}, auth=auth)).status_code == 404
    assert (await http.get(f"{github.api_url}/user", headers=bearer(token))).status_code == 401


# GitHub's REST API


async def test_github_lists_in_pages_with_links(
    github: GitHub, alice: Person, http: httpx.AsyncClient
) -> None:
    bob = github.add_person("bob")
    github.add_org("acme", owners=[bob], members=[alice])
    for name in ("alice/one", "alice/two", "acme/tools", "bob/own"):
        github.add_repository(name, commits=0)
    github.add_repository("bob/shared", private=True, commits=0, access={alice: WRITE})
    headers = bearer(github.personal_token(alice))
    url: str | None = f"{github.api_url}/user/repos?per_page=3"
    names = []
    while url:
        page = await http.get(url, headers=headers)
        names += [one["full_name"] for one in page.json()]
        url = page.links.get("next", {}).get("url")
    assert names == ["acme/tools", "alice/one", "alice/two", "bob/shared"]
    mine = await http.get(f"{github.api_url}/user/repos?affiliation=owner", headers=headers)
    assert [one["permissions"]["admin"] for one in mine.json()] == [True, True]
    assert github.count("per_page=3") == 2


async def test_without_the_scope_a_private_repository_is_not_there(
    github: GitHub, alice: Person, garden: Repository, http: httpx.AsyncClient
) -> None:
    few = bearer(github.personal_token(alice, ["public_repo"]))
    assert (await http.get(f"{github.api_url}/user/repos", headers=few)).json() == []
    assert (await http.get(f"{github.api_url}/repos/alice/garden", headers=few)).status_code == 404
    assert (await http.get(f"{github.api_url}/user/orgs", headers=few)).status_code == 403
    fine = await http.get(
        f"{github.api_url}/repos/alice/garden", headers=bearer(github.fine_grained_token(alice))
    )
    assert fine.status_code == 200 and "x-oauth-scopes" not in fine.headers
    assert (await http.get(f"{github.api_url}/user", headers=bearer("gho_wrong"))).status_code == 401


async def test_an_unchanged_answer_costs_nothing_at_github(
    github: GitHub, alice: Person, garden: Repository, http: httpx.AsyncClient
) -> None:
    headers = bearer(github.personal_token(alice))
    first = await http.get(f"{github.api_url}/user/repos", headers=headers)
    again = await http.get(
        f"{github.api_url}/user/repos", headers=headers | {"If-None-Match": first.headers["etag"]}
    )
    assert again.status_code == 304
    assert again.headers["x-ratelimit-used"] == first.headers["x-ratelimit-used"] == "1"
    garden.commit()
    moved = await http.get(
        f"{github.api_url}/user/repos", headers=headers | {"If-None-Match": first.headers["etag"]}
    )
    assert moved.status_code in (200, 304)  # its times are whole seconds


async def test_github_says_when_to_come_back(github: GitHub, alice: Person, http: httpx.AsyncClient) -> None:
    headers = bearer(github.personal_token(alice))
    github.secondary_limit(retry_after=7)
    busy = await http.get(f"{github.api_url}/user", headers=headers)
    assert (busy.status_code, busy.headers["retry-after"]) == (403, "7")
    github.exhaust(alice)
    full = await http.get(f"{github.api_url}/user", headers=headers)
    assert (full.status_code, full.headers["x-ratelimit-remaining"]) == (403, "0")
    assert int(full.headers["x-ratelimit-reset"]) > datetime.now(UTC).timestamp()
    assert (await http.get(f"{github.api_url}/rate_limit", headers=headers)).status_code == 200
    github.advance(3601)
    assert (await http.get(f"{github.api_url}/user", headers=headers)).status_code == 200


async def test_an_old_name_leads_to_the_repository_until_another_takes_it(
    github: GitHub, alice: Person, garden: Repository, http: httpx.AsyncClient
) -> None:
    headers = bearer(github.personal_token(alice))
    github.rename(garden, "park")
    old = await http.get(f"{github.api_url}/repos/alice/garden", headers=headers)
    assert (old.status_code, old.headers["location"]) == (301, f"{github.api_url}/repositories/{garden.id}")
    assert (await http.get(old.headers["location"], headers=headers)).json()["full_name"] == "alice/park"
    other = github.add_repository("alice/garden")
    assert other.id != garden.id
    assert (await http.get(f"{github.api_url}/repos/alice/garden", headers=headers)).json()["id"] == other.id


async def test_a_takedown_is_451_in_the_api_and_403_for_git(
    github: GitHub, alice: Person, garden: Repository, http: httpx.AsyncClient
) -> None:
    token = github.personal_token(alice)
    github.block(garden)
    assert (await http.get(f"{github.api_url}/repos/alice/garden", headers=bearer(token))).status_code == 451
    assert b"403" in await git("ls-remote", with_token(garden.url, token), fails=True)


async def test_a_repository_is_made_at_github(github: GitHub, alice: Person, http: httpx.AsyncClient) -> None:
    headers = bearer(github.personal_token(alice, ["public_repo"]))
    made = await http.post(f"{github.api_url}/user/repos", headers=headers, json={"name": "new"})
    assert made.status_code == 201 and made.json()["clone_url"] == f"{github.url}/alice/new.git"
    twice = await http.post(f"{github.api_url}/user/repos", headers=headers, json={"name": "new"})
    assert twice.status_code == 422
    hidden = {"name": "hidden", "private": True}
    assert (await http.post(f"{github.api_url}/user/repos", headers=headers, json=hidden)).status_code == 404


async def test_an_organisation_with_a_single_sign_on_tells_nothing_to_other_tokens(
    github: GitHub, alice: Person, garden: Repository, http: httpx.AsyncClient
) -> None:
    org = github.add_org("acme", owners=[alice])
    tools = github.add_repository("acme/tools")
    github.sso.append(org)
    headers = bearer(github.personal_token(alice))
    listed = await http.get(f"{github.api_url}/user/repos", headers=headers)
    assert [one["id"] for one in listed.json()] == [garden.id]
    assert listed.headers["x-github-sso"] == f"partial-results; organizations={org.id}"
    one = await http.get(f"{github.api_url}/repositories/{tools.id}", headers=headers)
    assert one.status_code == 403 and one.headers["x-github-sso"].startswith("required")


# GitHub's hooks


def hook_of(receiver: Receiver, **config: str) -> dict[str, Any]:
    told = {"url": receiver.url, "content_type": "json", "secret": SECRET} | config
    return {"name": "web", "config": told, "events": ["push", "create", "delete", "repository"]}


async def hooked(http: httpx.AsyncClient, github: GitHub, garden: Repository, receiver: Receiver) -> str:
    """A hook that was made by alice; its address in the API."""
    headers = bearer(github.personal_token(github.people[0], ["admin:repo_hook"]))
    made = await http.post(
        f"{github.api_url}/repos/{garden.full_name}/hooks", headers=headers, json=hook_of(receiver)
    )
    assert made.status_code == 201, made.text
    await github.deliver()
    receiver.got.clear()
    return str(made.json()["url"])


async def test_github_tells_a_hook_what_was_pushed_and_signs_it(
    github: GitHub, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    await hooked(http, github, garden, receiver)
    before = garden.work.tip()
    after = garden.commit()
    garden.push("refs/tags/v1", after)
    await github.deliver()
    assert receiver.names("x-github-event") == ["push", "push", "create"]
    for headers, body in receiver.got:
        verify.github([SECRET], body, headers)
        with pytest.raises(BadSignature):
            verify.github(["another"], body, headers)
    event = events.parse("github", *receiver.got[0])
    (update,) = event.updates
    assert (update.name, update.before, update.after, update.by) == (
        b"refs/heads/main",
        before,
        after,
        "alice",
    )
    assert event.repository and event.repository.id == str(garden.id)


async def test_a_hook_begins_with_a_ping_and_is_never_shown_with_its_secret(
    github: GitHub, alice: Person, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    headers = bearer(github.personal_token(alice))
    url = f"{github.api_url}/repos/alice/garden/hooks"
    made = await http.post(url, headers=headers, json=hook_of(receiver, content_type="form"))
    await github.deliver()
    (got,) = receiver.got
    verify.github([SECRET], got[1], got[0])
    assert events.parse("github", *got).kind == "ping"
    assert SECRET not in made.text
    twice = await http.post(url, headers=headers, json=hook_of(receiver, content_type="form"))
    assert twice.status_code == 422
    assert twice.json()["errors"][0]["message"] == "Hook already exists on this repository"
    bare = {"config": {"url": receiver.url, "content_type": "json"}}
    changed = await http.patch(made.json()["url"], headers=headers, json=bare)
    assert "secret" not in changed.json()["config"]
    assert (await http.delete(made.json()["url"], headers=headers)).status_code == 204
    assert (await http.get(url, headers=headers)).json() == []


async def test_hooks_of_github_are_for_admins_with_a_scope_for_them(
    github: GitHub, alice: Person, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    bob = github.add_person("bob")
    github.add_repository("alice/open", access={bob: MAINTAIN})
    url = f"{github.api_url}/repos/alice/open/hooks"
    for token in (github.personal_token(bob), github.personal_token(alice, ["read:org"])):
        answer = await http.post(url, headers=bearer(token), json=hook_of(receiver))
        assert answer.status_code == 404
    reads = bearer(github.personal_token(alice, ["read:repo_hook"]))
    assert (await http.get(url, headers=reads)).status_code == 200
    assert (await http.post(url, headers=reads, json=hook_of(receiver))).status_code == 404


async def test_deliveries_of_github_are_kept_listed_and_sent_again(
    github: GitHub, alice: Person, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    url = await hooked(http, github, garden, receiver)
    headers = bearer(github.personal_token(alice))
    receiver.status = 500
    garden.commit()
    garden.commit()
    await github.deliver()
    page = await http.get(f"{url}/deliveries?per_page=1", headers=headers)
    (last,) = page.json()
    assert (last["status_code"], last["event"], last["redelivery"]) == (500, "push", False)
    rest = await http.get(page.links["next"]["url"], headers=headers)
    assert rest.json()[0]["id"] < last["id"]
    receiver.status = 202
    again = await http.post(f"{url}/deliveries/{last['id']}/attempts", headers=headers)
    assert again.status_code == 202
    await github.deliver()
    assert receiver.names("x-github-delivery")[-1] == last["guid"]
    one = await http.get(f"{url}/deliveries/{last['id']}", headers=headers)
    assert one.json()["request"]["payload"]["ref"] == "refs/heads/main"


async def test_more_than_three_tags_at_once_are_not_told_of_by_github(
    github: GitHub, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    await hooked(http, github, garden, receiver)
    for name in ("a", "b", "c", "d"):
        garden.work.tag(name)
    garden.work.commit("side")
    garden.pushed()
    await github.deliver()
    assert receiver.names("x-github-event") == ["push", "create"]


async def test_deliveries_get_lost_doubled_and_out_of_order(
    github: GitHub, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    await hooked(http, github, garden, receiver)
    github.drop()
    garden.commit()
    await github.deliver()
    assert receiver.got == [] and len(github.outbox.lost) == 1
    github.duplicate()
    garden.commit()
    await github.deliver()
    assert len(set(receiver.names("x-github-delivery"))) == 1 and len(receiver.got) == 2
    receiver.got.clear()
    github.hold()
    tips = [garden.commit(), garden.commit()]
    await github.deliver()
    assert receiver.got == []
    await github.release(reverse=True)
    assert [json.loads(body)["after"].encode() for _, body in receiver.got] == tips[::-1]


async def test_a_hundred_deliveries_arrive_at_once(
    github: GitHub, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    await hooked(http, github, garden, receiver)
    github.hold()
    for _ in range(100):
        garden.commit()
    await github.release(at_once=True)
    assert len(set(receiver.names("x-github-delivery"))) == 100


async def test_a_receiver_that_is_gone_is_a_delivery_without_an_answer(
    github: GitHub, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    url = await hooked(http, github, garden, receiver)
    garden.hooks[0].url = "http://127.0.0.1:1/nobody"
    garden.commit()
    await github.deliver()
    headers = bearer(github.personal_token(github.people[0]))
    (last, *_) = (await http.get(f"{url}/deliveries", headers=headers)).json()
    assert (last["status_code"], last["status"]) == (502, "failed to connect to host")


async def test_github_tells_of_renames_transfers_and_the_end(
    github: GitHub, garden: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    await hooked(http, github, garden, receiver)
    bob = github.add_person("bob")
    github.rename(garden, "park")
    github.make_private(garden, False)
    github.transfer(garden, bob)
    github.delete(garden)
    await github.deliver()
    told = [json.loads(body) for _, body in receiver.got]
    assert [one["action"] for one in told] == ["renamed", "publicized", "transferred", "deleted"]
    assert told[0]["changes"]["repository"]["name"]["from"] == "garden"
    assert events.parse("github", *receiver.got[2]).repository == events.Repository(
        str(garden.id), "bob/park", "public", f"{github.url}/bob/park.git"
    )


# Git at GitHub


async def test_git_is_let_in_with_a_token_and_a_push_is_told(
    github: GitHub,
    alice: Person,
    garden: Repository,
    receiver: Receiver,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    await hooked(http, github, garden, receiver)
    url = with_token(garden.url, github.personal_token(alice), "x-access-token")
    await git("clone", "-q", url, tmp_path / "clone")
    await git("-C", tmp_path / "clone", "commit", "-q", "--allow-empty", "-m", "by hand")
    await git("-C", tmp_path / "clone", "push", "-q", "origin", "HEAD", "HEAD:refs/heads/side")
    await github.deliver()
    refs = refs_of(garden.path)
    updates = [update for got in receiver.got for update in events.parse("github", *got).updates]
    assert {update.name: update.after for update in updates if update.after} == {
        name: target for name, target in refs.items() if name != b"HEAD"
    }
    after = garden.commit()  # goes on from what was pushed
    assert garden.work.git("rev-parse", f"{after.decode()}^").strip() == refs[updates[0].name]


async def test_git_without_the_right_token_is_refused_as_github_does(
    github: GitHub, alice: Person, garden: Repository
) -> None:
    bob = github.add_person("bob")
    open_ = github.add_repository("alice/open")
    assert await git("ls-remote", open_.url)
    assert b"could not read Username" in await git("ls-remote", garden.url, fails=True)
    for token, words in (
        ("ghp_wrong", b"Authentication failed"),
        (github.personal_token(bob), b"not found"),
        (github.personal_token(alice, ["public_repo"]), b"not found"),
    ):
        assert words in await git("ls-remote", with_token(garden.url, token), fails=True)
    push = ("-C", garden.path, "push", with_token(open_.url, github.personal_token(bob)), "main:x")
    assert b"403" in await git(*push, fails=True)


async def test_workflow_files_are_refused_ref_by_ref_from_a_token_without_their_scope(
    github: GitHub, alice: Person, garden: Repository
) -> None:
    new = github.add_repository("alice/new", private=True)
    garden.commit("main", {"a": b"1"})
    garden.commit("ci", {".github/workflows/ci.yml": b"on: push\n"})

    async def push(token: str, *refs: str) -> bytes:
        words = ("git", "-C", str(garden.path), "push", "--force", with_token(new.url, token), *refs)
        child = await asyncio.create_subprocess_exec(*words, env=ENVIRONMENT, stderr=subprocess.PIPE)
        _, said = await child.communicate()
        return said if child.returncode else b""

    without = github.personal_token(alice, ["repo"])
    said = await push(without, "main", "ci")
    assert b"refusing to allow a Personal Access Token to create or update workflow" in said
    assert b"`.github/workflows/ci.yml` without `workflow` scope" in said
    refs = refs_of(new.path)
    assert refs[RefName(b"refs/heads/main")] == garden.work.tip("main") and b"refs/heads/ci" not in refs
    assert not await push(github.personal_token(alice, ["repo", "workflow"]), "ci")
    garden.commit("ci", {"b": b"2"})
    assert not await push(without, "ci", "ci:also")  # the same file is on a branch there
    tip = garden.commit("ci", {".github/workflows/ci.yml": b"on: never\n"})
    assert b"refusing to allow" in await push(without, "ci")
    assert not await push(github.fine_grained_token(alice), "ci")
    assert refs_of(new.path)[RefName(b"refs/heads/ci")] == tip
    assert not await push(without, ":also")


async def test_git_follows_a_renamed_repository(github: GitHub, alice: Person, tmp_path: Path) -> None:
    repository = github.add_repository("alice/open")
    old = repository.url
    github.rename(repository, "shut")
    asked = ("-c", "http.followRedirects=false", "ls-remote", old)
    assert b"301" in await git(*asked, fails=True)
    assert (await git("ls-remote", old)).split()[0] == repository.work.tip()


# OAuth at GitLab

BACK_LAB = "http://127.0.0.1:8123/auth/gitlab/callback"


def ask_gitlab(gitlab: GitLab, **more: str) -> str:
    asked = {
        "client_id": gitlab.client_id,
        "redirect_uri": BACK_LAB,
        "response_type": "code",
        "state": "s",
        "scope": "read_user",
    }
    return f"{gitlab.url}/oauth/authorize?{urlencode(asked | more)}"


async def tokens_of(http: httpx.AsyncClient, gitlab: GitLab, **fields: str) -> httpx.Response:
    form = {
        "client_id": gitlab.client_id,
        "client_secret": gitlab.client_secret,
        "grant_type": "authorization_code",
        "redirect_uri": BACK_LAB,
    }
    return await http.post(f"{gitlab.url}/oauth/token", data=form | fields)


async def test_tokens_of_gitlab_run_out_and_are_refreshed_once(
    gitlab: GitLab, anna: Person, http: httpx.AsyncClient
) -> None:
    verifier, challenge = pkce()
    url = ask_gitlab(gitlab, code_challenge=challenge, code_challenge_method="S256")
    code = answer_of(await gitlab.approve(url, anna))["code"]
    assert (await tokens_of(http, gitlab, code=code)).json()["error"] == "invalid_grant"
    first = (await tokens_of(http, gitlab, code=code, code_verifier=verifier)).json()
    assert first["expires_in"] == 7200
    assert (await tokens_of(http, gitlab, code=code, code_verifier=verifier)).status_code == 400
    user = f"{gitlab.api_url}/user"
    assert (await http.get(user, headers=bearer(first["access_token"]))).json()["id"] == anna.id
    gitlab.advance(7201)
    late = await http.get(user, headers=bearer(first["access_token"]))
    assert (late.status_code, late.json()["error"]) == (401, "invalid_token")
    fields = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = (await tokens_of(http, gitlab, **fields)).json()
    assert (await http.get(user, headers=bearer(second["access_token"]))).status_code == 200
    again = await tokens_of(http, gitlab, **fields)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    info = await http.get(f"{gitlab.url}/oauth/token/info", headers=bearer(second["access_token"]))
    assert info.json()["resource_owner_id"] == anna.id


async def test_gitlab_refuses_other_callbacks_scopes_and_secrets(
    gitlab: GitLab, anna: Person, http: httpx.AsyncClient
) -> None:
    for wrong in (ask_gitlab(gitlab, redirect_uri=BACK_LAB + "/x"), ask_gitlab(gitlab, client_id="no")):
        assert (await http.get(wrong)).status_code in (400, 401)
    gitlab.app_scopes = ("read_user",)
    back = await gitlab.approve(ask_gitlab(gitlab, scope="api"), anna)
    assert answer_of(back)["error"] == "invalid_scope"
    assert answer_of(await gitlab.deny(ask_gitlab(gitlab), anna))["error"] == "access_denied"
    assert (await tokens_of(http, gitlab, client_secret="wrong", code="c")).status_code == 401


# GitLab's REST API


async def test_gitlab_lists_by_offset_and_by_keyset(
    gitlab: GitLab, anna: Person, http: httpx.AsyncClient
) -> None:
    ben = gitlab.add_person("ben")
    gitlab.add_org("acme", owners=[ben], members=[anna])
    gitlab.add_org("acme/deep", owners=[ben])
    ids = [gitlab.add_repository(f"anna/p{n}", private=True, commits=0).id for n in range(5)]
    tools = gitlab.add_repository("acme/deep/tools", private=True, commits=0)
    gitlab.add_repository("ben/own", private=True, commits=0)
    headers = {"PRIVATE-TOKEN": gitlab.personal_token(anna, ["read_api"])}
    url = f"{gitlab.api_url}/projects?membership=true&per_page=2"
    page = await http.get(url, headers=headers)
    assert (page.headers["x-next-page"], page.headers["x-total"]) == ("2", "6")
    found = []
    next_: str | None = url + "&pagination=keyset&order_by=id&sort=asc"
    while next_:
        page = await http.get(next_, headers=headers)
        found += [one["id"] for one in page.json()]
        next_ = page.links.get("next", {}).get("url")
    assert found == [*ids, tools.id]
    own = await http.get(f"{gitlab.api_url}/projects?membership=true&min_access_level=40", headers=headers)
    assert {one["id"] for one in own.json()} == set(ids)
    told = await http.get(f"{gitlab.api_url}/projects/{quote('acme/deep/tools', safe='')}", headers=headers)
    assert told.json()["permissions"]["group_access"]["access_level"] == 30
    groups = await http.get(f"{gitlab.api_url}/groups", headers=headers)
    assert [one["full_path"] for one in groups.json()] == ["acme", "acme/deep"]
    deep = f"{gitlab.api_url}/groups/acme/projects"
    assert (await http.get(deep, headers=headers)).json() == []
    assert len((await http.get(deep + "?include_subgroups=true", headers=headers)).json()) == 1


async def test_gitlab_names_the_scope_that_is_missing(
    gitlab: GitLab, anna: Person, meadow: Repository, http: httpx.AsyncClient
) -> None:
    few = bearer(gitlab.personal_token(anna, ["read_user"]))
    answer = await http.get(f"{gitlab.api_url}/projects/{meadow.id}", headers=few)
    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")
    token = gitlab.personal_token(anna, ["read_api"])
    me = await http.get(f"{gitlab.api_url}/personal_access_tokens/self", headers=bearer(token))
    assert me.json()["scopes"] == ["read_api"]
    gitlab.revoke(token)
    gone = await http.get(f"{gitlab.api_url}/user", headers=bearer(token))
    assert (gone.status_code, gone.json()["error"]) == (401, "invalid_token")
    unknown = await http.get(f"{gitlab.api_url}/user", headers=bearer("glpat-unknown"))
    assert unknown.json() == {"message": "401 Unauthorized"}


async def test_a_moved_project_is_redirected_in_the_api_and_served_to_git(
    gitlab: GitLab, anna: Person, meadow: Repository, http: httpx.AsyncClient
) -> None:
    token, old = gitlab.personal_token(anna), meadow.url
    gitlab.rename(meadow, "field")
    url = f"{gitlab.api_url}/projects/anna%2Fmeadow"
    moved = await http.get(url, headers=bearer(token))
    assert (moved.status_code, moved.headers["location"]) == (301, f"{gitlab.api_url}/projects/{meadow.id}")
    assert (await http.post(f"{url}/hooks", headers=bearer(token), json={})).status_code == 405
    asked = ("-c", "http.followRedirects=false", "ls-remote", with_token(old, token))
    assert (await git(*asked)).split()[0] == meadow.work.tip()


async def test_gitlab_limits_requests_in_a_minute(
    gitlab: GitLab, anna: Person, http: httpx.AsyncClient
) -> None:
    headers = bearer(gitlab.personal_token(anna))
    gitlab.exhaust(anna)
    full = await http.get(f"{gitlab.api_url}/user", headers=headers)
    assert (full.status_code, full.headers["ratelimit-remaining"]) == (429, "0")
    assert 1 <= int(full.headers["retry-after"]) <= 60
    gitlab.advance(61)
    assert (await http.get(f"{gitlab.api_url}/user", headers=headers)).status_code == 200


async def test_a_project_is_made_at_gitlab(gitlab: GitLab, anna: Person, http: httpx.AsyncClient) -> None:
    headers = bearer(gitlab.personal_token(anna))
    group = gitlab.add_org("acme", owners=[anna])
    for more, path in (({}, "anna/new"), ({"namespace_id": group.id}, "acme/new")):
        made = await http.post(f"{gitlab.api_url}/projects", headers=headers, json={"name": "new"} | more)
        assert (made.status_code, made.json()["path_with_namespace"]) == (201, path)
    twice = await http.post(f"{gitlab.api_url}/projects", headers=headers, json={"path": "new"})
    assert (twice.status_code, twice.json()["message"]["path"]) == (400, ["has already been taken"])


# GitLab's hooks


async def lab_hook(
    http: httpx.AsyncClient, gitlab: GitLab, project: Repository, url: str, **more: Any
) -> dict[str, Any]:
    """A hook that its owner made."""
    told = {"url": url, "push_events": True, "tag_push_events": True, "token": SECRET} | more
    headers = bearer(gitlab.personal_token(gitlab.people[0]))
    made = await http.post(f"{gitlab.api_url}/projects/{project.id}/hooks", headers=headers, json=told)
    assert made.status_code == 201, made.text
    hook: dict[str, Any] = made.json()
    return hook


async def test_gitlab_tells_a_hook_what_was_pushed_and_signs_it(
    gitlab: GitLab, meadow: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    hook = await lab_hook(http, gitlab, meadow, receiver.url, signing_token=SIGNING)
    assert hook["signing_token_present"] and SIGNING not in json.dumps(hook)
    before = meadow.work.tip()
    after = meadow.commit()
    meadow.push("refs/tags/v1", after)
    await gitlab.deliver()
    assert receiver.names("x-gitlab-event") == ["Push Hook", "Tag Push Hook"]
    for headers, body in receiver.got:
        verify.gitlab([SIGNING], body, headers, datetime.now(UTC))
        assert headers["webhook-id"] == headers["idempotency-key"]
    (update,) = events.parse("gitlab", *receiver.got[0]).updates
    assert (update.before, update.after, update.by) == (before, after, "anna")


async def test_a_gitlab_without_signing_ignores_the_field(
    gitlab: GitLab, meadow: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    gitlab.signing = False
    hook = await lab_hook(http, gitlab, meadow, receiver.url, signing_token=SIGNING)
    assert "signing_token_present" not in hook
    meadow.commit()
    await gitlab.deliver()
    ((headers, body),) = receiver.got
    assert "webhook-signature" not in headers
    verify.gitlab([SECRET], body, headers, datetime.now(UTC))


async def test_more_than_three_refs_at_once_are_not_told_of_by_gitlab(
    gitlab: GitLab, meadow: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    await lab_hook(http, gitlab, meadow, receiver.url)
    for name in ("a", "b", "c", "d"):
        meadow.work.commit(name)
    meadow.pushed()
    await gitlab.deliver()
    assert receiver.got == []
    meadow.work.commit("e")
    await gitlab.deliver()  # notices what nobody told it
    assert len(receiver.got) == 1


async def test_gitlab_disables_a_hook_that_fails_four_times_in_a_row(
    gitlab: GitLab, anna: Person, meadow: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    hook = await lab_hook(http, gitlab, meadow, receiver.url)
    url = f"{gitlab.api_url}/projects/{meadow.id}/hooks/{hook['id']}"
    headers = bearer(gitlab.personal_token(anna))
    receiver.status = 500
    for _ in range(5):
        meadow.commit()
    await gitlab.deliver()
    assert len(receiver.got) == 4
    assert (await http.get(url, headers=headers)).json()["alert_status"] == "temporarily_disabled"
    logged = (await http.get(f"{url}/events?status=server_failure", headers=headers)).json()
    assert [one["response_status"] for one in logged] == ["500"] * 4
    assert SECRET not in json.dumps(logged)
    receiver.status = 200
    tested = await http.post(f"{url}/test/push_events", headers=headers)
    assert tested.status_code == 201
    assert (await http.get(url, headers=headers)).json()["alert_status"] == "executable"
    gitlab.disable_hook(meadow.hooks[0], for_good=True)
    assert (await http.get(url, headers=headers)).json()["alert_status"] == "disabled"


async def test_another_url_of_a_gitlab_hook_forgets_its_secret(
    gitlab: GitLab, anna: Person, meadow: Repository, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    hook = await lab_hook(http, gitlab, meadow, receiver.url + "/old")
    url = f"{gitlab.api_url}/projects/{meadow.id}/hooks/{hook['id']}"
    headers = bearer(gitlab.personal_token(anna))
    assert not (await http.put(url, headers=headers, json={"url": receiver.url})).json()["token_present"]
    assert (await http.delete(url, headers=headers)).status_code == 204
    assert (await http.delete(url, headers=headers)).status_code == 404


async def test_hooks_of_gitlab_are_for_maintainers_and_take_whole_keys(
    gitlab: GitLab, anna: Person, receiver: Receiver, http: httpx.AsyncClient
) -> None:
    ben = gitlab.add_person("ben")
    project = gitlab.add_repository("anna/open", access={ben: WRITE})
    url = f"{gitlab.api_url}/projects/{project.id}/hooks"
    told = {"url": receiver.url}
    dev = await http.post(url, headers=bearer(gitlab.personal_token(ben)), json=told)
    assert dev.status_code == 403
    headers = bearer(gitlab.personal_token(anna))
    short = told | {"signing_token": "whsec_" + b64encode(b"short").decode()}
    assert (await http.post(url, headers=headers, json=short)).status_code == 422
    assert (await http.post(url, headers=headers, json={"url": "ftp://x"})).status_code == 422
    gitlab.local_hooks = False
    assert (await http.post(url, headers=headers, json=told)).json() == {"error": "Invalid url given"}


# Git at GitLab


async def test_git_is_let_in_at_gitlab_by_scope(gitlab: GitLab, anna: Person, meadow: Repository) -> None:
    good = gitlab.personal_token(anna, ["read_repository"])
    assert await git("ls-remote", with_token(meadow.url, good))
    for token, words in (
        (gitlab.personal_token(anna, ["read_api"]), b"403"),
        (gitlab.personal_token(gitlab.add_person("ben")), b"not found"),
        ("glpat-wrong", b"Authentication failed"),
    ):
        assert words in await git("ls-remote", with_token(meadow.url, token), fails=True)
    push = ("-C", meadow.path, "push", with_token(meadow.url, good), "main:x")
    assert b"403" in await git(*push, fails=True)


# Both


@pytest.mark.parametrize("kind", [GitHub, GitLab])
async def test_a_double_fails_and_is_slow_when_it_is_told_to(
    kind: type[H], make_forge: Callable[..., Any], http: httpx.AsyncClient
) -> None:
    host = await make_forge(kind, "forge")
    token = host.personal_token(host.add_person("alice"))
    user = f"{host.api_url}/user"
    host.fail(503, times=2, piece="/user")
    statuses = [(await http.get(user, headers=bearer(token))).status_code for _ in range(3)]
    assert statuses == [503, 503, 200]
    host.slow(60, piece="/user")
    with pytest.raises(httpx.ReadTimeout):
        await http.get(user, headers=bearer(token), timeout=httpx.Timeout(60, read=0.05))
    host.forget(host.people[0])
    assert (await http.get(user, headers=bearer(token))).status_code == 401


async def test_a_token_can_end_in_the_middle_of_a_fetch(
    github: GitHub, alice: Person, garden: Repository
) -> None:
    token = github.personal_token(alice)
    github.when("/git-upload-pack", lambda: github.expire(token))  # after it was let in to info/refs
    said = await git("clone", "-q", "--bare", with_token(garden.url, token), garden.path / "x", fails=True)
    assert b"Authentication failed" in said or b"401" in said


async def test_a_repository_can_be_replaced_by_another_of_its_name(
    gitlab: GitLab, meadow: Repository
) -> None:
    other = gitlab.replace(meadow)
    assert other.full_name == meadow.full_name and other.id != meadow.id
    assert other.work.tip() != meadow.work.tip()


async def test_a_double_speaks_tls(make_forge: Callable[..., Any], tmp_path: Path) -> None:
    github: GitHub = await make_forge(GitHub, "secure", tls=True)
    alice = github.add_person("alice")
    repository = github.add_repository("alice/garden")
    ca = github.room / "ca.pem"
    listed = await git("-c", f"http.sslCAInfo={ca}", "ls-remote", repository.url)
    assert Target(listed.split()[0]) == repository.work.tip()
    assert "code" in answer_of(await github.approve(ask_github(github), alice))
