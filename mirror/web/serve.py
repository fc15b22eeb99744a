"""An application as a process: on PORT, or on the socket that `everref up` hands over."""

import socket

import uvicorn
from starlette.types import ASGIApp

from mirror.config import Settings
from mirror.errors import UsageError
from mirror.process import Ties

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


async def serve(app: ASGIApp, settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    await Server(config, ties).serve(sockets=[_listening(settings, ties)])


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
