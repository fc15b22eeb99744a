"""How deliveries leave a forge: at once and in order for each hook, unless a test drops or holds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

from tests.parts.forges.world import Delivery, Hook

# Both forges give up after ten seconds: GitHub's "Handling webhook deliveries", GitLab's webhook_timeout.
# Here the receiver shares its machine with other tests, and what was given up is not sent again.
PATIENCE = 120.0  # seconds
KEPT = 1 << 16  # bytes of an answer


class Outbox:
    """The deliveries that are due. `answered` is told of each that was sent."""

    def __init__(self, answered: Callable[[Delivery], None], may_send: Callable[[Hook], bool]) -> None:
        self._answered = answered
        self._may_send = may_send
        self._due: list[Delivery] = []
        self._running: asyncio.Task[None] | None = None
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self.lost: list[Delivery] = []  # those that a test dropped
        self.held = False
        self._later: list[Delivery] = []  # of events that are held
        self._held_events: tuple[str, ...] = ()
        self._drop = 0
        self._double = 0

    def drop(self, times: int) -> None:
        """The next so many get lost on the way, and no log has them."""
        self._drop += times

    def duplicate(self, times: int) -> None:
        """The next so many are sent twice."""
        self._double += times

    def hold(self, events: tuple[str, ...]) -> None:
        """Send nothing, or nothing of these events."""
        self.held = not events
        self._held_events = events

    def put(self, delivery: Delivery) -> None:
        """Send it as soon as its turn comes."""
        if delivery.event in self._held_events:
            self._later.append(delivery)
            return
        if self._drop:
            self._drop -= 1
            self.lost.append(delivery)
            return
        self._due.append(delivery)
        if self._double:
            self._double -= 1
            self._due.append(delivery)
        self._wake()

    async def release(self, *, reverse: bool, at_once: bool) -> None:
        """Send what was held, and wait for the answers."""
        self.held = False
        self._due += self._later
        self._later, self._held_events = [], ()
        if reverse:
            self._due.reverse()
        if at_once:
            due, self._due = self._due, []
            await asyncio.gather(*(self._send(delivery) for delivery in due))
        await self.empty()

    async def empty(self) -> None:
        """Wait until everything that is due was answered."""
        while not self.held and (self._due or self._running):
            self._wake()
            assert self._running
            await asyncio.wait({self._running})

    async def close(self) -> None:
        if self._running:
            self._running.cancel()
            await asyncio.wait({self._running})
        for client in self._clients.values():
            await client.aclose()

    def _wake(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # in a thread of a test; `empty` sends it
        if self._due and not self.held and self._running is None:
            self._running = loop.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while self._due and not self.held:
                due, self._due = self._due, []
                chains: dict[int, list[Delivery]] = {}
                for delivery in due:
                    chains.setdefault(delivery.hook.id, []).append(delivery)
                await asyncio.gather(*(self._send_all(chain) for chain in chains.values()))
        finally:
            self._running = None

    async def _send_all(self, chain: list[Delivery]) -> None:
        for delivery in chain:
            await self._send(delivery)

    async def _send(self, delivery: Delivery) -> None:
        hook = delivery.hook
        if hook not in hook.repository.hooks and delivery.event != "repository":
            return  # removed meanwhile
        if self._may_send(hook):
            await self.send_now(delivery)

    async def send_now(self, delivery: Delivery) -> None:
        """Send it before all others, also where its hook is disabled, and wait for the answer."""
        hook = delivery.hook
        began = time.monotonic()
        try:
            answer = await self._client(hook.verify).post(
                hook.url, content=delivery.body, headers=delivery.headers
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            delivery.problem = type(error).__name__
        else:
            delivery.status = answer.status_code
            delivery.answer_headers = dict(answer.headers)
            delivery.answer = answer.text[:KEPT]
        delivery.seconds = time.monotonic() - began
        if delivery not in hook.deliveries:
            hook.deliveries.append(delivery)
        self._answered(delivery)

    def _client(self, verify: bool) -> httpx.AsyncClient:
        if verify not in self._clients:
            self._clients[verify] = httpx.AsyncClient(verify=verify, trust_env=False, timeout=PATIENCE)
        return self._clients[verify]
