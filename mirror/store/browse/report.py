"""What happened in a period, repo by repo: what an auditor asks."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mirror.core.model import RepoId, label
from mirror.store.database import Db, query, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Line:
    """One repo in one period. Counts are of the period, states of now."""

    repo_id: RepoId
    repo: str
    url: str
    snapshots: int
    changes: int
    forced: int  # force-pushed or deleted refs
    bytes: int  # stored by the snapshots of the period
    restores: int  # no bundle, which restores nothing, and no undo
    restores_verified: int
    drills: int
    drills_failed: int
    last_drill_at: datetime | None  # ever
    protected_as_of: datetime | None
    failing_since: datetime | None
    failure: str | None  # its class
    archived_at: datetime | None
    state: str  # as SQL's repo_state says it
    paused: bool
    damaged_at: datetime | None  # when its backup was last found damaged; None: no damage is known


@dataclass(frozen=True, slots=True)
class Drilled:
    """One drill of a team's repo, with its evidence."""

    repo: str
    snapshot: int
    refs: int
    bytes: int
    seconds: float
    problems: tuple[str, ...]
    finished_at: datetime
    large_files: int  # of the repo, as it is now, which are not backed up
    moment: int = 0  # the number of the moment within the snapshot; 0: the snapshot itself
    findings: tuple[str, ...] = ()  # what git dislikes in objects as their remote has them
    digest: str | None = None  # SHA-256 of the list of refs it was compared with; None: of such a moment

    @property
    def label(self) -> str:
        """What was drilled, as people call it."""
        return label(self.snapshot, self.moment)


@translating
async def report(db: Db, team: TeamId, start: datetime, end: datetime, now: datetime) -> list[Line]:
    """Every repo of the team, by name, in the period from `start` to before `end`."""
    return [_line(row) for row in await db.fetch(query("report"), team, start, end, now)]


@translating
async def drills(
    db: Db, team: TeamId, before: datetime, limit: int, repo: str | None = None
) -> list[Drilled]:
    """The team's drills, newest first; of all repos, or of the one of this name."""
    rows = await db.fetch(
        """
        select repo.name, repo.lfs_files, drill.*, taken.refs_digest
        from drill join repo on repo.id = drill.repo_id
        left join snapshot taken
          on taken.repo_id = drill.repo_id and taken.number = drill.snapshot and drill.moment = 0
        where repo.team_id = $1 and finished_at < $2 and ($4::text is null or repo.name = $4)
        order by finished_at desc, drill.id desc limit $3
        """,
        team,
        before,
        limit,
        repo,
    )
    return [
        Drilled(
            row["name"],
            row["snapshot"],
            row["refs"],
            row["bytes"],
            row["seconds"],
            tuple(row["problems"]),
            row["finished_at"],
            row["lfs_files"],
            row["moment"],
            tuple(row["findings"]),
            row["refs_digest"],
        )
        for row in rows
    ]


def _line(row: Any) -> Line:
    return Line(
        RepoId(UUID(bytes=row["id"].bytes)),
        row["name"],
        row["url"],
        row["snapshots"],
        row["changes"],
        row["forced"],
        row["bytes"],
        row["restores"],
        row["restores_verified"],
        row["drills"],
        row["drills_failed"],
        row["last_drill_at"],
        row["protected_as_of"],
        row["failing_since"],
        row["failure_class"],
        row["archived_at"],
        row["state"],
        row["paused_at"] is not None,
        row["damaged_at"],
    )
