"""A host that floods, drips, bombs or lies costs the repo that is kept there, and nobody else."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.core.config import FETCH_BYTES
from mirror.core.errors import LimitReached
from mirror.git import pack
from mirror.git import reserve as disk_reserve
from mirror.git.reserve import Room
from mirror.git.run import CONFIG, LEAST_MEMORY, Git, Limits, machine_memory, memory_share
from mirror.git.view import scratch_view
from mirror.store import repos
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer
from tests.parts.packs import bomb, git, sent, stream
from tests.parts.repos import Work

__all__ = ["git"]

GIB = 1 << 30


# Memory


def test_one_git_has_a_slots_share_of_the_machine_and_never_less_than_it_needs(tmp_path: Path) -> None:
    assert memory_share(64 * GIB, slots=16) == 3 * GIB
    assert memory_share(4 * GIB, slots=8) == LEAST_MEMORY
    container = tmp_path / "memory.max"
    container.write_text("268435456\n")
    assert machine_memory(container) == 256 << 20
    container.write_text("max\n")
    assert machine_memory(container) == machine_memory(tmp_path / "none") > GIB


def test_the_threads_of_one_git_fit_into_the_least_memory() -> None:
    """A git of sixty threads would want six times the share that it has on a large machine."""
    assert int(CONFIG["pack.threads"]) * (100 << 20) <= LEAST_MEMORY // 2


async def test_a_pack_that_unpacks_to_more_than_memory_is_a_limit(git: Git, tmp_path: Path) -> None:
    small = Git("git", str(tmp_path), limits=Limits(memory=64 << 20))
    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        with pytest.raises(LimitReached, match="git ran out of memory"):
            await pack.index(
                small,
                incoming.path,
                stream(bomb(512 << 20)),
                pack.Indexing(self_contained=False, fix_thin=False, object_format="sha1"),
            )


@pytest.mark.chaos
async def test_a_large_repository_is_indexed_within_the_least_share(tmp_path: Path, work: Work) -> None:
    """200 MB of files that do not compress, and 20,000 commits."""
    work.many_commits(20_000)
    work.commit("main", {f"large-{number}": os.urandom(40 << 20) for number in range(5)})
    small = Git("git", str(tmp_path), limits=Limits(memory=LEAST_MEMORY))
    async with scratch_view(None, tmp_path, object_format="sha1") as incoming:
        found = await pack.index(
            small,
            incoming.path,
            stream(sent(work, [work.tip()])),
            pack.Indexing(self_contained=True, fix_thin=False, object_format="sha1", longest=FETCH_BYTES),
        )
        assert found.pack.stat().st_size > 200 << 20


# Disks


async def test_a_pack_longer_than_allowed_is_refused_as_it_arrives(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    settings = replace(mirror.services.settings, fetch_bytes=1 << 20)
    small = replace(mirror, services=replace(mirror.services, settings=settings))
    for name, size in (("large", 3 << 20), ("small", 100_000)):
        make_work(f"{name}.git").commit("main", {"file": os.urandom(size)})
    with pytest.raises(LimitReached, match=r"maximum allowed size.*; allow more with EVERREF_FETCH_BYTES"):
        await small.backup(f"{git_server.url}/large.git", "large")
    assert (await small.backup(f"{git_server.url}/small.git", "small")).new


@pytest.mark.parametrize("full", ["scratch", "vault"])
async def test_a_fetch_that_would_fill_a_disk_is_given_up_and_smaller_ones_go_on(
    mirror: Mirror,
    make_work: Callable[..., Work],
    git_server: GitServer,
    monkeypatch: pytest.MonkeyPatch,
    full: str,
) -> None:
    for name, size in (("large", 40 << 20), ("small", 100_000)):
        make_work(f"{name}.git").commit("main", {"file": os.urandom(size)})
    git_server.faults["large.git/git-upload-pack"] = Fault(hang_after=30 << 20)  # and holds what it has sent

    def left(place: Path) -> tuple[int, int]:
        return (disk_reserve.RESERVE - 1 if full in place.parts else 100 * GIB), disk_reserve.RESERVE

    monkeypatch.setattr(disk_reserve, "left", left)
    monkeypatch.setattr(disk_reserve, "LOOK_SECONDS", 0.01)
    with pytest.raises(LimitReached, match=r"this repository would fill the disk of .*; free some space"):
        await mirror.backup(f"{git_server.url}/large.git", "large")
    root = Path(mirror.services.settings.data)
    assert await asyncio.to_thread(_size, root) < 1 << 20
    (large,) = await repos.all(mirror.services.db)
    failure = (await repos.overview_of(mirror.services.db, large.id)).failure
    assert failure and failure.kind == "limit" and failure.retry_at  # its own, and nobody else's outage
    assert mirror.services.away == set()
    assert (await mirror.backup(f"{git_server.url}/small.git", "small")).new


def _size(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


async def test_what_is_small_takes_half_of_the_reserve_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    async def give_way(place: Path, bytes: int) -> None:
        asked.append(place)

    monkeypatch.setattr(
        disk_reserve, "left", lambda place: (disk_reserve.RESERVE // 2 - 1, disk_reserve.RESERVE)
    )
    with pytest.raises(LimitReached, match="0 MiB have arrived"):
        async with Room([tmp_path], give_way).kept():
            await asyncio.Event().wait()
    assert asked == [tmp_path]  # caches had their chance


def test_a_small_disk_keeps_a_twentieth(tmp_path: Path) -> None:
    free, reserve = disk_reserve.left(tmp_path / "not" / "there" / "yet")
    disk = os.statvfs(tmp_path)
    assert reserve == min(disk_reserve.RESERVE, disk.f_blocks * disk.f_frsize // 20) and free > 0
