"""GitHub's side of a webhook: signed deliveries, posted to a receiver that runs in the test's own loop."""

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp
import uvicorn
from starlette.types import ASGIApp

from mirror.core.model import RefName, Target
from mirror.discovery.webhook import NewHook

NOTHING = "0" * 40
_serial = count(1)


@dataclass(frozen=True)
class Answer:
    """What the receiver said."""

    status: int
    why: str
    text: str


@dataclass
class Forge:
    """A GitHub that knows one repository, and one hook of it."""

    session: aiohttp.ClientSession
    base: str  # where the receiver is
    given: NewHook
    repository: int = 77

    @property
    def url(self) -> str:
        """The hook's address, at the receiver of this test."""
        return f"{self.base}/hooks/{'/'.join(self.given.url.rsplit('/', 2)[1:])}"

    def payload(self, ref: RefName, before: Target | None, after: Target | None, by: str) -> dict[str, Any]:
        """What is told of a push."""
        return {
            "ref": ref.decode(),
            "before": before.decode() if before else NOTHING,
            "after": after.decode() if after else NOTHING,
            "created": before is None,
            "deleted": after is None,
            "repository": self.about(),
            "pusher": {"name": by, "email": f"{by}@example.org"},
            "sender": {"login": by, "id": 5},
        }

    def about(self) -> dict[str, Any]:
        """The repository, as every payload tells of it."""
        return {"id": self.repository, "full_name": "alice/garden", "private": True, "visibility": "private"}

    def signed(self, body: bytes, event: str, delivery: str) -> dict[str, str]:
        """The headers of a delivery."""
        assert self.given.secret
        digest = hmac.new(self.given.secret.encode(), body, hashlib.sha256).hexdigest()
        return {
            "content-type": "application/json",
            "x-github-event": event,
            "x-github-delivery": delivery,
            "x-hub-signature-256": f"sha256={digest}",
        }

    async def send(
        self,
        payload: object,
        event: str = "push",
        delivery: str | None = None,
        headers: Mapping[str, str] | None = None,
        url: str | None = None,
    ) -> Answer:
        """Deliver it, signed; `headers` are sent instead of ours of the same names."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        sent = self.signed(body, event, delivery or f"delivery-{next(_serial)}") | dict(headers or {})
        async with self.session.post(url or self.url, data=body, headers=sent) as answer:
            text = await answer.text()
            return Answer(answer.status, json.loads(text)["why"], text)

    async def push(
        self, ref: RefName, before: Target | None, after: Target | None, by: str = "alice", **how: Any
    ) -> Answer:
        """Tell of a push."""
        return await self.send(self.payload(ref, before, after, by), **how)


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """The application on loopback for as long as the block lasts; its address."""
    listener = socket.create_server(("127.0.0.1", 0))  # connections wait here until it serves
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()
