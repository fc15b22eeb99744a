"""Stores that do not speak S3, behind `rclone serve s3`: SFTP and FTP on loopback."""

import getpass
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from tests.parts.s3 import ACCESS_KEY, SECRET_KEY, S3Server, client, free_ports

WITHIN = 120.0  # seconds
_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


@contextmanager
def _process(*arguments: str) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(arguments, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def sftp(home: Path) -> Iterator[str]:
    """Debian's OpenSSH server, as rclone names it."""
    (port,) = free_ports(1)
    for name in ("host_key", "key"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name))
        subprocess.run(command, check=True)
    (home / "sshd.conf").write_text(_SSHD.format(port=port, home=home))
    (home / "files").mkdir()
    with _process("/usr/sbin/sshd", "-D", "-f", str(home / "sshd.conf")):
        user, key = getpass.getuser(), home / "key"
        yield f":sftp,host=127.0.0.1,port={port},user={user},key_file={key},shell_type=none:{home}/files"


@contextmanager
def ftp(home: Path) -> Iterator[str]:
    """An FTP server, as rclone names it."""
    (port,) = free_ports(1)
    (home / "files").mkdir()
    options = (
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
        "-w",
        "-d",
        str(home / "files"),
        "-u",
        "me",
        "-P",
        "secret",
    )
    obscured = subprocess.run((_rclone(), "obscure", "secret"), check=True, capture_output=True, text=True)
    with _process(sys.executable, "-W", "ignore", "-m", "pyftpdlib", *options):
        yield f":ftp,host=127.0.0.1,port={port},user=me,pass={obscured.stdout.strip()}:"


STORES: dict[str, Callable[[Path], AbstractContextManager[str]]] = {"sftp": sftp, "ftp": ftp}


@contextmanager
def gateway(kind: str, home: Path) -> Iterator[S3Server]:
    """A store of this kind as an S3 server, with an empty bucket."""
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}", bucket="vault")
    keys = ("--auth-key", f"{ACCESS_KEY},{SECRET_KEY}")
    with STORES[kind](home) as remote:
        where = ("--addr", f"127.0.0.1:{port}", "--config", "/dev/null")
        with _process(_rclone(), "serve", "s3", *where, *keys, remote), client(server) as s3:
            _make_bucket(s3.create_bucket, server.bucket)
            yield server


def _make_bucket(create: Callable[..., object], bucket: str) -> None:
    end = time.monotonic() + WITHIN
    while True:
        try:
            create(Bucket=bucket)
            return
        except (BotoCoreError, ClientError) as error:
            if "BucketAlready" in str(error):  # it was made by an attempt whose answer was an error
                return
            if time.monotonic() > end:
                raise
        time.sleep(0.2)  # two servers come up, of which one says nothing


def _rclone() -> str:
    return str(Path(sys.executable).with_name("rclone"))
