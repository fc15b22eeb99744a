"""Which vault this database belongs to."""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

from mirror.core.model import RepoId
from mirror.store.database import Db, translating

_SOME: Final = 5  # repos whose newest snapshots tell a vault


@translating
async def known(db: Db) -> UUID | None:
    """The identity of this database's vault. None: no vault was recognised yet."""
    found: UUID | None = await db.fetchval("select vault from vault_identity where known_at is not null")
    return found


@translating
async def is_begun(db: Db) -> bool:
    """Whether a vault exists that belongs to this database: then no new one may be created instead."""
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
    """The newest snapshots of the few repos that were backed up last."""
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
    """The identity for a new vault: this one, or one that was proposed before. Safe to run twice."""
    await db.execute(
        "insert into vault_identity (vault) values ($1) on conflict (only_one) do nothing", identity
    )
    proposed: UUID = await db.fetchval("select vault from vault_identity")
    return proposed


@translating
async def know(db: Db, identity: UUID) -> UUID:
    """Bind this database to the vault with this identity, unless it is bound to another.

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


@translating
async def unknown_of(db: Db, repo_ids: Collection[RepoId]) -> Sequence[RepoId]:
    """Those of these repos that this database does not know."""
    rows = await db.fetch(
        """
        select id from unnest($1::uuid[]) as id
        where not exists (select from repo where repo.id = id.id)
          and not exists (select from erased_repo where repo_id = id.id)
        """,
        list(repo_ids),
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def unknown(db: Db) -> int:
    """How many repos the vault has that this database does not know, as of the last look."""
    found: int | None = await db.fetchval("select unknown_repos from vault_identity")
    return found or 0


@translating
async def set_unknown(db: Db, number: int) -> None:
    """Record how many repos in the vault are unknown here. Safe to run twice."""
    await db.execute(
        "update vault_identity set unknown_repos = $1 where unknown_repos <> $1",
        number,
    )
