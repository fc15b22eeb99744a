"""Runs the command line or a worker, and kills itself, as kill -9 does, when a named step is reached.

`python -m tests.parts.crashing "sync: fetched" backup URL` is `everref backup URL` until then, and with the
word `worker` in place of a command it is `python -m mirror.worker`.
"""

import os
import signal
import sys

from mirror.flows import steps


def main() -> None:
    """Replace `steps.reached`, then hand over to the real program."""
    _, fatal, *rest = sys.argv

    def reached(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.reached = reached
    if rest[0] == "worker":
        from mirror import process, worker

        sys.argv = rest
        sys.exit(process.begin("everref worker", worker.main))
    from mirror.cli import main as everref

    sys.argv = ["everref", *rest]
    everref()


if __name__ == "__main__":
    main()
