"""Connections: a person's OAuth grant or token at a forge, used for the repos of one team.

Tokens are sealed for their row before they are stored here, and opened outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NewType, cast
from uuid import UUID

from mirror.core.config import Product
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId
from mirror.store.database import Db, query, storable, translating
from mirror.store.people.teams import TeamId

ConnectionId = NewType("ConnectionId", UUID)
GrantKind = Literal["oauth", "token"]
State = Literal["works", "reauth", "ended"]

_COLUMNS: Final = """
    id, team_id, person_id, forge, host, account_id, login, grant_kind, scopes, expires_at, version, state,
    why, everything, patterns, created_at, checked_at, listed_at, list_at, list_failed_at, list_failure
"""
_KEPT: Final = f"{_COLUMNS}, sealed_access, sealed_refresh"


@dataclass(frozen=True, slots=True)
class Connection:
    """One account at one forge host, as one team uses it."""

    id: ConnectionId
    team_id: TeamId
    person_id: UUID | None  # None: who connected it is gone
    forge: Product
    host: str
    account_id: str
    login: str
    grant_kind: GrantKind
    scopes: tuple[str, ...]  # empty: a fine-grained token, which does not tell
    expires_at: datetime | None  # of the access token; None: not told
    version: int
    state: State
    why: str | None  # None: it works
    everything: bool
    patterns: tuple[str, ...]
    created_at: datetime
    checked_at: datetime | None
    listed_at: datetime | None
    list_at: datetime | None
    list_failed_at: datetime | None = None  # since when listing it fails; None: the last one went well
    list_failure: str | None = None


@dataclass(frozen=True, slots=True)
class SealedTokens:
    """A pair of tokens as it is stored."""

    access: bytes = field(repr=False)
    refresh: bytes | None = field(repr=False)  # None: it has none

    def opened(self, keyring: Keyring, connection_id: ConnectionId) -> tuple[str, str | None]:
        """The tokens themselves. Raises BadKey."""
        access = keyring.open(self.access, _context(connection_id, "access")).decode()
        if self.refresh is None:
            return access, None
        return access, keyring.open(self.refresh, _context(connection_id, "refresh")).decode()


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection and its stored tokens, read together."""

    connection: Connection
    sealed: SealedTokens

    def opened(self, keyring: Keyring) -> tuple[str, str | None]:
        """The access token and, where there is one, the refresh token. Raises BadKey."""
        return self.sealed.opened(keyring, self.connection.id)


@dataclass(frozen=True, slots=True)
class NewConnection:
    """The values of a new connection."""

    team_id: TeamId
    person_id: UUID | None
    forge: Product
    host: str
    account_id: str
    login: str
    grant_kind: GrantKind
    scopes: Sequence[str]
    expires_at: datetime | None


def seal(keyring: Keyring, connection_id: ConnectionId, access: str, refresh: str | None) -> SealedTokens:
    """A pair sealed for this connection and no other."""
    return SealedTokens(
        keyring.seal(access.encode(), _context(connection_id, "access")),
        None if refresh is None else keyring.seal(refresh.encode(), _context(connection_id, "refresh")),
    )


@translating
async def id_of(db: Db, wanted: NewConnection) -> ConnectionId | None:
    """The connection that this team already has to this account, with this kind of grant."""
    found = await db.fetchval(
        """
        select id from connection
        where team_id = $1 and forge = $2 and host = $3 and account_id = $4 and grant_kind = $5
        """,
        wanted.team_id,
        wanted.forge,
        storable(wanted.host),
        storable(wanted.account_id),
        wanted.grant_kind,
    )
    return None if found is None else _id(found)


@translating
async def keep(
    db: Db, connection_id: ConnectionId, wanted: NewConnection, sealed: SealedTokens, at: datetime
) -> Connection | None:
    """Add a connection, or update the one with this id: it works again, and its repos continue.

    None: the account was connected under another id at the same time.
    """
    row = await db.fetchrow(
        query("keep_connection"),
        connection_id,
        wanted.team_id,
        wanted.person_id,
        wanted.forge,
        storable(wanted.host),
        storable(wanted.account_id),
        storable(wanted.login),
        wanted.grant_kind,
        [storable(scope) for scope in wanted.scopes],
        wanted.expires_at,
        sealed.access,
        sealed.refresh,
        at,
    )
    return None if row is None else _connection(row)


@translating
async def find(db: Db, team_id: TeamId, connection_id: ConnectionId) -> Connection | None:
    """A connection of this team."""
    row = await db.fetchrow(
        f"select {_COLUMNS} from connection where id = $1 and team_id = $2", connection_id, team_id
    )
    return None if row is None else _connection(row)


@translating
async def get(db: Db, connection_id: ConnectionId) -> Connection | None:
    """A connection of any team: for jobs, never for a person's request."""
    row = await db.fetchrow(f"select {_COLUMNS} from connection where id = $1", connection_id)
    return None if row is None else _connection(row)


@translating
async def of_team(db: Db, team_id: TeamId) -> list[Connection]:
    """The team's connections, the oldest first."""
    rows = await db.fetch(
        f"select {_COLUMNS} from connection where team_id = $1 order by created_at, id", team_id
    )
    return [_connection(row) for row in rows]


@translating
async def of_account(db: Db, forge: Product, host: str, account_id: str) -> list[Connection]:
    """All teams' OAuth connections to this account: stopped ones first, then those with the oldest tokens."""
    rows = await db.fetch(
        f"""
        select {_COLUMNS} from connection
        where forge = $1 and host = $2 and account_id = $3 and grant_kind = 'oauth'
        order by state = 'works', checked_at nulls first, id
        """,
        forge,
        storable(host),
        storable(account_id),
    )
    return [_connection(row) for row in rows]


@translating
async def of_repo(db: Db, repo_id: RepoId) -> StoredConnection | None:
    """The connection with which the repo is fetched. None: it has none."""
    row = await db.fetchrow(
        f"select {_KEPT} from connection where id = (select connection_id from repo where repo.id = $1)",
        repo_id,
    )
    return None if row is None else kept_of(row)


@translating
async def kept(db: Db, connection_id: ConnectionId) -> StoredConnection | None:
    """A connection with its tokens. None: it is gone."""
    row = await db.fetchrow(f"select {_KEPT} from connection where id = $1", connection_id)
    return None if row is None else kept_of(row)


@translating
async def renew(
    db: Db,
    connection_id: ConnectionId,
    version: int,
    sealed: SealedTokens,
    scopes: Sequence[str],
    expires_at: datetime | None,
    at: datetime,
) -> bool:
    """Replace the pair of this version; repos that failed for their credentials are tried again.

    False: another pair is there already.
    """
    found = await db.fetchval(
        """
        with renewed as (
          update connection set
            sealed_access = $3, sealed_refresh = $4, scopes = $5, expires_at = $6, checked_at = $7,
            version = version + 1, state = 'works', why = null
          where id = $1 and version = $2
          returning id
        ), tried as (
          update repo set retry_at = failed_at from renewed
          where connection_id = renewed.id and failure_class = 'credentials'
        )
        select true from renewed
        """,
        connection_id,
        version,
        sealed.access,
        sealed.refresh,
        [storable(scope) for scope in scopes],
        expires_at,
        at,
    )
    return found is not None


@translating
async def request_refused(db: Db, connection_id: ConnectionId, at: datetime) -> list[RepoId]:
    """Request a sync of every repo of this connection that failed for its credentials; those repos, by name.

    Not of those that are paused, or gone at their forge. Safe to run twice.
    """
    rows = await db.fetch(
        """
        with asked as (
          update repo set
            wanted_at = greatest($2, wanted_at + interval '1 microsecond'),
            behind_since = coalesce(behind_since, $2), retry_at = least(retry_at, $2)
          where connection_id = $1 and failure_class = 'credentials'
            and paused_at is null and archived_at is null
          returning id, name
        )
        select id from asked order by name
        """,
        connection_id,
        at,
    )
    return [RepoId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def stop(db: Db, connection_id: ConnectionId, version: int, why: str, at: datetime) -> bool:
    """Record that the pair of this version no longer works, so that its repos are not saved from then on.

    False: another pair was stored already.
    """
    done = await db.execute(
        """
        update connection set state = 'reauth', why = $3, refused_at = $4
        where id = $1 and version = $2 and state = 'works'
        """,
        connection_id,
        version,
        storable(why),
        at,
    )
    return done == "UPDATE 1"


@translating
async def checked(
    db: Db,
    connection_id: ConnectionId,
    version: int,
    login: str,
    scopes: Sequence[str],
    expires_at: datetime | None,
    at: datetime,
) -> bool:
    """Record that the forge accepted the pair of this version, and its account. False: another is stored."""
    done = await db.execute(
        """
        update connection set
            login = $3, scopes = $4, expires_at = coalesce($5, expires_at), checked_at = $6,
            state = 'works', why = null
        where id = $1 and version = $2
        """,
        connection_id,
        version,
        storable(login),
        [storable(scope) for scope in scopes],
        expires_at,
        at,
    )
    return done == "UPDATE 1"


@translating
async def remove(db: Db, connection_id: ConnectionId) -> bool:
    """Delete the connection and what it discovered; its repos stay. False: there was none."""
    return await db.execute("delete from connection where id = $1", connection_id) == "DELETE 1"


def _connection(row: Any) -> Connection:
    return Connection(
        _id(row["id"]),
        TeamId(UUID(bytes=row["team_id"].bytes)),
        None if row["person_id"] is None else UUID(bytes=row["person_id"].bytes),
        cast(Product, row["forge"]),
        row["host"],
        row["account_id"],
        row["login"],
        cast(GrantKind, row["grant_kind"]),
        tuple(row["scopes"]),
        row["expires_at"],
        row["version"],
        cast(State, row["state"]),
        row["why"],
        row["everything"],
        tuple(row["patterns"]),
        row["created_at"],
        row["checked_at"],
        row["listed_at"],
        row["list_at"],
        row["list_failed_at"],
        row["list_failure"],
    )


def kept_of(row: Any) -> StoredConnection:
    """A connection with its tokens, from a row of its table."""
    return StoredConnection(_connection(row), SealedTokens(row["sealed_access"], row["sealed_refresh"]))


def _id(found: Any) -> ConnectionId:
    return ConnectionId(UUID(bytes=found.bytes))


def _context(connection_id: ConnectionId, which: Literal["access", "refresh"]) -> str:
    """The context of a sealed token, which opens in no other row."""
    return f"connection/{connection_id}/{which}"
