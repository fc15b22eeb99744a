"""Runs a Python module as a program, forked from a process that has read the code already.

Reading the code takes a command of Everref most of its time, and tests run a thousand. What is run is the
same: a process of its own with an environment, a directory, standard streams and an exit code of its own.

`python -m tests.parts.forked NAME` is that process: it listens on the abstract socket NAME until its
standard input ends.
"""

import atexit
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_LARGEST: Final = 1 << 20  # bytes of a request
_NOT_LOADED: Final = ("__main__", "mirror.worker")  # programs
_lock = threading.Lock()
_forker: "subprocess.Popen[bytes] | None" = None


def run(
    module: str,
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: str = "",
    timeout: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """`python -m module words...`, as `subprocess.run` gives it. Raises TimeoutExpired.

    Where the environment tells Python itself how to begin, it is started and not forked.
    """
    is_own = any(one.startswith(("PYTHON", "COVERAGE_")) for one in env)
    if is_own or env.get("LANG", "C.UTF-8") != "C.UTF-8":
        started = [sys.executable, "-m", module, *words]
        return subprocess.run(
            started, input=stdin, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True
        )
    told = json.dumps({"module": module, "words": [*words], "env": dict(env), "cwd": str(cwd or Path.cwd())})
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(_address())
            streams = [one.fileno() for one in (given, out, err)]
            socket.send_fds(connection, [len(told.encode()).to_bytes(4, "big")], streams)
            connection.sendall(told.encode())
            answers = connection.makefile("r")
            pid = int(answers.readline())
            connection.settimeout(timeout)
            try:
                code = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([module, *words], timeout or 0) from None
        for one in (out, err):
            one.seek(0)
        return subprocess.CompletedProcess(
            [module, *words], code, out.read().decode(), err.read().decode(errors="backslashreplace")
        )


def _address() -> str:
    """Where the forking process of this one listens, which is started at first."""
    global _forker
    with _lock:
        name = f"everref-forked-{os.getpid()}"
        if _forker is None or _forker.poll() is not None:
            env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
            _forker = subprocess.Popen(
                [sys.executable, "-m", "tests.parts.forked", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env | {"HOME": "/nonexistent", "LANG": "C.UTF-8"},
                cwd=Path(__file__).parents[2],
            )
            assert _forker.stdout is not None
            assert _forker.stdout.readline() == b"ready\n"
            atexit.register(_forker.communicate)  # which ends it
        return f"\0{name}"


def main() -> None:
    """Fork for each connection, until standard input ends."""
    import mirror

    for found in pkgutil.walk_packages(mirror.__path__, "mirror."):
        if not found.name.endswith(_NOT_LOADED):
            importlib.import_module(found.name)
    importlib.import_module("tests.parts.crashing")
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in what is forked"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{sys.argv[1]}")
        listening.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who tend to a command
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()
                break
            connection.close()
    _tend(connection)


def _tend(connection: socket.socket) -> None:
    """Run what is asked for here, in a child, and say which process it is and how it ended."""
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    asked = connection.makefile("rb").read(int.from_bytes(size, "big"))
    assert len(asked) < _LARGEST
    child = os.fork()
    if child:
        connection.sendall(b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    connection.close()
    wanted = json.loads(asked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # as Python itself does it
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = [wanted["module"], *wanted["words"]]
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
