"""The statements about repos: those on their way into the vault, and which are there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from mirror.core.formats import layout
from mirror.core.model import RepoId, label
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Row:
    """One statement about a repo."""

    key: str  # in the vault
    repo_id: RepoId
    kind: str  # drill or verification
    snapshot: int
    moment: int
    at: datetime  # when what it tells of ended
    passed: bool
    key_id: str  # of the key that signed it
    sha256: str
    body: bytes | None = field(repr=False, default=None)  # None: it is in the vault

    @property
    def label(self) -> str:
        """The snapshot or moment as people call it."""
        return label(self.snapshot, self.moment)

    @property
    def name(self) -> str:
        """The last part of its key, which names it among those of its repo."""
        return layout.plain(self.key).rpartition("/")[2]


@translating
async def add(db: Db, row: Row) -> bool:
    """Keep a statement. False: it is known."""
    done = await db.execute(
        """
        insert into evidence (key, repo_id, kind, snapshot, moment, at, passed, key_id, sha256, body)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        row.key,
        row.repo_id,
        row.kind,
        row.snapshot,
        row.moment,
        row.at,
        row.passed,
        row.key_id,
        row.sha256,
        row.body,
    )
    return done == "INSERT 0 1"


@translating
async def waiting(db: Db, repo_id: RepoId | None, limit: int) -> Sequence[tuple[str, bytes]]:
    """The oldest statements that are not known to be in the vault, of this repo or of all: key and bytes."""
    rows = await db.fetch(
        """
        select key, body from evidence
        where body is not null and ($1::uuid is null or repo_id = $1) order by at limit $2
        """,
        repo_id,
        limit,
    )
    return [(row["key"], row["body"]) for row in rows]


@translating
async def stored(db: Db, key: str) -> None:
    """This statement is in the vault. Safe to run twice."""
    await db.execute("update evidence set body = null where key = $1", key)


@translating
async def known(db: Db, repo_id: RepoId) -> frozenset[str]:
    """The keys of the repo's statements."""
    return frozenset(
        row["key"] for row in await db.fetch("select key from evidence where repo_id = $1", repo_id)
    )


@translating
async def of_repo(db: Db, repo_id: RepoId, before: datetime | None, limit: int) -> Sequence[Row]:
    """The repo's statements of before that time, newest first."""
    rows = await db.fetch(
        """
        select * from evidence where repo_id = $1 and ($2::timestamptz is null or at < $2)
        order by at desc, key desc limit $3
        """,
        repo_id,
        before,
        limit,
    )
    return [_row(row) for row in rows]


@translating
async def newest_of(db: Db, repo_id: RepoId) -> dict[str, Row]:
    """The repo's newest statement of each kind."""
    rows = await db.fetch(
        """
        select distinct on (kind) * from evidence where repo_id = $1 order by kind, at desc, key desc
        """,
        repo_id,
    )
    return {row["kind"]: _row(row) for row in rows}


@translating
async def named(db: Db, repo_id: RepoId, name: str) -> Row | None:
    """The repo's statement of this name. None: it has none."""
    key = f"{repo_id}/evidence/{name}"
    row = await db.fetchrow("select * from evidence where key in ($1, $2)", key, layout.sealed(key))
    return None if row is None else _row(row)


def digest(stored: bytes) -> str:
    """SHA-256 of a statement's bytes, hex."""
    return sha256(stored).hexdigest()


def _row(row: Any) -> Row:
    return Row(
        row["key"],
        RepoId(UUID(bytes=row["repo_id"].bytes)),
        row["kind"],
        row["snapshot"],
        row["moment"],
        row["at"],
        row["passed"],
        row["key_id"],
        row["sha256"],
        row["body"],
    )
