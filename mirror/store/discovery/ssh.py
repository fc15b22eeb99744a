"""A team's ssh key, and the pinned keys of the hosts that it reaches by ssh."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from mirror.core.keyring import Keyring
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import TeamId

_PORT: Final = 22  # which no address names


@dataclass(frozen=True, slots=True)
class TeamKey:
    """A team's own key."""

    public: str  # as in authorized_keys
    private: str = field(repr=False)  # as OpenSSH writes it


@dataclass(frozen=True, slots=True)
class PinnedHost:
    """A host and the keys that it may show."""

    host: str
    port: int
    keys: tuple[str, ...]
    pinned_at: datetime


@translating
async def key_of(db: Db, keyring: Keyring, team_id: TeamId) -> TeamKey | None:
    """The team's key. None: none was made yet. Raises BadKey."""
    row = await db.fetchrow("select public, sealed from ssh_key where team_id = $1", team_id)
    return (
        None
        if row is None
        else TeamKey(row["public"], keyring.open(row["sealed"], _context(team_id)).decode())
    )


@translating
async def keep_key(db: Db, keyring: Keyring, team_id: TeamId, key: TeamKey, at: datetime) -> bool:
    """Store the team's key. False: it already has one, and nothing is changed."""
    done = await db.execute(
        """
        insert into ssh_key (team_id, public, sealed, created_at) values ($1, $2, $3, $4)
        on conflict (team_id) do nothing
        """,
        team_id,
        key.public,
        keyring.seal(key.private.encode(), _context(team_id)),
        at,
    )
    return done == "INSERT 0 1"


@translating
async def host(db: Db, team_id: TeamId, host: str, port: int) -> PinnedHost | None:
    """The keys pinned for this host. None: the team has not met it."""
    row = await db.fetchrow(
        "select keys, pinned_at from ssh_host where team_id = $1 and host = $2 and port = $3",
        team_id,
        storable(host),
        port,
    )
    return None if row is None else PinnedHost(host, port, tuple(row["keys"]), row["pinned_at"])


@translating
async def pin(db: Db, team_id: TeamId, host: str, port: int, keys: Sequence[str], at: datetime) -> bool:
    """Pin this host's keys. False: they are already pinned, and nothing is changed."""
    done = await db.execute(
        """
        insert into ssh_host (team_id, host, port, keys, pinned_at) values ($1, $2, $3, $4, $5)
        on conflict (team_id, host, port) do nothing
        """,
        team_id,
        storable(host),
        port,
        list(keys),
        at,
    )
    return done == "INSERT 0 1"


@translating
async def forget_host(db: Db, team_id: TeamId, host: str, port: int, at: datetime) -> bool:
    """Forget this host's keys: the next use pins what it shows then. False: none were pinned.

    The team's repos there that failed are tried again from this moment on.
    """
    found = await db.fetchval(
        """
        with forgotten as (
          delete from ssh_host where team_id = $1 and host = $2 and port = $3 returning host
        ), again as (
          update repo set retry_at = least(retry_at, $4), wanted_at = coalesce(greatest(wanted_at, $4), $4)
          from forgotten
          where team_id = $1 and failure_class = 'refused'
            and starts_with(substring(url from '^ssh://[^/@]*@(.*)$'), $5)
        )
        select true from forgotten
        """,
        team_id,
        storable(host),
        port,
        at,
        (f"[{host}]" if ":" in host else host) + ("/" if port == _PORT else f":{port}/"),
    )
    return found is True


def _context(team_id: TeamId) -> str:
    """The context of a sealed key, which opens in no other row."""
    return f"ssh_key/{team_id}"
