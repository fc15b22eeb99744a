"""Refs that a team wants kept no longer: they stay as they were last kept, whatever the remote says of them.

Used by backup/sync and the sweep, between the remote's listing and everything that
is concluded from it, so that leaving a ref out never looks like its deletion.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mirror.core import refs
from mirror.core.errors import UsageError
from mirror.core.model import Listing, Refs, RepoId, Snapshot
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import history

MOST: Final = 50  # patterns of one repo
LONGEST: Final = 200  # characters of one


def patterns(given: Sequence[str]) -> tuple[str, ...]:
    """Patterns of refs as they are kept: each once, in order. Raises UsageError."""
    found = tuple(dict.fromkeys(one.strip() for one in given if one.strip()))
    if len(found) > MOST or any(len(one) > LONGEST for one in found):
        raise UsageError(f"{MOST} patterns of {LONGEST} characters at most")
    for one in found:
        if one in ("*", "**", "refs/*", "HEAD"):
            raise UsageError(f"{one} would leave everything out; pause the repository instead")
        if any(character.isspace() or not character.isprintable() for character in one):
            raise UsageError("a pattern has no spaces; write one as in refs/pull/* or dependabot/*")
    return found


async def shown(services: Services, repo_id: RepoId, last: Snapshot | None, seen: Listing) -> Listing:
    """The listing with what is left out as the last snapshot has it."""
    left_out = await repos.excluded(services.db, repo_id)
    if not left_out:
        return seen
    old: Refs = await history.refs_at(services.db, repo_id, last.number) if last else {}
    return replace(seen, refs=await refs.frozen(seen.refs, old, left_out))
