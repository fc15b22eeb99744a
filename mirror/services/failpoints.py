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
UPLOAD: Final = ("upload: piece stored", "straight: link given", "straight: piece counted")
BRING_IN: Final = (
    "upload: repo made",
    "upload: proving",
    "bring in: proved",
    "bring in: taken",
    "bring in: recorded",
)
RECEIVE: Final = ("receive: leased", "receive: requested", *SYNC[2:])
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
EPOCH: Final = (
    "epoch: view made",
    "epoch: intent stored",
    "epoch: bundle stored",
    "epoch: read back",
    "epoch: leased for the record",
    "epoch: told",
    "epoch: index stored",
    "epoch: recorded",
)
RESEAL: Final = (
    "reseal: record stored",
    "reseal: leased for the records",
    "reseal: records recorded",
    "reseal: intent stored",
    "reseal: bundle stored",
    "reseal: index stored",
    "reseal: part recorded",
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
RESTORE_HERE: Final = (
    "restore: planned",
    "restore: set down",
    "restore: pool filled",
    "receive: leased",
    "receive: requested",
    "sync: manifest stored",
    "sync: recorded",
    "sync: pool grown",
    "restore: saved here",
    "restore: pushed",
    "restore: recorded",
)
MIRROR: Final = ("mirror: planned", "mirror: part pushed", "mirror: pushed", "mirror: removed")
KEYS: Final = ("keys: proved", "keys: file stored")
DESCRIBE: Final = ("describe: stored",)
NOTES: Final = ("notes: made", "notes: stored")
COPIES: Final = ("copies: stored", "copies: deleted", "copies: damaged one deleted", "heal: copied")
SWITCH: Final = ("switch: up to date", "switch: begun", "switch: level", "switch: done")
EVIDENCE: Final = ("evidence: recorded", "evidence: stored")
STATE: Final = ("state: begun", "state: stored", "state: told", "state: taken up")
HOOK: Final = ("hook: row stored", "hook: at the forge", "hook: removed at the forge")
LIST: Final = ("list: seen",)
PENDING: Final = ("pending: begun", "pending: carried out")

FORGET: Final = (
    "forget: told the vault",
    "forget: recorded",
    "forget: object deleted",
    "forget: cleared",
)
ERASE_TEAM: Final = ("erase: repo of a team let go", "erase: team deleted")
ERASE: Final = ("erase: packed anew", "erase: deleted", "erase: person deleted")
CHOOSE: Final = ("choose: repo stored", "choose: wished")


def reached(step: str) -> None:
    """This far, everything before `step` is durable and nothing after it has begun."""
