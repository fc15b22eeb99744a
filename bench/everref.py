"""Everref as it is measured: warm in this process, as a worker holds it, and as a command of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.clock import ENVIRONMENT, Failed, Watch, bytes_under
from mirror.backup import sync as syncing
from mirror.backup.sync import Synced
from mirror.core.config import Settings
from mirror.core.model import Part, Remote, Repo, Snapshot
from mirror.discovery import add
from mirror.restore import moment, restore
from mirror.restore.restore import Restored, What
from mirror.services.open import Services
from mirror.store.backup import parts
from mirror.upkeep import compact
from mirror.upkeep.compact import Compacted


def settings(data: Path) -> Settings:
    """One machine, a vault in a directory, the remote on loopback."""
    return Settings(data=str(data), allow_private_remotes=True)


@dataclass(frozen=True, slots=True)
class Worker:
    """Open edges in this process: what a worker has while it waits."""

    services: Services
    data: Path

    async def add(self, url: str) -> Repo:
        return await add.repo_for(self.services, url, None)

    async def sync(self, repo: Repo) -> Synced:
        return await syncing.sync(self.services, repo.id)

    async def live(self, repo: Repo) -> list[Part]:
        return list(await parts.live(self.services.db, repo.id))

    def stored(self, key: str) -> Path:
        """Where the directory vault keeps an object."""
        return self.data / "vault" / key

    def pool(self, repo: Repo) -> Path:
        """The repo's pool on this disk."""
        return self.services.disk.pool(repo.id)

    async def to_directory(self, repo: Repo, path: Path) -> None:
        _whole(await restore.to_directory(self.services, repo, await self._moment(repo, None), path))

    async def to_bundle(self, repo: Repo, path: Path, number: int | None) -> None:
        _whole(await restore.to_bundle(self.services, repo, await self._moment(repo, number), path))

    async def to_remote(self, repo: Repo, url: str) -> None:
        snapshot = await self._moment(repo, None)
        _whole(await restore.to_remote(self.services, repo, snapshot, Remote(url), What(hidden="archive")))

    async def compact(self, repo: Repo) -> Compacted:
        return await compact.compact(self.services, repo)

    async def _moment(self, repo: Repo, number: int | None) -> Snapshot:
        return await moment.snapshot_at(self.services, repo, number)

    def vault_bytes(self, repo: Repo) -> int:
        """Of everything that the vault holds for a repo."""
        return bytes_under(self.data / "vault" / str(repo.id))


def _whole(done: Restored) -> None:
    if not done.verified:
        raise Failed(f"the restore of {done.repo.name} is not what was backed up")


@dataclass(frozen=True, slots=True)
class Ran:
    """One `everref` command from outside."""

    seconds: float
    peak: float  # MB, of its Python process
    git_peak: float  # MB, of the biggest git process below it; 0 where nobody looked
    up: float  # seconds until its services were up and its edges open


def command(data: Path, *args: str | Path, watch: bool = False) -> Ran:
    """Run `everref ARGS` on a data directory. Raises Failed with its error line."""
    env = {**ENVIRONMENT, "HOME": os.environ.get("HOME", "/"), "EVERREF_DATA": str(data)}
    notes, notes_in = os.pipe()
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "bench.once", str(notes_in), *args],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[notes_in],
    ) as running:
        os.close(notes_in)
        assert running.stderr is not None
        if watch:
            with Watch(running.pid) as seen:
                words = running.stderr.read()
                running.wait()
        else:
            seen = Watch(running.pid)
            words = running.stderr.read()
    seconds = time.monotonic() - start
    with os.fdopen(notes) as text:
        told = json.loads(text.read() or "{}")
    if running.returncode:
        raise Failed(f"everref {args[0]}: {words.decode(errors='replace').strip()[-500:]}")
    return Ran(seconds, told["peak"], seen.peak, told["up"] - start if told["up"] else 0.0)
