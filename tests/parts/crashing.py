"""Runs the command line or a worker, and kills itself, as kill -9 does, when a named step is reached.

`python -m tests.parts.crashing "sync: fetched" backup URL` is `everref backup URL` until then, and with the
word `worker` in place of a command it is `python -m mirror.worker`.
"""

import os
import signal
import sys

from mirror.services import failpoints


def main() -> None:
    """Replace `steps.reached`, then hand over to the real program."""
    _, fatal, *rest = sys.argv

    def reached(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.reached = reached
    if rest[0] == "worker":
        from mirror import worker
        from mirror.services import startup

        sys.argv = rest
        sys.exit(startup.begin("everref worker", worker.main))
    from mirror.cli import main as everref

    sys.argv = ["everref", *rest]
    sys.exit(everref())


if __name__ == "__main__":
    main()
