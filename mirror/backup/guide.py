"""How to restore without Everref, in the vault itself: README.txt and restore.sh.

Who calls: the first backup of each repo, and a maintenance task, as a newer version may bring a newer script,
without which a vault whose objects are sealed could not be read by stock tools.
"""

from importlib import resources

from mirror.core.errors import AlreadyExists, NoSuchObject
from mirror.core.formats import layout
from mirror.services.open import Services

_LIMIT = 1 << 20  # bytes; what is larger is not ours
_MOST = 1000  # versions, after which somebody else writes them


async def store(services: Services) -> None:
    """Store what there is not yet: as README.txt and restore.sh, or as README-2.txt, restore-2.sh and so on.

    Nothing is overwritten: what an older version wrote stays, and the highest number is the newest. Safe to
    run twice, also at once. Costs one request for each where the newest is there.
    """
    guide = resources.files("mirror.vault.readme")
    for name in (layout.README, layout.RESTORE):
        await _store(services, name, (guide / name).read_bytes())


async def _store(services: Services, name: str, content: bytes) -> None:
    for number in range(1, _MOST):
        key = layout.guide_key(name, number)
        try:
            if await services.vault.get(key, _LIMIT) == content:
                return
        except NoSuchObject:
            try:
                await services.vault.put(key, content)
                return
            except AlreadyExists:  # another process did it at the same moment
                continue


async def due(services: Services) -> None:
    """Store it in a vault that has objects already: a maintenance task."""
    if await services.vault.stat(layout.RESTORE) is not None:
        await store(services)
