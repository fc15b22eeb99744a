"""The checkpoints: those on their way into the vault, and what they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from mirror.core.formats.proofs import REPO, Head
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Row:
    """One checkpoint."""

    number: int
    at: datetime
    size: int  # heads in it
    key_id: str  # of the key that signed it
    sha256: str  # of the stored bytes
    body: bytes | None = field(repr=False, default=None)  # None: it is in the vault
    leaves: bytes | None = field(repr=False, default=None)  # None: they are in the vault
    stamped_at: datetime | None = None  # an authority's time; None: none stamped it
    stamp_sha256: str | None = None  # of the authority's answer as it is stored
    stamp: bytes | None = field(repr=False, default=None)  # None: it is in the vault, or there is none
    stamp_problem: str | None = None  # why the last try to have it stamped failed; None: none did


@translating
async def heads(db: Db) -> Sequence[Head]:
    """How far the history of every repo and the audit log of every team goes, all at one moment."""
    rows = await db.fetch(
        """
        select 'repo' as of, repo.id, last.number, last.manifest_sha256 as sha256
        from repo cross join lateral (
          select number, manifest_sha256 from snapshot where repo_id = repo.id order by number desc limit 1
        ) as last
        union all
        select 'team', team.id, last.number, last.sha256 from team cross join lateral (
          select number, sha256 from audit where team_id = team.id order by number desc limit 1
        ) as last
        """
    )
    return [Head(row["of"], UUID(bytes=row["id"].bytes), row["number"], row["sha256"]) for row in rows]


@translating
async def sums_now(db: Db, wanted: Sequence[Head]) -> Sequence[str | None]:
    """What the database has now in the place of these heads: SHA-256; None where it has nothing."""
    rows = await db.fetch(
        """
        select coalesce(snapshot.manifest_sha256, audit.sha256)
        from unnest($1::boolean[], $2::uuid[], $3::bigint[])
          with ordinality as head (is_repo, id, number, place)
        left join snapshot on is_repo and repo_id = head.id and snapshot.number = head.number
        left join audit on not is_repo and audit.team_id = head.id and audit.number = head.number
        order by place
        """,
        [head.of == REPO for head in wanted],
        [head.id for head in wanted],
        [head.number for head in wanted],
    )
    return [row[0] for row in rows]


@translating
async def add(db: Db, row: Row) -> bool:
    """Keep a checkpoint. False: there is one of this number."""
    done = await db.execute(
        """
        insert into checkpoint (number, at, size, key_id, sha256, body, leaves)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        row.number,
        row.at,
        row.size,
        row.key_id,
        row.sha256,
        row.body,
        row.leaves,
    )
    return done == "INSERT 0 1"


@translating
async def last(db: Db) -> Row | None:
    """The newest checkpoint. None: there is none yet."""
    row = await db.fetchrow("select * from checkpoint order by number desc limit 1")
    return None if row is None else _row(row)


@translating
async def of_number(db: Db, number: int) -> Row | None:
    """The checkpoint of this number. None: there is none."""
    row = await db.fetchrow("select * from checkpoint where number = $1", number)
    return None if row is None else _row(row)


@translating
async def sums(db: Db) -> dict[int, str]:
    """The SHA-256 of every checkpoint, by number, in order."""
    rows = await db.fetch("select number, sha256 from checkpoint order by number")
    return {row["number"]: row["sha256"] for row in rows}


@translating
async def waiting(db: Db) -> Sequence[Row]:
    """The checkpoints that are not known to be in the vault, oldest first."""
    return [
        _row(row) for row in await db.fetch("select * from checkpoint where body is not null order by number")
    ]


@translating
async def stored(db: Db, number: int) -> None:
    """This checkpoint and its leaves are in the vault. Safe to run twice."""
    await db.execute("update checkpoint set body = null, leaves = null where number = $1", number)


@translating
async def stamped(db: Db, number: int, at: datetime, sha256: str, stamp: bytes | None) -> bool:
    """An authority stamped this checkpoint. False: it is stamped already; the first stamp is kept."""
    done = await db.execute(
        """
        update checkpoint set stamped_at = $2, stamp_sha256 = $3, stamp = $4, stamp_problem = null
        where number = $1 and stamped_at is null
        """,
        *(number, at, sha256, stamp),
    )
    return done == "UPDATE 1"


@translating
async def not_stamped(db: Db, number: int, problem: str) -> None:
    """No authority stamped this checkpoint yet, for this reason."""
    await db.execute(
        "update checkpoint set stamp_problem = $2 where number = $1 and stamped_at is null", number, problem
    )


@translating
async def stamps_waiting(db: Db) -> Sequence[tuple[int, bytes]]:
    """The stamps that are not known to be in the vault, by the numbers of their checkpoints."""
    rows = await db.fetch("select number, stamp from checkpoint where stamp is not null order by number")
    return [(row["number"], row["stamp"]) for row in rows]


@translating
async def stamp_stored(db: Db, number: int) -> None:
    """The stamp of this checkpoint is in the vault. Safe to run twice."""
    await db.execute("update checkpoint set stamp = null where number = $1", number)


def _row(row: Any) -> Row:
    return Row(
        row["number"],
        row["at"],
        row["size"],
        row["key_id"],
        row["sha256"],
        row["body"],
        row["leaves"],
        row["stamped_at"],
        row["stamp_sha256"],
        row["stamp"],
        row["stamp_problem"],
    )
