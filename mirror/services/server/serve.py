"""An application as a process: on PORT, or on the socket that `everref up` hands over."""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp

from mirror.core.config import Settings
from mirror.core.errors import UsageError
from mirror.services.server import door
from mirror.services.server.door import Bodies, Door
from mirror.services.startup import Ties

STOP_SECONDS = 5  # for requests under way


class Server(uvicorn.Server):
    """uvicorn, saying when it serves, and closing what takes too long."""

    def __init__(self, config: uvicorn.Config, ties: Ties, at: Door) -> None:
        super().__init__(config)
        self._ties = ties
        self._door = at

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ties.say_ready()

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second."""
        if counter % 10 == 0:
            self._door.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)


async def serve(app: ASGIApp, settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    await server(app, settings, ties).serve(sockets=[_listening(settings, ties)])


def server(app: ASGIApp, settings: Settings, ties: Ties) -> Server:
    """The server of this application, with all the limits of mirror/services/server/door.py."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a stranger's odd request is no news
    at = Door(settings.forwarded, door.room())
    config = uvicorn.Config(
        Bodies(app),
        http=door.protocol(at),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # mirror/core/peer.py reads them
        timeout_keep_alive=door.IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return Server(config, ties, at)


def _listening(settings: Settings, ties: Ties) -> socket.socket:
    listener = _bound(settings, ties)
    # Connections have this from their listener. asyncio sets it only on sockets made with a protocol number,
    # and without it an answer's second write waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _bound(settings: Settings, ties: Ties) -> socket.socket:
    if ties.listen is not None:
        return socket.socket(fileno=ties.listen)
    try:
        return socket.create_server(("", settings.port), backlog=1024)
    except OSError as error:
        raise UsageError(f"cannot listen on port {settings.port}: {error.strerror}; set PORT") from None
