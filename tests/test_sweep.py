"""What a sweep finds and keeps small, and what it does not let stop it."""

import shutil
from collections.abc import Callable

import pytest

from mirror.errors import EverrefError, LimitReached
from mirror.flows import sweep
from mirror.git.pool import Pool
from mirror.model import Kind, Reason
from mirror.store import history, parts
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of


async def test_a_push_that_nobody_told_of_is_found(mirror: Mirror, work: Work) -> None:
    work.commit()
    await mirror.backup(work)
    work.commit("main", parents=[])
    (swept,) = await sweep.sweep(mirror.edges)
    assert swept.synced and swept.synced.new and swept.synced.snapshot.reason == Reason.SWEEP
    kinds = [line.change.kind async for line in history.changes(mirror.edges.db, swept.repo.id)]
    assert kinds[0] == Kind.FORCED


async def test_one_bad_repo_stops_no_other(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    bad = make_work("a-bad-one.git")
    for one in (work, bad):
        one.commit()
        await mirror.backup(one)
    shutil.rmtree(bad.path)
    work.commit()
    swept = {one.repo.name: one for one in await sweep.sweep(mirror.edges)}
    assert isinstance(swept["a-bad-one"].error, EverrefError)
    synced = swept["remote"].synced
    assert synced is not None and synced.snapshot.number == 2


async def test_parts_stay_few_however_many_pushes_there_were(mirror: Mirror, work: Work) -> None:
    work.many_commits(40, "bulk", size=3000)
    for _ in range(12):
        work.commit()
        done = await mirror.backup(work)
    await sweep.sweep(mirror.edges)
    assert len(await parts.live(mirror.edges.db, done.repo.id)) < 8
    assert refs_of(await mirror.restored(done.repo, 12)) == work.refs()


async def test_a_snapshot_is_no_failure_because_its_pool_could_not_be_tidied(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(pool: Pool) -> bool:
        raise LimitReached("the disk is full; free some space")

    monkeypatch.setattr(Pool, "repack_if_due", full)
    work.commit()
    assert (await mirror.backup(work)).new
