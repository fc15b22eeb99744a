"""An `.idx` that the store lets nobody delete counts no more once its part was replaced or never recorded."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from mirror.core.errors import Locked, Refused
from mirror.core.formats import layout
from mirror.upkeep import epoch, prune
from mirror.upkeep.epoch import Why
from mirror.upkeep.moving import rebuild
from mirror.vault.directory import DirectoryVault
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.test_heal import by_script, healed_after_compaction
from tests.test_rebuild import after_the_loss
from tests.test_verify import some_history, stored


@pytest.fixture
def locked(mirror: Mirror) -> Iterator[pytest.MonkeyPatch]:
    """Let the store delete nothing but what says so, as Object Lock does, until it is undone."""
    store = type(mirror.services.copies.first)
    real = store.delete

    async def delete(self: DirectoryVault, key: str) -> None:
        if not key.endswith(".withdrawn") and await mirror.services.stored.stat(key):
            raise Locked("the vault retains it (S3 Object Lock)", None)
        await real(self, key)

    async def discard(self: object, key: str) -> None:
        """As in S3: what is locked stays."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "delete", delete)
        patch.setattr(store, "discard", discard)
        yield patch


async def test_a_damaged_part_whose_index_is_locked_is_passed_over_and_goes_last(
    mirror: Mirror, work: Work, empty_database: str, locked: pytest.MonkeyPatch
) -> None:
    repo, bad, _ = await healed_after_compaction(mirror, work)
    index, says = layout.index_key(bad.key), layout.withdrawn_key(bad.key)
    assert stored(mirror, index).exists()
    by_script(mirror, repo, 10)
    mirror.clock.now = datetime.now(UTC) + timedelta(days=2)  # the files are of today
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        await again.restored(repo, 10)
        for _ in range(2):  # it is a stray there; what says so stays while the `.idx` does
            await prune.prune(again.services, timedelta(0), repo)
            assert stored(mirror, index).exists() and stored(mirror, says).exists()
    locked.undo()
    await prune.prune(mirror.services, timedelta(0), repo)
    assert not [key for key in (bad.key, index, says) if stored(mirror, key).exists()]


async def test_a_drop_that_was_cancelled_at_the_last_minute_leaves_nothing_that_counts(
    mirror: Mirror, work: Work, empty_database: str, locked: pytest.MonkeyPatch
) -> None:
    async def cancelled(_: object) -> None:
        raise Refused("cancelled at the last minute")

    repo, moments = await some_history(mirror, work)
    with pytest.raises(Refused, match="at the last minute"):
        await epoch.new_epoch(
            mirror.services, repo, drop=[1, 2], why=Why("alice", "too old"), still=cancelled
        )
    assert [key for key in await mirror.keys() if "/0002-" in key and layout.is_index(key)]
    for number in range(1, 5):
        by_script(mirror, repo, number)
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        for number, refs in enumerate(moments, 1):
            assert await again.refs(repo, number) == refs
            await again.restored(repo, number)
