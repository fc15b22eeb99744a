"""What the vault says that a repo is: repo.json at first, then a numbered description whenever that changes.

Who calls: the first backup, and the sweep, which compares what the vault says with the repo's row.
Each is attested (core/formats/attestation), so that a rebuild knows it from what somebody else put there.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from mirror.core.errors import AlreadyExists, Busy, EverrefError
from mirror.core.formats import attestation, layout, manifest
from mirror.core.formats.manifest import Fields, time_text
from mirror.core.model import RepoId
from mirror.services import failpoints
from mirror.services.lease import leased
from mirror.services.open import Services
from mirror.store.backup import descriptions

log = logging.getLogger("mirror.describe")


async def due(services: Services) -> None:
    """Describe anew every repo that is not what the vault says; a chore. Safe to run twice, also at once."""
    for repo in await descriptions.untold(services.db):
        try:
            async with leased(services, repo, patience=0):
                await describe(services, repo.id)
        except Busy:
            pass  # the next time
        except EverrefError as error:  # the others have their turn, this one the next time
            log.warning("%s cannot be described in the vault yet: %s", repo.id, error)


async def introduce(services: Services, repo_id: RepoId) -> None:
    """Store the first description, `repo.json`. Safe to run twice: `due` puts right one that is there."""
    found, key = await descriptions.get(services.db, repo_id), layout.repo_file(repo_id)
    with suppress(AlreadyExists):
        stored = _stored(repo_id, found.wanted, services.clock())
        await services.vault.put(key, attestation.attest(services.keyring, key, stored))
        await descriptions.told(services.db, repo_id, found.sum, 0)


async def describe(services: Services, repo_id: RepoId) -> None:
    """Store what the repo is, where the vault's newest description says something else; in its turn.

    A number that is taken was used by a run which died before it wrote that down:
    what it said may not be so any more, and the next number holds. Nothing is
    overwritten. Safe to run twice.
    """
    found = await descriptions.get(services.db, repo_id)
    if found.is_told:
        return
    stored, number = _stored(repo_id, found.wanted, services.clock()), found.number + 1
    while True:
        try:
            key = layout.description_key(repo_id, number)
            await services.vault.put(key, attestation.attest(services.keyring, key, stored))
            break
        except AlreadyExists:
            number += 1
    failpoints.reached("describe: stored")
    await descriptions.told(services.db, repo_id, found.sum, number)


def _stored(repo_id: RepoId, wanted: Mapping[str, Any], at: datetime) -> bytes:
    fields = {**wanted, "format": manifest.FORMAT, "repo": str(repo_id), "at": time_text(at)}
    return manifest.encode_repo(manifest.repo_of(Fields(fields, "repo")))
