"""Standard output, which may be absent, closed by its reader, or full."""

import os
import sys

from mirror.core.errors import LimitReached


class StdoutClosed(BaseException):
    """The reader had enough, as `head` has; no failure, so no `except Exception` may stop it."""


def write(text: str) -> None:
    """Raises StdoutClosed, and LimitReached where it cannot be written."""
    if sys.stdout is not None:
        try:
            sys.stdout.write(text)
        except OSError as error:
            _fail(error)


def flush() -> None:
    """Send what is still held back, while a failure can be told; raises as `write` does."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            _fail(error)


def _fail(error: OSError) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)  # Python's own last flush must say nothing
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        raise StdoutClosed from None
    raise LimitReached(f"standard output cannot be written: {error.strerror}") from None
