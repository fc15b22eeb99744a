"""Refs that a team excludes from backups: they stay as they were last saved, whatever the remote shows.

Used by backup/sync and the sweep, between the remote's listing and everything that
is concluded from it, so that excluding a ref never looks like its deletion.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mirror.core import refs
from mirror.core.errors import UsageError
from mirror.core.model import Listing, Refs, Repo, RepoId, Snapshot, has_remote
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import history

MOST: Final = 50  # patterns of one repo
LONGEST: Final = 200  # characters of one


def patterns(given: Sequence[str], repo: Repo) -> tuple[str, ...]:
    """Patterns of a repo's refs as they are stored: each once, in order. Raises UsageError.

    A push says itself what it brings, and its `ok` means saved: nothing of it is left out.
    """
    found = tuple(dict.fromkeys(one.strip() for one in given if one.strip()))
    if found and not has_remote(repo.url):
        raise UsageError(f"{repo.name} is pushed to, and all that is pushed is saved: push other refs")
    if len(found) > MOST or any(len(one) > LONGEST for one in found):
        raise UsageError(f"{MOST} patterns of {LONGEST} characters at most")
    for one in found:
        if one in ("*", "**", "refs/*", "HEAD"):
            raise UsageError(f"{one} would exclude everything; pause the repository instead")
        if any(character.isspace() or not character.isprintable() for character in one):
            raise UsageError("a pattern has no spaces; write one as in refs/pull/* or dependabot/*")
    return found


async def shown(services: Services, repo_id: RepoId, last: Snapshot | None, seen: Listing) -> Listing:
    """The listing, with excluded refs as the last snapshot has them."""
    left_out = await repos.excluded(services.db, repo_id)
    if not left_out:
        return seen
    old: Refs = await history.refs_at(services.db, repo_id, last.number) if last else {}
    return replace(seen, refs=await refs.frozen(seen.refs, old, left_out))
