"""The restores that people asked for, kept for ever."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.model import RepoId
from mirror.store.database import Db, storable, translating


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore that came to its end, whether every ref arrived or not."""

    snapshot: int
    destination: str  # in words, without credentials
    results: Mapping[str, int]  # how many refs came to which result
    verified: bool  # every ref that was written was read back equal
    finished_at: datetime


@translating
async def add(
    db: Db,
    repo_id: RepoId,
    number: int,
    destination: str,
    results: Mapping[str, int],
    verified: bool,
    at: datetime,
) -> None:
    """Keep the record of a restore of snapshot `number`."""
    await db.execute(
        """
        insert into restore (repo_id, snapshot, destination, results, verified, finished_at)
        values ($1, $2, $3, $4, $5, $6)
        """,
        repo_id,
        number,
        storable(destination),
        json.dumps(dict(results)),
        verified,
        at,
    )


@translating
async def of(db: Db, repo_id: RepoId) -> list[Restore]:
    """Every restore of this repo, newest first."""
    rows = await db.fetch(
        "select * from restore where repo_id = $1 order by finished_at desc, id desc", repo_id
    )
    return [_restore(row) for row in rows]


def _restore(row: Any) -> Restore:
    results = json.loads(row["results"])
    return Restore(row["snapshot"], row["destination"], results, row["verified"], row["finished_at"])
