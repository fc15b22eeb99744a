"""What a vault promises, whichever store is behind it: flows know only this, not directories or S3."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from mirror.core.errors import LimitReached, OurFault, Refused
from mirror.core.locks import Lock, Locking, LockProof
from mirror.core.model import Sealed

GET_LIMIT: Final = 64 << 20  # bytes; the most that `get` reads into memory

# The same letters are safe in a file name, an S3 key and a URL, so no store ever has to escape one. A leading
# dot is left to the stores themselves: it marks what is not an object (yet).
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+-]{0,199}")
_KEY_LENGTH: Final = 800  # S3 allows 1024 bytes, and a prefix comes before it


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object without reading it."""

    key: str
    bytes: int
    modified: datetime
    storage_class: str | None = None  # None: the usual one, or the store has only one


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that was neither committed nor given up: a killed run's, or one in progress."""

    key: str  # where its object would be
    since: datetime  # when it was begun, or last written to


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the store itself can do; none of it is needed for correctness under the lease."""

    conditional_create: bool  # of two writers of one key, the second always gets AlreadyExists
    checksums: bool  # the store refuses bytes that changed on the way
    object_lock: bool  # the store can keep objects from being deleted for a time
    versioning: bool  # the store keeps overwritten and deleted objects


@dataclass(frozen=True, slots=True)
class PutLink:
    """An address to which somebody without credentials can send one object, by PUT."""

    url: str = field(repr=False)  # whoever has it may send these bytes
    headers: Mapping[str, str]  # that must be sent with them


class Writer(Protocol):
    """An object that is being written; tentative until commit."""

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises what the store met while it wrote earlier ones: LimitReached, NetworkError, Refused.
        """

    async def commit(self) -> Sealed | None:
        """Make it an object, durable when this returns. Raises AlreadyExists where the key is taken.

        Returns what was stored where it was sealed on the way; None: what was written.

        Raises Busy if another run discarded this upload.
        """


class Vault(Protocol):
    """An object store in which nothing is ever overwritten.

    Keys are relative paths such as `a/b.json`. Every method may raise NetworkError (the store
    stopped answering), BadCredentials or Refused; none leaves half an object behind.
    """

    def create(self, key: str) -> AbstractAsyncContextManager[Writer]:
        """A writer of any number of bytes. Leaving it without a commit leaves nothing.

        Raises AlreadyExists at the commit, LimitReached on a full store. A key that runs may race for is
        written by `put`: some stores let two large uploads win that end at the same moment.
        """

    async def put(self, key: str, data: bytes) -> Sealed | None:
        """Create a small object at once. Raises AlreadyExists, LimitReached. Returns what `commit` does."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to before `end` (None: the object's end), all of them or an error.

        A range that reaches beyond the object gives what there is. Raises NoSuchObject.
        """

    async def get(self, key: str, limit: int = GET_LIMIT) -> bytes:
        """A small object's bytes. Raises NoSuchObject; LimitReached if it has more than `limit` bytes."""

    async def stat(self, key: str) -> Stat | None:
        """None: there is no such object."""

    def list(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        """Every object whose key begins with `prefix`, in the order of their keys' bytes."""

    async def delete(self, key: str) -> None:
        """Remove an object and all its versions in the store; does nothing if there is none.

        Raises Locked where the store keeps it for a time; it is as it was then.
        """

    def locking(self) -> Locking | None:
        """How each new object is locked here (Object Lock), except exports. None: none is."""

    async def retain(self, key: str, until: datetime) -> None:
        """Let the store keep an object until then at least, in the mode of `locking`; never shortens a lock.

        Safe to run twice. Raises NoSuchObject; Refused where `locking` is None.
        """

    async def hold(self, key: str, on: bool) -> None:
        """Set or lift the legal hold of an object: while it is set, the store lets nobody delete it.

        Safe to run twice. Raises NoSuchObject; Refused where the store has no Object Lock.
        """

    async def locked_until(self, key: str) -> Lock | None:
        """What the store says keeps an object, asked now. None: nothing does. Raises NoSuchObject."""

    async def prove_lock(self) -> LockProof:
        """Try to break Object Lock on canaries, and read what of the store's settings would undo it.

        A canary's lock ends after minutes, and the next proof deletes it. Raises Refused where the store
        says itself that it has none.
        """

    def uncover(self, prefix: str = "") -> AsyncGenerator[str, None]:
        """Make current again what was first stored under `prefix` and was hidden or overwritten since.

        Gives the keys that were. Nothing in the vault is ever overwritten by us, so the first version of an
        object is the true one. Safe to run twice, and does nothing in a store that keeps no versions.
        """

    def hidden(self, prefix: str = "") -> AsyncGenerator[Stat, None]:
        """Objects under `prefix` that were deleted and of which the store keeps versions; in no order."""

    async def discard(self, key: str) -> None:
        """Remove an object and everything unfinished under its key: what a killed run may have left.

        One that the store keeps for a time stays, and is a stray.
        """

    async def give_up(self, key: str) -> None:
        """Remove unfinished uploads under a key, and leave its object, if any, alone."""

    async def unfinished(self, prefix: str = "") -> Sequence[Unfinished]:
        """Uploads under `prefix` that were begun and neither committed nor given up, in key order."""

    async def presign(self, key: str, expires: timedelta, filename: str) -> str | None:
        """A link that downloads the object as `filename` without credentials; None: the store has none."""

    async def presign_put(self, key: str, expires: timedelta, size: int, sha256: bytes) -> PutLink | None:
        """A link that stores these bytes, and no others, at `key`; None: the store has none.

        `size` is their number and `sha256` their digest; the store itself refuses whatever differs. The link
        works more than once until it expires, so the key must be one at which only these bytes may lie.
        """

    async def kept_sha256(self, key: str) -> bytes | None:
        """The SHA-256 that the store computed of an object as it came; None: it keeps none.

        Raises NoSuchObject.
        """

    async def capabilities(self) -> Capabilities:
        """What the store can do, found out by trying, once."""

    async def now(self) -> datetime | None:
        """What time it is by the store's own clock, to the second. None: it has none but this machine's."""

    async def probe(self) -> None:
        """Raise whatever keeps objects from being read or written now; leaves nothing behind."""

    def expect(self, identity: UUID) -> None:
        """From now on, allow writes only while the marker says this, if checking costs no request.

        Nor is anything found missing there: what is raised is NetworkError, as of a store that is away.
        """

    async def recognise(self) -> None:
        """Raise NetworkError if this is not the expected vault; sends no other request."""

    def directory(self) -> Path | None:
        """The directory of its objects on this machine. None: they are elsewhere."""

    def describe(self) -> str:
        """Where it is, in words for a person, without credentials."""

    async def aclose(self) -> None:
        """Close its connections. Nothing may be called afterwards."""


def check_key(key: str) -> str:
    """The key itself. Raises OurFault where it could mean something else in some store."""
    if len(key) > _KEY_LENGTH or not all(_NAME.fullmatch(name) for name in key.split("/")):
        raise OurFault(f"{key[:200]!r} is not a key of a vault; please report this as a bug")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself: the beginning of a key, or nothing. Raises OurFault."""
    if prefix:
        check_key(prefix + "x" if prefix.endswith("/") else prefix)
    return prefix


def lockless(where: str) -> Refused:
    """What `retain` and `hold` raise in a store that locks nothing."""
    return Refused(f"{where} does not lock objects; use an S3 bucket with Object Lock, and set VAULT_LOCK")


def too_large(key: str, limit: int) -> LimitReached:
    """What `get` raises for an object that does not fit into its limit."""
    return LimitReached(f"{key} in the vault has more than {limit} bytes, more than any object of its kind")
