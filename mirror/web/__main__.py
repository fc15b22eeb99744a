"""`python -m mirror.web`: the web application as a process; under `everref up` with the webhook receiver."""

import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from hooks import app as hooks
from mirror.core.config import Settings
from mirror.core.errors import UsageError
from mirror.notify import post
from mirror.notify import run as notifying
from mirror.services import startup
from mirror.services.embedded import queue
from mirror.services.open import open_services
from mirror.services.server.serve import serve
from mirror.services.startup import Ties
from mirror.web import templating
from mirror.web.app import application
from mirror.web.dispatch import Outside

LISTING_BYTES: Final = 32 << 20  # that a remote may list of its refs while a request waits for it


async def main(settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    async with AsyncExitStack() as stack:
        allowed = replace(settings, listing_bytes=min(settings.listing_bytes, LISTING_BYTES))
        services = await stack.enter_async_context(open_services(allowed))
        if services.keyring is None:
            raise UsageError("set SECRET_KEYS: sessions are signed and tokens are sealed with it")
        redis_url = settings.redis_url
        if redis_url is None:
            redis_url = await stack.enter_async_context(queue(Path(settings.data)))
        hints = hooks.queue(redis_url)
        stack.push_async_callback(hints.aclose)
        receiver = (
            hooks.application(services.db, hints, services.keyring) if ties.parent is not None else None
        )
        origin = settings.base_url or f"http://127.0.0.1:{settings.port}"
        services.readers.warm()
        outside = Outside(services, hints, services.keyring, origin.rstrip("/"), templating.environment())
        stack.push_async_callback(outside.background.end)
        outside.background.begin("telling people", notifying.step_in(services, post.sender(services)))
        await serve(application(outside, receiver), settings, ties)


if __name__ == "__main__":
    sys.exit(startup.begin("everref web", main))
