"""The facts that a figure cannot be read without: which machine, which git, which Python."""

import os
import platform
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from bench.clock import run

READ = """\
# Measured

Written by `make bench`. Everref and its peers ran side by side in one run, over real smart HTTP on
loopback, with warm caches. Figures are medians, less is better. Absolute figures belong to this machine,
ratios carry over. Everref is warm in a worker unless it says "as a command": that includes the start of
Python, with the services of a running `everref up`."""


def facts(sources: Sequence[str], rounds: int, quick: bool, today: date) -> str:
    """The head of RESULTS.md: no path, no host name."""
    lines = [
        f"- {os.cpu_count()} cores ({_processor()}), {_memory() / 2**30:.0f} GiB, Linux {_kernel()}",
        f"- {_version('git', '--version')}, Python {platform.python_version()}",
        f"- peers: {', '.join(_peers())}",
        f"- {today.isoformat()}, at least {rounds} rounds{', shortened by --quick' if quick else ''}",
        *(f"- repository {source}" for source in sources),
    ]
    return f"{READ}\n\n" + "\n".join(lines) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kernel() -> str:
    return ".".join(platform.release().split("-")[0].split(".")[:2])


def _version(*command: str) -> str:
    return run(*command).decode().splitlines()[0].strip()


def _peers() -> list[str]:
    known = {"restic": ("restic", "version"), "borg": ("borg", "--version")}
    return [
        " ".join(_version(*command).split()[:2]) if shutil.which(name) else f"{name} is absent"
        for name, command in known.items()
    ]
