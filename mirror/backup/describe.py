"""What the vault says a repo is: repo.json at first, then a numbered description whenever that changes.

Who calls: the first backup, and the sweep, which compares what the vault says with the repo's row.
Each is attested (core/formats/attestation), so that a rebuild can tell it from forged ones.
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
from mirror.services import failpoints, sealing
from mirror.services.lease import leased
from mirror.services.open import Services
from mirror.store.backup import descriptions

log = logging.getLogger("mirror.describe")


async def due(services: Services) -> None:
    """Describe every repo whose description is outdated: a maintenance task. Safe to run twice."""
    for repo in await descriptions.outdated(services.db):
        try:
            async with leased(services, repo, patience=0):
                await describe(services, repo.id)
        except Busy:
            pass  # the next time
        except EverrefError as error:  # the others go on; this one is tried the next time
            log.warning("%s cannot be described in the vault yet: %s", repo.id, error)


async def introduce(services: Services, repo_id: RepoId) -> None:
    """Store the first description, `repo.json`. Safe to run twice: `due` corrects one that exists."""
    found, key = await descriptions.get(services.db, repo_id), layout.repo_file(repo_id)
    with suppress(AlreadyExists):
        stored = _stored(repo_id, found.wanted, services.clock())
        attested = attestation.attest(services.keyring, key, stored)
        await services.vault.put(layout.sealed(key, await sealing.of(services, repo_id)), attested)
        await descriptions.mark_stored(services.db, repo_id, found.sum, 0)


async def describe(services: Services, repo_id: RepoId) -> None:
    """Store what the repo is, if the vault's newest description says something else; needs the lease.

    A number that is taken was used by a run that died before it recorded this:
    its description may be outdated, so the next number is used. Nothing is
    overwritten. Safe to run twice.
    """
    found = await descriptions.get(services.db, repo_id)
    if found.is_stored:
        return
    stored, number = _stored(repo_id, found.wanted, services.clock()), found.number + 1
    is_sealed = await sealing.of(services, repo_id)
    while True:
        key = layout.description_key(repo_id, number)
        if await services.vault.stat(layout.sealed(key, not is_sealed)) is None:
            try:
                attested = attestation.attest(services.keyring, key, stored)
                await services.vault.put(layout.sealed(key, is_sealed), attested)
                break
            except AlreadyExists:
                pass
        number += 1
    failpoints.reached("describe: stored")
    await descriptions.mark_stored(services.db, repo_id, found.sum, number)


async def current(services: Services, repo_id: RepoId) -> bytes:
    """What the repo is now, as a first description, which no key attests: for an export."""
    return _stored(repo_id, (await descriptions.get(services.db, repo_id)).wanted, services.clock())


def _stored(repo_id: RepoId, wanted: Mapping[str, Any], at: datetime) -> bytes:
    fields = {**wanted, "format": manifest.FORMAT, "repo": str(repo_id), "at": time_text(at)}
    return manifest.encode_repo(manifest.repo_of(Fields(fields, "repo")))
