"""GitLab is asked as its documentation says, and whatever it answers becomes a value or an error of ours."""

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from mirror.core.config import App
from mirror.core.errors import (
    BadCredentials,
    Blocked,
    EverrefError,
    OurFault,
    RateLimited,
    Refused,
    RemoteGone,
)
from mirror.forges import oauth
from mirror.forges.contract import Forge, Mark, Page, Purpose, SpentGrant, marked
from mirror.forges.open import Forges
from tests.parts.forges import MAINTAIN, READ, WRITE, GitLab, Person, Repository

BACK = "http://127.0.0.1:8000/auth/gitlab/callback"
SECRET = "whsec_" + b64encode(b"k" * 32).decode()


def app_of(host: GitLab, **other: str) -> App:
    """The double as the settings would name it."""
    known = {"client_id": host.client_id, "client_secret": host.client_secret} | other
    return App("gitlab", host.url, host.api_url, **known)


@pytest_asyncio.fixture
async def forges(gitlab: GitLab) -> AsyncIterator[Forges]:
    found = Forges([app_of(gitlab)], allow_private=True, patience=0.5)
    yield found
    await found.close()


@pytest.fixture
def forge(forges: Forges, gitlab: GitLab) -> Forge:
    return forges.at("gitlab", urlsplit(gitlab.url).netloc)


@pytest.fixture
def anna(gitlab: GitLab) -> Person:
    return gitlab.add_person("anna", "Anna Karenina")


@pytest.fixture
def token(gitlab: GitLab, anna: Person) -> str:
    return gitlab.personal_token(anna, ("api",))


@pytest.fixture
def meadow(gitlab: GitLab, anna: Person) -> Repository:
    return gitlab.add_repository("anna/meadow", private=True)


async def pages(forge: Forge, token: str, marks: Mapping[str, Mark] | None = None) -> list[Page]:
    return [page async for page in forge.repositories(token, marks or {})]


def asked(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def code_of(
    forge: Forge, gitlab: GitLab, person: Person, verifier: str, purpose: Purpose = Purpose.READ
) -> str:
    back = asked(await gitlab.approve(forge.authorize_url("state", verifier, BACK, purpose), person))
    assert back["state"] == "state"
    return back["code"]


# OAuth


async def test_a_consent_becomes_two_tokens_for_two_hours(forge: Forge, gitlab: GitLab, anna: Person) -> None:
    verifier, before = oauth.new_verifier(), datetime.now(UTC)
    tokens = await forge.exchange(await code_of(forge, gitlab, anna, verifier), verifier, BACK)
    assert tokens.scopes == ("read_user", "read_api", "read_repository")
    assert tokens.refresh and tokens.expires_at
    assert timedelta(minutes=119) < tokens.expires_at - before < timedelta(minutes=121)
    assert tokens.access not in repr(tokens) and tokens.refresh not in repr(tokens)


async def test_a_code_is_good_for_one_use_and_one_verifier(
    forge: Forge, gitlab: GitLab, anna: Person
) -> None:
    verifier = oauth.new_verifier()
    code = await code_of(forge, gitlab, anna, verifier)
    with pytest.raises(SpentGrant):
        await forge.exchange(code, oauth.new_verifier(), BACK)
    await forge.exchange(code, verifier, BACK)
    with pytest.raises(SpentGrant):
        await forge.exchange(code, verifier, BACK)


async def test_a_refresh_token_is_good_for_one_use(forge: Forge, gitlab: GitLab, anna: Person) -> None:
    verifier = oauth.new_verifier()
    old = await forge.exchange(await code_of(forge, gitlab, anna, verifier), verifier, BACK)
    assert old.refresh
    new = await forge.refresh(old.refresh, BACK)
    assert (await forge.account(new.access)).login == "anna"
    with pytest.raises(BadCredentials):
        await forge.account(old.access)
    with pytest.raises(SpentGrant, match="connect again"):
        await forge.refresh(old.refresh, BACK)
    assert (await forge.account(new.access)).login == "anna"


async def test_an_application_that_is_not_known_is_our_fault(gitlab: GitLab, anna: Person) -> None:
    wrong = Forges([app_of(gitlab, client_secret="not the secret")], allow_private=True)
    forge = wrong.of(wrong.apps[0])
    verifier = oauth.new_verifier()
    code = await code_of(forge, gitlab, anna, verifier)
    with pytest.raises(OurFault, match="GITLAB_CLIENT_ID"):
        await forge.exchange(code, verifier, BACK)
    await wrong.close()


async def test_a_grant_ends_with_both_its_tokens(forge: Forge, gitlab: GitLab, anna: Person) -> None:
    verifier = oauth.new_verifier()
    tokens = await forge.exchange(await code_of(forge, gitlab, anna, verifier), verifier, BACK)
    await forge.revoke(tokens.access)
    await forge.revoke(tokens.access)
    with pytest.raises(BadCredentials):
        await forge.account(tokens.access)
    assert tokens.refresh
    with pytest.raises(SpentGrant):
        await forge.refresh(tokens.refresh, BACK)


# Whose token, and what it may do


async def test_a_personal_token_tells_its_scopes_and_its_end(
    forge: Forge, gitlab: GitLab, anna: Person
) -> None:
    value = gitlab.personal_token(anna, ("read_user", "read_api"))
    made = gitlab.token(value)
    assert made
    made.expires_at = datetime(2099, 1, 31, tzinfo=UTC)
    account = await forge.account(value, personal=True)
    assert (account.id, account.login, account.name) == (str(anna.id), "anna", "Anna Karenina")
    assert account.scopes == ("read_user", "read_api") and account.expires_at == made.expires_at
    assert forge.missing_scopes(account.scopes, Purpose.READ) == ("read_repository",)


async def test_a_granted_token_tells_its_scopes(forge: Forge, gitlab: GitLab, anna: Person) -> None:
    verifier = oauth.new_verifier()
    code = await code_of(forge, gitlab, anna, verifier, Purpose.HOOKS)
    account = await forge.account((await forge.exchange(code, verifier, BACK)).access)
    assert account.scopes == ("read_user", "api", "read_repository")
    assert forge.missing_scopes(account.scopes, Purpose.CREATE) == ()
    assert gitlab.count("personal_access_tokens/self") == 0  # which is refused to every token of OAuth


async def test_a_token_that_ran_out_is_refused(forge: Forge, gitlab: GitLab, token: str) -> None:
    gitlab.expire(token)
    with pytest.raises(BadCredentials) as raised:
        await forge.account(token, personal=True)
    assert token not in str(raised.value)


async def test_a_token_without_the_scope_is_told_which_one(
    forge: Forge, gitlab: GitLab, anna: Person, meadow: Repository
) -> None:
    reads = gitlab.personal_token(anna, ("read_user",))
    with pytest.raises(Refused, match="the scope api or read_api"):
        await forge.repository(reads, str(meadow.id))


def test_a_scope_brings_those_within_it(forge: Forge) -> None:
    assert forge.missing_scopes(("api",), Purpose.PUSH) == ()
    assert forge.missing_scopes(("read_api", "read_repository"), Purpose.READ) == ()
    assert forge.missing_scopes(("read_user",), Purpose.HOOKS) == ("api", "read_repository")


# Listing


async def test_every_page_of_every_group_is_listed(
    forge: Forge, gitlab: GitLab, anna: Person, token: str
) -> None:
    gitlab.most = 2
    gitlab.add_person("boris")
    gitlab.add_org("acme")
    gitlab.add_org("acme/tools", owners=[anna])
    gitlab.add_repository("anna/one", private=True)
    gitlab.add_repository("acme/two", private=True, access={anna: READ})
    gitlab.add_repository("acme/tools/three", archived=True)
    gitlab.add_repository("boris/four", access={anna: MAINTAIN})
    gitlab.add_repository("boris/five", access={anna: WRITE})
    gitlab.add_repository("boris/public")
    found = await pages(forge, token)
    items = {item.full_name: item for page in found for item in page.items}
    assert [len(page.items) for page in found] == [2, 2, 1]
    assert list(items) == ["anna/one", "acme/two", "acme/tools/three", "boris/four", "boris/five"]
    assert {name for name, item in items.items() if item.private} == {"anna/one", "acme/two"}
    assert {name for name, item in items.items() if item.archived} == {"acme/tools/three"}
    assert items["acme/tools/three"].clone_url == f"{gitlab.url}/acme/tools/three.git"
    assert {name for name, item in items.items() if item.admin} == {
        "anna/one",
        "acme/tools/three",
        "boris/four",
    }


async def test_a_page_that_did_not_change_keeps_its_numbers(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    [first] = await pages(forge, token)
    marks = {first.url: Mark('W/"x"', None, first.ids)}
    gitlab.fail(304, piece="/projects")
    [again] = await pages(forge, token, marks)
    assert again.not_modified and again.ids == (str(meadow.id),) and again.items == ()
    assert marked([again]) == marks


async def test_too_many_questions_are_told_when_to_go_on(
    forge: Forge, gitlab: GitLab, anna: Person, token: str
) -> None:
    gitlab.exhaust(anna)
    before = datetime.now(UTC)
    with pytest.raises(RateLimited) as raised:
        await pages(forge, token)
    assert timedelta(0) < raised.value.retry_at - before <= timedelta(seconds=61)
    asked_then = len(gitlab.requests)
    with pytest.raises(RateLimited):
        await pages(forge, token)
    assert len(gitlab.requests) == asked_then


async def test_the_last_question_of_a_minute_is_answered_and_the_next_not_asked(
    forge: Forge, gitlab: GitLab, anna: Person, token: str, meadow: Repository
) -> None:
    gitlab.limit = 1
    assert (await forge.repository(token, str(meadow.id))).full_name == "anna/meadow"
    with pytest.raises(RateLimited):
        await forge.repository(token, str(meadow.id))
    assert len(gitlab.requests) == 1


# One project


async def test_a_moved_project_is_found_by_its_number(
    forge: Forge, gitlab: GitLab, anna: Person, token: str, meadow: Repository
) -> None:
    gitlab.rename(meadow, "field")
    gitlab.transfer(meadow, gitlab.add_org("acme", owners=[anna]))
    found = await forge.repository(token, str(meadow.id))
    assert (found.full_name, found.clone_url) == ("acme/field", f"{gitlab.url}/acme/field.git")


async def test_a_project_that_is_gone_or_another_is_gone(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    gitlab.replace(meadow)
    with pytest.raises(RemoteGone):
        await forge.repository(token, str(meadow.id))


async def test_a_closed_project_is_blocked(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    gitlab.block(meadow)
    with pytest.raises(Blocked):
        await forge.repository(token, str(meadow.id))


# Hooks


async def test_a_hook_has_a_signing_token(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    number = str(meadow.id)
    made = await forge.add_hook(token, number, "http://127.0.0.1:9/hooks/gitlab/a", SECRET)
    assert made.enabled and made.signed and made.events == ("push", "tag_push")
    [real] = meadow.hooks
    assert (real.signing, real.secret) == (SECRET, None)
    other = "whsec_" + b64encode(b"o" * 32).decode()
    changed = await forge.update_hook(token, number, made.id, "http://127.0.0.1:9/hooks/gitlab/b", other)
    assert changed.id == made.id and meadow.hooks[0].signing == other
    [listed] = await forge.hooks(token, number)
    assert listed.url.endswith("/b")
    await forge.remove_hook(token, number, made.id)
    await forge.remove_hook(token, number, made.id)
    assert await forge.hooks(token, number) == []


async def test_a_gitlab_that_cannot_sign_is_given_the_older_token(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    gitlab.signing = False
    made = await forge.add_hook(token, str(meadow.id), "http://127.0.0.1:9/h", SECRET)
    [real] = meadow.hooks
    assert not made.signed and real.secret == SECRET and real.signing is None


async def test_a_hook_says_that_it_was_switched_off(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    await forge.add_hook(token, str(meadow.id), "http://127.0.0.1:9/h", SECRET)
    gitlab.disable_hook(meadow.hooks[0])
    [paused] = await forge.hooks(token, str(meadow.id))
    assert (paused.state, paused.enabled) == ("paused", False) and paused.until and paused.why
    gitlab.disable_hook(meadow.hooks[0], for_good=True)
    [off] = await forge.hooks(token, str(meadow.id))
    assert off.state == "disabled" and off.why


async def test_deliveries_are_told_as_far_as_gitlab_knows(
    forge: Forge, gitlab: GitLab, token: str, meadow: Repository
) -> None:
    made = await forge.add_hook(token, str(meadow.id), "http://127.0.0.1:9/h", SECRET)
    with pytest.raises(EverrefError):
        await forge.test_hook(token, str(meadow.id), made.id)
    [sent] = await forge.deliveries(token, str(meadow.id), made.id)
    assert not sent.ok and sent.status is None and sent.event == "push_hooks"
    gitlab.fail(404, piece="/events")
    assert await forge.deliveries(token, str(meadow.id), made.id) == []


async def test_hooks_are_for_maintainers(
    forge: Forge, gitlab: GitLab, anna: Person, meadow: Repository
) -> None:
    boris = gitlab.add_person("boris")
    meadow.access[boris.id] = WRITE
    with pytest.raises(Refused, match="403"):
        await forge.add_hook(
            gitlab.personal_token(boris, ("api",)), str(meadow.id), "http://127.0.0.1/h", SECRET
        )


# Creating


async def test_a_project_is_created_where_it_is_wanted(
    forge: Forge, gitlab: GitLab, anna: Person, token: str
) -> None:
    group = gitlab.add_org("acme/tools", owners=[anna])
    gitlab.add_org("others")
    mine, tools = await forge.owners(token)
    assert (mine.login, mine.personal) == ("anna", True)
    assert (tools.login, tools.id, tools.personal) == ("acme/tools", str(group.id), False)
    made = await forge.create_repository(token, mine, "restored")
    assert (made.full_name, made.private, made.admin) == ("anna/restored", True, True)
    other = await forge.create_repository(token, tools, "open", private=False)
    assert (other.full_name, other.private) == ("acme/tools/open", False)
    with pytest.raises(Refused, match="has already been taken"):
        await forge.create_repository(token, mine, "restored")
