"""Records of epochs: the JSON objects in the vault that say which snapshots were dropped, when and why.

An epoch is a pack log that was packed anew. Its record is written before its first part counts, and says
everything that was ever dropped of the repo, so that the newest one that holds tells all.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror.core.errors import Corrupt
from mirror.core.formats import attestation
from mirror.core.formats.manifest import FORMAT, Fields, time_text
from mirror.core.formats.notes import lines
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId

LIMIT: Final = 64 << 20  # bytes of a record


@dataclass(frozen=True, slots=True)
class Dropped:
    """Snapshots that were dropped together, first to last without a gap."""

    first: int
    last: int
    at: datetime
    why: str  # who wanted that and why, in words

    @property
    def numbers(self) -> range:
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Record:
    """What began with an epoch."""

    repo: RepoId
    epoch: int
    last: int  # the last snapshot that its first part covers
    at: datetime
    by: str  # who wanted it
    why: str
    dropped: tuple[Dropped, ...]  # all that ever were, in order


def runs(rows: Iterable[tuple[int, datetime, str]]) -> tuple[Dropped, ...]:
    """Dropped snapshots as runs; each row is a number, in ascending order, when it went, and why."""
    found: list[Dropped] = []
    for number, at, why in rows:
        if found and (found[-1].last + 1, found[-1].at, found[-1].why) == (number, at, why):
            found[-1] = Dropped(found[-1].first, number, at, why)
        else:
            found.append(Dropped(number, number, at, why))
    return tuple(found)


def encode(record: Record, keyring: Keyring | None = None, key: str = "") -> bytes:
    """A record as it is stored: JSON with one run of dropped snapshots a line; attested for its key."""
    rows = [
        {"first": run.first, "last": run.last, "at": time_text(run.at), "why": run.why}
        for run in record.dropped
    ]
    stored = lines(
        {
            "format": FORMAT,
            "repo": str(record.repo),
            "epoch": record.epoch,
            "last": record.last,
            "at": time_text(record.at),
            "by": record.by,
            "why": record.why,
            "dropped": rows,
        }
    )
    return lines(json.loads(attestation.attest(keyring, key, stored)))


def decode(stored: bytes) -> Record:
    """The record in these bytes. Raises Corrupt if anything is wrong with it."""
    fields = Fields.of(stored, "the record of an epoch")
    return Record(
        fields.uuid("repo"),
        fields.count("epoch", 2),
        fields.count("last", 1),
        fields.time("at"),
        fields.text("by"),
        fields.text("why"),
        tuple(_dropped(fields.items("dropped"))),
    )


def _dropped(rows: Sequence[object]) -> list[Dropped]:
    found: list[Dropped] = []
    for row in rows:
        if not isinstance(row, dict):
            raise Corrupt("the record of an epoch: what was dropped is not a list of objects")
        one = Fields(row, "the record of an epoch")
        run = Dropped(one.count("first", 1), one.count("last", 1), one.time("at"), one.text("why"))
        if run.last < run.first or (found and run.first <= found[-1].last):
            raise Corrupt("the record of an epoch: what was dropped is out of order")
        found.append(run)
    return found
