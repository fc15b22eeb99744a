"""What Everref is compared with: git itself, restic and borg."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from bench.clock import ENVIRONMENT, Watch, bytes_under, run, seconds

CLONE = "`git clone --mirror`"
ALL = "+refs/*:refs/*"
QUIET = ("-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "fetch.unpackLimit=1")


def clone(url: str | Path, to: Path) -> float:
    return seconds("git", "clone", "-q", "--mirror", str(url), to)


def clone_and_bundle(url: str, to: Path) -> float:
    """What people's scripts do: a mirror, then a bundle of everything in it."""
    return clone(url, to) + bundle(to, to / "all.bundle")


def bundle(repo: Path, file: Path, *what: str) -> float:
    return seconds("git", f"--git-dir={repo}", "bundle", "create", "-q", file, *(what or ("--all",)))


def fetch(mirror: Path) -> float:
    """Everything new into a mirror, the quickest way that git has."""
    return seconds("git", f"--git-dir={mirror}", *QUIET, "fetch", "-q", "origin", ALL)


def fetch_as_people_do(mirror: Path) -> None:
    run("git", f"--git-dir={mirror}", "remote", "update", "--prune")


def ls_remote(url: str) -> float:
    return seconds("git", "ls-remote", "-q", url)


def fetch_bundles(bundles: Sequence[Path], into: Path) -> float:
    """A repository out of bundles, one after the other, as other backup tools restore."""
    start = time.perf_counter()
    run("git", "init", "-q", "--bare", into)
    for file in bundles:
        run("git", f"--git-dir={into}", *QUIET, "fetch", "-q", file, ALL)
    return time.perf_counter() - start


def push(mirror: Path, url: str) -> float:
    return seconds("git", f"--git-dir={mirror}", "push", "-q", "--mirror", url)


def peak_of(*command: str | Path) -> float:
    """The most memory of any git process of a command, in MB."""
    with Watch(os.getpid()) as watch:
        run(*command)
    return watch.peak


class Restic:
    """https://restic.net, a repository in a directory."""

    name = "restic"

    def __init__(self, place: Path) -> None:
        self.place = place
        self._env = {
            **ENVIRONMENT,
            "RESTIC_PASSWORD": "measure",
            "RESTIC_CACHE_DIR": str(place.with_suffix(".cache")),
        }
        run("restic", "-q", "-r", place, "init", env=self._env)

    def backup(self, directory: Path) -> None:
        run("restic", "-q", "-r", self.place, "backup", directory, env=self._env)

    def bytes(self) -> int:
        return bytes_under(self.place)


class Borg:
    """https://www.borgbackup.org, a repository in a directory."""

    name = "borg"

    def __init__(self, place: Path) -> None:
        self.place = place
        self._env = {
            **ENVIRONMENT,
            "BORG_BASE_DIR": str(place.with_suffix(".cache")),
            "HOME": str(place.parent),
        }
        self._number = 0
        run("borg", "init", "-e", "none", place, env=self._env)

    def backup(self, directory: Path) -> None:
        self._number += 1
        run("borg", "create", f"{self.place}::{self._number}", directory, env=self._env)

    def bytes(self) -> int:
        return bytes_under(self.place)


def archivers(room: Path) -> tuple[list[Restic | Borg], list[str]]:
    """The backup programs of this machine, each with a fresh repository; and the names of the absent."""
    kinds: tuple[type[Restic] | type[Borg], ...] = (Restic, Borg)
    here = [kind for kind in kinds if shutil.which(kind.name)]
    absent = [kind.name for kind in kinds if kind not in here]
    return [kind(room / kind.name) for kind in here], absent
