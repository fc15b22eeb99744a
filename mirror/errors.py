"""What can go wrong, in the classes that people and programs act on.

An error states the fact and what to do about it in one line. It never holds a
URL with credentials, a token, or another program's unfiltered output.
"""

from datetime import datetime
from typing import ClassVar


class EverrefError(Exception):
    """A failure with a class, shown to its owner as one line."""

    kind: ClassVar[str] = "ours"  # the "class" of the JSON error, one of DESIGN's words
    permanent: ClassVar[bool] = True  # False: trying again later may help
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class UsageError(EverrefError):
    """The words of the call are off; nothing was begun."""

    kind = "usage"
    exit_code = 2


class NotFound(EverrefError):
    """There is no such repo, snapshot or ref here."""

    kind = "not-found"
    exit_code = 3


class BadCredentials(EverrefError):
    """The other side wants credentials, or other ones."""

    kind = "credentials"


class RemoteGone(EverrefError):
    """The forge says this repository does not exist, or not for us any more."""

    kind = "gone"


class Blocked(EverrefError):
    """The forge says that access to this repository is blocked (HTTP 403 or 451)."""

    kind = "blocked"


class Refused(EverrefError):
    """The other side, or a rule of ours, refuses this; nothing was changed."""

    kind = "refused"


class Moved(Refused):
    """The repository is at another address now, which was not followed."""

    kind = "moved"

    def __init__(self, message: str, address: str | None = None) -> None:
        super().__init__(message)
        self.address = address  # without credentials; None: the host did not say


class IdentityChanged(Refused):
    """At the repo's address is another repository now; none of it was taken."""

    kind = "identity"


class NetworkError(EverrefError):
    """The other side could not be reached, or stopped answering."""

    kind = "network"
    permanent = False


class Corrupt(EverrefError):
    """Bytes are not what they should be; what was good stays as it was."""

    kind = "corrupt"


class GapInChain(Corrupt):
    """The parts in the vault do not cover the pack log from its beginning to the wanted moment."""


class LimitReached(EverrefError):
    """A limit was reached: disk, size, time or memory."""

    kind = "limit"
    permanent = False


class RateLimited(LimitReached):
    """The other side answers no more questions until then."""

    def __init__(self, message: str, retry_at: datetime) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class TooOften(LimitReached):
    """Somebody asks this of us too often."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds  # to wait


class Busy(EverrefError):
    """Somebody else is at work on this repo right now."""

    kind = "busy"
    permanent = False


class Cancelled(EverrefError):
    """Somebody asked for this to be stopped."""

    kind = "cancelled"


class OurFault(EverrefError):
    """Everref itself failed: a bug or a broken set-up; the message says where to look."""

    kind = "ours"


class AlreadyExists(EverrefError):
    """An object of this key is in the vault already; a conditional create lost."""

    kind = "refused"


class NoSuchObject(EverrefError):
    """The vault holds no object of this key."""

    kind = "not-found"
