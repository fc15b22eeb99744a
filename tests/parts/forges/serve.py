"""A double on a port of loopback, and the fixtures that begin and end one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest_asyncio
import trustme
import uvicorn
from starlette.types import ASGIApp

from tests.parts.forges.github import GitHub
from tests.parts.forges.gitlab import GitLab
from tests.parts.forges.host import H


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(kind: type[H], room: Path, *, port: int = 0, tls: bool = False) -> AsyncIterator[H]:
    """A forge of this kind in the running event loop, for as long as the block lasts."""
    room.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - before anything runs
    listener = socket.create_server(("127.0.0.1", port))  # connections wait here until it serves
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host = kind(f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}", room)
    options: dict[str, Any] = {}
    if tls:
        authority = trustme.CA()
        host.ca_pem = authority.cert_pem.bytes()
        authority.cert_pem.write_to_path(room / "ca.pem")
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
            room / "cert.pem"
        )
        options = {"ssl_certfile": str(room / "cert.pem")}
    async with answering(host, listener, **options):
        try:
            yield host
        finally:
            host.closing.set()
            await host.outbox.close()


@asynccontextmanager
async def answering(app: ASGIApp, listener: socket.socket, **options: Any) -> AsyncIterator[None]:
    """An application on this socket, for as long as the block lasts."""
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=2, **options
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest_asyncio.fixture
async def github(tmp_path: Path) -> AsyncIterator[GitHub]:
    """A GitHub where nobody is yet."""
    async with serving(GitHub, tmp_path / "github") as host:
        yield host


@pytest_asyncio.fixture
async def gitlab(tmp_path: Path) -> AsyncIterator[GitLab]:
    """A GitLab where nobody is yet."""
    async with serving(GitLab, tmp_path / "gitlab") as host:
        yield host


@pytest_asyncio.fixture
async def make_forge(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Makes any number of them: `await make_forge(GitHub, "enterprise", tls=True)`."""
    async with AsyncExitStack() as stack:

        async def make(kind: type[H], name: str, *, tls: bool = False) -> H:
            return await stack.enter_async_context(serving(kind, tmp_path / name, tls=tls))

        yield make
