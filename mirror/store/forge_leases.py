"""Leases on what one run at a time may do beside a repo's turns.

At a forge: change a repo's hook, or the tokens of a connection. In the vault: compact a repo.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from mirror.model import RepoId
from mirror.store import leases
from mirror.store.database import Db, query, translating


@dataclass(frozen=True, slots=True)
class ForgeLease:
    """A lease on one of these, until it is released or taken over."""

    name: str
    owner: str = field(repr=False)
    fence: int  # grows with every lease


def of_hook(repo_id: RepoId) -> str:
    """The name of the lease on a repo's hook."""
    return f"hook/{repo_id}"


def of_tokens(connection_id: UUID) -> str:
    """The name of the lease on a connection's tokens."""
    return f"tokens/{connection_id}"


def of_compaction(repo_id: RepoId) -> str:
    """The name of the lease on compacting a repo."""
    return f"compact/{repo_id}"


@translating
async def acquire(db: Db, name: str, ttl: timedelta = leases.TTL) -> ForgeLease | None:
    """Take the lease of this name; None while another run has it.

    A run on this machine that has ended has lost its lease at once, any other after
    `ttl` without heartbeat, by the database's clock.
    """
    owner = leases.enter()
    fence = None
    try:
        fence = await _fence(db, name, owner, ttl)
    finally:
        if fence is None:
            leases.leave(owner)
    return None if fence is None else ForgeLease(name, owner, fence)


async def _fence(db: Db, name: str, owner: str, ttl: timedelta) -> int | None:
    fence: int | None = await db.fetchval(query("acquire_at_forge"), name, owner, ttl)
    if fence is not None:
        return fence
    other = await db.fetchval("select owner from forge_lease where name = $1", name)
    if other is None or not leases.is_over(other):
        return None
    fence = await db.fetchval(
        """
        update forge_lease set owner = $2, beat_at = clock_timestamp(), fence = nextval('lease_fence')
        where name = $1 and owner = $3 returning fence
        """,
        name,
        owner,
        other,
    )
    return fence


@translating
async def beat(db: Db, lease: ForgeLease) -> bool:
    """Say that this run is alive. False: another one has the lease."""
    done = await db.execute(
        "update forge_lease set beat_at = clock_timestamp() where name = $1 and fence = $2",
        lease.name,
        lease.fence,
    )
    return done == "UPDATE 1"


@translating
async def release(db: Db, lease: ForgeLease) -> None:
    """Give the lease back; does nothing if it was lost. Safe to run twice.

    Where the database is away, the run is over all the same: the next one finds that.
    """
    leases.leave(lease.owner)
    await db.execute("delete from forge_lease where name = $1 and fence = $2", lease.name, lease.fence)
