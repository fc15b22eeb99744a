"""The pages on a real socket, and clients that come from addresses of their own."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from starlette.types import ASGIApp

from mirror.core import peer
from mirror.services.server import serve
from mirror.services.startup import Ties
from tests.parts.web import Site
from tests.parts.whole import until

STRANGER = "127.0.0.2"
NEIGHBOUR = "127.0.0.3"
HOST = b" HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n"
GET = b"GET /healthz" + HOST + b"\r\n"
FORM = b"POST /sign-in" + HOST + b"content-type: application/x-www-form-urlencoded\r\n"
SHORT_FORM = FORM + b"content-length: 1000\r\n\r\nemail="
CALL = b"POST /api/v1/login" + HOST + b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n{"


@dataclass
class Served:
    """A server on a real socket, and clients that come from addresses of their own."""

    port: int
    server: serve.Server
    stack: AsyncExitStack = field(repr=False)

    async def open(self, come_from: str = STRANGER) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(come_from, 0))
        client = Client(reader, writer)
        self.stack.push_async_callback(client.close)
        return client

    async def deaf(self, text: bytes) -> "Client":
        """A client that asks for this and reads nothing of the answer; its own buffer is small."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
        client = Client(reader, writer)
        self.stack.push_async_callback(client.close)
        writer.write(text)
        return client

    async def ask(self, text: bytes = GET, come_from: str = NEIGHBOUR) -> bytes:
        """The first line of what is answered."""
        client = await self.open(come_from)
        client.writer.write(text)
        line = await client.reader.readline()
        await client.close()
        return line.strip()

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ended(self) -> bytes:
        """All that comes until the server has ended it, or has reset it as we were still sending."""
        said = bytearray()
        try:
            while piece := await self.reader.read(1 << 16):
                said += piece
        except ConnectionResetError:
            pass
        return bytes(said)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


@asynccontextmanager
async def serving(app: ASGIApp, site: Site, trusted: peer.Networks = ()) -> AsyncIterator[Served]:
    settings = replace(site.mirror.services.settings, forwarded=trusted)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        server = serve.server(app, settings, Ties())
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: said(server.started))
        async with AsyncExitStack() as clients:
            yield Served(listener.getsockname()[1], server, clients)
        server.should_exit = server.force_exit = True
        await running


async def said(value: bool) -> bool:
    return value


async def hang_up(served: Served, text: bytes) -> None:
    """Send this and be gone at once, then once more a moment later: the server is done with both."""
    tasks = served.server.server_state.tasks
    for wait in (nothing, served.ask):
        client = await served.open()
        client.writer.write(text)
        await client.writer.drain()
        await wait()
        client.writer.transport.abort()
        await until(lambda: said(not tasks and served.connections == 0))


async def nothing() -> None:
    pass
