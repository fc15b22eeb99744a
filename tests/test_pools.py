"""Pools are evicted, the least recently used first, and never while somebody is at work on them."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from mirror.core.errors import DiskFull, Origin
from mirror.core.model import Repo
from mirror.git import pack, pools
from mirror.git.pool import Pool
from mirror.git.pools import Pools
from mirror.git.reader import views
from mirror.git.run import Git
from mirror.jobs import sweep
from mirror.restore import restore
from mirror.services.open import Disk
from tests.parts.everref import Mirror
from tests.parts.packs import git as git  # the fixture
from tests.parts.repos import Work, fsck, refs_of

BLOCK = 1 << 16  # bytes of a pool in these tests
NAMES = ("a", "b", "c", "d")  # in the order of their last use


class Usage(NamedTuple):
    """What shutil.disk_usage tells."""

    total: int
    used: int
    free: int


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pools, of which a was not used for longest."""
    root = tmp_path / "pools"
    for hour, name in enumerate(NAMES):
        packs = root / f"{name}.git" / "objects/pack"
        packs.mkdir(parents=True)
        (packs / "pack-1.pack").write_bytes(os.urandom(BLOCK))
        lock = root / f"{name}.git.lock"
        lock.touch()
        os.utime(lock, (3600 * hour, 3600 * hour))
    return root


def left(root: Path) -> str:
    return "".join(sorted(path.stem for path in root.glob("[!.]*.git")))


def drafts(root: Path) -> list[Path]:
    return list(root.glob(".*.git-*"))


def on_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))


@pytest.mark.parametrize(
    ("bound", "coming", "stays"),
    [
        (4 * BLOCK, 0, "abcd"),
        (3 * BLOCK, 0, "bcd"),
        (4 * BLOCK, 1, "bcd"),
        (4 * BLOCK, 2 * BLOCK, "cd"),
        (BLOCK - 1, 0, ""),
        (0, 0, ""),
    ],
)
async def test_beyond_the_bound_the_least_recently_used_go(
    root: Path, bound: int, coming: int, stays: str
) -> None:
    await Pools(root, bound).make_room(root, coming)
    assert left(root) == stays
    measured = await Pools(root, bound).measured()
    assert (measured.bytes, measured.evicted) == (BLOCK * len(stays), 4 - len(stays))
    assert drafts(root) == []


@pytest.mark.parametrize(
    ("free", "stays"),
    [(4 * BLOCK, "abcd"), (2 * BLOCK, "bcd"), (0, "cd")],
    ids=["as much is free", "half as much is free", "nothing is free"],
)
async def test_without_a_bound_pools_take_no_more_than_they_leave_free(
    root: Path, monkeypatch: pytest.MonkeyPatch, free: int, stays: str
) -> None:
    monkeypatch.setattr(pools, "SPARE", 0)
    on_disk(monkeypatch, free)
    await Pools(root).make_room(root, 0)
    assert left(root) == stays


async def test_where_room_runs_short_pools_make_it_whatever_their_bound(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk(monkeypatch, pools.SPARE)
    await Pools(root, 1 << 40).make_room(root, BLOCK)
    assert left(root) == "bcd"


async def test_beyond_a_teams_share_its_own_go_and_no_other(root: Path) -> None:
    await Pools(root).keep_within(["b", "c", "d"], 2 * BLOCK)
    assert left(root) == "acd"
    await Pools(root).keep_within(["b", "c", "d"], 2 * BLOCK)
    assert left(root) == "acd"


async def test_on_a_full_disk_half_of_them_give_way_once_for_all_who_met_it(root: Path) -> None:
    all_pools = Pools(root)
    assert await asyncio.gather(*(all_pools.give_way(None) for _ in range(5))) == [True] * 5
    assert left(root) == "cd"


async def test_where_nothing_can_be_evicted_no_way_is_given(tmp_path: Path) -> None:
    assert not await Pools(tmp_path / "pools").give_way(None)
    (tmp_path / "pools").mkdir()
    assert not await Pools(tmp_path / "pools").give_way(None)
    await Pools(tmp_path / "pools").make_room(tmp_path, 1 << 60)


async def test_a_pool_that_somebody_holds_stays(git: Git, root: Path) -> None:
    async with Pool(git, root / "a.git", "sha1").lock():
        await Pools(root, 3 * BLOCK).make_room(root, 0)
        assert left(root) == "acd"
    await Pools(root, 2 * BLOCK).make_room(root, 0)
    assert left(root) == "ad"  # it was used just now


async def test_a_pool_that_is_used_while_others_are_counted_stays(
    git: Git, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Pools._evict

    def late(self: Pools, *args: Any) -> bool:
        Pool.note_use(root / "a.git")
        return honest(self, *args)

    monkeypatch.setattr(Pools, "_evict", late)
    await Pools(root, 3 * BLOCK).make_room(root, 0)
    assert left(root) == "acd"


async def test_several_workers_of_a_disk_evict_what_one_would(root: Path) -> None:
    await asyncio.gather(*(Pools(root, 2 * BLOCK).make_room(root, 0) for _ in range(8)))
    assert left(root) == "cd"
    assert (await Pools(root).measured()).evicted == 2


async def test_what_is_on_another_disk_makes_no_pool_go(root: Path) -> None:
    elsewhere = Path("/proc")
    await Pools(root, 0).make_room(elsewhere, 1)
    assert not await Pools(root, 0).give_way(elsewhere)
    assert left(root) == "abcd"


class Two(NamedTuple):
    """Everref with two repos, of which the first was not used for longer."""

    mirror: Mirror
    works: list[Work]
    repos: list[Repo]

    def held(self) -> list[bool]:
        return [self.mirror.services.disk.pool(repo.id).is_dir() for repo in self.repos]

    def bound(self, bytes: int) -> None:
        root = self.mirror.services.disk.root
        disk = Disk(root, Pools(root / "pools", bytes))
        self.mirror.services = replace(self.mirror.services, disk=disk)


@pytest_asyncio.fixture
async def two(mirror: Mirror, make_work: Callable[..., Work]) -> AsyncIterator[Two]:
    works = [make_work("one"), make_work("two")]
    repos = []
    for hour, work in enumerate(works):
        work.many_commits(3, size=5000)
        repos.append((await mirror.backup(work)).repo)
        pool = mirror.services.disk.pool(repos[-1].id)
        os.utime(pool.with_name(pool.name + ".lock"), (3600 * hour, 3600 * hour))
    yield Two(mirror, works, repos)


async def test_an_evicted_pool_is_filled_anew_and_costs_nobody_anything(two: Two) -> None:
    mirror, (work, _), (repo, _) = two
    before = await mirror.snapshot(repo, 1)
    pool = Pool(mirror.services.git, mirror.services.disk.pool(repo.id), "sha1")
    async with views.reading(pool, mirror.place / "room") as (view, mark):
        two.bound(1)
        os.utime(pool.path.with_name(pool.path.name + ".lock"), (0, 0))
        await sweep.tend(mirror.services)
        assert two.held() == [False, False] and mark
        fsck(view.path)  # who reads goes on
    two.bound(1 << 40)
    work.commit("main")
    assert (await mirror.backup(work)).snapshot.number == 2
    await restore.to_bundle(mirror.services, repo, before, mirror.place / "x.bundle", restore.What(["main"]))
    assert refs_of(await mirror.restored(repo, 2)) == work.refs()


async def test_filling_a_pool_evicts_another_and_not_itself(two: Two) -> None:
    mirror, (work, _), _ = two
    await mirror.services.disk.pools.make_room(mirror.services.disk.root, 0)
    assert two.held() == [True, True]
    two.bound(0)
    await sweep.tend(mirror.services)
    work.commit("main")
    assert (await mirror.backup(work)).snapshot.number == 2
    assert two.held() == [True, False]


async def test_a_sync_that_meets_a_full_disk_has_pools_give_way_and_goes_on(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, (_, work), _ = two
    honest, full = pack.index, [True]

    async def index(*args: Any, **named: Any) -> pack.Indexed:
        if full:
            full.pop()
            await named.get("chunks", args[2]).aclose()
            raise DiskFull("the disk is full", origin=Origin.DISK)
        return await honest(*args, **named)

    monkeypatch.setattr(pack, "index", index)
    work.commit("main")
    assert (await mirror.backup(work)).snapshot.number == 2
    assert two.held() == [False, True]
