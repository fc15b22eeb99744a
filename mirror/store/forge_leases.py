"""Leases on work that one run at a time may do beside a repo's own lease.

At a forge: change a repo's hook, or the tokens of a connection. In the vault: compact a repo.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from mirror.core.model import RepoId
from mirror.store import leases
from mirror.store.database import Db, translating


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


_LEASE: Final = leases.Kind(
    "acquire_at_forge",
    "select owner from forge_lease where name = $1",
    """
    update forge_lease set owner = $2, beat_at = clock_timestamp(), fence = nextval('lease_fence')
    where name = $1 and owner = $3 returning fence
    """,
)


@translating
async def acquire(db: Db, name: str, ttl: timedelta = leases.TTL) -> ForgeLease | None:
    """Take the lease of this name; None while another run has it.

    A run on this machine that has ended has lost its lease at once, any other after
    `ttl` without heartbeat, by the database's clock.
    """
    taken = await leases.take(db, _LEASE, name, ttl)
    return None if taken is None else ForgeLease(name, *taken)


@translating
async def beat(db: Db, lease: ForgeLease) -> bool:
    """Record that this run is alive. False: another one has the lease."""
    done = await db.execute(
        "update forge_lease set beat_at = clock_timestamp() where name = $1 and fence = $2",
        lease.name,
        lease.fence,
    )
    return done == "UPDATE 1"


@translating
async def release(db: Db, lease: ForgeLease) -> None:
    """Release the lease; does nothing if it was lost. Safe to run twice.

    If the database is away, the run has still ended: the next one finds that.
    """
    leases.leave(lease.owner)
    await db.execute("delete from forge_lease where name = $1 and fence = $2", lease.name, lease.fence)
