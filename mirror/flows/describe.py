"""What the vault says that a repo is: repo.json at first, then a numbered description whenever that changes.

Who calls: the first backup, and the sweep, which compares what the vault says with the repo's row.
Each is attested (mirror/attested.py), so that a rebuild knows it from what somebody else put there.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from mirror import attested, layout, manifest
from mirror.errors import AlreadyExists, Busy, EverrefError
from mirror.flows import steps
from mirror.flows.edges import Edges
from mirror.flows.turn import turn
from mirror.manifest import Fields, time_text
from mirror.model import RepoId
from mirror.store import described

log = logging.getLogger("mirror.describe")


async def due(edges: Edges) -> None:
    """Describe anew every repo that is not what the vault says; a chore. Safe to run twice, also at once."""
    for repo in await described.untold(edges.db):
        try:
            async with turn(edges, repo, patience=0):
                await describe(edges, repo.id)
        except Busy:
            pass  # the next time
        except EverrefError as error:  # the others have their turn, this one the next time
            log.warning("%s cannot be described in the vault yet: %s", repo.id, error)


async def introduce(edges: Edges, repo_id: RepoId) -> None:
    """Store the first description, `repo.json`. Safe to run twice: `due` puts right one that is there."""
    found, key = await described.get(edges.db, repo_id), layout.repo_file(repo_id)
    with suppress(AlreadyExists):
        stored = _stored(repo_id, found.wanted, edges.clock())
        await edges.vault.put(key, attested.attest(edges.keyring, key, stored))
        await described.told(edges.db, repo_id, found.sum, 0)


async def describe(edges: Edges, repo_id: RepoId) -> None:
    """Store what the repo is, where the vault's newest description says something else; in its turn.

    A number that is taken was used by a run which died before it wrote that down:
    what it said may not be so any more, and the next number holds. Nothing is
    overwritten. Safe to run twice.
    """
    found = await described.get(edges.db, repo_id)
    if found.is_told:
        return
    stored, number = _stored(repo_id, found.wanted, edges.clock()), found.number + 1
    while True:
        try:
            key = layout.description_key(repo_id, number)
            await edges.vault.put(key, attested.attest(edges.keyring, key, stored))
            break
        except AlreadyExists:
            number += 1
    steps.reached("describe: stored")
    await described.told(edges.db, repo_id, found.sum, number)


def _stored(repo_id: RepoId, wanted: Mapping[str, Any], at: datetime) -> bytes:
    fields = {**wanted, "format": manifest.FORMAT, "repo": str(repo_id), "at": time_text(at)}
    return manifest.encode_repo(manifest.repo_of(Fields(fields, "repo")))
