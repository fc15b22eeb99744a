"""How much of each repo is kept outside git by Git LFS, and so is not saved."""

from dataclasses import dataclass
from datetime import datetime

from mirror.core.model import RepoId, Target
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class LfsTotals:
    """What is known of a repo's large files, and what a snapshot changed."""

    files: int
    seen_at: datetime | None  # when they were last counted; None: never
    tips: tuple[Target, ...]  # some of those that the snapshot brought


@translating
async def known(db: Db, repo_id: RepoId, number: int, limit: int) -> LfsTotals:
    """What is known before snapshot `number` is looked at, with at most `limit` of its new tips."""
    row = await db.fetchrow(
        """
        select lfs_files, lfs_seen_at, array(
          select distinct new from ref_change join ref on ref.id = ref_id
          where ref.repo_id = $1 and snapshot = $2 and new is not null and new not like 'ref: %'::bytea
          limit $3
        ) as tips
        from repo where id = $1
        """,
        repo_id,
        number,
        limit,
    )
    return LfsTotals(row["lfs_files"], row["lfs_seen_at"], tuple(Target(one) for one in row["tips"]))


@translating
async def counted(db: Db, repo_id: RepoId, files: int, octets: int, at: datetime) -> None:
    """Record how many large files, with how many bytes, are not saved. Safe to run twice."""
    await db.execute(
        "update repo set lfs_files = $2, lfs_bytes = $3, lfs_seen_at = $4 where id = $1",
        repo_id,
        files,
        octets,
        at,
    )
