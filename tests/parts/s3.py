"""S3 servers of one test session on loopback: SeaweedFS, and rclone as the store that can do little.

By hand, SeaweedFS is `weed server -s3 -ip=127.0.0.1 -dir=DIR -s3.config=KEYS.json -master.telemetry=false`
with every port given, and rclone is `rclone serve s3 --addr 127.0.0.1:PORT --auth-key KEY,SECRET DIR`.
"""

import ctypes
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY = "everreftestskey00000"
SECRET_KEY = "everref-tests-secret-key-of-forty-letter"
BUCKET = "everref-tests"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
_FIRST_PORT = 11_000  # below are those of servers that this machine may have, and some that browsers refuse
_FEW = 1000  # ports that are not given to anybody; where there are less, any is taken
_UP_WITHIN = 120.0  # seconds
_SILENT = 1.0  # seconds without a line, after which a server is tried all the same
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server that answers, with an empty bucket."""

    endpoint: str  # http://127.0.0.1:PORT
    bucket: str = BUCKET

    def url(self, prefix: str | None = None, endpoint: str | None = None) -> str:
        """A VAULT_URL on it: a fresh prefix unless given; `endpoint` where something stands before it."""
        where = f"s3://{self.bucket}/{secrets.token_hex(8) if prefix is None else prefix}"
        return f"{where}?endpoint_url={quote(endpoint or self.endpoint, safe='')}&region=us-east-1"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """SeaweedFS: conditional create, checksums, multipart uploads that can be listed."""
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def weak_s3_server() -> Iterator[S3Server]:
    """rclone: no conditional create, no checksums."""
    with rclone() as server:
        yield server


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' key in the usual AWS variables, and nothing else of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """A SeaweedFS of its own, gone afterwards."""
    with ExitStack() as stack:
        home = stack.enter_context(_short_directory("weed"))
        keys = home / "keys.json"
        identity = {
            "name": "everref",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        keys.write_text(json.dumps({"identities": [identity]}))
        (home / "data").mkdir()
        names = (
            *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
            *("filer.port", "filer.port.grpc", "s3.port.grpc"),
        )
        s3_port, *ports = free_ports(8)
        stack.callback(_remove_sockets, ports)
        options = {name: str(port) for name, port in zip(names, ports, strict=True)} | {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": str(home / "data"),
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": "64",
            "volume.max": "100",
            "volume.preStopSeconds": "0",
            "volume.minFreeSpace": "1",
            "filer.localSocket": str(home / "filer.sock"),
            "s3.localSocket": str(home / "s3.sock"),
            "s3.port": str(s3_port),
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "s3.config": str(keys),
            "s3.iam": "false",
            "s3.autoCreateBucket": "false",
        }
        arguments = ["server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
        output = stack.enter_context(_running("weed", arguments, home))
        server = S3Server(f"http://127.0.0.1:{s3_port}")
        with client(server) as s3:
            _once_up(lambda: s3.create_bucket(Bucket=server.bucket), output)
        yield server


def _remove_sockets(ports: list[int]) -> None:
    """Sockets whose place SeaweedFS does not let us choose, and which it leaves when it is killed."""
    for kind, port in itertools.product(("master", "filer", "volume", "s3"), ports):
        Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock").unlink(missing_ok=True)


@contextmanager
def rclone() -> Iterator[S3Server]:
    """An rclone of its own, gone afterwards."""
    with ExitStack() as stack:
        home = stack.enter_context(_short_directory("rclone"))
        (home / "data" / BUCKET).mkdir(parents=True)
        (port,) = free_ports(1)
        arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        output = stack.enter_context(_running("rclone", [*arguments, str(home / "data")], home))
        server = S3Server(f"http://127.0.0.1:{port}")
        with client(server) as s3:
            _once_up(lambda: s3.head_bucket(Bucket=server.bucket), output)
        yield server


@contextmanager
def client(server: S3Server) -> Iterator[Any]:
    """Another program's look at a server: botocore's own client."""
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, proxies={})
    s3 = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=config,
    )
    try:
        yield s3
    finally:
        s3.close()


def let_in(server: S3Server, rule: dict[str, Any]) -> None:
    """Let pages of other origins in by this rule of CORS; the bucket is made if there is none."""
    with client(server) as s3:
        if server.bucket not in {one["Name"] for one in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=server.bucket)
        s3.put_bucket_cors(Bucket=server.bucket, CORSConfiguration={"CORSRules": [rule]})


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody listens on.

    They are outside the range of which the kernel gives one to whoever asks for any, as every other server
    of the tests and every client does: one of that range may be taken before the server listens on it.
    https://docs.kernel.org/networking/ip-sysctl.html, ip_local_port_range
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found: list[int] = []
    choices = [port for port in range(_FIRST_PORT, 1 << 16) if not low <= port <= high]
    while len(found) < count:
        port = secrets.choice(choices) if len(choices) > _FEW else 0
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:  # somebody listens there
                continue
            port = one.getsockname()[1]
        if port not in found:
            found.append(port)
    return found


class Output:
    """What a server says, read as it comes, so that somebody can wait for more of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.last = b""  # of it
        self._lines = 0
        self._more = threading.Condition()
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, name="output of a server", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._more:
                self.last = (self.last + line)[-8000:]
                self._lines += 1
                self._more.notify_all()

    def wait_beyond(self, lines: int) -> int:
        """Wait until it has said more than so many lines, or is silent for a moment; how many now."""
        with self._more:
            self._more.wait_for(lambda: self._lines > lines, _SILENT)
            return self._lines

    def close(self) -> None:
        """To be called when the server has ended."""
        self._thread.join()
        self._pipe.close()


@contextmanager
def _running(program: str, arguments: list[str], home: Path) -> Iterator[Output]:
    """A process of a server; its output is shown where it does not come up."""
    beside = Path(sys.executable).with_name(program)
    path = str(beside) if beside.exists() else shutil.which(program)
    assert path, f"{program} is not installed"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    process = subprocess.Popen(
        [path, *arguments],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with_parent,
    )
    assert process.stdout
    output = Output(process.stdout)
    try:
        yield output
    except BaseException:
        sys.stderr.write(output.last.decode(errors="replace"))
        raise
    finally:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:  # SeaweedFS waits for its own connections; nothing here is worth it
            process.kill()
            process.wait()
        output.close()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _once_up(attempt: Callable[[], object], output: Output) -> None:
    """Try whenever a server that has just been started says something, until it answers."""
    end = time.monotonic() + _UP_WITHIN
    lines = 0
    while True:
        lines = output.wait_beyond(lines)
        try:
            attempt()
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > end:
                raise


@contextmanager
def _short_directory(name: str) -> Iterator[Path]:
    # pytest's own are too deep for the 107 bytes of a Unix socket's path.
    with tempfile.TemporaryDirectory(prefix=f"everref-{name}-", ignore_cleanup_errors=True) as path:
        yield Path(path)
