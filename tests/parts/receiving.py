"""Kills itself, as kill -9 does, at a step of taking a snapshot of what was sent.

`python -m tests.parts.receiving STEP DATA DATABASE KEY REPO-ID PATH` takes one of the repository at PATH.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from uuid import UUID

from mirror.backup import receive
from mirror.core.config import Settings
from mirror.core.model import RepoId
from mirror.git.view import View
from mirror.services import failpoints
from mirror.services.open import open_services
from mirror.store import repos
from tests.parts.repos import refs_of


async def main() -> None:
    """Take it until then."""
    _, fatal, data, database, key, repo_id, path = sys.argv
    settings = Settings(data=data, database_url=database, allow_private_remotes=True, secret_keys=(key,))

    def reached(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.reached = reached
    async with open_services(settings) as services:
        repo = await repos.get(services.db, RepoId(UUID(repo_id)))
        await receive.take(services, repo, View(Path(path), "sha1"), refs_of(Path(path)), by="ann")


if __name__ == "__main__":
    asyncio.run(main())
