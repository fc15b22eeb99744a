"""How an Everref knows itself, and those that a push came by, so that mirrors of mirrors make no circle.

Each Everref tells its mark in what git hears first, and a mirror's push to one says by which others it came.
Who calls: restore/serving (what is told), restore/mirroring (what is looked at), backup/pushing (what is
kept).
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID

AGENT: Final = "everref"
OPTION: Final = "everref.via"  # the push option that names by which Everrefs a push came
MOST: Final = 16  # of them
_MARK: Final = re.compile(r"[0-9a-f]{16}")


def mark_of(vault: UUID) -> str:
    """The mark of the Everref whose vault this is: the same under each of its names, and no secret."""
    return hashlib.sha256(b"everref " + vault.bytes).hexdigest()[:16]


def agent(mark: str | None) -> bytes:
    """What an Everref calls itself in git's protocol. None: it has no vault yet."""
    return (f"{AGENT}/{mark}" if mark else AGENT).encode()


def mark_in(agent: bytes) -> str | None:
    """The mark of the Everref that calls itself so. None: it is none, or one that tells no mark."""
    name, _, mark = agent.decode("ascii", "replace").partition("/")
    return mark if name == AGENT and _MARK.fullmatch(mark) else None


def marks_in(option: str | None) -> tuple[str, ...]:
    """By which Everrefs a push came, the last MOST of them; none where the option is missing or no list."""
    told = (option or "").split(",")
    return tuple(told[-MOST:]) if all(map(_MARK.fullmatch, told)) else ()


def said(marks: Sequence[str]) -> str:
    """These marks as a push option."""
    return f"{OPTION}={','.join(marks[-MOST:])}"
