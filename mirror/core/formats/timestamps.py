"""Time stamps of RFC 3161: an authority's signed answer that it had seen the SHA-256 of some bytes by then.

https://www.rfc-editor.org/rfc/rfc3161. An answer is stored as it came (TimeStampResp, DER), as
`openssl ts` reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from mirror.core.errors import UsageError
from mirror.core.formats.statements import NotProven

LIMIT: Final = 64 << 10  # bytes of an answer, which has a few certificates in it
_SHA256: Final = "2.16.840.1.101.3.4.2.1"
_SEQUENCE: Final = b"\x30"  # what every answer in DER begins with, and no JSON


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an answer says; whether the authority signed it is for `verify` to say."""

    at: datetime  # the authority's time
    sha256: str  # hex, of the bytes that it had seen
    nonce: int | None  # of the request; None: it had none


@dataclass(frozen=True, slots=True)
class Request:
    """What an authority is asked: DER, and the number that its answer must repeat."""

    body: bytes
    nonce: int | None


def ask(data: bytes) -> Request:
    """The request to stamp these bytes, with a random nonce; certificates are wanted in the answer."""
    made = TimestampRequestBuilder(data, HashAlgorithm.SHA256, nonce=True, cert_req=True).build()
    return Request(made.as_bytes(), made.nonce)


def is_stamp(stored: bytes) -> bool:
    """Whether this may be an answer of an authority, and is no JSON."""
    return stored.startswith(_SEQUENCE)


def read(stored: bytes, what: str) -> Stamp:
    """What an answer says; no signature is checked. Raises NotProven: it is none, or a refusal."""
    return _stamp(_decoded(stored, what), what)


def verify(stored: bytes, certificates: Sequence[x509.Certificate], what: str) -> Stamp:
    """The stamp in these bytes, signed by an authority that these certificates vouch for.

    They are judged as of the authority's time, as they expire long before the evidence does. Those that
    issue themselves are trusted; the others only complete the chain. Versions and the name of the signature's
    algorithm are covered by no signature, say nothing, and are not judged. Raises NotProven.
    """
    found = _decoded(stored, what)
    stamp = _stamp(found, what)
    verifier = VerifierBuilder(
        roots=[one for one in certificates if one.issuer == one.subject],
        intermediates=[one for one in certificates if one.issuer != one.subject],
    )
    try:
        verifier.build().verify(found, bytes.fromhex(stamp.sha256))
    except (VerificationError, ValueError) as error:
        raise NotProven(
            f"{what}: the time stamp was changed, or another authority made it than those given: {error}"
        ) from None
    return stamp


def certificates(stored: bytes, what: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, of which one at least issued itself. Raises UsageError."""
    try:
        found = x509.load_pem_x509_certificates(stored)
    except ValueError:
        found = []
    if not any(one.issuer == one.subject for one in found):
        raise UsageError(f"{what}: give the certificates of the authority as PEM, its root among them")
    return found


def digest(data: bytes) -> str:
    """What a stamp names data by: SHA-256, hex."""
    return sha256(data).hexdigest()


def _decoded(stored: bytes, what: str) -> TimeStampResponse:
    try:
        found = decode_timestamp_response(stored)
        granted = found.status == PKIStatus.GRANTED
        said = "; ".join(found.status_string)
    except (ValueError, TypeError):
        raise NotProven(f"{what}: this is no time stamp (RFC 3161), or it was changed") from None
    if not granted:
        raise NotProven(f"{what}: the authority refused to stamp{f': {said}' if said else ''}")
    return found


def _stamp(found: TimeStampResponse, what: str) -> Stamp:
    try:
        info = found.tst_info
        imprint = info.message_imprint
        if imprint.hash_algorithm.dotted_string != _SHA256:
            raise NotProven(f"{what}: it stamps no SHA-256")
        return Stamp(info.gen_time.astimezone(UTC), imprint.message.hex(), info.nonce)
    except (ValueError, TypeError):
        raise NotProven(f"{what}: this time stamp cannot be read; it was changed") from None
