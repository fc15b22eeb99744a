"""Values that go through a browser and come back unchanged: signed for one purpose, with an age.

A signature hides nothing. The keys come from SECRET_KEYS: the newest signs, and
what any of them signed is read, so that keys change without signing anybody out.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

from mirror.core.keyring import Keyring

BACKDATED: Final = timedelta(seconds=60)  # by which two machines' clocks may differ
_LONGEST: Final = 8192  # characters that are looked at


def sign(keyring: Keyring, purpose: str, value: Any, now: datetime | None = None) -> str:
    """JSON, as text for an address or a cookie, that only `read` with this purpose takes. None: now."""
    return str(_serializer(keyring, purpose, _moment(now) - BACKDATED).dumps(value))


def read(keyring: Keyring, purpose: str, text: str, max_age: timedelta, now: datetime | None = None) -> Any:
    """What was signed for this purpose. None: it was not, it was changed, or it is older than that."""
    if len(text) > _LONGEST:
        return None
    age = max_age + BACKDATED
    try:
        return _serializer(keyring, purpose, _moment(now)).loads(text, max_age=int(age.total_seconds()))
    except (BadData, UnicodeError):
        return None


def _moment(now: datetime | None) -> datetime:
    return datetime.now(UTC) if now is None else now


def _serializer(keyring: Keyring, purpose: str, now: datetime) -> URLSafeTimedSerializer:
    """Its own salt for every purpose, SHA-256 instead of the library's SHA-1."""

    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(now.timestamp())

    return URLSafeTimedSerializer(
        list(reversed(keyring.signing_keys)),  # the library signs with the last
        salt=f"everref {purpose}",
        signer=Signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
