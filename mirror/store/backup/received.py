"""What was pushed to Everref, counted for ever, and by which others it came here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mirror.core.model import RepoId
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


@translating
async def came_by(db: Db, repo_id: RepoId, marks: Sequence[str]) -> None:
    """The last push to this repo came by the Everrefs with these marks; none: from somebody.

    Safe to run twice.
    """
    if not marks:
        await db.execute("delete from pushed_by where repo_id = $1", repo_id)
        return
    await db.execute(
        """
        insert into pushed_by (repo_id, marks) values ($1, $2)
        on conflict (repo_id) do update set marks = excluded.marks
        """,
        repo_id,
        list(marks),
    )


@translating
async def came_from(db: Db, repo_id: RepoId) -> tuple[str, ...]:
    """By which Everrefs the last push to this repo came; none where somebody made it, or nobody ever did."""
    found = await db.fetchval("select marks from pushed_by where repo_id = $1", repo_id)
    return tuple(found or ())
