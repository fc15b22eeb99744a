"""What an attacker and Murphy would try: lost pushes, foreign objects, poison, clocks, stolen browsers."""

import pytest

from mirror.errors import EverrefError, IdentityChanged, NetworkError
from mirror.flows import choose, relist, rescue
from mirror.flows import take as taking
from mirror.model import Target
from mirror.store import claims, origins, repos
from tests.parts.connected import Connected
from tests.parts.forges import Person, Repository
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import MAIN
from tests.test_relist import ME, alice, kept
from tests.test_rescue import Garden, garden

__all__ = ["alice", "garden"]


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

    async def failing(*given: object) -> object:
        git_server.faults["git-upload-pack"] = fault
        return await taking.take(*given)  # type: ignore[arg-type]

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


# Nothing of another repository is taken.


async def digests(connected: Connected, repository: Repository) -> list[str]:
    """What the snapshots of the repo that follows this one show."""
    origin = await connected.kept(repository)
    rows = await connected.edges.db.fetch(
        "select refs_digest from snapshot where repo_id = $1 order by number", origin.repo.id
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("empty", [False, True])
async def test_a_repository_made_anew_between_two_listings_gives_nothing_to_the_old_ones_history(
    alongside: Connected, alice: Person, empty: bool
) -> None:
    shed = alongside.host.add_repository("alice/shed", commits=2)
    await kept(alongside, alice, shed)
    before = await digests(alongside, shed)
    shed.hooks.clear()  # nothing is delivered
    alongside.host.replace(shed)
    if empty:
        other = alongside.host.repository("alice/shed")
        assert other
        other.work.delete("main")
    with pytest.raises(EverrefError):
        await alongside.sync(shed)
    assert await digests(alongside, shed) == before
    assert (await alongside.kept(shed)).archived_at is not None


async def test_an_unrelated_force_push_of_the_same_repository_is_saved(
    alongside: Connected, alice: Person
) -> None:
    shed = alongside.host.add_repository("alice/shed", commits=2)
    await kept(alongside, alice, shed)
    shed.commit(parents=[])
    assert (await alongside.sync(shed)).snapshot.number == 2
    before = alongside.host.count("/api/")
    shed.commit()
    assert (await alongside.sync(shed)).snapshot.number == 3
    assert alongside.host.count("/api/") == before


async def test_a_repo_that_cannot_follow_its_repository_takes_nothing_from_the_next_one_at_its_address(
    alongside: Connected, alice: Person
) -> None:
    shed = alongside.host.add_repository("alice/shed")
    connection = await kept(alongside, alice, shed)
    await choose.choose_everything(alongside.edges, connection.id, ME, True)
    before = await digests(alongside, shed)
    taken = alongside.host.add_repository("alice/barn")
    await choose.add_url(alongside.edges, alongside.team, ME, taken.url)  # follows the address
    alongside.host.delete(taken)
    alongside.host.rename(shed, "barn")
    new = alongside.host.add_repository("alice/shed")
    for _ in range(3):
        await relist.relist(alongside.edges, connection.id)
        with pytest.raises((IdentityChanged, EverrefError)):
            await alongside.sync(shed)
        assert await digests(alongside, shed) == before
    assert (await alongside.sync(new)).snapshot.number == 1


async def test_a_chain_of_renames_whose_end_is_taken_stops_no_other_repo(
    alongside: Connected, alice: Person
) -> None:
    names = ("one", "two", "three")
    one, two, three = (alongside.host.add_repository(f"alice/{name}") for name in names)
    connection = await kept(alongside, alice, one, two)
    await choose.choose_everything(alongside.edges, connection.id, ME, False)
    await choose.add_url(alongside.edges, alongside.team, ME, three.url)
    alongside.host.delete(three)
    alongside.host.rename(two, "three")
    alongside.host.rename(one, "two")
    for _ in range(2):
        await relist.relist(alongside.edges, connection.id)
    assert (await alongside.kept(one)).repo.url == one.url
    earlier = await alongside.kept(two)
    assert earlier.repo.name == f"alice/two-{two.id}" and earlier.archived_at is not None
    assert (await alongside.sync(one)).snapshot.number in (1, 2)
    assert await origins.of(alongside.edges.db, earlier.repo.id)
