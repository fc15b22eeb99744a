"""Repos that are, or were, imported, for upkeep/moving/import_repos."""

from datetime import datetime

from mirror.core.model import RepoId
from mirror.store.database import Db, translating


@translating
async def begin(db: Db, repo_id: RepoId, at: datetime) -> None:
    """An import of this repo begins, or goes on. Safe to run twice."""
    await db.execute(
        "insert into repo_import (repo_id, began_at) values ($1, $2) on conflict do nothing", repo_id, at
    )


@translating
async def is_under_way(db: Db, repo_id: RepoId) -> bool:
    """Whether an import of this repo began that did not end."""
    found = await db.fetchval("select true from repo_import where repo_id = $1 and ended_at is null", repo_id)
    return found is not None


@translating
async def end(db: Db, repo_id: RepoId, at: datetime) -> None:
    """All that the import read is recorded. Safe to run twice."""
    await db.execute(
        "update repo_import set ended_at = $2 where repo_id = $1 and ended_at is null", repo_id, at
    )
