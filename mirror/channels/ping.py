"""Telling a monitor outside that all is well, or that it is not: one POST to the address that it gave."""

from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mirror.channels import webhook
from mirror.channels.wire import Wire
from mirror.core.channels import Address, NotDelivered

_HEADERS: Final = {
    "content-type": "text/plain; charset=utf-8",
    "user-agent": "everref",
    "accept-encoding": "identity",
}


def failing(url: str) -> str:
    """Where healthchecks and monitors like it are told of a failure: ADDRESS/fail."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))


async def send(wire: Wire, url: str, body: str) -> str:
    """POST a line; returns the status and what was said, in a line without the address.

    It takes 15 s at most, and the address is judged as a webhook's is; a redirect is not followed.
    Raises NotDelivered.
    """
    status, _, words = await webhook.posted(wire, Address("webhook", url), _HEADERS, body.encode())
    answered = f"{status}{f': {words}' if words else ''}"
    if not 200 <= status < 300:
        raise NotDelivered(f"{urlsplit(url).hostname} answered {answered}")
    return answered
