"""The notes of repos: those on their way into the vault, and which are there."""

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from mirror.core.formats import layout
from mirror.core.model import RepoId, Sealed
from mirror.store.backup.parts import sealed_columns
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Waiting:
    """A note that is not known to be in the vault yet."""

    repo_id: RepoId
    key: str  # under which it is stored if it is not sealed
    body: bytes = field(repr=False)


async def add_within(connection: Db, repo_id: RepoId, kind: str, body: bytes, at: datetime) -> None:
    """Keep a note for the vault, in the transaction that records what it says.

    It is later than every note before it, whatever the clock says: a rebuild reads them in order.
    """
    at = await connection.fetchval(
        """
        select greatest($2::timestamptz, max(at) + interval '1 microsecond') from note where repo_id = $1
        """,
        repo_id,
        at,
    )
    await connection.execute(
        "insert into note (key, repo_id, kind, at, sha256, body) values ($1, $2, $3, $4, $5, $6)",
        layout.note_key(repo_id, at, layout.unique()),
        repo_id,
        kind,
        at,
        sha256(body).hexdigest(),
        body,
    )


@translating
async def waiting(db: Db, repo_id: RepoId | None, limit: int) -> list[Waiting]:
    """The oldest notes that are not known to be in the vault: of this repo, or of all."""
    rows = await db.fetch(
        """
        select repo_id, key, body from note
        where body is not null and ($1::uuid is null or repo_id = $1)
        order by at limit $2
        """,
        repo_id,
        limit,
    )
    return [Waiting(RepoId(UUID(bytes=row["repo_id"].bytes)), row["key"], row["body"]) for row in rows]


@translating
async def stored(db: Db, key: str, sealed: Sealed | None) -> None:
    """This note is in the vault, sealed or as it is. Safe to run twice."""
    await db.execute(
        "update note set body = null, sealed_bytes = $2, sealed_sha256 = $3 where key = $1",
        key,
        *sealed_columns(sealed),
    )


@translating
async def known(db: Db, repo_id: RepoId) -> frozenset[str]:
    """The keys of the repo's notes that are in the vault, as they are where they are not sealed."""
    rows = await db.fetch("select key from note where repo_id = $1 and body is null", repo_id)
    return frozenset(row["key"] for row in rows)


@translating
async def sums(db: Db, repo_id: RepoId) -> dict[str, str]:
    """The stored objects of the repo's notes that are in the vault: their keys and SHA-256, sealed or not."""
    rows = await db.fetch(
        "select key, sha256, sealed_sha256 from note where repo_id = $1 and body is null", repo_id
    )
    return {
        layout.sealed(row["key"], row["sealed_sha256"] is not None): row["sealed_sha256"] or row["sha256"]
        for row in rows
    }


async def read_back_within(
    connection: Db, repo_id: RepoId, key: str, kind: str, stored: bytes, sealed: Sealed | None
) -> bool:
    """Record a note that the vault has. False: it was recorded already, and so was what it says."""
    place = layout.parse_note_key(key)
    assert place is not None
    done = await connection.execute(
        """
        insert into note (key, repo_id, kind, at, sha256, sealed_bytes, sealed_sha256)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (key) do nothing
        """,
        key,
        repo_id,
        kind,
        place.at,
        sha256(stored).hexdigest(),
        *sealed_columns(sealed),
    )
    return done == "INSERT 0 1"
