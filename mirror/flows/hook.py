"""Giving a repo a webhook: an address and a secret that a person pastes into the forge's settings."""

import base64
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from mirror.config import Settings
from mirror.errors import Busy, NotFound, OurFault, UsageError
from mirror.flows.edges import Edges
from mirror.keyring import Keyring
from mirror.model import Repo
from mirror.store import hooks, origins, quotas
from mirror.store.hooks import Forge, Hook

OVERLAP: Final = timedelta(hours=24)  # for which the secret before a new one is accepted
_HOSTS: Final[tuple[tuple[str, Forge], ...]] = (
    ("github", "github"),
    ("gitlab", "gitlab"),
    ("gitea", "gitea"),
    ("forgejo", "gitea"),
    ("codeberg", "gitea"),
)


@dataclass(frozen=True, slots=True)
class Given:
    """A repo's hook, as it is pasted into the forge's settings."""

    repo: Repo
    forge: Forge
    url: str
    secret: str | None = field(repr=False)  # None: it was shown when it was made


async def give(edges: Edges, repo: Repo, forge: Forge | None, *, new: bool = False) -> Given:
    """The repo's hook, made if it has none; with `new` it gets another secret.

    Only a secret that was made now is told: it is kept sealed. Raises UsageError
    when the forge is unknown or is not the one of the hook that there is.
    """
    if edges.keyring is None:
        raise OurFault("secrets cannot be kept: set SECRET_KEYS (32 random characters or more)")
    known = await hooks.of(edges.db, repo.id)
    if known is None:
        return await _made(edges, edges.keyring, repo, forge or _forge_of(repo))
    if forge not in (None, known.forge):
        raise UsageError(f"{repo.name} has a hook for {known.forge}; remove that one first, with --remove")
    secret = None
    if new:
        secret = new_secret(known.forge)
        locks = hooks.lock(edges.keyring, known.id, secret)
        if not await hooks.change(edges.db, locks, edges.clock() + OVERLAP):
            raise Busy(f"the hook of {repo.name} was removed at the same time; run it again")
    return _given(edges, repo, known, secret)


async def remove(edges: Edges, repo: Repo) -> None:
    """Forget the repo's hook; its address answers 404 from then on. Raises NotFound."""
    if not await hooks.remove(edges.db, repo.id):
        raise NotFound(f"{repo.name} has no hook")


async def _made(edges: Edges, keyring: Keyring, repo: Repo, forge: Forge) -> Given:
    secret = new_secret(forge)
    locks = hooks.lock(keyring, secrets.token_urlsafe(24), secret)
    now = edges.clock()
    team_id = (await origins.get(edges.db, repo.id)).team_id
    async with quotas.within(edges.db, team_id, edges.settings.limits, now, "hooks") as db:
        made = await hooks.add(db, repo.id, forge, locks, now)
    if made is None:
        raise Busy(f"another run made a hook for {repo.name} at the same time; run it again")
    return _given(edges, repo, made, secret)


def _given(edges: Edges, repo: Repo, hook: Hook, secret: str | None) -> Given:
    return Given(repo, hook.forge, address(edges.settings, hook), secret)


def address(settings: Settings, hook: Hook) -> str:
    """Where the forge posts to."""
    base = settings.base_url or f"http://127.0.0.1:{settings.port}"
    return f"{base.rstrip('/')}/hooks/{hook.forge}/{hook.id}"


def new_secret(forge: Forge) -> str:
    """A new secret of 32 random bytes, in the form that the forge takes.

    GitLab's signing token is that of Standard Webhooks, base64 after a prefix:
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    if forge == "gitlab":
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(32)


def _forge_of(repo: Repo) -> Forge:
    """The forge that the name of the host tells."""
    host = urlsplit(repo.url).hostname or ""
    for word, forge in _HOSTS:
        if word in host:
            return forge
    raise UsageError(f"which forge {repo.url} is on cannot be told; say --forge github, gitlab or gitea")
