"""How each repo of a team was last proved to be restorable, and when it is proved next."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from mirror.core.model import RepoId, label
from mirror.store.database import Db, query, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Proof:
    """One repo that has something to drill."""

    repo_id: RepoId
    repo: str
    damaged_at: datetime | None  # when its backup was last found damaged; None: no damage is known
    drill_at: datetime | None  # when Everref drills it next; None: not planned yet, or never
    drilled_at: datetime | None  # None: never
    label: str  # what was drilled then, as people call it; empty: nothing
    problems: Sequence[str]  # of that drill; empty: it passed
    rto: float | None  # seconds that a restore takes, by the last drills that passed; None: not known

    @property
    def failed(self) -> bool:
        """Whether its last drill found something broken."""
        return bool(self.problems)

    def is_due(self, days: int, now: datetime) -> bool:
        """Whether it was not drilled within the period in days (0: 30)."""
        return self.drilled_at is None or now - self.drilled_at > timedelta(days=days or 30)


@dataclass(frozen=True, slots=True)
class Proofs:
    """Those of a team, and how many there are of each sort in all."""

    total: int
    undrilled: int
    stale: int  # whose last drill is longer ago than the period
    failing: int  # whose last drill failed
    lines: Sequence[Proof]  # what failed first, then what was not proved for longest


@translating
async def proofs(db: Db, team_id: TeamId, now: datetime, limit: int, repo: str | None = None) -> Proofs:
    """How the repos of a team were proved; of all, or of the one of this name."""
    rows = await db.fetch(query("proofs"), team_id, now, limit, repo)
    lines = [
        Proof(
            RepoId(UUID(bytes=row["id"].bytes)),
            row["name"],
            row["damaged_at"],
            row["drill_at"],
            row["finished_at"],
            label(row["snapshot"], row["moment"]) if row["finished_at"] else "",
            row["problems"] or (),
            row["rto"],
        )
        for row in rows
        if row["id"] is not None
    ]
    first = rows[0]
    return Proofs(first["total"], first["undrilled"], first["stale"], first["failing"], lines)
