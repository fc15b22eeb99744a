"""`python -m mirror.cli` is the command, where no script is installed."""

import sys

from mirror.cli import main

sys.exit(main())
