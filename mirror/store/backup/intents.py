"""Which uploads a run was about to make: what a dead run left is found here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.core.model import RepoId
from mirror.store.database import Db, translating
from mirror.store.forge_leases import ForgeLease
from mirror.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Intent:
    """A bundle that a run is about to upload, or was when it died."""

    key: str
    owner: str  # of the run's lease; leases.is_over judges it
    at: datetime  # when its run was last heard of, by the database's clock


@translating
async def add(db: Db, lease: Lease | ForgeLease, repo_id: RepoId, key: str) -> None:
    """Say, before an upload, that it is going to be. Recording the bundle takes this back."""
    await db.execute(
        "insert into intent (key, repo_id, owner) values ($1, $2, $3)", key, repo_id, lease.owner
    )


@translating
async def of(db: Db, repo_id: RepoId) -> list[Intent]:
    """Every intent of this repo, oldest first."""
    rows = await db.fetch(
        "select key, owner, at from intent_heard where repo_id = $1 order by at, key", repo_id
    )
    return [intent(row) for row in rows]


def intent(row: Any) -> Intent:
    """An intent out of a row of that view."""
    return Intent(row["key"], row["owner"], row["at"])


@translating
async def drop(db: Db, repo_id: RepoId, key: str) -> None:
    """Forget an intent whose upload was discarded. Safe to run twice."""
    await db.execute("delete from intent where repo_id = $1 and key = $2", repo_id, key)
