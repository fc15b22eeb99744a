"""The one way from a flow to a remote: with what the settings allow.

Who calls: every sync, every look, and restores that list their target.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from mirror import refs
from mirror.errors import Origin
from mirror.flows.edges import Edges
from mirror.git import upstream
from mirror.git.upstream import Upstream
from mirror.model import Refs, Remote

MANY: Final = 2000  # refs, whose digest takes a millisecond; that of more is taken in a thread


@asynccontextmanager
async def connected(
    edges: Edges,
    remote: Remote,
    session: aiohttp.ClientSession | None = None,
    *,
    origin: Origin = Origin.SOURCE,
) -> AsyncIterator[Upstream]:
    """A remote, ready to be asked; nothing is sent before. What is not said is as for `upstream.connect`."""
    async with upstream.connect(
        edges.git,
        remote,
        allow_private=edges.settings.allow_private_remotes,
        session=session,
        origin=origin,
        longest=edges.settings.listing_bytes,
    ) as found:
        yield found


async def digest(seen: Refs) -> str:
    """`refs.digest`, beside the event loop where there are many."""
    return refs.digest(seen) if len(seen) < MANY else await asyncio.to_thread(refs.digest, seen)
