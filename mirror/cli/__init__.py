"""The command `everref`: the outermost layer, which alone reads the environment and the clock."""

import sys


def main() -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 usage, 3 nothing such, 4 done in part."""
    try:
        from mirror.cli import front

        return front.run(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything that could be interrupted
        return 130
