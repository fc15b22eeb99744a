"""A checkpoint is packed beside the syncs of its repo: no push waits for it, and none is lost by it."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import hydrate, recover
from mirror.backup import sync as syncing
from mirror.core.errors import Busy, Damaged
from mirror.core.formats import layout
from mirror.core.model import Refs, Repo, Target
from mirror.core.progress import Meter
from mirror.core.rules.keeping.compaction import Merge
from mirror.git import pack
from mirror.git.view import View
from mirror.services.lease import leased, leased_to_compact
from mirror.store.backup import parts, snapshots
from mirror.upkeep import compact, prune, verify
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of

PUSHES = 9  # after which a checkpoint is due

Meanwhile = Callable[[], Awaitable[None]]


class Garden:
    """A repo for which a checkpoint is due, and how it was after each push."""

    def __init__(self, mirror: Mirror, work: Work, repo: Repo, moments: list[Refs]) -> None:
        self.mirror = mirror
        self.work = work
        self.repo = repo
        self.moments = moments

    async def push(self) -> None:
        number = len(self.moments)
        overwriting: list[Target] | None = [] if number % 4 == 3 else None
        self.work.commit("main", {"big": b"%d" % number * 500}, parents=overwriting)
        self.moments.append(self.work.refs())
        await syncing.sync(self.mirror.services, self.repo.id, patience=0)

    async def compact(self) -> compact.Compacted:
        return await compact.compact(self.mirror.services, self.repo, 0)

    async def is_whole(self) -> None:
        """Every moment is there and equal, and nothing else is in the vault."""
        found = await verify.verify(self.mirror.services, self.repo)
        assert (found.problems, found.strays) == ((), ())
        assert await parts.intents(self.mirror.services.db, self.repo.id) == []
        assert await self.mirror.services.vault.unfinished() == []
        for number, expected in enumerate(self.moments, 1):
            path = await self.mirror.restored(self.repo, number)
            assert refs_of(path) == expected
        fsck(path)

    def left(self) -> list[Path]:
        """What lies where checkpoints are packed."""
        return list((self.mirror.services.disk.root / "restores").rglob("*.pack"))


@pytest.fixture
async def garden(mirror: Mirror, work: Work) -> Garden:
    work.commit()
    repo = await mirror.repo(str(work.path))
    found = Garden(mirror, work, repo, [])
    for _ in range(PUSHES):
        await found.push()
    return found


@pytest.fixture
def while_packing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something happen once git packs; `short` lets its first try leave out what was overwritten."""
    real = pack.make_whole

    def arrange(do: Meanwhile, short: bool = False) -> None:
        waiting = [do]

        async def packed(git: Any, path: Path, tips: Collection[Target]) -> AsyncIterator[bytes]:
            first = bool(waiting)
            async for chunk in real(git, path, list(tips)[:1] if first and short else tips):
                if waiting:
                    await waiting.pop()()
                yield chunk

        monkeypatch.setattr(pack, "make_whole", packed)

    return arrange


@pytest.mark.parametrize("short", [False, True], ids=["what refs reached", "all objects"])
async def test_a_push_that_comes_while_a_checkpoint_is_packed_is_saved_before_that_ends(
    garden: Garden, while_packing: Callable[..., None], short: bool
) -> None:
    services, repo, clock = garden.mirror.services, garden.repo, garden.mirror.clock
    before = await parts.live(services.db, repo.id)
    clock.now, clock.step = datetime.now(UTC) + timedelta(minutes=1), timedelta(0)

    async def meanwhile() -> None:
        await garden.push()
        await garden.push()
        latest = await snapshots.latest(services.db, repo.id)
        assert latest and latest.number == PUSHES + 2
        await prune.prune(services, timedelta(0), repo, patience=0)  # leaves the upload alone
        with pytest.raises(Busy, match="another run is working on the parts of"):
            await garden.compact()
        assert (await parts.live(services.db, repo.id))[:PUSHES] == before

    while_packing(meanwhile, short)
    done = await garden.compact()
    live = await parts.live(services.db, repo.id)
    assert (done.merged, live[0].complete) == (1, True)
    assert [(part.first, part.last) for part in live] == [(1, 9), (10, 10), (11, 11)]
    assert live[0].entries == sum(part.entries for part in before)  # nothing of what came later
    clock.now += timedelta(minutes=1)
    await prune.prune(services, timedelta(0), repo)
    await garden.push()
    await garden.is_whole()
    assert garden.left() == []


async def test_a_checkpoint_has_nothing_of_a_push_that_came_just_before_its_view(
    garden: Garden, while_packing: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await parts.live(garden.mirror.services.db, garden.repo.id)
    real = hydrate.view_of

    @asynccontextmanager
    async def view_of(*given: Any) -> AsyncIterator[View]:
        await garden.push()
        async with real(*given) as found:
            yield found

    async def nothing() -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(hydrate, "view_of", view_of)
        while_packing(nothing, short=True)
        assert (await garden.compact()).merged == 1
    live = await parts.live(garden.mirror.services.db, garden.repo.id)
    assert [(part.first, part.last) for part in live] == [(1, 9), (10, 10)]
    assert live[0].entries == sum(part.entries for part in before)
    await garden.is_whole()


async def recut(garden: Garden) -> None:
    """Another run merges parts of which the checkpoint is being made."""
    services, repo = garden.mirror.services, garden.repo
    last = await snapshots.latest(services.db, repo.id)
    assert last
    async with leased(services, repo, patience=0) as lease:
        _, *increments = await parts.live(services.db, repo.id)
        await compact._merge(services, repo, lease, last, Merge(tuple(increments[:3])))


async def lose(garden: Garden) -> None:
    """What was written is removed: whoever looked took its run for dead."""
    (begun,) = await parts.intents(garden.mirror.services.db, garden.repo.id)
    await recover.discard(garden.mirror.services, garden.repo.id, begun.key)


async def begin_anew(garden: Garden) -> None:
    """The log goes on in another epoch."""
    await garden.mirror.services.db.execute("update snapshot set epoch = 2 where number = $1", PUSHES)


@pytest.mark.parametrize("move", [recut, lose, begin_anew], ids=["parts", "bundle", "epoch"])
async def test_a_checkpoint_of_a_log_that_moved_is_discarded_and_said_to_be(
    garden: Garden, monkeypatch: pytest.MonkeyPatch, move: Callable[[Garden], Awaitable[None]]
) -> None:
    real, meter = compact._packed, Meter(lambda: 0.0)
    garden.mirror.services = replace(garden.mirror.services, progress=meter)

    async def packed(*given: Any) -> Any:
        made = await real(*given)
        await move(garden)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(compact, "_packed", packed)
        done = await garden.compact()
    await garden.mirror.services.db.execute("update snapshot set epoch = 1")
    assert (done.merged, meter.seen.notes[-1:]) == (
        0,
        ("the parts changed while they were repacked; the next compaction tries again",),
    )
    live = await parts.live(garden.mirror.services.db, garden.repo.id)
    assert [part.first for part in live if part.complete] == [1] and live[0].last == 1
    await garden.is_whole()
    assert garden.left() == []


@pytest.mark.parametrize("alive", [True, False])
async def test_what_another_machine_packs_is_taken_for_abandoned_when_it_fell_silent(
    garden: Garden, alive: bool
) -> None:
    services, repo = garden.mirror.services, garden.repo
    garden.mirror.clock.now = datetime.now(UTC) + timedelta(hours=3)  # the clock of this machine is wrong
    key = layout.bundle_key(repo.id, 1, 1, PUSHES, layout.unique())
    await services.vault.put(key, b"half of it")
    async with leased_to_compact(services, repo, 0) as lease:
        await parts.intend(services.db, lease, repo.id, key)
        await services.db.execute("update forge_lease set owner = 'elsewhere/boot.1/1/1/abc'")
        await services.db.execute(
            "update intent set owner = 'elsewhere/boot.1/1/1/abc', at = at - interval '5 hours'"
        )
        if not alive:
            await services.db.execute("update forge_lease set beat_at = beat_at - interval '2 hours'")
        await garden.push()
        assert (key in await garden.mirror.keys()) is alive
        assert [one.key for one in await parts.intents(services.db, repo.id)] == [key] * alive


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "broken"])
async def test_a_merge_names_the_part_that_is_not_as_it_was_stored(garden: Garden, missing: bool) -> None:
    services, repo = garden.mirror.services, garden.repo
    last = await snapshots.latest(services.db, repo.id)
    _, *increments = await parts.live(services.db, repo.id)
    key = increments[1].key
    assert last
    await services.vault.delete(key)
    if not missing:
        await services.vault.put(key, b"# v2 git bundle\n")
    what = "is missing from the vault" if missing else "is damaged (its bundle header is cut short)"
    async with leased(services, repo) as lease:
        with pytest.raises(Damaged, match=re.escape(f"{key} {what}; #2 before it")):
            await compact._merge(services, repo, lease, last, Merge(tuple(increments)))
    assert await parts.intents(services.db, repo.id) == []
