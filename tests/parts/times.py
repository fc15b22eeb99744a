"""The snapshots of the demo, spread over a longer time in its own database."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg

# Distances are not kept, for a forge tells of pushes in whole seconds: two in the same second have none.
_SNAPSHOTS: Final = """
with placed as (
  select repo_id, number,
    row_number() over (partition by repo_id order by number) - 1 as before,
    count(*) over (partition by repo_id) as many
  from snapshot where $2::text is null or repo_id in (select id from repo where name = $2)
)
update snapshot set taken_at = now() - $1::interval * (1 - placed.before::float8 / placed.many)
from placed where snapshot.repo_id = placed.repo_id and snapshot.number = placed.number
"""
_PUSHES: Final = """
update ref_change set pushed_at = snapshot.taken_at
from snapshot
where snapshot.repo_id = ref_change.repo_id and snapshot.number = ref_change.snapshot
  and ref_change.pushed_at is not null
  and ($1::text is null or snapshot.repo_id in (select id from repo where name = $1))
"""


async def spread(data: Path, over: timedelta, repo: str | None = None) -> None:
    """Space the snapshots of a repo (None: of every one) evenly from so long ago until now.

    Every push happened when its snapshot was taken.
    """
    socket, port = await asyncio.to_thread(_address, data)
    database = await asyncpg.connect(host=socket, port=port, database="everref", user="everref")
    try:
        async with database.transaction():
            await database.execute("set local session_replication_role = replica")  # let history be edited
            await database.execute(_SNAPSHOTS, over, repo)
            await database.execute(_PUSHES, repo)
    finally:
        await database.close()


def _address(data: Path) -> tuple[str, int]:
    """Where the embedded database listens; see https://www.postgresql.org/docs/current/storage-file-layout.html."""
    lines = next(data.rglob("postmaster.pid")).read_text().splitlines()
    return lines[4], int(lines[3])
