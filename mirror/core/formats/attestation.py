"""Attested descriptions in the vault: each carries a MAC that only Everref's keys can make.

Who can write to the bucket can add objects to it, and a rebuild must not send an owner's
credentials to an address that one of those names. The MAC is HMAC-SHA256 over the key of the
object and all of its fields, whatever their order, so that it holds at no other place, and
fields that a later version adds are covered, too.
"""

import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from mirror.core.keyring import Keyring

_FIELD: Final = "mac"
_PURPOSE: Final = b"everref description"


def attest(keyring: Keyring | None, key: str, stored: bytes) -> bytes:
    """A JSON object for this key of the vault, with its MAC as the last field. Without keys it has none."""
    if keyring is None:
        return stored
    fields = _fields(stored)
    fields[_FIELD] = _mac(keyring.signing_keys[0], key, fields)
    return f"{json.dumps(fields, ensure_ascii=False, indent=0)}\n".encode("utf-8", "surrogateescape")


def is_attested(keyring: Keyring | None, key: str, stored: bytes) -> bool:
    """Whether one of the keys made the MAC of the stored object. False for what cannot be read."""
    if keyring is None:
        return False
    try:
        fields = _fields(stored)
        said = str(fields.pop(_FIELD)).encode("utf-8", "replace")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    macs = [_mac(one, key, fields).encode() for one in keyring.signing_keys]
    return any([hmac.compare_digest(said, mac) for mac in macs])


def _fields(stored: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stored.decode("utf-8", "surrogateescape"))
    return found


def _mac(signing_key: bytes, key: str, fields: Mapping[str, Any]) -> str:
    """Hex; with a key of its own, as mirror/core/signed.py has one for each purpose."""
    said = f"{key}\n{json.dumps(fields, sort_keys=True, separators=(',', ':'))}".encode()
    return hmac.digest(hmac.digest(signing_key, _PURPOSE, "sha256"), said, "sha256").hex()
