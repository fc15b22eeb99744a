"""A real HTTP server on loopback that receives webhooks: it checks signatures as their receivers do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio
from aiohttp import web
from standardwebhooks.webhooks import Webhook


@dataclass
class Receiver:
    """What came, and what the next ones are answered."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[web.Response | None] = field(default_factory=list)  # None: it never answers
    release: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # free: one that waits

    def verified(self, key: str, number: int = -1) -> Any:
        """The body, if the signature by this key is right. Raises WebhookVerificationError."""
        headers, body = self.got[number]
        return Webhook(key).verify(body, headers)

    async def answer(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if self.answers else web.Response(text="thanks")
        if answer is None:
            self.waiting.release()
            await self.release.wait()
            return web.Response()
        return answer


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """The server, for as long as this is open."""
    receiver, app = Receiver(), web.Application()
    app.router.add_route("*", "/{rest:.*}", receiver.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        receiver.release.set()
        await runner.cleanup()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that ends with the test."""
    async with receiving() as found:
        yield found
