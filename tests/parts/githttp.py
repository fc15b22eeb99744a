"""A git host: smart HTTP over directories of repositories, by git's own upload-pack and receive-pack.

Threads that block and copy nothing twice, so that a benchmark measures the
client. Faults are answers that a test puts in front of git's own. The server
is usable from any thread, and by other processes.
"""

import asyncio
import gzip
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
import trustme

from tests.parts.repos import ENVIRONMENT

CHUNK: Final = 1 << 18
_ASKED_WITHIN: Final = 120.0  # seconds
SERVICES: Final = ("git-upload-pack", "git-receive-pack")


@dataclass
class Fault:
    """What goes wrong with a request, instead of git's answer or on the way of it."""

    status: int | None = None  # answer with this, `headers` and `body`
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False  # take the request and never answer
    cut_after: int | None = None  # bytes of git's answer, then the connection is reset
    hang_after: int | None = None  # bytes of git's answer, then silence
    rate: int | None = None  # bytes per second of git's answer
    content_type: str | None = None  # of git's answer
    times: int | None = None  # how often; None: always


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case


class GitServer:
    """Serves every repository below `root`, and those that were added, until it is stopped.

    A fault's key is a piece of the address it is for: "info/refs", "git-upload-pack", a repository's name.
    """

    def __init__(
        self,
        root: Path,
        *,
        push: bool = False,
        tls: bool = False,
        credentials: tuple[str, str] | None = None,
        protocol: int = 2,
    ) -> None:
        self.root = root
        self.push = push
        self.credentials = credentials  # who may enter; None: everybody
        self.protocol = protocol  # 0: a server that knows nothing of protocol v2
        self.demands = b""  # a capability without which no fetch is served, as Azure DevOps wants multi_ack
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.asked = threading.Condition()  # notified of each of them
        self.stopping = threading.Event()
        self.children: set[subprocess.Popen[bytes]] = set()
        self.ca_pem = b""  # of the authority that signed the certificate
        self._added: dict[str, Path] = {}
        context = None
        if tls:
            authority = trustme.CA()
            self.ca_pem = authority.cert_pem.bytes()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self._http = _Http(self, context)
        self.port: int = self._http.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="git server")
        self._thread.start()

    def add(self, path: Path, name: str) -> str:
        """Serve a repository from elsewhere under a name; its URL."""
        self._added[name] = path
        return f"{self.url}/{name}"

    def count(self, piece: str) -> int:
        """How many requests had this in their address."""
        return sum(piece in f"{request.path}?{request.query}" for request in self.requests)

    def wait_for(self, piece: str) -> None:
        """Wait, in another thread than its own, for a request with this in its address."""
        with self.asked:
            assert self.asked.wait_for(lambda: self.count(piece), _ASKED_WITHIN)

    def stop(self) -> None:
        """Every connection, thread and child is gone afterwards."""
        self.stopping.set()
        self._http.shutdown()
        for child in list(self.children):
            child.kill()
        self._http.hang_up()
        self._http.server_close()
        self._thread.join()

    def repository(self, path: str) -> Path | None:
        """The repository that a request's path names."""
        name = os.fsdecode(unquote_to_bytes(path)).strip("/")
        found = self._added.get(name) or self.root / name
        return found if ".." not in name.split("/") and found.is_dir() else None

    def fault(self, address: str) -> Fault | None:
        """The fault that is due for this request, and one time less of it."""
        for piece, fault in self.faults.items():
            if piece in address and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


class _Http(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, git: GitServer, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.git = git
        self._context = context
        self._open: set[socket.socket] = set()

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = request
        self._open.add(request)
        try:
            if self._context:
                connection = self._context.wrap_socket(request, server_side=True)
                self._open.add(connection)
            _Handler(connection, client_address, self)
        except OSError:
            pass  # the client went away, or did not like our certificate
        finally:
            self._open -= {request, connection}
            connection.close()

    def hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None: ...

    def _answer(self) -> None:
        git, address = self.server.git, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        with git.asked:
            git.requests.append(Request(self.command, address.path, address.query, headers))
            git.asked.notify_all()
        fault = git.fault(self.path)
        if fault and fault.silent:
            self.close_connection = True
            git.stopping.wait()
        elif fault and fault.status:
            self._plain(fault.status, fault.body, fault.headers)
        elif git.credentials and headers.get("authorization") != _basic(*git.credentials):
            self._plain(401, b"who are you?\n", {"WWW-Authenticate": 'Basic realm="git"'})
        else:
            self._git(address.path, address.query, fault or Fault())

    def _git(self, path: str, query: str, fault: Fault) -> None:
        git, asks = self.server.git, self.command == "GET"
        if asks and path.endswith("/info/refs") and query.startswith("service="):
            name, service = path.removesuffix("/info/refs"), query.removeprefix("service=").split("&")[0]
        else:
            name, _, service = path.rpartition("/")
        repository = git.repository(name)
        if service not in SERVICES or repository is None:
            return self._plain(404, b"no such repository\n", {})
        if service == "git-receive-pack" and not git.push:
            return self._plain(403, b"pushing is not allowed\n", {})
        sent = None
        if git.demands and not asks:
            sent = b"".join(self._body())
            if git.demands not in sent.split(b"\n")[0]:
                return self._plain(400, b"TF401041: Clients must support multi-ack.\n", {})
        version = self.headers.get("Git-Protocol", "") if git.protocol else ""
        words = ["git", service.removeprefix("git-"), "--stateless-rpc"]
        words += ["--http-backend-info-refs"] if asks else []
        self.send_response(200)
        kind = "advertisement" if asks else "result"
        self.send_header("Content-Type", fault.content_type or f"application/x-{service}-{kind}")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        greeting = b""
        if asks and "version=2" not in version:
            line = b"# service=%s\n" % service.encode()
            greeting = b"%04x%s0000" % (len(line) + 4, line)
        with _child([*words, str(repository)], version, git) as child:
            assert child.stdin and child.stdout
            body = self._body() if sent is None else iter([sent])
            feeding = threading.Thread(target=self._feed, args=(child.stdin, body))
            feeding.start()
            try:
                self._send(greeting, child.stdout.fileno(), fault)
            except OSError:
                self.close_connection = True
            finally:
                if self.close_connection:
                    child.kill()
                    with suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RD)
                feeding.join()

    def _send(self, greeting: bytes, fd: int, fault: Fault) -> None:
        sent = 0
        chunk = greeting or os.read(fd, CHUNK)
        while chunk:
            for stop in (fault.cut_after, fault.hang_after):
                if stop is not None and sent + len(chunk) >= stop:
                    return self._stop_short(chunk[: stop - sent], hang=stop == fault.hang_after)
            self.connection.sendall(b"%x\r\n" % len(chunk) + chunk + b"\r\n")
            sent += len(chunk)
            if fault.rate:
                time.sleep(len(chunk) / fault.rate)
            chunk = os.read(fd, min(CHUNK, fault.rate or CHUNK))
        self.connection.sendall(b"0\r\n\r\n")

    def _stop_short(self, last: bytes, *, hang: bool) -> None:
        self.close_connection = True
        if last:
            self.connection.sendall(b"%x\r\n" % len(last) + last + b"\r\n")
        if hang:
            self.server.git.stopping.wait()
        else:
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _feed(self, stdin: IO[bytes], body: Iterator[bytes]) -> None:
        try:
            with stdin:
                for chunk in body:
                    stdin.write(chunk)
        except OSError:  # git ended before it had read all, or the client went away
            self.close_connection = True

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Content-Encoding") == "gzip":
            yield gzip.decompress(b"".join(self._raw_body()))
        else:
            yield from self._raw_body()

    def _raw_body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length") or 0)
        while left and (chunk := self.rfile.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk

    def _plain(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        for _ in self._raw_body():
            pass
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _child(words: list[str], version: str, git: GitServer) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**ENVIRONMENT, "GIT_PROTOCOL": version, "GIT_HTTP_EXPORT_ALL": "1"}
    with subprocess.Popen(
        words,
        bufsize=0,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        git.children.add(child)
        try:
            yield child
        finally:
            git.children.discard(child)


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


@asynccontextmanager
async def serving(
    root: Path,
    *,
    push: bool = False,
    tls: bool = False,
    credentials: tuple[str, str] | None = None,
    protocol: int = 2,
) -> AsyncIterator[GitServer]:
    """A git host on loopback for as long as the block lasts."""
    server = GitServer(root, push=push, tls=tls, credentials=credentials, protocol=protocol)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    """A git host over the test's own directory: `work` is at `git_server.url + "/remote.git"`."""
    server = GitServer(tmp_path, push=True)
    try:
        yield server
    finally:
        server.stop()
