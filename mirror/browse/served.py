"""How git fetches a team's repos from here instead of from their hosts, and whether that would work now."""

import asyncio
import shutil
from collections.abc import Iterable
from typing import Final

from mirror.core.config import Settings
from mirror.core.errors import EverrefError, NoSuchObject
from mirror.core.formats import layout
from mirror.core.rules import failover
from mirror.core.rules.failover import Named, Rule
from mirror.git.address import FROM_ROOT
from mirror.services.open import Services
from mirror.store.browse.served import ServedRepo
from mirror.store.people import keys

VAULT_SECONDS: Final = 3.0  # for the vault to answer
_ROOM: Final = 1 << 20  # bytes; a disk that has less is full


async def why_not(services: Services, team: str) -> str | None:
    """What keeps clones of the team's repos from working now, as a sentence for anybody; None: nothing does.

    The database is asked by whoever calls. A cold repo is read from the vault into a pool on the disk, so
    both are needed, and the team's keys where it seals. It names no error: strangers read it.
    """
    if shutil.disk_usage(services.disk.root).free < _ROOM:
        return "The disk of the server is full."
    try:
        async with asyncio.timeout(VAULT_SECONDS):
            await services.vault.get(layout.README)
    except NoSuchObject:
        pass  # it answers; nothing has been backed up yet
    except (EverrefError, TimeoutError):
        return "The store of the backups does not answer."
    if team in await keys.closed(services.db, services.keyring.marks if services.keyring else ()):
        return "The backups are encrypted, and their keys are not here."
    return None


def rules_of(settings: Settings, origin: str, team: str, repos: Iterable[ServedRepo]) -> list[Rule]:
    """What git is to replace on machines that clone these repos of the team; `origin`: where we are reached.

    The hosts that are known to serve the same path by https and ssh are led away from by both.
    """
    both = {*FROM_ROOT, *(app.host for app in settings.apps)}
    named = [Named(one.name, one.url) for one in repos]
    return failover.rules(failover.base_of(origin, team), named, both)
