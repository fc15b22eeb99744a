"""Asking an authority to say when it saw some bytes (RFC 3161, 3.4): one POST, of which an answer is read."""

from typing import Final
from urllib.parse import urlsplit

from mirror.channels import webhook
from mirror.channels.wire import Wire
from mirror.core.channels import Address, NotDelivered
from mirror.core.formats import timestamps
from mirror.core.formats.statements import NotProven
from mirror.core.formats.timestamps import Stamp

_HEADERS: Final = {
    "content-type": "application/timestamp-query",
    "accept": "application/timestamp-reply",
    "user-agent": "everref",
    "accept-encoding": "identity",
}


async def ask(wire: Wire, url: str, data: bytes) -> tuple[bytes, Stamp]:
    """The authority's answer about these bytes, as it came, and what it says. Only their SHA-256 is sent.

    It takes 15 s and 64 KiB at most; no redirect is followed. Raises NotDelivered: it gave none, or one
    to another question.
    """
    wanted = timestamps.ask(data)
    status, body = await webhook.exchanged(
        wire, Address("webhook", url), _HEADERS, wanted.body, timestamps.LIMIT
    )
    host = urlsplit(url).hostname
    if status != 200:
        raise NotDelivered(f"{host} answered {status} instead of a time stamp")
    if len(body) > timestamps.LIMIT:
        raise NotDelivered(f"{host} answered with more than {timestamps.LIMIT} bytes, which is no time stamp")
    try:
        stamp = timestamps.read(body, f"the answer of {host}")
    except NotProven as error:
        raise NotDelivered(str(error)) from None
    if (stamp.nonce, stamp.sha256) != (wanted.nonce, timestamps.digest(data)):
        raise NotDelivered(f"{host} answered another question than it was asked")
    return body, stamp
