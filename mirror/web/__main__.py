"""`python -m mirror.web`: the web application as a process; under `everref up` with the webhook receiver."""

import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from hooks import app as hooks
from mirror import process
from mirror.config import Settings
from mirror.embedded import queue
from mirror.errors import UsageError
from mirror.flows.edges import open_edges
from mirror.process import Ties
from mirror.server.serve import serve
from mirror.web import pages
from mirror.web.app import application
from mirror.web.frame import Outside

LISTING_BYTES: Final = 32 << 20  # that a remote may list of its refs while a request waits for it


async def main(settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    async with AsyncExitStack() as stack:
        allowed = replace(settings, listing_bytes=min(settings.listing_bytes, LISTING_BYTES))
        edges = await stack.enter_async_context(open_edges(allowed))
        if edges.keyring is None:
            raise UsageError("set SECRET_KEYS: sessions are signed and tokens are sealed with it")
        redis_url = settings.redis_url
        if redis_url is None:
            redis_url = await stack.enter_async_context(queue(Path(settings.data)))
        hints = hooks.queue(redis_url)
        stack.push_async_callback(hints.aclose)
        receiver = hooks.application(edges.db, hints, edges.keyring) if ties.parent is not None else None
        origin = settings.base_url or f"http://127.0.0.1:{settings.port}"
        edges.readers.warm()
        outside = Outside(edges, hints, edges.keyring, origin.rstrip("/"), pages.environment())
        stack.push_async_callback(outside.background.end)
        await serve(application(outside, receiver), settings, ties)


if __name__ == "__main__":
    sys.exit(process.begin("everref web", main))
