"""The drills: restores made only to prove that they work, with their evidence."""

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
async def add(db: Db, repo_id: RepoId, done: Drill) -> None:
    """Record a drill."""
    await db.execute(
        """
        insert into drill (repo_id, snapshot, refs, bytes, seconds, problems, finished_at, moment)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        repo_id,
        done.snapshot,
        done.refs,
        done.bytes,
        done.seconds,
        [storable(problem) for problem in done.problems],
        done.finished_at,
        done.moment,
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
