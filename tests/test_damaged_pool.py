"""What this disk does to a pool is found out by whoever uses it, and costs the others nothing."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import sync as syncing
from mirror.browse import moments
from mirror.core.errors import NoSuchObject
from mirror.core.model import Remote, Repo, Snapshot
from mirror.git import pool as git_pool
from mirror.restore import restore
from mirror.store import repos
from mirror.store.backup import parts
from mirror.upkeep import compact, verify
from mirror.vault.directory import DirectoryVault
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, run_git

Use = Callable[[Mirror, Repo, Snapshot, Path], Awaitable[None]]


async def merged(mirror: Mirror, repo: Repo, snapshot: Snapshot, place: Path) -> None:
    before = len(await parts.live(mirror.services.db, repo.id))
    assert (await compact.compact(mirror.services, repo)).parts_after < before
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def bundled(mirror: Mirror, repo: Repo, snapshot: Snapshot, place: Path) -> None:
    await restore.to_bundle(
        mirror.services, repo, snapshot, place / "x.bundle", restore.What(["refs/heads/*"])
    )
    run_git("clone", "-q", "--mirror", place / "x.bundle", place / "copy.git")
    fsck(place / "copy.git")


async def pushed(mirror: Mirror, repo: Repo, snapshot: Snapshot, place: Path) -> None:
    target = Work(place / "target.git")
    done = await restore.to_remote(mirror.services, repo, snapshot, Remote(str(target.path)))
    assert done.verified
    fsck(target.path)


async def read(mirror: Mirror, repo: Repo, snapshot: Snapshot, place: Path) -> None:
    assert await moments.tree(mirror.services, repo, snapshot)


USES = pytest.mark.parametrize("use", [merged, bundled, pushed], ids=["merge", "bundle", "push"])


async def grown(mirror: Mirror, work: Work) -> tuple[Repo, Snapshot]:
    """A repo whose parts are due to be merged."""
    work.many_commits(20, size=5000)
    done = await mirror.backup(work)
    for _ in range(8):
        work.commit("main")
        done = await mirror.backup(work)
    return done.repo, done.snapshot


@pytest.mark.parametrize("use", [merged, bundled, pushed, read], ids=["merge", "bundle", "push", "page"])
async def test_a_sound_pool_is_not_read_whole(
    mirror: Mirror, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    repo, snapshot = await grown(mirror, work)
    monkeypatch.setattr(git_pool, "is_whole", lambda idx: pytest.fail("the pool was read whole"))
    pool = mirror.services.disk.pool(repo.id)
    (pool / git_pool.MARK).unlink()  # it is filled anew
    await use(mirror, repo, snapshot, tmp_path)


@USES
async def test_a_damaged_pool_is_found_out_and_filled_anew(
    mirror: Mirror, work: Work, tmp_path: Path, use: Use
) -> None:
    repo, snapshot = await grown(mirror, work)
    for pack in (mirror.services.disk.pool(repo.id) / "objects/pack").glob("*.pack"):
        pack.chmod(0o644)
        content = bytearray(pack.read_bytes())
        for place in range(20, len(content) - 20, 500):
            content[place] ^= 1
        pack.write_bytes(content)
    await use(mirror, repo, snapshot, tmp_path)


async def test_one_wrong_answer_of_the_vault_is_no_loss(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    done = await mirror.backup(work)
    shutil.rmtree(mirror.services.disk.pool(done.repo.id))  # another worker has it from now on
    real, wrong = DirectoryVault.read, [True]

    def read(self: DirectoryVault, key: str, *args: Any, **options: Any) -> Any:
        if key.endswith(".bundle") and wrong and wrong.pop():
            raise NoSuchObject(f"the vault holds no {key}")
        return real(self, key, *args, **options)

    monkeypatch.setattr(DirectoryVault, "read", read)
    work.commit()
    again = await syncing.sync(mirror.services, done.repo.id)
    assert (again.new, again.snapshot.number, wrong) == (True, 2, [])
    assert (await repos.overview_of(mirror.services.db, done.repo.id)).failure is None
