"""What an attacker and Murphy would try: lost pushes, foreign objects, poison, clocks, stolen browsers."""

import pytest

from mirror.errors import NetworkError
from mirror.flows import rescue
from mirror.model import Target
from mirror.store import claims, repos
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import MAIN
from tests.test_rescue import Garden, garden

__all__ = ["garden"]


async def back_and_forth(garden: Garden) -> Target:
    """A force-push that the next one takes back; the tip that was there in between."""
    first = garden.work.tip()
    between = await garden.push(parents=[])
    garden.work.update({MAIN: first})
    garden.moments.append(garden.work.refs())
    await garden.tell(MAIN, between, first)
    return between


# What waits to be rescued has a wish.


@pytest.mark.parametrize("fault", [Fault(status=503, times=1), Fault(status=404, times=1)])
async def test_a_push_that_could_not_be_fetched_is_tried_again_although_the_remote_shows_nothing_new(
    garden: Garden, git_server: GitServer, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    between = await back_and_forth(garden)
    taking = rescue.take

    async def failing(*given: object) -> object:
        git_server.faults["git-upload-pack"] = fault
        return await taking(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(rescue, "take", failing)
        with pytest.raises(NetworkError, match="not saved yet"):
            await garden.sync()
    db = garden.mirror.edges.db
    assert await repos.wish(db, garden.repo.id) is not None
    (row,) = await repos.overview(db)
    assert row.state == "failing" and row.failure and row.failure.retry_at
    await garden.sync()
    assert [shown[MAIN] for shown in await garden.maps()][1] == between
    assert await repos.wish(db, garden.repo.id) is None and await garden.lost() == []


async def test_more_pushes_than_a_sync_takes_leave_a_wish(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "AT_ONCE", 2)
    monkeypatch.setattr(claims, "AT_ONCE", 4)
    tips = [await garden.push(parents=[]) for _ in range(7)]
    db, syncs = garden.mirror.edges.db, 0
    while await repos.wish(db, garden.repo.id) is not None:
        await garden.sync()
        syncs += 1
        assert syncs < 7
    assert {shown[MAIN] for shown in await garden.maps()} >= set(tips)
