"""The keys that sign evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from mirror.core.formats.statements import PublicKey
from mirror.store.database import Db, transaction, translating

_LOCK: Final = 140_001  # an advisory lock of PostgreSQL: who makes a key


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key that may sign, and its private part as it is sealed."""

    public: PublicKey
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, or read back from the vault."""

    public: PublicKey
    vault_key: str  # of its introduction
    sealed: bytes | None = field(repr=False, default=None)  # None: it only checks


@translating
async def current(db: Db) -> Sealed | None:
    """The key that signs now. None: none was made yet."""
    row = await db.fetchrow(
        """
        select * from evidence_key where until is null and sealed is not null order by since desc, id limit 1
        """
    )
    return None if row is None else Sealed(_public(row), row["sealed"])


@translating
async def every(db: Db) -> Sequence[PublicKey]:
    """Every key that ever signed, oldest first."""
    return [_public(row) for row in await db.fetch("select * from evidence_key order by since, id")]


@translating
async def add(db: Db, new: NewKey, instead_of: str | None, at: datetime, overlap: timedelta) -> bool:
    """Let a new key sign from now on, and those before it until `overlap` from now.

    False, and nothing is changed: meanwhile another key than `instead_of` signs (None: any does). So of
    two that make one at the same moment, one wins.
    """
    async with transaction(db) as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        now = await current(connection)
        if (now.public.id if now else None) != instead_of:
            return False
        await connection.execute("update evidence_key set until = $1 where until is null", at + overlap)
        await _insert(connection, new, None)
    return True


@translating
async def read_back(db: Db, new: NewKey, until: datetime | None, stored_at: datetime) -> bool:
    """Record a key that only the vault knew. False: it is known. Safe to run twice."""
    return await _insert(db, new, stored_at, until)


async def _insert(db: Db, new: NewKey, stored_at: datetime | None, until: datetime | None = None) -> bool:
    done = await db.execute(
        """
        insert into evidence_key
          (id, public, sealed, since, until, previous, introduction, vault_key, stored_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing
        """,
        new.public.id,
        new.public.public,
        new.sealed,
        new.public.since,
        until,
        new.public.previous,
        new.public.introduction,
        new.vault_key,
        stored_at,
    )
    return done == "INSERT 0 1"


@translating
async def waiting(db: Db) -> Sequence[tuple[str, bytes]]:
    """The introductions that are not known to be in the vault: their keys there, and their bytes."""
    rows = await db.fetch(
        "select vault_key, introduction from evidence_key where stored_at is null order by since"
    )
    return [(row["vault_key"], row["introduction"].encode()) for row in rows]


@translating
async def stored(db: Db, vault_key: str, at: datetime) -> None:
    """This introduction is in the vault. Safe to run twice."""
    await db.execute("update evidence_key set stored_at = $2 where vault_key = $1", vault_key, at)


def _public(row: Any) -> PublicKey:
    return PublicKey(row["public"], row["since"], row["until"], row["previous"], row["introduction"])
