"""The drills: restores made only to prove that they work, with their evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.core.model import RepoId, label
from mirror.store.database import Db, storable, translating


@dataclass(frozen=True, slots=True)
class Drill:
    """The evidence of one drill."""

    snapshot: int
    refs: int
    bytes: int  # read from the vault
    seconds: float
    problems: tuple[str, ...]  # empty: it works
    finished_at: datetime
    moment: int = 0  # the number of the moment within the snapshot; 0: the snapshot itself

    @property
    def label(self) -> str:
        """What was drilled, as people call it."""
        return label(self.snapshot, self.moment)


@translating
async def add(
    db: Db,
    repo_id: RepoId,
    number: int,
    refs: int,
    read: int,
    seconds: float,
    problems: Sequence[str],
    at: datetime,
    moment: int = 0,
) -> None:
    """Record a drill of snapshot `number`, or of a moment in it; `read`: bytes read from the vault."""
    await db.execute(
        """
        insert into drill (repo_id, snapshot, refs, bytes, seconds, problems, finished_at, moment)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        repo_id,
        number,
        refs,
        read,
        seconds,
        [storable(problem) for problem in problems],
        at,
        moment,
    )


@translating
async def latest(db: Db, repo_id: RepoId) -> Drill | None:
    """The newest drill of this repo."""
    row = await db.fetchrow(
        "select * from drill where repo_id = $1 order by finished_at desc, id desc limit 1", repo_id
    )
    return None if row is None else drill(row)


def drill(row: Any) -> Drill:
    """The drill in a row of that table."""
    return Drill(
        row["snapshot"],
        row["refs"],
        row["bytes"],
        row["seconds"],
        tuple(row["problems"]),
        row["finished_at"],
        row["moment"],
    )
