"""The stock server of git over HTTP: `git http-backend` behind lighttpd, as git-http-backend(1) has it."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.clock import ENVIRONMENT, Failed, run

NAME: Final = "`git http-backend` behind lighttpd"
_STARTING: Final = 10.0  # seconds

# What git says is passed on as it comes, as Everref does; else lighttpd writes it to a file first.
_CONFIG: Final = """
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
server.modules = ("mod_alias", "mod_cgi", "mod_setenv")
server.stream-request-body = 1
server.stream-response-body = 2
server.max-connections = 1024
server.upload-dirs = ("{place}")
setenv.add-environment = (
  "GIT_PROJECT_ROOT" => "{root}", "GIT_HTTP_EXPORT_ALL" => "1", "GIT_CONFIG_NOSYSTEM" => "1"
)
alias.url = ("/git" => "{program}")
$HTTP["url"] =~ "^/git" {{ cgi.assign = ("" => "") }}
"""


def is_here() -> bool:
    """Whether this machine has the server: Debian's package lighttpd."""
    return shutil.which("lighttpd", path=_PATH) is not None


_PATH: Final = f"{ENVIRONMENT['PATH']}:/usr/sbin:/usr/local/sbin"


@contextmanager
def http_backend(root: Path, place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The repositories below a directory at /git/ of a port of loopback. Raises Failed."""
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(run("git", "--exec-path").decode().strip()) / "git-http-backend"
    config = place / "lighttpd.conf"
    config.write_text(_CONFIG.format(root=root, port=port, place=place, program=program))
    found = shutil.which("lighttpd", path=_PATH)
    if found is None:
        raise Failed("install lighttpd to compare with")
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen([found, "-D", "-f", config], env=dict(ENVIRONMENT), stderr=log) as running,
    ):
        try:
            _wait(running, port, place / "log")
            yield running, port
        finally:
            running.terminate()
            running.wait()


def _wait(running: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _STARTING
    while running.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise Failed(f"lighttpd did not start: {log.read_text(errors='replace')[-500:]}")
