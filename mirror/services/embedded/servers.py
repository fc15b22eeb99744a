"""The two servers: how each is made, started, asked whether it is ready, and stopped. The keeper's hands.

Nothing but the standard library, so that the keeper starts at once. Everything
here blocks; the keeper has nothing better to do meanwhile.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from mirror.services.embedded.account import Account, become, for_servers

START_SECONDS = 300  # replaying the log after a crash may take this long
STOP_SECONDS = 30
STEP = 0.003  # seconds between two looks
LOG_BYTES = 8 << 20  # a log larger than this is set aside at the next start
SOCKET_BYTES = 107  # sun_path without its final zero: unix(7)
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")
OWNER = "everref"  # the database and its role
SHORT_PREFIX = "everref-"


class CannotStart(Exception):
    """A server does not start; one line with the reason and where to read more."""


class Server(Protocol):
    """One server of this machine, on a unix socket."""

    url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it, so that nothing of it is left running. Returns when it has ended."""


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The directory of one set of servers.

    postgres/   the database cluster
    run/        the keeper's: lock, keeper.sock, logs
    sockets/    the servers' sockets; a link to a short directory where the path is too long for one
    """

    data: Path

    @property
    def cluster(self) -> Path:
        return self.data / "postgres"

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def sockets(self) -> Path:
        return self.data / "sockets"

    def log(self, name: str) -> Path:
        return self.run / f"{name}.log"


class Postgres:
    """The PostgreSQL server of a place. Made on the first start, recovered by itself after a crash."""

    def __init__(
        self, place: DataFolder, programs: Path, sockets: Path, identity: Account | None, lock: int
    ) -> None:
        """Start it and wait until it answers. Raises CannotStart, OSError."""
        self.url = f"postgresql://{OWNER}@/{OWNER}?host={quote(str(sockets), safe='')}&port=5432"
        self._log = place.log("postgres")
        self._pid_file = place.cluster / "postmaster.pid"
        if not place.cluster.exists():
            self._make(place, programs, identity)
        _write(place.cluster / "pg_hba.conf", f"local all {OWNER} peer map=keeper\n", identity)
        users = sorted({0, os.geteuid(), place.cluster.stat().st_uid})
        lines = [f"keeper {name} {OWNER}\n" for uid in users if (name := _user_name(uid))]
        _write(place.cluster / "pg_ident.conf", "".join(lines), identity)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "io_method": "sync",  # no worker processes for the little there is to read
            "jit": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "max_logical_replication_workers": "0",
            "log_min_error_statement": "panic",  # a statement may hold what no log should
            "log_checkpoints": "off",
            "log_timezone": "UTC",
        }
        command = [str(programs / "postgres"), "-D", str(place.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.process = _spawn(command, self._log, identity, signal.SIGINT, lock)
        try:
            _wait_until(self._answers, self.process, self._log, "PostgreSQL")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        # Fast, then immediate shutdown: https://www.postgresql.org/docs/current/server-shutdown.html
        _stop(self.process, (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL))

    def _make(self, place: DataFolder, programs: Path, identity: Account | None) -> None:
        """Make the cluster beside its place and move it in when it is whole and on disk."""
        unborn = place.cluster.with_name("postgres.new")
        shutil.rmtree(unborn, ignore_errors=True)
        unborn.mkdir(mode=0o700)
        if identity is not None:
            os.chown(unborn, identity.uid, identity.gid)
        command = [str(programs / "initdb"), "-D", str(unborn), "-U", OWNER, "--auth=peer", "--encoding=UTF8"]
        command += ["--no-locale", "--no-instructions", "--sync-method=syncfs"]
        process = _spawn(command, self._log, identity, signal.SIGKILL)
        if process.wait(START_SECONDS) != 0:
            reason = _last_error(self._log) or "see there"
            shutil.rmtree(unborn, ignore_errors=True)
            raise CannotStart(f"PostgreSQL's initdb failed: {reason} ({self._log})")
        os.rename(unborn, place.cluster)
        _sync_directory(place.data)

    def _answers(self) -> bool:
        """Whether it takes queries, by what it says in its pid file: as `pg_ctl --wait` finds it out.

        https://www.postgresql.org/docs/current/storage-file-layout.html
        """
        try:
            lines = self._pid_file.read_text().split("\n")
        except OSError:
            return False
        # Another's number: what a server left that was killed.
        return len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7].startswith("ready")


class Redis:
    """The Redis server of a place. It keeps nothing: what it holds are hints that can be given again."""

    def __init__(
        self, place: DataFolder, program: Path, sockets: Path, identity: Account | None, lock: int
    ) -> None:
        """Start it and wait until it answers. Raises CannotStart, OSError."""
        self._socket = sockets / "redis.sock"
        self._socket.unlink(missing_ok=True)
        self.url = f"unix://{self._socket}"
        log = place.log("redis")
        command = [str(program), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(sockets), "--loglevel", "warning"]
        self.process = _spawn(command, log, identity, signal.SIGTERM, lock)
        try:
            _wait_until(self._answers, self.process, log, "Redis")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        _stop(self.process, (signal.SIGTERM, signal.SIGKILL))

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def identity_for(place: DataFolder, programs: Path) -> Account | None:
    """Whom the servers run as; see identity.for_servers."""
    return for_servers(place.cluster, place.data, programs)


def open_sockets(place: DataFolder, identity: Account | None) -> Path:
    """An empty directory for the servers' sockets, its path short and plain enough for URLs and servers."""
    close_sockets(place)
    longest = os.fsencode(place.sockets / ".s.PGSQL.5432")
    if len(longest) <= SOCKET_BYTES and PLAIN.issuperset(str(place.sockets)):
        place.sockets.mkdir(mode=0o700)
        sockets = place.sockets
    else:
        sockets = Path(tempfile.mkdtemp(prefix=SHORT_PREFIX, dir="/tmp"))
        place.sockets.symlink_to(sockets)
    if identity is not None:
        os.chown(sockets, identity.uid, identity.gid)
    return sockets


def close_sockets(place: DataFolder) -> None:
    """Remove the directory of the sockets, and what a killed keeper left of it."""
    if place.sockets.is_symlink():
        short = Path(os.readlink(place.sockets))
        if short.parent == Path("/tmp") and short.name.startswith(SHORT_PREFIX):
            shutil.rmtree(short, ignore_errors=True)
        place.sockets.unlink()
    else:
        shutil.rmtree(place.sockets, ignore_errors=True)


def forget_the_dead(place: DataFolder) -> None:
    """Remove the pid file of a PostgreSQL that was killed, whose number somebody else may have by now.

    PostgreSQL itself only looks whether the number is alive, and in a container it
    soon is again. Only for who has just got the lock: then no process of that
    PostgreSQL lives, while the file is its guard against those that do.
    """
    path = place.cluster / "postmaster.pid"
    try:
        pid = int(path.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        alive = os.path.samefile(f"/proc/{pid}/cwd", place.cluster)  # a postmaster stands in its cluster
    except OSError:
        alive = False
    if not alive:
        path.unlink()


def _spawn(
    command: list[str],
    log: Path,
    identity: Account | None,
    death_signal: signal.Signals,
    lock: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that is signalled when we die and holds the lock while one process of it lives."""
    parent = os.getpid()
    with open(log, "ab") as output:
        if output.tell() > LOG_BYTES:
            log.replace(log.with_suffix(".log.old"))
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                pass_fds=() if lock is None else (lock,),
                # The keeper has one thread, so running Python between fork and exec is safe.
                preexec_fn=lambda: become(identity, death_signal, parent),
            )
        except subprocess.SubprocessError:  # all that is told of what went wrong before exec
            raise CannotStart(
                "PostgreSQL does not run as root, and this root may not run it as another user;"
                " run everref as another user, or set DATABASE_URL"
            ) from None


def _wait_until(answers: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if process.poll() is not None:
            raise CannotStart(f"{name} does not start: {_last_error(log) or 'it ended at once'} ({log})")
        if time.monotonic() > deadline:
            raise CannotStart(f"{name} did not answer within {START_SECONDS} s ({log})")
        time.sleep(STEP)


def _stop(process: subprocess.Popen[bytes], ladder: tuple[signal.Signals, ...]) -> None:
    for step in ladder:
        process.send_signal(step)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def _last_error(log: Path) -> str:
    """The last thing that a log complains about."""
    with open(log, "rb") as lines:
        lines.seek(max(0, log.stat().st_size - 8192))
        text = lines.read().decode(errors="replace")
    for line in reversed(text.splitlines()):
        for mark in ("PANIC:", "FATAL:", "error:", "ERROR:", "# "):
            if mark in line:
                return line.split(mark, 1)[1].strip()
    return ""


def _write(path: Path, text: str, identity: Account | None) -> None:
    """Replace a file of the cluster."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "x") as file:
        file.write(text)
    if identity is not None:
        os.chown(fresh, identity.uid, identity.gid)
    fresh.replace(path)


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
