"""The marker: the object at the top of a vault that says which vault it is."""

import json
from typing import Final
from uuid import UUID

from mirror.core.errors import Corrupt, NetworkError

LIMIT: Final = 4096  # bytes; it has some eighty


def encode(identity: UUID) -> bytes:
    """The bytes of the marker: of one identity always the same."""
    return json.dumps({"format": 1, "vault": str(identity)}).encode() + b"\n"


def decode(data: bytes) -> UUID:
    """The identity in a marker. Raises Corrupt."""
    try:
        return UUID(json.loads(data)["vault"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Corrupt(
            "vault.json is damaged, so this vault cannot be identified; restore it from a copy"
        ) from None


def check(found: bytes | None, identity: UUID, where: str) -> None:
    """Raise NetworkError, as for an unavailable vault, unless the marker `found` says `identity`."""
    if found is None:
        raise NetworkError(
            f"{where} has no vault.json, so it is not vault {identity}, to which the database belongs;"
            " check that its disk is mounted. Nothing is written there"
        )
    if (other := decode(found)) != identity:
        raise NetworkError(
            f"{where} is vault {other}, but the database belongs to vault {identity};"
            " mount the right one or correct VAULT_URL. Nothing is written there"
        )
