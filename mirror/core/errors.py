"""Everref's errors, in the classes that people and programs act on.

An error states the fact and what to do about it in one line. It never holds a
URL with credentials, a token, or another program's unfiltered output. Its class says
what happened, its origin where.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from functools import wraps
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Origin(StrEnum):
    """Who failed. The code that met the failure says so; by default it is our own failure."""

    SOURCE = "source"  # the remote that is backed up, and what it sent
    TARGET = "target"  # the remote that is restored to
    FORGE = "forge"  # a forge's API
    VAULT = "vault"
    DATABASE = "database"
    DISK = "disk"  # of the machine at work
    OURS = "ours"


# What all repos share: if one of these is unavailable, nothing is wrong with any repo.
SHARED: Final = frozenset({Origin.VAULT, Origin.DATABASE, Origin.DISK})


class EverrefError(Exception):
    """A failure with a class, shown to its owner as one line."""

    kind: ClassVar[str] = "ours"  # the "class" of the JSON error, one of DESIGN's words
    permanent: ClassVar[bool] = True  # False: trying again later may help
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, origin: Origin | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self._origin = origin  # None: nobody has said it yet

    @property
    def origin(self) -> Origin:
        """Where the failure came from."""
        return self._origin or Origin.OURS

    @property
    def is_shared(self) -> bool:
        """Whether something that all repos share failed, so that this repo is not to blame."""
        return self.origin in SHARED

    def came_from(self, origin: Origin, instead_of: Origin | None = None) -> None:
        """Say whose failure it is.

        The code nearer to the failure knows better: an origin that was set stays, unless it is `instead_of`.
        """
        if self._origin is None or self._origin is instead_of:
            self._origin = origin


_UNAVAILABLE: Final[Mapping[Origin, str]] = {
    Origin.VAULT: "its vault does not answer or is full",
    Origin.DATABASE: "its database does not answer",
    Origin.DISK: "a disk of it is full or broken",
}  # of SHARED, in words


def for_strangers(error: EverrefError) -> str:
    """The error in a line for who may read a repo but runs nothing here: without our paths and addresses."""
    if not error.is_shared:
        return str(error)
    return f"Everref cannot do this now, as {_UNAVAILABLE[error.origin]}; try again in a few minutes"


@contextmanager
def whose(origin: Origin, *kinds: type[EverrefError]) -> Iterator[None]:
    """Set the origin of the errors that leave this block; only of these `kinds` if any are given.

    It encloses what a service does by itself, never a `yield` to a caller, whose failures are its own.
    """
    try:
        yield
    except EverrefError as error:
        if not kinds or isinstance(error, kinds):
            error.came_from(origin)
        raise


def met_by(origin: Origin) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """`whose` for everything that a function does."""

    def edge(ask: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @wraps(ask)
        async def asked(*args: P.args, **kwargs: P.kwargs) -> R:
            with whose(origin):
                return await ask(*args, **kwargs)

        return asked

    return edge


class UsageError(EverrefError):
    """The call is not valid; nothing was started."""

    kind = "usage"
    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None, origin: Origin | None = None) -> None:
        super().__init__(message, origin=origin)
        self.field = field  # of a form, that the message is about; None: no single one


class NotFound(EverrefError):
    """There is no such repo, snapshot or ref here."""

    kind = "not-found"
    exit_code = 3


class Dropped(NotFound):
    """The moment was there, and was let go on purpose: who, when and why is in the message."""


class BadCredentials(EverrefError):
    """The other side wants credentials, or different ones."""

    kind = "credentials"


class RemoteGone(EverrefError):
    """The forge says that this repository does not exist, or that we can no longer see it."""

    kind = "gone"


class Blocked(EverrefError):
    """The host blocks access to this repository (HTTP 403 or 451)."""

    kind = "blocked"


class Refused(EverrefError):
    """The remote host, or a rule of ours, refuses this; nothing was changed."""

    kind = "refused"


class NotAllowed(Refused):
    """The person does not have the role for this."""


class Held(Refused):
    """The repo is on legal hold: nothing of it may go."""


class Moved(Refused):
    """The repository has moved to another address, which was not followed."""

    kind = "moved"

    def __init__(self, message: str, address: str | None = None, *, origin: Origin | None = None) -> None:
        super().__init__(message, origin=origin)
        self.address = address  # without credentials; None: the host did not say


class IdentityChanged(Refused):
    """Another repository is at the repo's address now; nothing of it was saved."""

    kind = "identity"


class NetworkError(EverrefError):
    """A host could not be reached or stopped answering."""

    kind = "network"
    permanent = False


class Corrupt(EverrefError):
    """Bytes are not what they should be; what was intact stays as it was."""

    kind = "corrupt"


class Damaged(Corrupt):
    """Something of one repo in the vault is missing or was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, origin=Origin.VAULT)

    @property
    def is_shared(self) -> bool:
        """False: damage to one repo's history concerns that repo only."""
        return False


class KeyMissing(EverrefError):
    """Something is sealed, and none of the keys that are here opens it; nothing of it is damaged."""

    kind = "key"


class GapInChain(Damaged):
    """The parts in the vault do not cover the pack log from its beginning to the requested moment."""


class LimitReached(EverrefError):
    """A limit was reached: disk, size, time or memory."""

    kind = "limit"
    permanent = False


class DiskFull(LimitReached):
    """A disk is full; deleting caches can make room."""

    def __init__(self, message: str, path: str | None = None, *, origin: Origin | None = None) -> None:
        super().__init__(message, origin=origin)
        self.path = path  # where something was to be written; None: below the data directory


class RateLimited(LimitReached):
    """The other side accepts no more requests until then."""

    def __init__(self, message: str, retry_at: datetime) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class Locked(LimitReached):
    """The store does not let anybody delete this yet (S3 Object Lock)."""

    def __init__(self, message: str, until: datetime | None) -> None:
        super().__init__(message)
        self.until = until  # None: until somebody lifts it


class TooOften(LimitReached):
    """Somebody requests this too often."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds  # to wait


class Crowded(LimitReached):
    """Too many people request this at once; no single one is at fault."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds  # to wait


class TooLarge(LimitReached):
    """Something in a repository is too large to be inspected."""

    permanent = True

    def __init__(self, message: str, oid: bytes, size: int) -> None:
        super().__init__(message)
        self.oid, self.size = oid, size


class OverLimit(LimitReached):
    """A team has reached a limit (mirror/core/quotas.py)."""

    permanent = True

    def __init__(self, message: str, limit: str, seconds: int | None = None) -> None:
        super().__init__(message, origin=Origin.OURS)
        self.limit = limit  # its name
        self.seconds = seconds  # until some of it is free again; None: waiting does not help


class Busy(EverrefError):
    """Somebody else is working on this repo right now."""

    kind = "busy"
    permanent = False


class Cancelled(EverrefError):
    """Somebody stopped this."""

    kind = "cancelled"


class OurFault(EverrefError):
    """Everref itself failed: a bug or a broken installation; the message says where to look."""

    kind = "ours"


class AlreadyExists(EverrefError):
    """The vault already has an object with this key; a conditional create lost."""

    kind = "refused"


class NoSuchObject(EverrefError):
    """The vault has no object with this key."""

    kind = "not-found"
