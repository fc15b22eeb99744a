"""Restores, undoes and pages hold nothing that a sync of the same repo needs."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import pytest

from mirror.backup import sync as syncing
from mirror.browse import moments
from mirror.core.model import Refs, RepoId
from mirror.git.pool import Pool
from mirror.git.reader.slots import Requester
from mirror.restore import restore
from mirror.store.backup import history
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, objects_of
from tests.parts.whole import until


@dataclass
class Slow:
    """A vault that begins to answer when it is let."""

    asked: asyncio.Event
    answer: asyncio.Event
    reads: int = 0

    def of(self, mirror: Mirror) -> Mirror:
        """Everref as whoever reads from this vault has it."""
        slow, vault = self, mirror.services.vault

        class Answering:
            def __getattr__(self, name: str) -> object:
                return getattr(vault, name)

            async def read(
                self, key: str, start: int = 0, end: int | None = None
            ) -> AsyncGenerator[bytes, None]:
                slow.reads += 1
                slow.asked.set()
                await slow.answer.wait()
                async for chunk in vault.read(key, start, end):
                    yield chunk

        return replace(mirror, services=replace(mirror.services, vault=Answering()))  # type: ignore[arg-type]


@pytest.fixture
def slow() -> Slow:
    return Slow(asyncio.Event(), asyncio.Event())


async def refs_of_first(mirror: Mirror, repo_id: RepoId) -> Refs:
    return await history.refs_at(mirror.services.db, repo_id, 1)


async def test_while_a_restore_pushes_slowly_a_push_is_saved(mirror: Mirror, work: Work) -> None:
    work.commit()
    first = await mirror.backup(work)
    refs = await refs_of_first(mirror, first.repo.id)
    async with restore.moment_of(mirror.services, first.repo, first.snapshot, refs) as moment:
        work.commit()
        async with asyncio.timeout(60):
            again = await syncing.sync(mirror.services, first.repo.id)
        assert again.snapshot.number == 2
        fsck(moment.path)


async def test_while_a_restore_waits_for_the_vault_a_push_is_saved(
    mirror: Mirror, work: Work, slow: Slow
) -> None:
    work.commit()
    first = await mirror.backup(work)
    refs = await refs_of_first(mirror, first.repo.id)
    shutil.rmtree(mirror.services.disk.pool(first.repo.id))
    reader = slow.of(mirror)

    async def read() -> None:
        async with restore.moment_of(reader.services, first.repo, first.snapshot, refs) as moment:
            fsck(moment.path)
            assert objects_of(moment.path)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(read())
        await slow.asked.wait()
        work.commit()
        assert (await syncing.sync(mirror.services, first.repo.id)).snapshot.number == 2
        slow.answer.set()
    work.commit()
    third = await mirror.backup(work)  # what the restore read was too old for the pool, and did it no harm
    assert await mirror.refs(third.repo, 3) == work.refs()


async def test_of_many_who_read_what_the_pool_lacks_one_asks_the_vault(
    mirror: Mirror, work: Work, slow: Slow
) -> None:
    work.commit()
    work.commit()
    first = await mirror.backup(work)
    work.commit()
    last = await mirror.backup(work)
    shutil.rmtree(mirror.services.disk.pool(first.repo.id))
    reader = slow.of(mirror)

    async def read() -> int:
        found, _ = await moments.commits(reader.services, first.repo, last.snapshot)
        return len(found)

    slow.answer.set()
    assert await asyncio.gather(*(read() for _ in range(4))) == [3] * 4
    once, slow.reads = slow.reads, 0
    assert once == 2 + 1  # two parts, and the index of the first
    assert await read() == 3 and slow.reads == 0


async def test_a_pool_that_is_behind_gets_only_what_it_lacks(mirror: Mirror, work: Work, slow: Slow) -> None:
    work.commit()
    first = await mirror.backup(work)
    pool = mirror.services.disk.pool(first.repo.id)
    kept = pool.with_name("kept")
    shutil.copytree(pool, kept)
    work.commit()
    last = await mirror.backup(work)
    shutil.rmtree(pool)
    kept.rename(pool)
    slow.answer.set()
    found, _ = await moments.commits(slow.of(mirror).services, first.repo, last.snapshot)
    assert (len(found), slow.reads) == (2, 1)
    assert await Pool(mirror.services.git, pool, "sha1").mark() == (
        last.snapshot.epoch,
        2,
        last.snapshot.manifest_sha256,
    )
    fsck(pool)


async def test_who_makes_pages_read_the_vault_waits_for_that_one_repo_at_a_time(
    mirror: Mirror, make_work: Callable[..., Work], slow: Slow
) -> None:
    made = []
    for name in ("one", "two", "three"):
        work = make_work(name)
        work.commit()
        made.append(await mirror.backup(work))
        shutil.rmtree(mirror.services.disk.pool(made[-1].repo.id))
    reader = slow.of(mirror)
    fills = reader.services.readers.fills

    async def read(place: int, who: Requester) -> int:
        found, _ = await moments.commits(
            replace(reader.services, who=who), made[place].repo, made[place].snapshot
        )
        return len(found)

    async def waiting() -> bool:
        return bool(fills._line)

    alice, bob = Requester("acme", "alice"), Requester("other", "bob")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        reads = [group.create_task(read(0, alice)), group.create_task(read(1, alice))]
        await slow.asked.wait()
        await until(waiting)
        before = slow.reads
        slow.asked.clear()
        reads.append(group.create_task(read(2, bob)))
        await slow.asked.wait()  # whom Alice's second one does not hold up
        assert (before, slow.reads) == (1, 2) and len(fills._line) == 1
        slow.answer.set()
    assert [one.result() for one in reads] == [1, 1, 1] and not fills._total
