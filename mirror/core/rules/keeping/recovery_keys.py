"""What may be a recovery key: what a person typed, read as a recipient, or refused with what to do."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from mirror.core.errors import UsageError

NAME: Final = 100  # characters of a key's name, at most
FIELD: Final = "recipient"  # of the form
_RSA_BITS: Final = 2048  # the least that age takes
_LONGEST: Final = 8000  # characters of a recipient
_PRIVATE: Final = re.compile(
    r"AGE-SECRET-KEY-|AGE-PLUGIN-[A-Z0-9]+-1|PRIVATE KEY-----|PuTTY-User-Key-File|^-----BEGIN OPENSSH",
    re.IGNORECASE | re.MULTILINE,
)
_PLUGIN: Final = re.compile(r"age1([a-z0-9+_.]+?)1[a-z0-9]+")
_NEWER: Final = frozenset({"tag", "pq", "tagpq"})  # recipients of age 1.3, which age 1.1 cannot seal to


class Kind(StrEnum):
    """What a recovery key is."""

    AGE = "age"
    SSH = "ssh"
    PLUGIN = "plugin"  # of a hardware key, by a program of its own
    SHEET = "sheet"  # an age key that was made for a printed sheet


@dataclass(frozen=True, slots=True)
class Recipient:
    """The public half of a key, as age takes it."""

    kind: Kind
    text: str
    comment: str = ""  # of an SSH key: what it is called
    plugin: str | None = None  # the program age-plugin-NAME that seals to it; None: none is needed


def is_private(typed: str) -> bool:
    """Whether this has the private half of a key in it."""
    return _PRIVATE.search(typed) is not None


def read(typed: str) -> Recipient:
    """The recipient that a person gave. Raises UsageError, which never repeats what was typed."""
    text = " ".join(typed.split())
    if is_private(typed):
        raise UsageError(
            "this is the private half of a key; nothing was stored. Give the public half:"
            " the line that begins with age1 or ssh-",
            field=FIELD,
        )
    if not text:
        raise UsageError(
            "give a public key: a line that begins with age1, ssh-ed25519 or ssh-rsa", field=FIELD
        )
    if len(text) > _LONGEST:
        raise UsageError("this is too long to be one public key", field=FIELD)
    if text.startswith("ssh-") or text.startswith(("ecdsa-", "sk-")):
        return _ssh(text)
    return _age(text.lower() if text.isupper() else text)


def _age(text: str) -> Recipient:
    found = _PLUGIN.fullmatch(text)
    try:
        if found is None:
            return Recipient(Kind.AGE, str(pyrage.x25519.Recipient.from_str(text)))
        if found[1] in _NEWER:
            raise UsageError(
                f"Everref does not seal to keys of the kind age1{found[1]} yet; give one of age-keygen",
                field=FIELD,
            )
        pyrage.plugin.Recipient.from_str(text)
    except pyrage.RecipientError:
        if not text.startswith("age1"):
            raise _no_key() from None
        raise UsageError(
            "this begins like an age key, but is not one; copy the whole line again", field=FIELD
        ) from None
    return Recipient(Kind.PLUGIN, text, plugin=f"age-plugin-{found[1]}")


def _ssh(text: str) -> Recipient:
    kind, _, rest = text.partition(" ")
    body, _, comment = rest.partition(" ")
    try:
        key = load_ssh_public_key(f"{kind} {body}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            "this begins like an SSH public key, but is not one; copy the whole line again", field=FIELD
        ) from None
    if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS:
        raise UsageError(
            f"this RSA key has {key.key_size} bits; age takes {_RSA_BITS} or more. Give another key",
            field=FIELD,
        )
    if not isinstance(key, RSAPublicKey | Ed25519PublicKey):
        raise UsageError(
            f"age does not seal to keys of the kind {kind[:40]}; give an ssh-ed25519, ssh-rsa or age1 key",
            field=FIELD,
        )
    return Recipient(Kind.SSH, f"{kind} {body}", comment[:NAME])


def _no_key() -> UsageError:
    return UsageError(
        "this is no public key; give a line that begins with age1, ssh-ed25519 or ssh-rsa", field=FIELD
    )


def name(typed: str, recipient: Recipient) -> str:
    """What a key is called: as it was typed, or its comment, or its kind. Raises UsageError."""
    text = " ".join(typed.split()) or recipient.comment or f"{recipient.kind} key"
    if len(text) > NAME:
        raise UsageError(f"a name has at most {NAME} characters", field="name")
    if is_private(text):
        raise UsageError("the name has the private half of a key in it; nothing was stored", field="name")
    return text
