"""Where messages go, as the edges need it, and how a delivery fails.

Who calls: store opens an Address out of a row, channels deliver to it, notify reads what a failure means.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal
from uuid import UUID

from mirror.core import signed
from mirror.core.errors import EverrefError
from mirror.core.keyring import Keyring

ChannelKind = Literal["mail", "webhook", "chat"]

STOPS: Final = timedelta(days=3650)  # for which the link in a mail stops the next ones
_STOP: Final = "stop telling"


@dataclass(frozen=True, slots=True)
class Address:
    """One place that a message is sent to. `repr` shows nothing of what lets somebody write there."""

    kind: ChannelKind
    to: str = field(repr=False)  # a mail address, an https:// address, or an apprise URL
    keys: tuple[str, ...] = field(repr=False, default=())  # whsec_..., newest first: each signs what is sent
    unsubscribe: str | None = field(repr=False, default=None)  # of a mail: the page that ends these mails


class NotDelivered(EverrefError):
    """The other side did not take a message; trying again may help."""

    kind = "network"
    permanent = False

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # what the other side asks to wait; None: it does not say


class Undeliverable(NotDelivered):
    """The other side will never take this message."""

    permanent = True


def unsubscribe_url(keyring: Keyring, origin: str, channel_id: UUID) -> str:
    """The address that stops what is sent to a channel: no cookie, nor anybody signed in, is needed there.

    `origin`: scheme and host under which people reach the pages.
    """
    return f"{origin.rstrip('/')}/unsubscribe/{signed.sign(keyring, _STOP, str(channel_id))}"


def unsubscribed(keyring: Keyring, token: str) -> UUID | None:
    """Whose address that is. None: nobody's."""
    said = signed.read(keyring, _STOP, token, STOPS)
    return UUID(said) if isinstance(said, str) else None
