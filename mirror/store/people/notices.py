"""What a team should see: failures, mass deletions, tokens that stopped working; each shown once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from mirror.core.model import RepoId
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import TeamId

LET_IN: Final = "let in "  # how the keys of notices begin that an owner made a sign-in link


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the team should see."""

    id: int
    repo_id: RepoId | None  # None: it is about no single repo
    repo: str | None  # its name
    kind: str  # mass-deletion, failing, recovered, connection, moved, archived, damage, drill-failed
    message: str
    at: datetime
    seen_at: datetime | None  # None: nobody has dismissed it
    lasts: bool = False  # it cannot be dismissed: what it asks for ends it


@translating
async def add(
    db: Db,
    team_id: TeamId,
    repo_id: RepoId | None,
    kind: str,
    message: str,
    at: datetime,
    told_key: str | None = None,
) -> bool:
    """Add a notice. False: the team has one with the same `told_key`."""
    done = await db.execute(
        """
        insert into notice (team_id, repo_id, kind, message, at, told_key) values ($1, $2, $3, $4, $5, $6)
        on conflict (told_key) do nothing
        """,
        team_id,
        repo_id,
        kind,
        storable(message),
        at,
        None if told_key is None else storable(told_key),
    )
    return done == "INSERT 0 1"


@translating
async def open_of(db: Db, team_id: TeamId, limit: int = 100) -> Sequence[Notice]:
    """The notices that nobody has dismissed yet, the newest first."""
    rows = await db.fetch(
        """
        select notice.*, repo.name as repo from notice left join repo on repo.id = repo_id
        where notice.team_id = $1 and seen_at is null order by notice.id desc limit $2
        """,
        team_id,
        limit,
    )
    return [_notice(row) for row in rows]


@translating
async def page(
    db: Db, team_id: TeamId, before: int | None = None, limit: int = 100, *, repo_id: RepoId | None = None
) -> Sequence[Notice]:
    """The team's notices below this id, or the newest; newest first."""
    rows = await db.fetch(
        """
        select notice.*, repo.name as repo from notice left join repo on repo.id = repo_id
        where notice.team_id = $1 and ($2::bigint is null or notice.id < $2)
          and ($4::uuid is null or repo_id = $4)
        order by notice.id desc limit $3
        """,
        team_id,
        before,
        limit,
        repo_id,
    )
    return [_notice(row) for row in rows]


@translating
async def seen(db: Db, team_id: TeamId, notice_id: int, at: datetime) -> bool:
    """Dismiss a notice. False: the team has no such notice, or it was dismissed.

    The notice that an owner made a sign-in link cannot be dismissed; `answered` ends it.
    """
    done = await db.execute(
        """
        update notice set seen_at = $3
        where team_id = $1 and id = $2 and seen_at is null
          and (told_key is null or not starts_with(told_key, $4))
        """,
        team_id,
        notice_id,
        at,
        LET_IN,
    )
    return done == "UPDATE 1"


@translating
async def all_seen(db: Db, team_id: TeamId, to: int, at: datetime) -> int:
    """Dismiss all notices up to this id; returns how many."""
    done = await db.execute(
        """
        update notice set seen_at = $3
        where team_id = $1 and id <= $2 and seen_at is null
          and (told_key is null or not starts_with(told_key, $4))
        """,
        team_id,
        to,
        at,
        LET_IN,
    )
    return int(done.split()[1])


@translating
async def answered(db: Db, told_key: str, at: datetime) -> None:
    """End the notices whose keys begin like this, as somebody has acted on them."""
    await db.execute(
        "update notice set seen_at = $2 where starts_with(told_key, $1) and seen_at is null", told_key, at
    )


def _notice(row: Any) -> Notice:
    repo_id = row["repo_id"]
    return Notice(
        row["id"],
        None if repo_id is None else RepoId(UUID(bytes=repo_id.bytes)),
        row["repo"],
        row["kind"],
        row["message"],
        row["at"],
        row["seen_at"],
        (row["told_key"] or "").startswith(LET_IN),
    )
