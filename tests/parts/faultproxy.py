"""A proxy before an S3 server that fails on demand: what a network and a tired store do to us."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

_BETWEEN_NEIGHBOURS = ("Connection", "Keep-Alive", "Transfer-Encoding")

When = Callable[[web.Request], bool]
Forward = Callable[..., Awaitable["Answer"]]  # of a request, with another body if one is given
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    def response(self) -> web.Response:
        response = web.Response(status=self.status, body=self.body)
        response.headers.update(self.headers)
        return response


@dataclass(slots=True)
class _Order:
    when: When
    fault: Fault
    times: int


@dataclass(slots=True)
class FaultProxy:
    """Passes requests on, but for those that a fault was ordered for."""

    target: str  # http://127.0.0.1:PORT
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)  # "PUT /bucket/key?partNumber=1", in order of arrival
    _orders: list[_Order] = field(default_factory=list)

    def fail(self, when: When, fault: Fault, times: int = 1_000_000) -> None:
        """The next so many requests of this kind meet this fault."""
        self._orders.append(_Order(when, fault, times))

    def heal(self) -> None:
        """From now on nothing fails."""
        self._orders.clear()

    def count(self, when: str) -> int:
        """How many requests had these words in their first line."""
        return sum(when in request for request in self.requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        for order in self._orders:
            if order.times and order.when(request):
                order.times -= 1
                return await order.fault(request, self._forward)
        return (await self._forward(request)).response()

    async def _forward(self, request: web.Request, body: bytes | None = None) -> Answer:
        headers = request.headers.copy()
        headers.popall("Connection", None)
        data = await request.read() if body is None else body
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                URL(self.target + request.raw_path, encoded=True),
                headers=headers,
                data=io.BytesIO(data) if data else None,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            ) as answer,
        ):
            kept = CIMultiDict(answer.headers)
            for name in _BETWEEN_NEIGHBOURS:
                kept.popall(name, None)
            return Answer(answer.status, kept, await answer.read())


@asynccontextmanager
async def fault_proxy(target: str) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port of loopback before the server at `target`."""
    proxy = FaultProxy(target)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    # A handler that hangs is cancelled when its client goes, or at the end.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.endpoint = f"http://{host}:{port}"
        yield proxy
    finally:
        await runner.cleanup()


# Which requests


def anything(request: web.Request) -> bool:
    """Every request."""
    return True


def putting(request: web.Request) -> bool:
    """PutObject."""
    return request.method == "PUT" and "uploadId" not in request.query


def part(number: int) -> When:
    """UploadPart of this number."""
    return lambda request: request.method == "PUT" and request.query.get("partNumber") == str(number)


def beginning(request: web.Request) -> bool:
    """CreateMultipartUpload."""
    return request.method == "POST" and "uploads" in request.query


def completing(request: web.Request) -> bool:
    """CompleteMultipartUpload."""
    return request.method == "POST" and "uploadId" in request.query


def aborting(request: web.Request) -> bool:
    """AbortMultipartUpload."""
    return request.method == "DELETE" and "uploadId" in request.query


def reading(request: web.Request) -> bool:
    """GetObject."""
    return request.method == "GET" and not request.query.keys() & {"list-type", "uploads"}


# What happens to them


def says(status: int, code: str) -> Fault:
    """An error in S3's own words."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>.</Message></Error>'
        )
        return web.Response(status=status, text=body, content_type="application/xml")

    return fault


async def web_page(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The answer of a server that knows nothing of S3."""
    return web.Response(text="<!doctype html><title>It works!</title><p>It works!", content_type="text/html")


async def reset(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The connection breaks before the request is done."""
    return _break(request)


async def lost_answer(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The server does it, and the connection breaks before it can say so."""
    await forward(request)
    return _break(request)


async def hang(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The request is taken and never answered."""
    await request.read()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def deaf(request: web.Request, forward: Forward) -> web.StreamResponse:
    """The request is not even taken."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def cut(after: int) -> Fault:
    """The connection breaks in the answer, after so many bytes of its body."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        response = await _begin(request, await forward(request), after)
        if request.transport:
            request.transport.close()  # once these bytes are sent
        return response

    return fault


def stall(after: int) -> Fault:
    """The answer stops after so many bytes of its body, and the connection stays."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        await _begin(request, await forward(request), after)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return fault


async def changed(request: web.Request, forward: Forward) -> web.StreamResponse:
    """A bit of the body turns over on its way."""
    body = bytearray(await request.read())
    body[len(body) // 2] ^= 1
    return (await forward(request, bytes(body))).response()


async def _begin(request: web.Request, answer: Answer, length: int) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    await response.prepare(request)
    await response.write(answer.body[:length])
    return response


def _break(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.Response()
