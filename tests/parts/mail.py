"""A real SMTP server (aiosmtpd) on loopback, which keeps what it takes and can be told to refuse."""

import asyncio
import email
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest_asyncio
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

USER, PASSWORD = "backup@acme.example", "s3cret/word:with@signs"
ENCODED = "s3cret%2Fword%3Awith%40signs"


@dataclass
class Postbox:
    """The server: what came, and what it is to answer to the next ones."""

    port: int = 0
    raw: list[bytes] = field(default_factory=list)
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # to RCPT TO, one each
    tries: int = 0  # recipients that were named
    logins: int = 0
    tls: ssl.SSLContext | None = None  # by which a client trusts it
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.tries += 1
        if self.refusals:
            return self.refusals.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(email.message_from_bytes(envelope.content, policy=default))
        self.raw.append(envelope.content)
        self.recipients += envelope.rcpt_tos
        self.arrived.set()
        return "250 kept"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, how: str, data: Any
    ) -> AuthResult:
        self.logins += 1
        right = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)  # the server says so itself

    def links(self, number: int = -1) -> list[str]:
        """The addresses in the plain text of a mail."""
        plain = self.mails[number].get_body(("plain",))
        assert plain is not None
        return [word for word in plain.get_content().split() if word.startswith("http")]


@asynccontextmanager
async def postbox(*, tls: bool = True, auth: bool = True) -> AsyncIterator[Postbox]:
    """A server with STARTTLS and AUTH, unless it is to have neither."""
    box, context = Postbox(), None
    if tls:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        box.tls = ssl.create_default_context()
        authority.configure_trust(box.tls)
    loop = asyncio.get_running_loop()

    def connected() -> SMTP:
        return SMTP(
            box,
            hostname="localhost",
            tls_context=context,
            require_starttls=tls,
            auth_required=auth,
            auth_require_tls=tls,
            authenticator=box.authenticate if auth else None,
            loop=loop,
        )

    server = await loop.create_server(connected, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    async with server:
        yield box


@pytest_asyncio.fixture
async def make_postbox() -> AsyncIterator[Callable[..., Awaitable[Postbox]]]:
    """Servers that end with the test."""
    async with AsyncExitStack() as stack:

        async def make(**how: bool) -> Postbox:
            return await stack.enter_async_context(postbox(**how))

        yield make
