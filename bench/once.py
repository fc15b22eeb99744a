"""The command line, in a process that tells how it went: `python -m bench.once FD ARGS` is `everref ARGS`."""

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.clock import peak_of_this_process


def main() -> None:
    """Run `everref ARGS`; then write its peak of memory, and when its edges were open, to FD."""
    notes = int(sys.argv[1])
    told: dict[str, float] = {"up": 0.0}
    from mirror.services import open

    opening = open.open_services

    @asynccontextmanager
    async def noted(*args: Any, **kwargs: Any) -> AsyncIterator[open.Services]:
        async with opening(*args, **kwargs) as opened:
            told["up"] = time.monotonic()
            yield opened

    open.open_services = noted
    sys.argv = ["everref", *sys.argv[2:]]
    from mirror.cli import main as everref

    try:
        code = everref()
    finally:
        told["peak"] = peak_of_this_process()
        os.write(notes, json.dumps(told).encode())
    sys.exit(code)


if __name__ == "__main__":
    main()
