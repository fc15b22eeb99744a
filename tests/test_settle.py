"""A run that dies between its manifest and its rows is finished as it would have finished itself."""

from datetime import timedelta

import pytest

from mirror.core.errors import NetworkError, Origin
from mirror.core.model import RefName
from mirror.core.rules.history.pushes import Answered, Lost
from mirror.services.lease import leased
from mirror.store import repos
from mirror.store.backup import reported_updates, snapshots
from mirror.store.backup.snapshots import Ending
from mirror.store.people import notices, teams
from mirror.upkeep import compact, verify
from tests.test_rescue import Garden, garden

__all__ = ["garden"]


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The database goes away between every manifest and its rows, until this is undone."""

    async def record(*_: object, **__: object) -> None:
        raise NetworkError("the database does not answer", origin=Origin.DATABASE)

    monkeypatch.setattr(snapshots, "record", record)
    return monkeypatch


async def goes_on(garden: Garden) -> None:
    """The next push is saved on top of it."""
    await garden.push()
    assert (await garden.sync()).new


async def test_the_claims_that_a_dead_run_answered_are_answered_without_another_sync(
    garden: Garden, dying: pytest.MonkeyPatch
) -> None:
    db, repo_id = garden.mirror.services.db, garden.repo.id
    await garden.push()
    await repos.request_sync(db, repo_id, garden.mirror.clock())
    with pytest.raises(NetworkError):
        await garden.sync()
    dying.undo()
    assert len(await reported_updates.unanswered(db, repo_id)) == 1
    await compact.compact(garden.mirror.services, garden.repo)
    assert await reported_updates.unanswered(db, repo_id) == []
    assert await repos.sync_request(db, repo_id) is None
    latest = await snapshots.latest(db, repo_id)
    assert latest and latest.number == 2
    await goes_on(garden)
    assert await garden.maps() == garden.moments


async def test_what_a_dead_run_found_lost_is_said_once(garden: Garden, dying: pytest.MonkeyPatch) -> None:
    first = garden.work.tip()
    await garden.push(parents=[])
    await garden.push(parents=[first])
    garden.forget()  # the remote has the first of the two no more
    with pytest.raises(NetworkError):
        await garden.sync()
    dying.undo()
    assert await garden.lost() == []
    await compact.compact(garden.mirror.services, garden.repo)
    assert len(await garden.lost()) == 1
    await goes_on(garden)
    assert len(await garden.lost()) == 1
    assert await reported_updates.unanswered(garden.mirror.services.db, garden.repo.id) == []


async def test_a_sync_that_follows_a_dead_one_answers_nothing_twice(
    garden: Garden, dying: pytest.MonkeyPatch
) -> None:
    first = garden.work.tip()
    await garden.push(parents=[])
    await garden.push(parents=[first])
    garden.forget()
    with pytest.raises(NetworkError):
        await garden.sync()
    dying.undo()
    await garden.push()
    await garden.sync()
    assert len(await garden.lost()) == 1
    assert (await verify.verify(garden.mirror.services, garden.repo)).problems == ()


async def test_the_suspicion_of_a_dead_run_is_told(garden: Garden, dying: pytest.MonkeyPatch) -> None:
    services = garden.mirror.services
    dying.undo()
    for name in ("a", "b", "c", "d"):
        await garden.push(name)
    await garden.sync()

    async def record(*_: object, **__: object) -> None:
        raise NetworkError("the database does not answer", origin=Origin.DATABASE)

    with dying.context() as patch:
        patch.setattr(snapshots, "record", record)
        for name in ("a", "b", "c", "d", "main"):
            garden.work.commit(name, parents=[])
        garden.moments.append(garden.work.refs())
        garden.mirror.clock.now += timedelta(hours=2)
        with pytest.raises(NetworkError):
            await garden.sync()
    await compact.compact(services, garden.repo)
    told = await notices.page(services.db, await teams.default(services.db))
    assert [one.kind for one in told] == ["mass-deletion"]
    assert "every branch was overwritten" in told[0].message
    await goes_on(garden)


async def test_what_a_snapshot_ends_comes_back_as_it_was_set_down(garden: Garden) -> None:
    services = garden.mirror.services
    at = garden.mirror.clock()
    lost = Lost(RefName(b"refs/heads/\xff"), None, garden.work.tip(), "b\0b", at, "gone")
    ending = Ending(at, Answered([(7, 0)], [lost]), "suspicious", seen=False)
    async with leased(services, garden.repo) as lease:
        assert await snapshots.announce(services.db, lease, 7, "a" * 64, ending, True)
        found = await snapshots.announced(services.db, garden.repo.id, "a" * 64)
        assert await snapshots.announced(services.db, garden.repo.id, "b" * 64) == Ending()
    (kept,) = found.answered.lost
    assert (kept.name, kept.new, kept.by, kept.at) == (lost.name, lost.new, "b\ufffdb", at)
    assert (found.sync_request, found.suspicion, found.seen, found.answered.updates) == (
        at,
        "suspicious",
        False,
        [(7, 0)],
    )
    assert await snapshots.announce(services.db, lease, 8, "c" * 64, ending, False) is None


async def test_the_form_of_a_manifest_is_decided_by_the_first_run_that_announces_its_number(
    garden: Garden,
) -> None:
    db = garden.mirror.services.db
    for wanted, number, form in ((False, 7, False), (True, 7, False), (True, 8, True), (False, 8, True)):
        async with leased(garden.mirror.services, garden.repo) as lease:
            found = await snapshots.announce(db, lease, number, "a" * 64, Ending(), wanted)
            assert found is form, (wanted, number)
