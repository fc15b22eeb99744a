"""Access to PostgreSQL: a pool of connections, transactions, SQL files, and its errors translated to ours."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import asyncpg

from mirror.core.errors import (
    BadCredentials,
    Busy,
    EverrefError,
    LimitReached,
    NetworkError,
    Origin,
    OurFault,
    UsageError,
    met_by,
)

P = ParamSpec("P")
R = TypeVar("R")

OLDEST: Final = 14  # the oldest PostgreSQL that the tables are written for
CONNECTIONS: Final = 10  # of one process, at the most
_CONNECTING: Final = 10.0  # seconds
_TAKING: Final = 15.0  # seconds for a connection to become free: longer than connecting, which says more
_ANSWERING: Final = 300.0  # seconds for one statement; a snapshot of a million new refs needs a part of it
_SETTINGS: Final = {
    "application_name": "everref",
    # Compiling a query that probes 100,000 names takes longer than running it.
    "jit": "off",
    # What a client that froze or vanished may hold: a transaction of ours never waits for anything outside.
    "idle_in_transaction_session_timeout": "30s",  # the time after which its lease is taken over, too
    "lock_timeout": "30s",
    "statement_timeout": "310s",  # the client gives up sooner, and says so where it can
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",  # milliseconds
}


class Db(Protocol):
    """A pool or one of its connections; on a connection, queries run in its transaction."""

    async def execute(self, query: str, *args: object) -> str: ...

    async def fetch(self, query: str, *args: object) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: object) -> Any: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...


def sql_directory() -> Path:
    """The directory of the SQL files: beside this file in the wheel, at the top in a checkout."""
    here = Path(__file__).parent / "sql"
    return here if here.is_dir() else Path(__file__).parents[2] / "sql"


@functools.cache
def query(name: str) -> str:
    """The text of sql/queries/NAME.sql."""
    return (sql_directory() / "queries" / f"{name}.sql").read_text(encoding="utf-8")


class Connections(asyncpg.Pool):  # type: ignore[misc]  # asyncpg has no types
    """The connections of this process: taking one has a time limit, giving it back sends no statement.

    asyncpg resets each returned connection with a statement that frees what a session holds. Nothing here is
    ever left in a session: locks and settings belong to transactions. An open one is rolled back.
    """

    def __init__(self, url: str, size: int = CONNECTIONS, taking: float = _TAKING) -> None:
        super().__init__(
            url,
            min_size=1,
            max_size=size,
            max_queries=50_000,
            max_inactive_connection_lifetime=300.0,
            reset=_nothing_left,
            loop=None,
            connection_class=asyncpg.Connection,
            record_class=asyncpg.Record,
            timeout=_CONNECTING,
            command_timeout=_ANSWERING,
            server_settings=_SETTINGS,
        )
        self._taking = taking

    async def _acquire(self, timeout: float | None) -> Any:  # noqa: ASYNC109 - it is asyncpg's
        """What `acquire`, `fetch` and all the others begin with.

        Raises Busy when every connection was in use for as long as anybody waits.
        """
        try:
            return await super()._acquire(self._taking if timeout is None else timeout)
        except TimeoutError as error:
            if self.get_size() < self.get_max_size() or self.get_idle_size():
                raise explained(error) from None  # it was the server that did not answer
            raise Busy(
                "every connection to the database is in use; try again in a moment", origin=Origin.DATABASE
            ) from None
        except _RAISED as error:
            raise explained(error) from error


async def _nothing_left(_: asyncpg.Connection) -> None:
    """Reset a returned connection: there is nothing to reset."""


_RAISED: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


def translating(ask: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Translate asyncpg's errors that `ask` raises into ours."""

    @functools.wraps(ask)
    async def asked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await ask(*args, **kwargs)
        except _RAISED as error:
            raise explained(error) from error

    return asked


def explained(error: Exception) -> EverrefError:
    """Translate an error of asyncpg; never quotes a value of a row, a query or an address."""
    for raised, ours, words in _SAID:
        if isinstance(error, raised):
            return ours(words, origin=Origin.DATABASE)
    if isinstance(error, asyncpg.PostgresError):
        where = f", constraint {error.constraint_name}" if getattr(error, "constraint_name", None) else ""
        return OurFault(f"the database refused a statement (SQLSTATE {error.sqlstate}{where}); report this")
    if isinstance(error, ValueError):  # what was asked cannot be put into the types of the query
        return OurFault(f"a query had a wrong argument ({type(error).__name__}); please report this")
    return NetworkError(_SILENT, origin=Origin.DATABASE)


_SILENT: Final = "the database does not answer; make sure that PostgreSQL runs, then try again"
_SAID: Final[Sequence[tuple[tuple[type[Exception], ...], type[EverrefError], str]]] = (
    (
        (asyncpg.DiskFullError,),
        LimitReached,
        "the database's disk is full; make room there, then try again",
    ),
    (
        (asyncpg.OutOfMemoryError,),
        LimitReached,
        "the database is out of memory; try again, or give it more memory",
    ),
    (
        (asyncpg.TooManyConnectionsError,),
        LimitReached,
        "the database accepts no more connections; raise its max_connections",
    ),
    (
        (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError),
        Busy,
        "another transaction holds the same rows; try again",
    ),
    (
        (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedObjectError),
        OurFault,
        "the database lacks the tables of this version; run everref migrate",
    ),
    (
        (asyncpg.InsufficientPrivilegeError,),
        OurFault,
        "the database user of DATABASE_URL may not do this; it must own the tables",
    ),
    (
        (
            asyncpg.PostgresConnectionError,  # among them: ConnectionDoesNotExistError
            asyncpg.OperatorInterventionError,  # a shutdown, a crash, a cancelled statement
            asyncpg.ReadOnlySQLTransactionError,  # the old primary after a failover
        ),
        NetworkError,
        _SILENT,
    ),
)


@met_by(Origin.DATABASE)
async def connect(url: str) -> Connections:
    """The connections to the database of this URL; the caller closes them.

    Raises UsageError, BadCredentials, NetworkError or OurFault, none of which tells the URL's password.
    """
    try:
        pool = Connections(url)
        await pool
    except asyncpg.InvalidAuthorizationSpecificationError:  # for example, a wrong password
        raise BadCredentials("PostgreSQL refuses the user or the password of DATABASE_URL") from None
    except asyncpg.InvalidCatalogNameError:
        raise OurFault(
            "PostgreSQL does not have the database that DATABASE_URL names; create it with createdb"
        ) from None
    except _RAISED as error:
        if isinstance(error, ValueError):
            raise UsageError("DATABASE_URL cannot be read; write postgresql://user@host/database") from None
        raise explained(error) from None
    except ValueError:  # a port that is no number
        raise UsageError("DATABASE_URL cannot be read; write postgresql://user@host/database") from None
    try:
        await _check_server(pool)
    except BaseException:
        pool.terminate()
        raise
    return pool


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Connections]:
    """The pool of `connect`, closed at the end."""
    pool = await connect(url)
    try:
        yield pool
    except BaseException:
        pool.terminate()  # whatever is under way is rolled back
        raise
    await pool.close()


@translating
async def version(db: Db) -> str:
    """The server and its version, such as "PostgreSQL 15.7"."""
    return f"PostgreSQL {await db.fetchval('show server_version')}"


@translating
async def _check_server(pool: asyncpg.Pool) -> None:
    row = await pool.fetchrow(
        "select current_setting('server_version_num')::int, current_setting('server_encoding')"
    )
    if row[0] < OLDEST * 10000:
        raise OurFault(f"PostgreSQL {OLDEST} or newer is needed; DATABASE_URL points to {row[0] // 10000}")
    if row[1] != "UTF8":
        raise OurFault(
            f"the database must be in UTF8, not {row[1]}; create it with createdb -E UTF8 -T template0"
        )


@asynccontextmanager
async def connected(db: Db) -> AsyncIterator[Db]:
    """One connection for several statements, or the given one; never held while waiting for the outside."""
    if isinstance(db, asyncpg.Pool):
        async with db.acquire() as connection:
            yield connection
    else:
        yield db


@asynccontextmanager
async def transaction(db: Db) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction: one of the pool's, or the given one in a transaction within its own.

    Raises NetworkError where the connection is lost before the end: nothing may have been committed.
    """
    if isinstance(db, asyncpg.Pool):
        try:
            async with db.acquire() as connection, connection.transaction():
                yield connection
        except (
            asyncpg.InterfaceError
        ) as error:  # it cannot be rolled back; whatever failed before is its cause
            raise explained(error) from error
    else:
        async with db.transaction():  # type: ignore[attr-defined]
            yield db


def storable(text: str) -> str:
    """Text as PostgreSQL can keep it: what is no Unicode character, and NUL, become U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\0", "\ufffd")
