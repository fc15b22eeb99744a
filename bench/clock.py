"""How time, memory and room are measured: of commands, coroutines, processes and directories."""

import os
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENVIRONMENT: Mapping[str, str] = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/nonexistent",
    "LANG": "C",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "Alice Example",
    "GIT_AUTHOR_EMAIL": "alice@example.org",
    "GIT_COMMITTER_NAME": "Alice Example",
    "GIT_COMMITTER_EMAIL": "alice@example.org",
}

Contestant = Callable[[int], Awaitable[float]]  # the number of the round in, seconds out


class Failed(Exception):
    """A measured command failed, so there is nothing to compare."""


def run(
    *command: str | bytes | Path,
    stdin: bytes | None = None,
    env: Mapping[str, str] = ENVIRONMENT,
    cwd: Path | None = None,
) -> bytes:
    """A command's output. Raises Failed with its last words."""
    done = subprocess.run(command, input=stdin, env=dict(env), cwd=cwd, capture_output=True)
    if done.returncode:
        raise Failed(f"{command!r}: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return done.stdout


def seconds(*command: str | bytes | Path, env: Mapping[str, str] = ENVIRONMENT) -> float:
    """How long a command takes, from before its start to after its end."""
    start = time.perf_counter()
    run(*command, env=env)
    return time.perf_counter() - start


async def seconds_of(work: Awaitable[object]) -> float:
    """How long something of ours takes."""
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def side_by_side(rounds: int, *contestants: Contestant) -> list[tuple[float, ...]]:
    """Every contestant's samples. Each round has all of them, in turn beginning with another one."""
    samples: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds):
        for turn in range(len(contestants)):
            place = (turn + number) % len(contestants)
            os.sync()  # nobody pays for another's writing
            samples[place].append(await contestants[place](number))
    return [tuple(taken) for taken in samples]


def bytes_under(path: Path) -> int:
    """The sum of the sizes of all files below a directory."""
    return sum(
        os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(path) for name in names
    )


def peak_of_this_process() -> float:
    """The most memory that this process has held, in MB (VmHWM: not its children's)."""
    return _peak("self")


def _peak(pid: int | str) -> float:
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


@dataclass
class Watch:
    """The most memory that any one git process below a process has held; looked at every few milliseconds."""

    pid: int
    peak: float = 0.0  # MB
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(0.01):
            for pid in _below(self.pid):
                try:
                    if Path(f"/proc/{pid}/comm").read_text().startswith("git"):
                        self.peak = max(self.peak, _peak(pid))
                except (OSError, ProcessLookupError):
                    continue  # it ended while we looked


def _below(pid: int) -> Sequence[int]:
    """A process and everything that descends from it."""
    found = [pid]
    for parent in found:
        try:
            threads = os.listdir(f"/proc/{parent}/task")
            for thread in threads:
                text = Path(f"/proc/{parent}/task/{thread}/children").read_text()
                found += [int(child) for child in text.split()]
        except OSError:
            continue
    return found
