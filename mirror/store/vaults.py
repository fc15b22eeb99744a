"""Which vault this database belongs to."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from mirror.model import RepoId
from mirror.store.database import Db, translating

_SOME: Final = 5  # repos whose newest snapshots tell a vault


@translating
async def known(db: Db) -> UUID | None:
    """The identity of this database's vault. None: no vault was recognised yet."""
    found: UUID | None = await db.fetchval("select vault from vault_identity where known_at is not null")
    return found


@translating
async def is_begun(db: Db) -> bool:
    """Whether there is a vault somewhere that belongs to this database: none may be made in its place."""
    return bool(
        await db.fetchval(
            """
            select exists (select from vault_identity where known_at is not null)
              or exists (select from snapshot)
            """
        )
    )


@translating
async def newest(db: Db) -> Sequence[tuple[RepoId, int]]:
    """The newest snapshots of the few repos that were saved last."""
    rows = await db.fetch(
        """
        select repo.id, newest.number
        from repo cross join lateral (
          select number, taken_at from snapshot where repo_id = repo.id order by number desc limit 1
        ) as newest
        order by newest.taken_at desc limit $1
        """,
        _SOME,
    )
    return [(RepoId(row["id"]), row["number"]) for row in rows]


@translating
async def propose(db: Db, identity: UUID) -> UUID:
    """What a new vault is to be called: this, or what somebody has proposed before. Safe to run twice."""
    await db.execute(
        "insert into vault_identity (vault) values ($1) on conflict (only_one) do nothing", identity
    )
    proposed: UUID = await db.fetchval("select vault from vault_identity")
    return proposed


@translating
async def know(db: Db, identity: UUID) -> UUID:
    """The vault with this identity is this database's from now on, unless another one is already.

    Returns the one that is. Safe to run twice.
    """
    await db.execute(
        """
        insert into vault_identity as mine (vault, known_at) values ($1, clock_timestamp())
        on conflict (only_one) do update set vault = excluded.vault, known_at = excluded.known_at
        where mine.known_at is null
        """,
        identity,
    )
    settled: UUID = await db.fetchval("select vault from vault_identity")
    return settled
