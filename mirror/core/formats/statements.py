"""Signed statements: what was proved, as in-toto Statements in DSSE envelopes, and the keys that sign them.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md,
https://github.com/secure-systems-lab/dsse/blob/master/envelope.md. docs/evidence.md has every field.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer._crypto_signer import CryptoSigner  # its package exports them untyped
from securesystemslib.signer._key import SSlibKey

from mirror.core.errors import Corrupt, UsageError
from mirror.core.formats.manifest import FORMAT, Fields, time_text

LIMIT: Final = 64 << 20  # bytes of a statement; that of a report may name 10,000 repos
TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD: Final = "application/vnd.in-toto+json"
_URI: Final = "https://everref.example.org/evidence/"  # then the kind and its version

DRILL: Final = "drill"
VERIFICATION: Final = "verification"
DAILY: Final = "daily-verification"
CHECKPOINT: Final = "checkpoint"
KEY: Final = "key"
REPORT: Final = "report"
KINDS: Final = (DRILL, VERIFICATION, DAILY, CHECKPOINT, KEY, REPORT)


class NotProven(Corrupt):
    """A piece of evidence does not hold; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about: a name, and the SHA-256 of its bytes."""

    name: str
    sha256: str  # hex


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. `predicate` is JSON, as docs/evidence.md has it for each kind."""

    kind: str  # one of KINDS
    subject: tuple[Subject, ...]
    at: datetime  # when it was signed
    predicate: Mapping[str, Any]

    @property
    def fields(self) -> Fields:
        """The predicate, to be asked by type."""
        return Fields(self.predicate, f"the {self.kind} statement")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that statements are checked with."""

    public: bytes  # the 32 bytes of RFC 8032
    since: datetime | None = None  # None: it is not known
    until: datetime | None = None  # what it signed later does not hold; None: it still signs
    previous: str | None = None  # the id of the key that introduced it; None: none did
    introduction: str | None = None  # the statement that did, as it is stored; None: it is not known

    @property
    def id(self) -> str:
        """SHA-256, hex, of the key as DER (SubjectPublicKeyInfo): of `openssl pkey -pubin -outform DER`."""
        return key_id(self.public)

    @property
    def pem(self) -> str:
        """The key as PEM."""
        return _loaded(self.public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def as_json(self) -> dict[str, object]:
        """The key as it is published."""
        return {
            "key_id": self.id,
            "algorithm": "ed25519",
            "public_key": self.pem,
            "from": self.since and time_text(self.since),
            "until": self.until and time_text(self.until),
            "previous": self.previous,
            "introduction": self.introduction,
        }


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs: its 32 private bytes."""

    private: bytes = field(repr=False)

    @staticmethod
    def new() -> "SigningKey":
        """A key that nobody has."""
        return SigningKey(
            Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        )

    @property
    def public(self) -> bytes:
        """The 32 public bytes."""
        whole = Ed25519PrivateKey.from_private_bytes(self.private).public_key()
        return whole.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def id(self) -> str:
        """The id of its public half."""
        return key_id(self.public)


def key_id(public: bytes) -> str:
    """See PublicKey.id."""
    der = _loaded(public).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


def _loaded(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


def canonical(value: object) -> bytes:
    """The same bytes for the same JSON: keys in order, no space, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sign(statement: Statement, *keys: SigningKey) -> bytes:
    """The statement in its envelope, as it is stored, with a signature by each of these keys."""
    payload = {
        "_type": TYPE,
        "subject": [{"name": one.name, "digest": {"sha256": one.sha256}} for one in statement.subject],
        "predicateType": f"{_URI}{statement.kind}/v1",
        "predicate": {**statement.predicate, "at": time_text(statement.at)},
    }
    envelope = Envelope(canonical(payload), PAYLOAD, {})
    for key in keys:
        private = Ed25519PrivateKey.from_private_bytes(key.private)
        public = SSlibKey.from_crypto(private.public_key(), keyid=key.id)
        envelope.sign(CryptoSigner(private, public))
    return _stored(envelope)


def _stored(envelope: Envelope) -> bytes:
    return canonical(envelope.to_dict()) + b"\n"


def verify(stored: bytes, keys: Mapping[str, PublicKey], what: str) -> Statement:
    """The statement in these bytes, which one of the keys signed while it was in use.

    `what` names it in errors. Raises NotProven: the signature, the key or the time does not fit, or a
    byte is not as it was written.
    """
    envelope = _envelope(stored, what)
    known = [keys[one] for one in envelope.signatures if one in keys]
    if not known:
        named = ", ".join(envelope.signatures) or "no key"  # whole: one digit may be what was changed
        raise NotProven(f"{what}: it is signed by {named}, which is not among the given keys")
    for key in known:
        try:
            public = SSlibKey.from_crypto(_loaded(key.public), keyid=key.id)
            public.verify_signature(envelope.signatures[key.id], envelope.pae())
        except SigningError:
            raise NotProven(
                f"{what}: the signature does not match; the statement or its signature was changed"
            ) from None
    statement = _statement(envelope, what)
    if late := [key for key in known if not _was_in_use(key, statement.at)]:
        since, until = late[0].since, late[0].until
        used = f"{since and time_text(since)} to {until and time_text(until)}"
        raise NotProven(
            f"{what}: key {late[0].id[:16]} was in use from {used}, not at {time_text(statement.at)}"
        )
    return statement


def read(stored: bytes, what: str) -> tuple[Statement, tuple[str, ...]]:
    """The statement in these bytes and the ids of the keys that it names; nothing is checked.

    Raises NotProven if it is no statement.
    """
    envelope = _envelope(stored, what)
    return _statement(envelope, what), tuple(envelope.signatures)


def _was_in_use(key: PublicKey, at: datetime) -> bool:
    return (key.since is None or key.since <= at) and (key.until is None or at <= key.until)


def _envelope(stored: bytes, what: str) -> Envelope:
    try:
        envelope = Envelope.from_dict(json.loads(stored))
        same = _stored(envelope) == stored and all(isinstance(one, str) for one in envelope.signatures)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SigningError):
        raise NotProven(f"{what}: this is not a signed statement (a DSSE envelope)") from None
    if not same or envelope.payload_type != PAYLOAD:
        raise NotProven(f"{what}: the envelope was changed: it is not written as Everref writes it")
    return envelope


def _statement(envelope: Envelope, what: str) -> Statement:
    try:
        payload = json.loads(envelope.payload)
        uri, predicate = payload["predicateType"], payload["predicate"]
        subject = tuple(Subject(one["name"], one["digest"]["sha256"]) for one in payload["subject"])
        kind = uri.removeprefix(_URI).removesuffix("/v1")
        if payload["_type"] != TYPE or uri != f"{_URI}{kind}/v1" or kind not in KINDS:
            raise ValueError
        at = Fields(predicate, what).time("at")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotProven(f"{what}: this is not a statement that this Everref knows") from None
    return Statement(kind, subject, at, predicate)


def introduce(key: SigningKey, at: datetime, by: SigningKey | None) -> bytes:
    """The statement that a key signs from then on: signed by itself, and by the one before it, if any."""
    public = PublicKey(key.public)
    predicate = {"public_key": public.pem, "key_id": public.id, "previous": by.id if by else None}
    statement = Statement(KEY, (Subject(f"evidence key {public.id}", public.id),), at, predicate)
    return sign(statement, key, *([by] if by else []))


def introduced(stored: bytes, what: str) -> PublicKey:
    """The key that such a statement introduces, if its signature by itself holds. Raises NotProven."""
    statement, _ = read(stored, what)
    if statement.kind != KEY:
        raise NotProven(f"{what}: this introduces no key")
    fields = statement.fields
    try:
        public = _of_pem(fields.text("public_key"), what)
        key = PublicKey(public, statement.at, None, fields.text_or_none("previous"), stored.decode())
    except UsageError as error:
        raise NotProven(str(error)) from None
    verify(stored, {key.id: key}, what)
    return key


def is_introduced_by(key: PublicKey, known: Mapping[str, PublicKey]) -> bool:
    """Whether one of these keys signed the introduction of this one."""
    if key.introduction is None or key.previous is None or key.previous not in known:
        return False
    try:
        by = PublicKey(known[key.previous].public)  # whenever: it signs its successor's as its last
        verify(key.introduction.encode(), {by.id: by}, f"key {key.id[:16]}")
    except NotProven:
        return False
    return True


def _of_pem(text: str, what: str) -> bytes:
    try:
        loaded = load_pem_public_key(text.encode())
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, Ed25519PublicKey):
        raise UsageError(f"{what}: this is not an Ed25519 public key in PEM")
    return loaded.public_bytes(Encoding.Raw, PublicFormat.Raw)


def published(keys: Sequence[PublicKey]) -> bytes:
    """The keys as `/.well-known/everref-evidence.json` has them."""
    found = {"format": FORMAT, "keys": [key.as_json() for key in keys]}
    return f"{json.dumps(found, indent=1)}\n".encode()


def keys_of(stored: bytes, what: str) -> dict[str, PublicKey]:
    """The keys of a published list, or the one of a PEM file, by their ids. Raises UsageError."""
    if stored.lstrip().startswith(b"-----BEGIN"):
        one = PublicKey(_of_pem(stored.decode("ascii", "replace"), what))
        return {one.id: one}
    try:
        found = [_published_key(row, what) for row in Fields.of(stored, what).rows("keys")]
    except Corrupt as error:
        raise UsageError(f"{error}; give the file of /.well-known/everref-evidence.json, or a PEM") from None
    known = {key.id: key for key in found}
    for key in found:
        if (
            key.introduction is not None
            and introduced(key.introduction.encode("utf-8", "replace"), what).id != key.id
        ):
            raise UsageError(f"{what}: key {key.id[:16]} has the introduction of another key")
        if key.previous in known and not is_introduced_by(key, known):
            raise UsageError(
                f"{what}: key {key.id[:16]} is not introduced by the key that it names before it"
            )
    return known


def _published_key(row: Fields, what: str) -> PublicKey:
    key = PublicKey(
        _of_pem(row.text("public_key"), what),
        row.time_or_none("from"),
        row.time_or_none("until"),
        row.text_or_none("previous"),
        row.text_or_none("introduction"),
    )
    if key.id != row.text("key_id"):
        raise row.off("key_id")
    return key
