"""What runs on this machine that has to do with a data directory, for tests of how it starts and ends."""

import asyncio
import fcntl
import os
import select
import signal
from pathlib import Path


def processes(data: Path) -> dict[int, str]:
    """Every process that has to do with this directory, by its command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if os.fsencode(data) in command:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def the(data: Path, word: str) -> int:
    """The one process of these with this word in its command line; a child that has its parent's is none."""
    parents = {pid: _parent(pid) for pid, command in processes(data).items() if word in command}
    (pid,) = [pid for pid, parent in parents.items() if parent is not None and parent not in parents]
    return pid


def _parent(pid: int) -> int | None:
    """Who started a process; None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


async def until_free(data: Path) -> None:
    """Wait until nobody holds the keeper's lock: then nothing of it runs."""

    def wait() -> None:
        with open(data / "run" / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    await asyncio.to_thread(wait)


async def kill(pid: int) -> None:
    """Kill a process that is not our child, and wait until it is dead."""
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(select.select, [handle], [], [])
    os.close(handle)
