"""Creating a repo without a remote: nothing is fetched for it; people and programs push to it with git."""

import re
from dataclasses import replace
from typing import Final
from urllib.parse import quote
from uuid import uuid4

from mirror.core.config import Settings
from mirror.core.errors import UsageError
from mirror.core.model import ObjectFormat, Repo, RepoId, has_remote, pushed_to
from mirror.discovery.choose import By
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.database import Db
from mirror.store.people import audit, quotas
from mirror.store.people.audit import Entry
from mirror.store.people.teams import TeamId

LONGEST: Final = 100  # characters of a name
# What shells, URLs and file systems take as it is; `@` and `/-/` mean something in the addresses of Everref.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


async def create(
    services: Services,
    team: TeamId,
    by: By,
    name: str,
    object_format: ObjectFormat = "sha1",
    repo_id: RepoId | None = None,
) -> Repo:
    """Create a repo to push to; a name that ends in `.git` loses that. One of this name and kind is that one.

    `repo_id` is what a new one gets, so that whoever asks knows whether it is theirs; None: any.

    Safe to run twice: the second run finds the first's row. Raises UsageError where the name is not valid or
    belongs to a repo that has a remote, OverLimit where the team has as many repos as it may.
    """
    name = checked_name(name)
    if known := await repos.by_name(services.db, team, name):
        return _unless_fetched(known)
    now, repo_id = services.clock(), repo_id or RepoId(uuid4())
    try:
        async with quotas.within(services.db, team, services.settings.limits, now, "repos") as db:
            made = await repos.add(db, team, name, pushed_to(repo_id), now, repo_id)
            if object_format != "sha1":  # else the first push says it
                await repos.set_object_format(db, repo_id, object_format)
            await _audit(services, db, team, by, made)
            return replace(made, object_format=None if object_format == "sha1" else object_format)
    except UsageError:
        known = await repos.by_name(services.db, team, name)  # another run may have made it just now
        if known is None:
            raise
        return _unless_fetched(known)


def checked_name(text: str) -> str:
    """The name that a repo gets. Raises UsageError about the field `name`."""
    name = text.strip().removesuffix("/").removesuffix(".git")
    if len(name) > LONGEST or not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            "a name has letters, digits, dots, dashes, underscores and slashes, "
            f"{LONGEST} characters at most, and each part begins with a letter, a digit or an underscore",
            field="name",
        )
    return name


def _unless_fetched(known: Repo) -> Repo:
    if has_remote(known.url):
        raise UsageError(
            f"{known.name} is backed up from a remote already; choose another name", field="name"
        )
    return known


async def _audit(services: Services, db: Db, team: TeamId, by: By, made: Repo) -> None:
    entry = Entry(
        person_id=by.person_id,
        actor=by.name,
        action="repo.create",
        subject=made.name,
        repo_id=made.id,
        detail={},
        address=by.address,
    )
    await audit.add(db, team, entry, services.clock())


def address(settings: Settings, team: str, repo: Repo) -> str:
    """What git pushes to, and clones from."""
    return address_at(settings.base_url or f"http://127.0.0.1:{settings.port}", team, repo)


def address_at(origin: str, team: str, repo: Repo) -> str:
    """The same where people reach Everref at this origin."""
    return f"{origin.rstrip('/')}/git/{quote(team)}/{quote(repo.name)}"
