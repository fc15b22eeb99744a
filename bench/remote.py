"""The remote: the tests' smart HTTP server over a directory of repositories, in a process of its own.

A process of its own, so that git and Everref wait for the same server and
neither shares its interpreter. `python -m bench.remote DIR` is that process.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.clock import Failed


@contextmanager
def remote(root: Path) -> Iterator[str]:
    """Serve a directory on loopback, pushes too; its URL, without a slash at the end."""
    command = [sys.executable, "-m", "bench.remote", str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            if not url:
                raise Failed("the git server did not start")
            yield url
        finally:
            server.stdin.close()  # it ends with its standard input


def _serve(root: Path) -> None:
    from tests.parts.githttp import GitServer

    server = GitServer(root, push=True)
    print(server.url, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
