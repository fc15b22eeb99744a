"""Parts that count no more: damaged ones that were replaced, and what a run made that was not recorded."""

import json

from mirror.core.errors import AlreadyExists, Locked
from mirror.core.formats import layout
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.vault.copies import only_the_first


async def withdraw(services: Services, key: str, why: str) -> None:
    """Delete the `.idx` of a part, without which it does not count, neither for a rebuild nor for restore.sh.

    Where a store keeps it for a time (Object Lock), an object beside it says that it does not count: it is
    locked later than the `.idx`, so it outlasts it, and `prune` deletes it last. It is there before the
    `.idx` goes, as a copy may keep what the first vault does not. Safe to run twice, and to kill.
    """
    index = layout.index_key(key)
    with only_the_first():
        if await services.vault.stat(index) is None:
            return
    if any(place.vault.locking() for place in services.copies.places):
        await _say(services, key, why)
    try:
        await services.vault.delete(index)
    except Locked:
        await _say(services, key, why)


async def _say(services: Services, key: str, why: str) -> None:
    said = json.dumps({"format": 1, "part": key, "why": why}, separators=(",", ":"))
    try:
        await services.vault.put(layout.withdrawn_key(key), f"{said}\n".encode())
    except AlreadyExists:
        return
    failpoints.reached("withdraw: said")
