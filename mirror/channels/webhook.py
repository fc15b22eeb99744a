"""A message as a signed HTTP request: https://www.standardwebhooks.com

The address is a stranger's: it is judged and dialled as a repository's is, no redirect is
followed, and of the answer a line is read.
"""

import asyncio
import json
import secrets
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx
from standardwebhooks.webhooks import Webhook

from mirror.channels.wire import Wire
from mirror.core.channels import Address, NotDelivered, Undeliverable
from mirror.core.errors import NetworkError, UsageError
from mirror.core.messages import Message, to_json
from mirror.core.rules.work import backoff
from mirror.net.reach import resolved

SECONDS: Final = 15.0  # for all of a delivery
ANSWER: Final = 2048  # bytes of an answer that are read
SAID: Final = 200  # characters of it that are kept
LONGEST: Final = 2048  # characters of an address
_KEY: Final = 32  # bytes

Read = TypeVar("Read")


def new_key() -> str:
    """A key that signs what is sent to one webhook, in the form in which receivers configure it."""
    return f"whsec_{b64encode(secrets.token_bytes(_KEY)).decode()}"


def check(url: str, allow_private: bool) -> str:
    """The address in the form in which it is kept. Raises UsageError, which shows nothing of it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise UsageError("the address cannot be read; write https://host/path", field="to") from None
    if parts.scheme not in (("https", "http") if allow_private else ("https",)) or not parts.hostname:
        raise UsageError("the address of a webhook begins with https://", field="to")
    if "@" in parts.netloc:
        raise UsageError(
            "the address has a user name or password in it; leave it out: Everref signs each message",
            field="to",
        )
    if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("the address has a space or another character that must be encoded", field="to")
    return url.partition("#")[0]


def host(url: str) -> str:
    """What anybody may see of the address: its path may be as good as a password."""
    return urlsplit(url).netloc


async def send(wire: Wire, to: Address, message: Message) -> str:
    """POST it, signed with each key; returns the status and what was said, in a line.

    2xx is sent, 410 Gone is permanent, anything else may be tried again: after Retry-After if that is given.
    Raises NotDelivered, Undeliverable.
    """
    said = to_json(message)
    body = json.dumps({"type": message.kind, "timestamp": said["at"], "data": said}, ensure_ascii=False)
    at = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "user-agent": "everref",
        "accept-encoding": "identity",
        "webhook-id": str(message.id),
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(str(message.id), at, body) for key in to.keys),
    }
    status, told, words = await posted(wire, to, headers, body.encode())
    line = f"{status}{f': {words}' if words else ''}"
    if 200 <= status < 300:
        return line
    if 300 <= status < 400:
        raise NotDelivered(f"{_name(to)} answered {status}, a redirect; enter the address that it leads to")
    if status == 410:
        raise Undeliverable(f"{_name(to)} answered {line}: it wants no more messages")
    raise NotDelivered(
        f"{_name(to)} answered {line}", _retry_after(told, at) if status in (429, 503) else None
    )


async def posted(
    wire: Wire, to: Address, headers: dict[str, str], body: bytes
) -> tuple[int, httpx.Headers, str]:
    """POST these bytes, within SECONDS; returns the status, the headers and a line without the address.

    Raises NotDelivered where nobody answers.
    """
    status, told, words = await _within(_post(wire, to.to, headers, body, _line), to)
    return status, told, _without(words, to.to)


async def exchanged(
    wire: Wire, to: Address, headers: dict[str, str], body: bytes, most: int
) -> tuple[int, bytes]:
    """POST these bytes, within SECONDS; returns the status and the answer, of which a little more than
    `most` bytes are read at most.

    Raises NotDelivered where nobody answers.
    """
    status, _, found = await _within(_post(wire, to.to, headers, body, partial(_bytes, most)), to)
    return status, found


async def _within(answering: Awaitable[Read], to: Address) -> Read:
    try:
        async with asyncio.timeout(SECONDS):
            return await answering
    except (TimeoutError, httpx.TimeoutException):
        raise NotDelivered(f"{_name(to)} did not answer within {SECONDS:g} s") from None
    except NetworkError as error:
        raise NotDelivered(str(error)) from None
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        if "certificate verify failed" in str(error).lower():
            raise NotDelivered(f"the certificate of {_name(to)} cannot be verified") from None
        raise NotDelivered(f"{_name(to)} cannot be reached from here; check the address") from None


async def _post(
    wire: Wire,
    url: str,
    headers: dict[str, str],
    body: bytes,
    read: Callable[[httpx.Response], Awaitable[Read]],
) -> tuple[int, httpx.Headers, Read]:
    """Dial what was judged, under the name that was asked for, which TLS and Host keep."""
    place = httpx.URL(url)
    port = place.port or {"https": 443, "http": 80}[place.scheme]
    addresses = await resolved(place.host, port, wire.allow_private)
    async with httpx.AsyncHTTPTransport(verify=wire.tls or _authorities(), trust_env=False) as transport:
        for address in addresses:
            request = httpx.Request(
                "POST",
                place.copy_with(host=address),
                headers={"host": place.netloc.decode("ascii"), **headers},
                content=body,
                extensions={"sni_hostname": place.host, "timeout": httpx.Timeout(SECONDS).as_dict()},
            )
            try:
                answer = await transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent yet
                if address == addresses[-1]:
                    raise
                continue
            try:
                return answer.status_code, answer.headers, await read(answer)
            finally:
                await answer.aclose()
    raise AssertionError("a name without an address")


async def _line(answer: httpx.Response) -> str:
    """The first printable line's worth of the answer; nothing where it is compressed."""
    read = bytearray()
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        return ""
    async for chunk in answer.aiter_raw():
        read += chunk[: ANSWER - len(read)]
        if len(read) >= ANSWER:
            break
    text = read.decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


async def _bytes(most: int, answer: httpx.Response) -> bytes:
    """The answer as it came, cut off after more than `most` bytes."""
    found = bytearray()
    async for chunk in answer.aiter_raw():
        found += chunk
        if len(found) > most:
            break
    return bytes(found)


def _retry_after(headers: httpx.Headers, now: datetime) -> timedelta | None:
    told = backoff.retry_after(headers.get("retry-after", ""), headers.get("date", ""), now)
    return None if told is None else told - now


def _without(words: str, url: str) -> str:
    """What was said, without the path and query of the address, which may be as good as a password."""
    parts = urlsplit(url)
    for secret in (f"{parts.path}?{parts.query}", parts.path, parts.query):
        if len(secret) > 1:
            words = words.replace(secret, "***")
    return words[:SAID]


def _name(to: Address) -> str:
    return urlsplit(to.to).hostname or "the webhook"


@cache
def _authorities() -> ssl.SSLContext:
    """Who is trusted on this machine; SSL_CERT_FILE adds to it."""
    return ssl.create_default_context()
