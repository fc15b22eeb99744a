"""How many connections stand open, and how long each may take over what it owes us.

A client that opens connections and says nothing, that drips its headers or its
body, or that does not read what it asked for costs itself alone: it is closed
in time, and it has a share of all connections that it cannot exceed. When all
are taken, whoever has been silent for longest makes room.

uvicorn itself bounds none of this: it waits for headers and bodies for ever,
and its limit of connections refuses everybody alike.
"""

import asyncio
import contextlib
import importlib.util
import logging
import resource
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mirror.core import lowspeed, peer
from mirror.services.server import bodies

if TYPE_CHECKING or importlib.util.find_spec("httptools") is None:
    Protocol = H11Protocol
else:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol

CONNECTIONS: Final = 1000  # open at once in a process
FROM_ONE: Final = 100  # of them from one place, unless it is a proxy that we trust
SPARE_FILES: Final = 400  # descriptors for all that is no connection
HEAD_SECONDS: Final = 10  # for the headers of a request to be there whole
HEAD_BYTES: Final = 64 << 10  # of headers that are not there whole yet
HEADERS: Final = 100  # of one request
WAITING: Final = 16  # requests of one connection that wait for the answer to the one before
BODY_SECONDS: Final = 30  # for the body of a request to be there whole
IDLE_SECONDS: Final = 5  # between two requests of one connection
UNREAD_SECONDS: Final = 60  # in which a client reads what fills its connection's buffer
CLOSING_SECONDS: Final = 10  # for what was sent last to be read, once we are closing
LEAST_RATE: Final = 1000  # bytes of it a second, where there is more

log = logging.getLogger("mirror.web")


class Door:
    """The connections of one process: who has how many, and which of them owe us something."""

    def __init__(self, trusted: peer.Networks, most: int) -> None:
        self._trusted = trusted
        self._most = most
        self._open: dict[Connection, None] = {}  # in the order in which they were opened, or last at work
        self._from: Counter[str] = Counter()
        self._full = False  # and it was written down

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, one: "Connection") -> bool:
        """Let this connection in, where another that is silent makes room for it if need be."""
        if self._from[one.place] >= FROM_ONE and not peer.is_among(one.place, self._trusted):
            if not self._make_room([other for other in self._open if other.place == one.place]):
                return False
        if len(self._open) >= self._most:
            if not self._full:
                self._full = True
                log.warning(
                    "all %d connections are in use; the longest idle one is closed to make room", self._most
                )
            if not self._make_room(list(self._open)):
                return False
        self._open[one] = None
        self._from[one.place] += 1
        return True

    def leave(self, one: "Connection") -> None:
        """Forget a connection that has ended. Safe to call twice."""
        if one in self._open:
            del self._open[one]
            self._from[one.place] -= 1
            if not self._from[one.place]:
                del self._from[one.place]
            self._full = self._full and len(self._open) > self._most // 2

    def moved(self, one: "Connection") -> None:
        """It is at work now: others have been silent for longer."""
        if one in self._open:
            self._open[one] = self._open.pop(one)

    def sweep(self, now: float) -> None:
        """Close what has taken too long."""
        for one in list(self._open):
            one.look(now)

    def _make_room(self, others: "Iterable[Connection]") -> bool:
        for other in others:
            if other.is_spare():
                other.drop()
                self.leave(other)
                return True
        return False


class Connection(Protocol):
    """uvicorn's, with an end to every wait for its client."""

    door: Door  # set by `protocol`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.place = ""
        self._head_bytes = 0
        self._since = self.loop.time()  # when it began to owe us a request
        self._lingers = False  # all was said; what the client still sends is thrown away
        self._stalled: float | None = None  # since when its buffer is full
        self._ends: float | None = None  # until when what was sent last may be read, once we are closing
        peername = transport.get_extra_info("peername")
        if peername:
            self.place = peer.network(str(peername[0]))
        self._admitted = self.door.admit(self)
        super().connection_made(transport)
        if not self._admitted:
            self._say(503, "there are too many connections at once; try again in a moment", lingers=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers or self.transport.is_closing():
            return
        super().data_received(data)
        if not self.is_silent():
            self._head_bytes = 0
            self.door.moved(self)
            return
        if self._head_bytes == 0 and self.cycle is not None:
            self._since = self.loop.time()
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES and not self._lingers and not self.transport.is_closing():
            self._say(431, f"the headers are larger than {HEAD_BYTES >> 10} KiB")

    def on_headers_complete(self) -> None:
        """What httptools calls for each request, of many that arrive at once too; h11 takes one at a time.

        Raises ValueError, which ends the connection with a 400.
        """
        if len(self.headers) > HEADERS:
            raise ValueError(f"more than {HEADERS} headers")
        if len(self.pipeline) >= WAITING:  # type: ignore[attr-defined]
            raise ValueError(f"more than {WAITING} requests at once")
        super().on_headers_complete()  # type: ignore[misc]

    def on_response_complete(self) -> None:
        """Begin to wait for the next request; there is none after an answer that waited for no body."""
        super().on_response_complete()
        self._since = self.loop.time()
        self.door.moved(self)
        if self.is_silent() and self.cycle.more_body and not self.transport.is_closing():
            self._lingers = True
            self.transport.write_eof()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = None

    def is_silent(self) -> bool:
        """Whether it has asked for nothing that is still to be answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def is_spare(self) -> bool:
        """Whether nobody misses it."""
        return self.is_silent() and not self.transport.get_write_buffer_size()

    def look(self, now: float) -> None:
        """Close it if its client has taken too long over something."""
        if self._lingers or self.transport.is_closing():
            left = self.transport.get_write_buffer_size()
            self._ends = self._ends or now + CLOSING_SECONDS + left / LEAST_RATE
            if now > self._ends:
                self.drop()
        elif self._stalled is not None and now - self._stalled > UNREAD_SECONDS:
            self.drop()
        elif self.is_silent() and now - self._since > HEAD_SECONDS:
            self._say(408, f"the headers did not arrive within {HEAD_SECONDS} s")

    def drop(self) -> None:
        """End it at once, with whatever was still to be sent."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._say(400, msg.rstrip(".").lower())

    def _say(self, status: int, why: str, *, lingers: bool = True) -> None:
        """Say this where nothing of ours is asked yet, and close: once it was read, or at once."""
        body = why + "\n"
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write(
                f"HTTP/1.1 {status} {_PHRASE[status]}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
                f"content-type: text/plain; charset=utf-8\r\n{_HEADERS}\r\n{body}".encode("ascii", "replace")
            )
            if lingers:  # who is still sending would be reset, and read none of it
                self._lingers = True
                self.transport.write_eof()
                return
        self.transport.close()


_PHRASE: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
PLAIN: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}  # what an answer says to a browser, unless it says otherwise itself
_HEADERS: Final = "".join(f"{name}: {value}\r\n" for name, value in PLAIN.items())


def protocol(door: Door) -> type[asyncio.Protocol]:
    """The class of connections that pass this door."""
    return type("Connection", (Connection,), {"door": door})


def room() -> int:
    """How many connections this process can hold, once it may open as many files as it is let."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS
    return min(CONNECTIONS, max(soft - SPARE_FILES, soft // 2))


@dataclass(slots=True)
class _Progress:
    """How far a request has come."""

    whole: bool = False  # its body is there
    answered: bool = False  # its answer has begun

    def has_answered(self) -> bool:
        return self.answered


class Bodies:
    """Waits for a body no longer than BODY_SECONDS, and sends what is PLAIN with every answer.

    A body that its endpoint reads as it comes (`bodies.streams`) may take hours, as long as it keeps coming:
    there BODY_SECONDS bound the silence, and lowspeed.RATES how little may come.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        at = _Progress()
        clock = asyncio.get_running_loop().time
        until = clock() + BODY_SECONDS
        speeds = lowspeed.Speeds()
        pace = bodies.paced(scope)

        async def in_time() -> Message:
            if at.whole or (at.answered and not pace.streams):
                return await receive()
            began = clock()
            try:
                async with asyncio.timeout_at(began + BODY_SECONDS if pace.streams else until):
                    message = await receive()
                if pace.streams and speeds.is_slow(len(message.get("body", b"")), clock() - began):
                    raise TimeoutError
            except TimeoutError:
                if at.has_answered():
                    return {"type": "http.disconnect"}
                raise HTTPException(
                    408, f"the body did not arrive within {BODY_SECONDS:g} s", {"connection": "close"}
                ) from None
            at.whole = not message.get("more_body", False)
            return message

        async def told(message: Message) -> None:
            at.answered = True
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PLAIN.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, in_time, told)
