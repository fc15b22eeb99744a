"""SMTP_URL, read once: the server that mails are handed to, and as whom."""

import ipaddress
import re
from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from mirror.core.errors import UsageError

FORM: Final = "smtp://user:password@host:587?from=Everref+<backup@example.com>"
_PORTS: Final = {"smtps": 465, "smtp": 587}
_ADDRESS: Final = re.compile(r"[^@\s<>,;:\"()\\]{1,64}@[^@\s<>,;:\"()\\]{1,253}")
_LOOPBACK: Final = ("localhost", "localhost.localdomain")

Tls = Literal["implicit", "starttls", "none"]


@dataclass(frozen=True, slots=True)
class Smtp:
    """A mail server of the operator's. `repr` shows no password."""

    host: str
    port: int
    tls: Tls  # implicit: from the first byte (smtps://); starttls: required before anything is said
    user: str | None  # None: no AUTH
    password: str | None = field(repr=False)
    sender: str  # the address in From, and of the envelope
    name: str  # in From, before the address
    admin: str | None  # where messages about the installation go; None: nobody was named


def read(text: str, allow_private: bool) -> Smtp:
    """The server that SMTP_URL names. Raises UsageError, which shows nothing of a password.

    `smtps://` is TLS from the first byte, `smtp://` is STARTTLS, which the server must offer. `?tls=none`
    is for a server on this machine, or anywhere with `allow_private`. `?from=` is the sender, `?admin=` who
    hears of the installation.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError(f"SMTP_URL cannot be read; write {FORM}") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.path not in ("", "/") or parts.fragment:
        raise UsageError(f"SMTP_URL must be like {FORM}, or begin with smtps://; encode / ? # in a password")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - {"from", "tls", "admin"}):
        raise UsageError(f"SMTP_URL has an unknown option {unknown[0][:20]!r}; there are from, tls and admin")
    if bool(parts.username) != bool(parts.password):
        raise UsageError("SMTP_URL has a user without a password, or the reverse; give both or none")
    tls: Tls = "implicit" if parts.scheme == "smtps" else "starttls"
    if (wanted := options.get("tls")) is not None:
        if wanted != "none" or parts.scheme == "smtps":
            raise UsageError("SMTP_URL: the only value of tls is none, and only with smtp://")
        if not (allow_private or _is_loopback(parts.hostname)):
            raise UsageError(
                "SMTP_URL: tls=none would send mail and password in clear text; it is for a server on this "
                "machine, or with ALLOW_PRIVATE_REMOTES=1"
            )
        tls = "none"
    user = unquote(parts.username) if parts.username else None
    name, sender = _sender(options.get("from"), user, parts.hostname)
    admin = options.get("admin") or None
    if admin is not None and not is_address(admin):
        raise UsageError("SMTP_URL: admin must be one e-mail address; write a plus in it as %2B")
    password = unquote(parts.password) if parts.password else None
    return Smtp(parts.hostname, port or _PORTS[parts.scheme], tls, user, password, sender, name, admin)


def is_address(text: str) -> bool:
    """Whether this is one plain e-mail address that can be written into a header as it is."""
    return len(text) <= 320 and text.isprintable() and _ADDRESS.fullmatch(text) is not None


def _sender(given: str | None, user: str | None, host: str) -> tuple[str, str]:
    if given is None:
        return "Everref", user if user and is_address(user) else f"everref@{host}"
    name, address = parseaddr(given)
    if not is_address(address) or not given.isprintable():
        raise UsageError(
            "SMTP_URL: from must be like Everref+<backup@example.com>; write a plus in it as %2B"
        )
    return name or "Everref", address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK
