"""What was pushed to Everref, counted for ever."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mirror.store.database import Db, translating

Outcome = Literal["saved", "unchanged", "refused", "failed"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("saved", "unchanged", "refused", "failed")


@dataclass(frozen=True, slots=True)
class Received:
    """How many pushes ended in one way, and how much they sent."""

    number: int
    bytes: int  # of packs


@translating
async def count(db: Db, outcome: Outcome, size: int) -> None:
    """Count one push with a pack of so many bytes."""
    await db.execute(
        """
        insert into received (outcome, number, bytes) values ($1, 1, $2::bigint)
        on conflict (outcome) do update
        set number = received.number + 1, bytes = received.bytes + excluded.bytes
        """,
        outcome,
        size,
    )


@translating
async def counted(db: Db) -> Mapping[Outcome, Received]:
    """All pushes there ever were, by how they ended."""
    found = {row["outcome"]: row for row in await db.fetch("select * from received")}
    return {
        outcome: Received(found[outcome]["number"], int(found[outcome]["bytes"]))
        if outcome in found
        else Received(0, 0)
        for outcome in OUTCOMES
    }
