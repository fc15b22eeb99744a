"""What the channels need of the installation: the mail server, and what may be connected to."""

import ssl
from dataclasses import dataclass, field

from mirror.core.config import Settings
from mirror.core.smtp import Smtp


@dataclass(frozen=True, slots=True)
class Wire:
    """How messages leave: opened by nobody, as each delivery makes its own connection and ends it."""

    smtp: Smtp | None  # None: no mail can be sent
    allow_private: bool = False  # webhooks and chats may be inside our network, and webhooks plain http
    tls: ssl.SSLContext | None = field(default=None, repr=False)  # None: the authorities of this machine


def of(settings: Settings) -> Wire:
    """As the settings say."""
    return Wire(settings.smtp, settings.allow_private_remotes)
