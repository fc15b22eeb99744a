"""The notes of repos: those on their way into the vault, and which are there."""

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from mirror.core.formats import layout
from mirror.core.model import RepoId
from mirror.store.database import Db, translating


@dataclass(frozen=True, slots=True)
class Waiting:
    """A note that is not known to be in the vault yet."""

    key: str
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
        select key, body from note
        where body is not null and ($1::uuid is null or repo_id = $1)
        order by at limit $2
        """,
        repo_id,
        limit,
    )
    return [Waiting(row["key"], row["body"]) for row in rows]


@translating
async def stored(db: Db, key: str) -> None:
    """This note is in the vault. Safe to run twice."""
    await db.execute("update note set body = null where key = $1", key)


@translating
async def known(db: Db, repo_id: RepoId) -> dict[str, str]:
    """The keys of the repo's notes that are in the vault, each with the SHA-256 of its bytes."""
    rows = await db.fetch("select key, sha256 from note where repo_id = $1 and body is null", repo_id)
    return {row["key"]: row["sha256"] for row in rows}


async def read_back_within(connection: Db, repo_id: RepoId, key: str, kind: str, stored: bytes) -> bool:
    """Record a note that the vault has. False: it was recorded already, and so was what it says."""
    place = layout.parse_note_key(key)
    assert place is not None
    done = await connection.execute(
        """
        insert into note (key, repo_id, kind, at, sha256) values ($1, $2, $3, $4, $5)
        on conflict (key) do nothing
        """,
        key,
        repo_id,
        kind,
        place.at,
        sha256(stored).hexdigest(),
    )
    return done == "INSERT 0 1"
