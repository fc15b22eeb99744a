"""`python -m mirror.web`: the web application as a process, on PORT or on the socket that `up` hands over."""

import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvicorn
from redis.asyncio import Redis

from mirror import process, store
from mirror.config import Settings
from mirror.embedded import services
from mirror.errors import UsageError
from mirror.process import Ties
from mirror.web.app import application

STOP_SECONDS = 5  # for requests under way


class Server(uvicorn.Server):
    """uvicorn, saying when it serves."""

    def __init__(self, config: uvicorn.Config, ties: Ties) -> None:
        super().__init__(config)
        self._ties = ties

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ties.say_ready()


async def main(settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    async with AsyncExitStack() as stack:
        database_url, redis_url = settings.database_url, settings.redis_url
        if database_url is None or redis_url is None:
            running = await stack.enter_async_context(services(Path(settings.data), redis=redis_url is None))
            database_url, redis_url = database_url or running.database_url, redis_url or running.redis_url
        assert redis_url is not None
        db = await stack.enter_async_context(store.opened(database_url))
        queue = Redis.from_url(redis_url)
        stack.push_async_callback(queue.aclose)
        config = uvicorn.Config(
            application(db, queue),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        await Server(config, ties).serve(sockets=[_listening(settings, ties)])


def _listening(settings: Settings, ties: Ties) -> socket.socket:
    if ties.listen is not None:
        return socket.socket(fileno=ties.listen)
    try:
        return socket.create_server(("", settings.port), backlog=1024)
    except OSError as error:
        raise UsageError(f"cannot listen on port {settings.port}: {error.strerror}; set PORT") from None


if __name__ == "__main__":
    sys.exit(process.begin("everref web", main))
