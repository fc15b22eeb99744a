"""Sealing secrets before they are stored, with keys that can be rotated; used by store and core/signed."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mirror.core.errors import OurFault

_FORMAT: Final = b"\x01"
_ID: Final = 8  # bytes of a key's id
_NONCE: Final = 12  # bytes, AES-GCM
_WRAPPED: Final = 32 + 16  # bytes: a data key and its tag
OVERHEAD: Final = len(_FORMAT) + _ID + _NONCE + _WRAPPED + _NONCE + 16  # bytes more than the text has


class BadKey(OurFault):
    """None of the keys opens this, or it was sealed for another place."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What somebody needs to seal one text for one context themselves; it opens nothing else.

    The sealed text is `head`, a nonce of 12 random bytes, and the text as AES-256-GCM encrypts it with
    `key`, that nonce and `context` as additional data, with the tag of 16 bytes at the end.
    """

    head: bytes
    key: bytes = field(repr=False)
    context: bytes


class Keyring:
    """The keys of SECRET_KEYS: the newest seals, every one opens.

    A sealed text is an envelope of AES-256-GCM (NIST SP 800-38D): format (1 byte),
    id of the key (8), nonce (12), the text's own data key sealed with that key (48),
    nonce (12), the text sealed with the data key. The context is authenticated in
    both, so that what was sealed for one place opens in no other.
    """

    __slots__ = ("_keys", "_newest", "_signing")

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys`: newest first, 32 characters or more each. Raises BadKey when there is none."""
        if not keys:
            raise BadKey("SECRET_KEYS is empty: set it to 32 random characters or more")
        self._keys = {_derived(key, b"id", _ID): AESGCM(_derived(key, b"key", 32)) for key in keys}
        self._newest = _derived(keys[0], b"id", _ID)
        self._signing = tuple(_derived(key, b"sign", 32) for key in keys)

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys)} keys)"

    def seal(self, plain: bytes, context: str) -> bytes:
        """Seal with the newest key; `context` says where it belongs, and is needed to open it."""
        made, nonce = self.envelope(context), secrets.token_bytes(_NONCE)
        return made.head + nonce + AESGCM(made.key).encrypt(nonce, plain, made.context)

    def envelope(self, context: str) -> Envelope:
        """A new data key for one text of this context, so that others can seal it as `seal` does."""
        mark = _FORMAT + self._newest
        aad = mark + context.encode()
        key, nonce = secrets.token_bytes(32), secrets.token_bytes(_NONCE)
        return Envelope(mark + nonce + self._keys[self._newest].encrypt(nonce, key, aad), key, aad)

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed for this context. Raises BadKey, saying which of the two is wrong."""
        if len(sealed) < OVERHEAD or sealed[:1] != _FORMAT:
            raise BadKey(f"{context}: Everref did not encrypt this; enter the credentials again")
        head, rest = sealed[: 1 + _ID], sealed[1 + _ID :]
        key = self._keys.get(head[1:])
        if key is None:
            raise BadKey(
                f"{context}: the key that encrypted it is not in SECRET_KEYS; add that key at the end"
            )
        aad = head + context.encode()
        wrap_nonce, wrapped, rest = rest[:_NONCE], rest[_NONCE : _NONCE + _WRAPPED], rest[_NONCE + _WRAPPED :]
        try:
            data_key = key.decrypt(wrap_nonce, wrapped, aad)
            return AESGCM(data_key).decrypt(rest[:_NONCE], rest[_NONCE:], aad)
        except InvalidTag:
            raise BadKey(f"{context}: the stored secret was changed or moved; enter it again") from None

    @property
    def mark(self) -> bytes:
        """The first bytes of everything that the newest key sealed."""
        return _FORMAT + self._newest

    @property
    def id(self) -> str:
        """The id of the newest key, hex: nothing of the key itself."""
        return self._newest.hex()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, newest first."""
        return tuple(known.hex() for known in self._keys)

    @property
    def marks(self) -> tuple[bytes, ...]:
        """The marks of all keys, newest first."""
        return tuple(_FORMAT + known for known in self._keys)

    @property
    def signing_keys(self) -> tuple[bytes, ...]:
        """Keys derived from the same SECRET_KEYS for core/signed, newest first."""
        return self._signing

    def is_newest(self, sealed: bytes) -> bool:
        """Whether the newest key sealed this, so that the older ones are not needed for it."""
        return hmac.compare_digest(sealed[: 1 + _ID], self.mark)


def _derived(key: str, purpose: bytes, length: int) -> bytes:
    """Derive bytes for one purpose from a key in SECRET_KEYS (HKDF, RFC 5869)."""
    return HKDF(SHA256(), length, salt=None, info=b"everref keyring " + purpose).derive(key.encode())
