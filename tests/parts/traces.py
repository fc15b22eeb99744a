"""What a request leaves in the process that served it, once it is over: nothing, it should be."""

import asyncio
import os
from pathlib import Path
from typing import Final

from tests.parts.web import Site
from tests.parts.whole import until

WITHIN: Final = 120.0  # seconds, until what is left counts as left for ever


def children() -> set[int]:
    """The processes that this one has begun and that have not ended."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except OSError:  # the thread has ended
            continue
    return found


def descriptors() -> set[str]:
    """What this process has open: files, and pipes to others."""
    found: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except OSError:  # of this very listing
            continue
    return {one for one in found if one.startswith(("/", "pipe:"))}


class Traces:
    """What there was before; `gone` waits until there is no more than that."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.children = children()
        self.descriptors = descriptors()
        self.keys: set[str] | None = None

    async def begin(self) -> "Traces":
        """Note what the vault holds, too."""
        self.keys = set(await self.site.mirror.keys())
        return self

    async def gone(self, *, saved: bool = False) -> None:
        """Wait until no process, descriptor, slot, pin, memory or temporary file of any request is left.

        `saved`: there may be more in the vault.
        """

        async def nothing() -> bool:
            return not await self.left(saved=saved)

        await self.site.outside.background.quiet()
        await self.site.mirror.services.shared.close()  # views stay for a minute, for the next request
        try:
            async with asyncio.timeout(WITHIN):
                await until(nothing)
        except TimeoutError:
            raise AssertionError(f"left: {await self.left(saved=saved)}") from None

    async def left(self, *, saved: bool = False) -> dict[str, object]:
        """What is left."""
        outside, services = self.site.outside, self.site.mirror.services
        slots = (
            *(outside.pushes, outside.requests, outside.bundles, outside.strangers.slots),
            *(services.readers.clones, services.readers.fills),
        )
        root = services.disk.root
        places = [root / name for name in ("incoming", "serving")]
        found: dict[str, object] = {
            "processes": children() - self.children,
            "descriptors": {
                one for one in descriptors() - self.descriptors if "pipe:" in one or str(root) in one
            },
            "slots": [one for one in slots if one._total or one._line],
            "memory": [outside.room._held, len(outside.room._bodies)],
            "files": [file for place in places if place.is_dir() for file in place.iterdir()],
            "readers": await services.db.fetchval("select count(*) from vault_reader"),
        }
        if self.keys is not None and not saved:
            new = set(await self.site.mirror.keys()) - self.keys
            found["keys"] = {key for key in new if not key.endswith("/repo.json")}  # it says what the repo is
        return {name: what for name, what in found.items() if what not in (0, set(), [], [0, 0])}
