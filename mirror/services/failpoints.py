"""The named points between two durable effects, where a crash must do no harm.

`reached` does nothing. The crash tests replace it by something that kills the
process, once for each name, and then run the same flow again.
"""

from typing import Final

SYNC: Final = (
    "sync: leased",
    "sync: listed",
    "sync: intent stored",
    "sync: fetched",
    "sync: proved",
    "sync: bundle stored",
    "sync: index stored",
    "sync: manifest stored",
    "sync: recorded",
    "sync: pool grown",
)
COMPACT: Final = (
    "compact: leased",
    "compact: intent stored",
    "compact: bundle stored",
    "compact: read back",
    "compact: index stored",
    "compact: recorded",
)
CHECKPOINT: Final = (
    "compact: leased",
    "compact: view made",
    "compact: intent stored",
    "compact: bundle stored",
    "compact: read back",
    "compact: leased for the record",
    "compact: index stored",
    "compact: recorded",
)
PRUNE: Final = ("prune: object deleted", "prune: row deleted")
RESTORE: Final = (
    "restore: planned",
    "restore: pool filled",
    "restore: written",
    "restore: refs written",
    "restore: head pushed",
    "restore: pushed",
    "restore: in place",
)
DESCRIBE: Final = ("describe: stored",)
NOTES: Final = ("notes: made", "notes: stored")
EVIDENCE: Final = ("evidence: recorded", "evidence: stored")
STATE: Final = ("state: begun", "state: stored", "state: told", "state: taken up")
HOOK: Final = ("hook: row stored", "hook: at the forge", "hook: removed at the forge")
LIST: Final = ("list: seen",)
CHOOSE: Final = ("choose: repo stored", "choose: wished")


def reached(step: str) -> None:
    """This far, everything before `step` is durable and nothing after it has begun."""
