"""Giving a repo a webhook: an address that nobody guesses, and a secret that is told once."""

import base64
from datetime import timedelta

import pytest

from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Repo
from mirror.discovery import webhook
from mirror.discovery.webhook import OVERLAP, NewHook
from mirror.store.discovery import hooks
from tests.parts.everref import Mirror


async def secrets(mirror: Mirror, given: NewHook) -> list[str]:
    """What opens the hook now."""
    _, forge, hook_id = given.url.rsplit("/", 2)
    found = await hooks.locks(mirror.services.db, forge, hook_id, mirror.clock())
    assert found and mirror.services.keyring
    return found.secrets(mirror.services.keyring)


async def repo_at(mirror: Mirror, host: str) -> Repo:
    return await mirror.repo(f"https://{host}/alice/garden")


async def test_the_secret_is_told_when_it_is_made_and_never_again(mirror: Mirror) -> None:
    repo = await repo_at(mirror, "github.com")
    made = await webhook.give(mirror.services, repo, None)
    again = await webhook.give(mirror.services, repo, None)
    assert made.secret and len(made.secret) >= 32
    assert await secrets(mirror, made) == [made.secret]
    assert (again.url, again.secret) == (made.url, None)
    assert made.secret not in repr(made)
    assert made.url.startswith("http://127.0.0.1:8000/hooks/github/")


async def test_a_new_secret_leaves_the_old_one_a_day(mirror: Mirror) -> None:
    repo = await repo_at(mirror, "github.com")
    old = await webhook.give(mirror.services, repo, None)
    new = await webhook.give(mirror.services, repo, "github", new=True)
    assert new.url == old.url
    assert await secrets(mirror, new) == [new.secret, old.secret]
    mirror.clock.now += OVERLAP - timedelta(minutes=3)
    assert len(await secrets(mirror, new)) == 2
    mirror.clock.now += timedelta(minutes=3)
    assert await secrets(mirror, new) == [new.secret]


@pytest.mark.parametrize(
    ("host", "forge"),
    [("github.example.org", "github"), ("gitlab.com", "gitlab"), ("codeberg.org", "gitea")],
)
async def test_the_host_tells_the_forge(mirror: Mirror, host: str, forge: str) -> None:
    given = await webhook.give(mirror.services, await repo_at(mirror, host), None)
    assert given.forge == forge


async def test_a_host_that_tells_no_forge_wants_a_word(mirror: Mirror) -> None:
    repo = await repo_at(mirror, "git.example.org")
    with pytest.raises(UsageError, match="--forge"):
        await webhook.give(mirror.services, repo, None)
    assert (await webhook.give(mirror.services, repo, "gitea")).forge == "gitea"
    with pytest.raises(UsageError, match="has a webhook for gitea"):
        await webhook.give(mirror.services, repo, "github")


async def test_gitlabs_secret_is_a_signing_token_of_32_bytes(mirror: Mirror) -> None:
    given = await webhook.give(mirror.services, await repo_at(mirror, "gitlab.com"), None)
    assert given.secret and given.secret.startswith("whsec_")
    assert len(base64.b64decode(given.secret.removeprefix("whsec_"), validate=True)) == 32


async def test_a_removed_hook_opens_no_more(mirror: Mirror) -> None:
    repo = await repo_at(mirror, "github.com")
    given = await webhook.give(mirror.services, repo, None)
    await webhook.remove(mirror.services, repo)
    assert (
        await hooks.locks(mirror.services.db, "github", given.url.rpartition("/")[2], mirror.clock()) is None
    )
    with pytest.raises(NotFound):
        await webhook.remove(mirror.services, repo)
