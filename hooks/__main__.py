"""`python -m hooks`: the webhook receiver as a process of its own, on PORT."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

from hooks import app
from mirror import store
from mirror.core.config import Settings
from mirror.core.errors import UsageError
from mirror.services import keys, startup
from mirror.services.embedded import embedded_servers
from mirror.services.server.serve import serve
from mirror.services.startup import Ties


async def main(settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    async with AsyncExitStack() as stack:
        database_url, redis_url = settings.database_url, settings.redis_url
        if database_url is None or redis_url is None:
            running = await stack.enter_async_context(
                embedded_servers(Path(settings.data), redis=redis_url is None)
            )
            database_url, redis_url = database_url or running.database_url, redis_url or running.redis_url
        assert redis_url is not None
        db = await stack.enter_async_context(store.opened(database_url))
        queue = app.queue(redis_url)
        stack.push_async_callback(queue.aclose)
        keyring = keys.keyring(settings, Path(settings.data))
        if keyring is None:
            raise UsageError("set SECRET_KEYS: webhook secrets are encrypted with it")
        await serve(app.application(db, queue, keyring), settings, ties)


if __name__ == "__main__":
    sys.exit(startup.begin("everref hooks", main))
