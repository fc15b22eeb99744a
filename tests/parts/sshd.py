"""OpenSSH's server on loopback, as this user, whose accounts get git-shell and nothing else."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parts.s3 import free_ports

WANTED = "sshd is wanted for this test: apt-get install openssh-server"

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
LogLevel INFO
AcceptEnv GIT_PROTOCOL
"""


@dataclass
class Sshd:
    """The server, and what it lets in."""

    home: Path
    port: int
    process: "subprocess.Popen[bytes]"
    user: str

    def url(self, path: Path) -> str:
        """The address of a repository of this machine."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    def let_in(self, public: str) -> None:
        """Add a deploy key, as a host does: it runs git and nothing else."""
        shell = 'command="git-shell -c \\"$SSH_ORIGINAL_COMMAND\\"",restrict'
        (self.home / "authorized_keys").write_text(f"{shell} {public}\n")

    def fingerprint(self) -> str:
        """Of its host key, as OpenSSH says it."""
        said = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(self.home / "host_key.pub")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return said.split()[1]

    def stop(self) -> None:
        """Answer no more."""
        if self.process.returncode is None:
            self.process.terminate()
            self.process.communicate()

    def change_host_key(self) -> None:
        """Be another host from now on."""
        (self.home / "host_key").unlink()
        self.restart()

    def restart(self, without: str = "") -> None:
        """Begin anew, without this line of its configuration."""
        self.stop()
        self.process = _started(self.home, self.port, without)


def _started(home: Path, port: int, without: str = "") -> "subprocess.Popen[bytes]":
    if not (home / "host_key").exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "host_key")], check=True
        )
    lines = _CONFIG.format(port=port, home=home).splitlines()
    (home / "config").write_text("\n".join(line for line in lines if line != without) + "\n")
    process = subprocess.Popen([_program(), "-D", "-e", "-f", str(home / "config")], stderr=subprocess.PIPE)
    assert process.stderr
    said = b""
    while b"Server listening" not in said:
        said = process.stderr.readline()
        assert said, "sshd did not start"
    return process


def _program() -> str:
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(WANTED)
    pytest.skip(WANTED)


@contextmanager
def serving(home: Path) -> Iterator[Sshd]:
    """A server with this directory of its own."""
    _program()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where root's server shuts itself in
    (port,) = free_ports(1)
    (home / "authorized_keys").touch()
    made = Sshd(home, port, _started(home, port), getpass.getuser())
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server that lets nobody in yet."""
    home = tmp_path / "sshd"
    home.mkdir()
    with serving(home) as made:
        yield made
