"""Connecting to a remote within what the settings and its host allow; every flow connects here.

Who calls: every sync, every look, and restores that list their target.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from mirror.core import refs
from mirror.core.errors import Origin, RateLimited
from mirror.core.model import Refs, Remote, RepoId
from mirror.git import address, upstream
from mirror.git.upstream import Asking, Upstream
from mirror.services.open import Services
from mirror.store.discovery import holds

MANY: Final = 2000  # refs, whose digest takes a millisecond; that of more is taken in a thread


@asynccontextmanager
async def connected(
    services: Services,
    remote: Remote,
    session: aiohttp.ClientSession | None = None,
    *,
    origin: Origin = Origin.SOURCE,
    repo_id: RepoId | None = None,
) -> AsyncIterator[Upstream]:
    """A remote, ready for requests; sends nothing yet. Other arguments are those of `upstream.connect`.

    Given the repo whose credentials are used, raises RateLimited while their host asks for no
    requests; a new such answer is stored for all runs that use the same credentials.
    """
    place = place_of(remote.url)
    if repo_id is not None and (until := await holds.until(services.db, repo_id, place, services.clock())):
        limited = RateLimited(
            f"{remote.url}: the host wants no more requests until {until:%H:%M:%S} UTC; try again then",
            until,
        )
        limited.came_from(origin)
        raise limited
    try:
        settings = services.settings
        async with upstream.connect(
            services.git,
            remote,
            allow_private=settings.allow_private_remotes,
            origin=origin,
            asking=Asking(session, settings.listing_bytes, services.clock),
        ) as found:
            yield found
    except RateLimited as limited:
        if repo_id is not None and limited.origin is origin:
            await holds.put(services.db, repo_id, place, limited.retry_at)
        raise


def place_of(url: str) -> str:
    """The prefix that all addresses at the same host share; a slash for paths on this machine."""
    if address.is_path(url):
        return "/"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/" if parts.netloc else url.partition(":")[0] + ":"


async def digest(seen: Refs) -> str:
    """`refs.digest`, in a thread if there are many refs."""
    return refs.digest(seen) if len(seen) < MANY else await asyncio.to_thread(refs.digest, seen)
