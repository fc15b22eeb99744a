"""GitHub is asked as its documentation says, and whatever it answers becomes a value or an error of ours."""

import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import pytest_asyncio

from mirror.core.config import App
from mirror.core.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    OurFault,
    RateLimited,
    Refused,
    RemoteGone,
)
from mirror.forges import http, oauth
from mirror.forges.contract import Forge, Mark, Owner, Page, Purpose, SpentGrant, marked, marks_from_json
from mirror.forges.contract import marks_to_json as kept
from mirror.forges.open import Forges
from tests.parts.forges import ADMIN, GitHub, Person, Repository
from tests.parts.forges.host import H

BACK = "http://127.0.0.1:8000/auth/github/callback"


def app_of(host: GitHub, **other: str) -> App:
    """The double as the settings would name it."""
    known = {"client_id": host.client_id, "client_secret": host.client_secret} | other
    return App("github", host.url, host.api_url, **known)


@pytest_asyncio.fixture
async def forges(github: GitHub) -> AsyncIterator[Forges]:
    found = Forges([app_of(github)], allow_private=True, patience=0.5)
    yield found
    await found.close()


@pytest.fixture
def forge(forges: Forges, github: GitHub) -> Forge:
    return forges.at("github", urlsplit(github.url).netloc)


@pytest.fixture
def alice(github: GitHub) -> Person:
    return github.add_person("alice", "Alice Liddell")


@pytest.fixture
def token(github: GitHub, alice: Person) -> str:
    return github.personal_token(alice, ("repo", "read:org"))


@pytest.fixture
def garden(github: GitHub, alice: Person) -> Repository:
    return github.add_repository("alice/garden", private=True)


async def pages(forge: Forge, token: str, marks: Mapping[str, Mark] | None = None) -> list[Page]:
    return [page async for page in forge.repositories(token, marks or {})]


def asked(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


# OAuth


async def test_a_consent_becomes_tokens_by_pkce(forge: Forge, github: GitHub, alice: Person) -> None:
    state, verifier = oauth.new_state(), oauth.new_verifier()
    url = forge.authorize_url(state, verifier, BACK, Purpose.READ)
    sent = asked(url)
    assert verifier not in url and github.client_secret not in url
    assert (sent["state"], sent["scope"], sent["code_challenge_method"]) == (state, "read:org repo", "S256")
    back = asked(await github.approve(url, alice))
    assert back["state"] == state
    tokens = await forge.exchange(back["code"], verifier, BACK)
    assert set(tokens.scopes) == {"read:org", "repo"} and tokens.refresh is None and tokens.expires_at is None
    assert tokens.access not in repr(tokens)
    assert (await forge.account(tokens.access)).login == "alice"


async def test_a_code_is_good_for_one_use_and_one_verifier(
    forge: Forge, github: GitHub, alice: Person
) -> None:
    verifier = oauth.new_verifier()
    url = forge.authorize_url("s", verifier, BACK, Purpose.READ)
    code = asked(await github.approve(url, alice))["code"]
    with pytest.raises(SpentGrant):
        await forge.exchange(code, oauth.new_verifier(), BACK)
    await forge.exchange(code, verifier, BACK)
    with pytest.raises(SpentGrant, match="connect again"):
        await forge.exchange(code, verifier, BACK)


async def test_an_error_with_status_200_is_an_error(github: GitHub, alice: Person) -> None:
    wrong = Forges([app_of(github, client_secret="not the secret")], allow_private=True)
    forge = wrong.of(wrong.apps[0])
    verifier = oauth.new_verifier()
    code = asked(await github.approve(forge.authorize_url("s", verifier, BACK, Purpose.READ), alice))["code"]
    with pytest.raises(OurFault, match="GITHUB_CLIENT_ID and GITHUB_CLIENT_SECRET") as raised:
        await forge.exchange(code, verifier, BACK)
    await wrong.close()
    assert "not the secret" not in str(raised.value)


async def test_a_client_id_that_github_does_not_know_is_our_fault(forge: Forge, github: GitHub) -> None:
    github.fail(404, piece="access_token", body='{"error": "Not Found"}')
    with pytest.raises(OurFault, match="GITHUB_CLIENT_ID"):
        await forge.exchange("code", oauth.new_verifier(), BACK)


async def test_a_cancelled_consent_is_one_clear_line(forge: Forge, github: GitHub, alice: Person) -> None:
    url = await github.deny(forge.authorize_url("s", oauth.new_verifier(), BACK, Purpose.READ), alice)
    error = oauth.explained(forge.app, asked(url)["error"])
    assert isinstance(error, Refused) and "nothing was connected" in str(error)


@pytest.mark.parametrize(
    "word, kind",
    [
        ("bad_verification_code", SpentGrant),
        ("invalid_grant", SpentGrant),
        ("redirect_uri_mismatch", OurFault),
        ("invalid_scope", OurFault),
        ("temporarily_unavailable", NetworkError),
        ("application_suspended", Refused),
        ("something_new", BadCredentials),
        ("<script>alert(1)</script>", BadCredentials),
    ],
)
def test_every_error_of_oauth_has_a_class(word: str, kind: type[EverrefError]) -> None:
    error = oauth.explained(App("github", "https://github.com", "https://api.github.com"), word)
    assert type(error) is kind and "<" not in str(error)


@pytest.mark.parametrize("answer", [None, [], {}, {"access_token": 5}, {"access_token": ""}])
def test_no_token_is_made_up(answer: object) -> None:
    with pytest.raises(Corrupt):
        oauth.tokens(App("github", "https://github.com", ""), 200, answer, datetime.now(UTC))


def test_nobody_is_sent_to_a_host_where_we_are_not_registered() -> None:
    forge = Forges([], allow_private=False).at("github", "ghe.example.com")
    with pytest.raises(Refused, match="personal access token"):
        forge.authorize_url("s", oauth.new_verifier(), BACK, Purpose.SIGN_IN)


async def test_the_grant_of_others_goes_on_when_one_token_ends(
    forge: Forge, github: GitHub, alice: Person
) -> None:
    tokens = []
    for _ in range(2):
        verifier = oauth.new_verifier()
        back = await github.approve(forge.authorize_url("s", verifier, BACK, Purpose.READ), alice)
        tokens.append((await forge.exchange(asked(back)["code"], verifier, BACK)).access)
    await forge.revoke(tokens[0])
    await forge.revoke(tokens[0])
    with pytest.raises(BadCredentials):
        await forge.account(tokens[0])
    assert (await forge.account(tokens[1])).login == "alice"


# Whose token, and what it may do


async def test_scopes_are_those_that_were_granted(forge: Forge, github: GitHub, alice: Person) -> None:
    account = await forge.account(github.personal_token(alice, ("repo", "gist")))
    assert (account.id, account.login, account.name) == (str(alice.id), "alice", "Alice Liddell")
    assert set(account.scopes) == {"repo", "gist"} and not account.fine_grained
    assert forge.missing_scopes(account.scopes, Purpose.READ) == ("read:org",)


async def test_a_fine_grained_token_does_not_tell_its_scopes(
    forge: Forge, github: GitHub, alice: Person
) -> None:
    account = await forge.account(github.fine_grained_token(alice))
    assert account.fine_grained and account.scopes == ()


def test_a_scope_brings_those_within_it(forge: Forge) -> None:
    assert forge.missing_scopes(("admin:org", "repo"), Purpose.CREATE) == ()
    assert forge.missing_scopes(("public_repo",), Purpose.READ) == ("read:org", "repo")
    assert forge.missing_scopes((), Purpose.SIGN_IN) == ()


# Listing


async def test_every_page_is_listed_with_what_it_says(
    forge: Forge, github: GitHub, alice: Person, token: str
) -> None:
    github.most = 2
    bob = github.add_person("bob")
    github.add_org("acme", owners=[bob], members=[alice])
    for name in ("alice/one", "acme/two", "bob/three"):
        github.add_repository(name, private=True, access={alice: ADMIN} if name == "bob/three" else None)
    github.add_repository("alice/four", archived=True)
    github.add_repository("bob/hidden", private=True)
    found = await pages(forge, token)
    items = {item.full_name: item for page in found for item in page.items}
    assert [len(page.items) for page in found] == [2, 2] and found[-1].next is None
    assert set(items) == {"alice/one", "acme/two", "bob/three", "alice/four"}
    assert {name for name, item in items.items() if item.private} == {"alice/one", "acme/two", "bob/three"}
    assert {name for name, item in items.items() if item.admin} == {"alice/one", "bob/three", "alice/four"}
    assert [name for name, item in items.items() if item.archived] == ["alice/four"]
    one = items["alice/one"]
    assert one.clone_url == f"{github.url}/alice/one.git" and one.pushed_at and one.bytes is not None


async def test_a_listing_that_did_not_change_costs_nothing(
    forge: Forge, github: GitHub, alice: Person, token: str
) -> None:
    github.most = 2
    for number in range(5):
        github.add_repository(f"alice/{number}")
    first = await pages(forge, token)
    marks = marks_from_json(kept(marked(first)))
    spent = github.spent(alice.id, timedelta(hours=1))
    again = await pages(forge, token, marks)
    assert github.spent(alice.id, timedelta(hours=1)) == spent
    assert all(page.not_modified and not page.items for page in again)
    assert [page.ids for page in again] == [page.ids for page in first]
    github.add_repository("alice/new")
    third = await pages(forge, token, marks)
    assert [page.not_modified for page in third] == [True, True, False]
    assert [item.full_name for item in third[-1].items] == ["alice/4", "alice/new"]


async def test_organisations_that_want_a_single_sign_on_are_named(
    forge: Forge, github: GitHub, token: str
) -> None:
    github.fail(
        200, piece="/user/repos", headers={"X-GitHub-SSO": "partial-results; organizations=21,20"}, body="[]"
    )
    assert (await pages(forge, token))[0].hidden == ("21", "20")


async def test_a_next_page_at_another_host_is_not_followed(forge: Forge, github: GitHub, token: str) -> None:
    link = '<https://evil.example.com/user/repos?page=2>; rel="next"'
    github.fail(200, piece="/user/repos", headers={"Link": link}, body="[]")
    with pytest.raises(Corrupt, match="another host"):
        await pages(forge, token)


async def test_pages_in_a_circle_end(forge: Forge, github: GitHub, token: str) -> None:
    url = f"{github.api_url}/user/repos?per_page=100&sort=created&direction=asc"
    github.fail(200, times=9, piece="/user/repos", headers={"Link": f'<{url}>; rel="next"'}, body="[]")
    assert len(await pages(forge, token)) == 1


@pytest.mark.parametrize(
    "told", ["/etc/repo", "file:///etc", "javascript:alert(1)", "https://evil.example/x", "http://[", None, 5]
)
async def test_a_repository_is_at_its_forge_whatever_that_says(
    forge: Forge, github: GitHub, token: str, told: object
) -> None:
    body = json.dumps([{"id": 1, "full_name": "a b/c?d", "clone_url": told, "html_url": told}])
    github.fail(200, piece="/user/repos", body=body)
    [found] = (await pages(forge, token))[0].items
    assert found.clone_url == f"{github.url}/a%20b/c%3Fd.git" and found.web_url == f"{github.url}/a%20b/c%3Fd"
    assert found.private and not found.admin


# Limits


async def test_a_secondary_limit_is_kept_without_asking_again(
    forge: Forge, github: GitHub, token: str
) -> None:
    github.secondary_limit(retry_after=60)
    before = datetime.now(UTC)
    for _ in range(3):
        with pytest.raises(RateLimited) as raised:
            await forge.account(token)
        assert timedelta(seconds=58) < raised.value.retry_at - before < timedelta(seconds=70)
    assert github.count("/user") == 1 and not raised.value.permanent


async def test_a_short_limit_is_waited_for(forge: Forge, github: GitHub, token: str) -> None:
    github.secondary_limit(retry_after=0)
    assert (await forge.account(token)).login == "alice"


async def test_the_limit_of_one_token_is_not_that_of_another(
    forge: Forge, github: GitHub, alice: Person, token: str
) -> None:
    github.exhaust(alice)
    with pytest.raises(RateLimited) as raised:
        await forge.account(token)
    assert raised.value.retry_at > datetime.now(UTC) + timedelta(minutes=50)
    bob = github.add_person("bob")
    assert (await forge.account(github.personal_token(bob, ("repo",)))).login == "bob"


@pytest.mark.parametrize(
    "status, headers, body, seconds",
    [
        (403, {"retry-after": "30"}, "", 30),
        (429, {"retry-after": "Thu, 01 Jan 2026 00:01:40 GMT"}, "", 100),
        (503, {"retry-after": "30"}, "", 30),
        (503, {}, "", None),
        (429, {}, "", 60),
        (403, {}, '{"message": "You have exceeded a secondary rate limit"}', 60),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1767225720"}, "", 120),
        (403, {"x-ratelimit-remaining": "7"}, '{"message": "Forbidden"}', None),
        (
            403,
            {"ratelimit-limit": "5", "ratelimit-remaining": "0", "ratelimit-reset": "1767225720"},
            "",
            None,
        ),
        (200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1767225720"}, "", None),
    ],
)
def test_how_long_a_forge_wants_to_be_left_alone(
    status: int, headers: dict[str, str], body: str, seconds: int | None
) -> None:
    """Its clock is an hour ahead of ours: what counts is how far its reset is from its own Date."""
    ours = datetime(2025, 12, 31, 23, 0, tzinfo=UTC)
    theirs = {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}
    answer = http.Answer(status, httpx.Headers(headers | theirs), http._json(body.encode()), ours)
    expected = None if seconds is None else ours + timedelta(seconds=seconds)
    assert http.retry_at(answer) == expected


# One repository


async def test_a_renamed_and_given_away_repository_is_found_by_its_number(
    forge: Forge, github: GitHub, token: str, garden: Repository
) -> None:
    acme = github.add_org("acme", owners=[github.people[0]])
    github.rename(garden, "yard")
    github.transfer(garden, acme)
    found = await forge.repository(token, str(garden.id))
    assert (found.full_name, found.clone_url) == ("acme/yard", f"{github.url}/acme/yard.git")


async def test_another_repository_of_the_old_name_is_not_taken_for_it(
    forge: Forge, github: GitHub, token: str, garden: Repository
) -> None:
    github.replace(garden)
    with pytest.raises(RemoteGone):
        await forge.repository(token, str(garden.id))


async def test_a_blocked_repository_is_blocked(
    forge: Forge, github: GitHub, token: str, garden: Repository
) -> None:
    github.block(garden)
    with pytest.raises(Blocked, match="access blocked"):
        await forge.repository(token, str(garden.id))
    github.block(garden, False)
    body = '{"message": "Repository access blocked", "block": {"reason": "tos"}}'
    github.fail(403, piece="/repositories/", body=body)
    with pytest.raises(Blocked):
        await forge.repository(token, str(garden.id))


async def test_a_revoked_token_is_told_in_one_line(
    forge: Forge, github: GitHub, token: str, garden: Repository
) -> None:
    github.revoke(token)
    with pytest.raises(BadCredentials, match="connect again") as raised:
        await forge.repository(token, str(garden.id))
    assert token not in str(raised.value)


@pytest.mark.parametrize("number", ["../user", "1/hooks", "", "٣", "-1"])
async def test_what_is_no_number_is_never_a_path(forge: Forge, github: GitHub, number: str) -> None:
    with pytest.raises(RemoteGone):
        await forge.repository("t", number)
    assert not github.requests


# Bad answers


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (500, "", NetworkError),
        (502, "<html>", NetworkError),
        (301, "", OurFault),
        (418, '{"message": "I am a\\nteapot"}', Refused),
        (200, "<html>", Corrupt),
        (200, "[]", Corrupt),
        (200, '{"id": "x"}', Corrupt),
        (200, '{"id": true, "login": "a"}', Corrupt),
        (200, '{"id": 5}', Corrupt),
        (200, "[" * 100_000, Corrupt),
        (410, "", RemoteGone),
    ],
)
async def test_every_answer_that_is_none_has_a_class(
    forge: Forge, github: GitHub, status: int, body: str, kind: type[EverrefError]
) -> None:
    github.fail(status, piece="/user", body=body)
    with pytest.raises(EverrefError) as raised:
        await forge.account("secret-token")
    assert type(raised.value) is kind
    assert "127.0.0.1" in str(raised.value) and "secret-token" not in str(raised.value)


async def test_an_endless_answer_is_cut(
    forge: Forge, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LONGEST", 1 << 20)
    github.fail(200, piece="/user", body="x" * (2 << 20))
    with pytest.raises(LimitReached, match="more than 1 MiB"):
        await forge.account("t")


async def test_an_answer_that_is_compressed_unasked_is_not_unpacked(forge: Forge, github: GitHub) -> None:
    github.fail(200, piece="/user", headers={"Content-Encoding": "gzip"}, body="x")
    with pytest.raises(Refused, match="in a compressed form that was not requested"):
        await forge.account("t")


async def test_an_answer_of_millions_of_values_is_not_read(forge: Forge, github: GitHub) -> None:
    """8 MiB of empty lists are 2.7 million objects here, and some 200 MB."""
    github.fail(200, piece="/user", body="[" + "[]," * 500_000 + "[]]")
    with pytest.raises(LimitReached, match="more than 400000 values"):
        await forge.account("t")


async def test_a_forge_that_does_not_answer_is_given_up(
    forge: Forge, github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "WHOLE", 0.1)
    github.slow(60)
    with pytest.raises(NetworkError, match="did not answer in time"):
        await forge.account("t")


# The way there


async def test_our_own_network_is_not_asked(github: GitHub) -> None:
    guarded = Forges([app_of(github)], allow_private=False)
    with pytest.raises(NetworkError, match="cannot be reached from here"):
        await guarded.of(guarded.apps[0]).account("t")
    await guarded.close()
    assert not github.requests


async def test_the_address_that_was_judged_is_dialled(
    github: GitHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers with a private address at the second look is asked at the first one's."""
    looks: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *args: Any, **more: Any) -> Any:
        looks.append(host)
        return real("127.0.0.1" if len(looks) == 1 else "192.0.2.7", *args, **more)

    port = urlsplit(github.url).port
    app = App("github", f"http://forge.example:{port}", f"http://forge.example:{port}/api/v3")
    forges = Forges([app], allow_private=True)
    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert (await forges.of(app).account(token)).login == "alice"
    assert looks == ["forge.example"]
    await forges.close()


async def test_a_certificate_is_judged_by_the_name_that_was_asked(
    make_forge: Callable[..., Awaitable[H]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await make_forge(GitHub, "enterprise", tls=True)
    assert isinstance(host, GitHub)
    token = host.personal_token(host.add_person("alice"), ("repo",))
    url = host.url.replace("127.0.0.1", "localhost")
    strict = Forges([], allow_private=True)
    with pytest.raises(NetworkError, match="certificate of localhost cannot be verified"):
        await strict.at("github", urlsplit(url).netloc).account(token)
    await strict.close()
    trusting = ssl.create_default_context(cadata=host.ca_pem.decode())
    monkeypatch.setattr(http, "_authorities", lambda: trusting)
    monkeypatch.setattr(socket, "getaddrinfo", _all_at_home(socket.getaddrinfo))
    known = Forges([], allow_private=True)
    assert (await known.at("github", urlsplit(url).netloc).account(token)).login == "alice"
    with pytest.raises(NetworkError, match="certificate"):
        await known.at("github", urlsplit(url).netloc.replace("localhost", "forge.example")).account(token)
    await known.close()


def _all_at_home(real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda host, *args, **more: real("127.0.0.1", *args, **more)


async def test_no_cookie_and_no_proxy_is_used(
    forge: Forge, github: GitHub, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    github.fail(500, piece="/user", headers={"Set-Cookie": "who=alice"})
    with pytest.raises(NetworkError):
        await forge.account(token)
    await forge.account(token)
    client = forge._api._client  # type: ignore[attr-defined]
    assert not list(client.cookies.jar)


# Hooks


async def test_a_hook_is_made_kept_and_removed(
    forge: Forge, github: GitHub, token: str, garden: Repository
) -> None:
    number = str(garden.id)
    made = await forge.add_hook(token, number, "http://127.0.0.1:9/hooks/github/a", "one secret")
    assert made.enabled and made.signed and made.events == ("create", "delete", "push", "repository")
    [real] = garden.hooks
    assert (real.secret, real.content_type) == ("one secret", "json")
    assert [hook.id for hook in await forge.hooks(token, number)] == [made.id]
    real.active = False
    [off] = await forge.hooks(token, number)
    assert (off.state, off.enabled) == ("disabled", False) and off.why
    changed = await forge.update_hook(token, number, made.id, "http://127.0.0.1:9/hooks/github/b", "another")
    assert changed.enabled and changed.url.endswith("/b") and garden.hooks[0].secret == "another"
    await forge.test_hook(token, number, made.id)
    await github.deliver()
    sent = await forge.deliveries(token, number, made.id)
    assert sent and all(one.event == "ping" and not one.ok and one.status == 502 for one in sent)
    await forge.remove_hook(token, number, made.id)
    await forge.remove_hook(token, number, made.id)
    assert await forge.hooks(token, number) == []


async def test_a_hook_follows_its_repository_to_another_name(
    forge: Forge, github: GitHub, token: str, garden: Repository
) -> None:
    github.rename(garden, "yard")
    other = github.add_repository("alice/garden")
    await forge.add_hook(token, str(garden.id), "http://127.0.0.1:9/h", "s")
    assert len(garden.hooks) == 1 and not other.hooks


async def test_hooks_are_for_admins(forge: Forge, github: GitHub, garden: Repository) -> None:
    mallory = github.personal_token(github.add_person("mallory"), ("repo",))
    with pytest.raises(RemoteGone, match="this token may not see it"):
        await forge.add_hook(mallory, str(garden.id), "http://127.0.0.1:9/h", "s")


# Creating


async def test_a_repository_is_created_where_it_is_wanted(
    forge: Forge, github: GitHub, alice: Person, token: str
) -> None:
    github.add_org("acme", owners=[alice])
    mine, acme = await forge.owners(token)
    assert (mine.login, mine.personal, acme.login, acme.personal) == ("alice", True, "acme", False)
    made = await forge.create_repository(token, mine, "restored")
    assert (made.full_name, made.private, made.admin) == ("alice/restored", True, True)
    assert (await forge.create_repository(token, acme, "open", private=False)).full_name == "acme/open"
    with pytest.raises(Refused, match="name already exists"):
        await forge.create_repository(token, mine, "restored")
    with pytest.raises(EverrefError):
        await forge.create_repository(token, Owner("1", "nobody", "nobody", personal=False), "x")
