"""The keeper: a process that holds the servers of one data directory as long as anybody is connected to it.

It is started by the first user (`join`) and holds `run/lock`, as do its servers,
so that the lock is free exactly when none of them runs any more. A user is a
connection: it sends one line, {"programs": {"postgres": directory, "redis":
path}}, and gets {"urls": {...}} or {"error": [class, message]}. A user that
closes its side is leaving; the last one's connection is closed when everything has stopped.
"""

import errno
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

from mirror.services.embedded.servers import (
    CannotStart,
    DataFolder,
    Postgres,
    Redis,
    Server,
    close_sockets,
    forget_the_dead,
    identity_for,
    open_sockets,
)

REVIVALS = 5  # restarts in a row of a server that ends by itself, before the keeper gives up
REVIVAL_SECONDS = 10  # a server that ran this long counts as recovered
REQUEST_BYTES = 65536


class Keeper:
    def __init__(self, place: DataFolder, lock: int) -> None:
        self._place = place
        self._lock = lock
        self._programs: dict[str, Path] = {}
        self._servers: dict[str, Server] = {}
        self._started: dict[str, float] = {}
        self._revivals = 0
        self._sockets: Path | None = None
        self._users: dict[socket.socket, bytes] = {}  # what each has sent so far
        self._leaving: list[socket.socket] = []
        self._told_to_stop = False
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)

    def run(self, first: socket.socket) -> None:
        """Serve `first` and all later users until the last has left; then stop everything."""
        forget_the_dead(self._place)
        self._listen_to_signals()
        self._listen()
        self._admit(first)
        try:
            while not self._told_to_stop and (self._users or self._newcomers()):
                for key, _ in self._selector.select():
                    if key.fileobj is self._listener:
                        self._newcomers()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._users:
                        self._hear(key.fileobj)
                    else:
                        os.read(key.fd, 4096)
                self._revive()
        finally:
            self._stop()

    def _listen_to_signals(self) -> None:
        """Wake the loop when a child has ended or a signal asks to stop."""
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        os.set_blocking(writable, False)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._tell_to_stop)
        self._selector.register(readable, selectors.EVENT_READ)

    def _tell_to_stop(self, *_: object) -> None:
        self._told_to_stop = True

    def _listen(self) -> None:
        (self._place.run / "keeper.sock").unlink(missing_ok=True)
        run = os.open(self._place.run, os.O_RDONLY | os.O_DIRECTORY)
        self._listener.bind(
            f"/proc/self/fd/{run}/keeper.sock"
        )  # the path itself may be too long for a socket
        os.close(run)
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _newcomers(self) -> bool:
        """Accept all waiting connections; returns whether there were any."""
        count = 0
        while True:
            try:
                user, _ = self._listener.accept()
            except BlockingIOError:
                return count > 0
            self._admit(user)
            count += 1

    def _admit(self, user: socket.socket) -> None:
        user.setblocking(False)
        self._users[user] = b""
        self._selector.register(user, selectors.EVENT_READ)

    def _hear(self, user: socket.socket) -> None:
        try:
            words = user.recv(REQUEST_BYTES)
        except OSError:
            words = b""
        self._users[user] += words
        if not words or len(self._users[user]) > REQUEST_BYTES:
            self._say_goodbye(user)
        elif self._users[user].endswith(b"\n"):
            answer = self._serve(self._users[user])
            self._users[user] = b""
            try:
                user.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                self._say_goodbye(user)

    def _say_goodbye(self, user: socket.socket) -> None:
        self._selector.unregister(user)
        del self._users[user]
        if self._users:
            user.close()
        else:
            self._leaving.append(user)  # it waits until everything has stopped

    def _serve(self, request: bytes) -> dict[str, object]:
        """Start the requested servers that do not run yet."""
        try:
            for name, program in json.loads(request)["programs"].items():
                if name not in self._servers:
                    self._programs[name] = Path(program)
                    self._start(name)
            self._revive()
        except CannotStart as error:
            return {"error": ["limit" if os.strerror(errno.ENOSPC) in str(error) else "ours", str(error)]}
        except OSError as error:
            kind = "limit" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "ours"
            return {"error": [kind, f"the embedded services could not start: {error}"]}
        return {"urls": {name: server.url for name, server in self._servers.items()}}

    def _start(self, name: str) -> None:
        identity = identity_for(self._place, self._programs[name].parent)
        if self._sockets is None:
            self._sockets = open_sockets(self._place, identity)
        make = Postgres if name == "postgres" else Redis
        self._servers[name] = make(self._place, self._programs[name], self._sockets, identity, self._lock)
        self._started[name] = time.monotonic()

    def _revive(self) -> None:
        """Restart a server that ended by itself; stop everything when that does not help."""
        for name, server in list(self._servers.items()):
            while server.process.poll() is not None and not self._told_to_stop:
                if time.monotonic() - self._started[name] > REVIVAL_SECONDS:
                    self._revivals = 0
                self._revivals += 1
                if self._revivals > REVIVALS:
                    self._told_to_stop = True
                    return
                print(f"{name} ended by itself with {server.process.returncode}; restarting it", flush=True)
                try:
                    self._start(name)
                except (CannotStart, OSError) as error:
                    print(error, flush=True)
                    time.sleep(0.2 * self._revivals)
                server = self._servers[name]

    def _stop(self) -> None:
        (self._place.run / "keeper.sock").unlink(missing_ok=True)
        self._listener.close()
        for server in reversed(self._servers.values()):
            server.stop()
        close_sockets(self._place)


def main(arguments: list[str]) -> None:
    """keeper DATA LOCK FIRST: the directory, the descriptors of the held lock and of the first user."""
    if os.fork():
        os._exit(0)  # whoever started us has no child to wait for
    os.umask(0o077)
    data, lock, first = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    os.set_inheritable(lock, False)
    Keeper(DataFolder(data), lock).run(socket.socket(fileno=first))
    os._exit(0)  # who waits for us sees the connection end with the process, not before it


if __name__ == "__main__":
    main(sys.argv[1:])
