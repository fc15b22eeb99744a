"""Making a webhook by hand: an address and a secret that a person pastes into the forge's settings."""

import base64
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from mirror.core.config import Settings
from mirror.core.errors import Busy, NotFound, OurFault, UsageError
from mirror.core.keyring import Keyring
from mirror.core.model import Repo, has_remote
from mirror.services.open import Services
from mirror.store.discovery import hooks, remotes
from mirror.store.discovery.hooks import Forge, Hook
from mirror.store.people import quotas

OVERLAP: Final = timedelta(hours=24)  # for this long the old secret is still accepted beside a new one
_HOSTS: Final[tuple[tuple[str, Forge], ...]] = (
    ("github", "github"),
    ("gitlab", "gitlab"),
    ("gitea", "gitea"),
    ("forgejo", "gitea"),
    ("codeberg", "gitea"),
)


@dataclass(frozen=True, slots=True)
class NewHook:
    """What a person pastes into the forge's settings."""

    repo: Repo
    forge: Forge
    url: str
    secret: str | None = field(repr=False)  # None: it was shown when it was made


async def give(services: Services, repo: Repo, forge: Forge | None, *, new: bool = False) -> NewHook:
    """The repo's hook, made if it has none; with `new` it gets another secret.

    A secret is returned only when it is made, because it is stored sealed. Raises UsageError
    if the forge is unknown or is not the one that the existing hook is for.
    """
    if services.keyring is None:
        raise OurFault("secrets cannot be stored: set SECRET_KEYS (32 random characters or more)")
    if not has_remote(repo.url):
        raise UsageError(f"{repo.name} has no host that could report a push: it is pushed to itself")
    known = await hooks.of(services.db, repo.id)
    if known is None:
        return await _made(services, services.keyring, repo, forge or _forge_of(repo))
    if forge not in (None, known.forge):
        raise UsageError(
            f"{repo.name} already has a webhook for {known.forge}; remove it first with --remove"
        )
    secret = None
    if new:
        secret = new_secret(known.forge)
        locks = hooks.lock(services.keyring, known.id, secret)
        if not await hooks.change(services.db, locks, services.clock() + OVERLAP):
            raise Busy(f"the webhook of {repo.name} was removed at the same time; run this again")
    return _given(services, repo, known, secret)


async def remove(services: Services, repo: Repo) -> None:
    """Forget the repo's hook; its address answers 404 from then on. Raises NotFound."""
    if not await hooks.remove(services.db, repo.id):
        raise NotFound(f"{repo.name} has no webhook")


async def _made(services: Services, keyring: Keyring, repo: Repo, forge: Forge) -> NewHook:
    secret = new_secret(forge)
    locks = hooks.lock(keyring, secrets.token_urlsafe(24), secret)
    now = services.clock()
    team_id = (await remotes.get(services.db, repo.id)).team_id
    async with quotas.within(services.db, team_id, services.settings.limits, now, "hooks") as db:
        made = await hooks.add(db, repo.id, forge, locks, now)
    if made is None:
        raise Busy(f"another run made a webhook for {repo.name} at the same time; run this again")
    return _given(services, repo, made, secret)


def _given(services: Services, repo: Repo, hook: Hook, secret: str | None) -> NewHook:
    return NewHook(repo, hook.forge, address(services.settings, hook), secret)


def address(settings: Settings, hook: Hook) -> str:
    """The address to which the forge posts."""
    base = settings.base_url or f"http://127.0.0.1:{settings.port}"
    return f"{base.rstrip('/')}/hooks/{hook.forge}/{hook.id}"


def new_secret(forge: Forge) -> str:
    """A new secret of 32 random bytes, in the form that the forge accepts.

    GitLab's signing token has the form of Standard Webhooks, base64 after a prefix:
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    if forge == "gitlab":
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(32)


def _forge_of(repo: Repo) -> Forge:
    """The forge that the host's name points to."""
    host = urlsplit(repo.url).hostname or ""
    for word, forge in _HOSTS:
        if word in host:
            return forge
    raise UsageError(f"cannot tell what hosts {repo.url}; pass --forge github, gitlab or gitea")
