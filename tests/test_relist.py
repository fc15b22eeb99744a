"""Listing again and again: what is new, renamed, transferred, gone, replaced and back; what only looks so."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mirror.core.errors import (
    Busy,
    Corrupt,
    EverrefError,
    IdentityChanged,
    LimitReached,
    NetworkError,
    RateLimited,
    RemoteGone,
)
from mirror.discovery import choose, discover
from mirror.discovery.choose import By
from mirror.discovery.forge_client import client_of
from mirror.forges import http
from mirror.store import repos
from mirror.store.discovery import connections, discovered, remotes
from mirror.store.discovery.connections import Connection
from mirror.store.people import notices
from tests.parts.connected import Beside, Connected
from tests.parts.forges import GitHub, Person, Repository

ME = By(None, "the test")


@pytest.fixture
def alice(alongside: Connected) -> Person:
    return alongside.host.add_person("alice")


@pytest.fixture
def garden(alongside: Connected, alice: Person) -> Repository:
    return alongside.host.add_repository("alice/garden")


async def kept(connected: Connected, account: Person, *repositories: Repository) -> Connection:
    """A connection whose repositories are chosen and synced once."""
    connection = await connected.connect(account)
    await choose.choose(connected.services, connection.id, ME, [str(one.id) for one in repositories])
    for one in repositories:
        await connected.sync(one)
    return connection


async def names(connected: Connected, connection: Connection) -> list[str]:
    return [one.full_name for one in await discovered.page(connected.services.db, connection.id)]


async def told(connected: Connected) -> list[tuple[str, str]]:
    found = await notices.open_of(connected.services.db, connected.team)
    return [(one.kind, one.message) for one in reversed(found)]


async def test_every_page_is_listed_and_searched(alongside: Connected, alice: Person) -> None:
    tools = alongside.host.add_org("acme", owners=[alice])
    for number in range(130):
        alongside.host.add_repository(f"acme/tool-{number:03}", commits=0, private=number % 2 == 0)
    alongside.host.add_repository("alice/Garden", archived=True, commits=0)
    connection = await alongside.connect(alice)
    db = alongside.services.db
    counts = await discovered.counts(db, connection.id)
    assert (counts.all, counts.private, counts.archived, counts.chosen) == (131, 65, 1, 0) and tools
    first = await discovered.page(db, connection.id, limit=100)
    last = first[-1]
    rest = await discovered.page(db, connection.id, limit=100, after=(last.full_name, last.repository_id))
    assert [one.full_name for one in [*first, *rest]] == [
        *(f"acme/tool-{number:03}" for number in range(130)),
        "alice/Garden",
    ]
    assert [one.full_name for one in await discovered.page(db, connection.id, search="GARDEN")] == [
        "alice/Garden"
    ]
    assert [one.full_name for one in await discovered.page(db, connection.id, archived=True)] == [
        "alice/Garden"
    ]
    assert len(await discovered.page(db, connection.id, private=True, limit=200)) == 65
    assert await discovered.page(db, connection.id, chosen=True) == []


async def test_pages_that_did_not_change_are_not_told_again(github: GitHub, beside: Beside) -> None:
    connected = await beside(github)
    alice = github.add_person("alice")
    for number in range(120):
        github.add_repository(f"alice/r{number:03}", commits=0)
    connection = await connected.connect(alice)
    again = await discover.refresh_listing(connected.services, connection.id)
    assert (again.repositories, again.changed_pages) == (120, 0)
    github.add_repository("alice/new", commits=0)
    again = await discover.refresh_listing(connected.services, connection.id)
    assert (again.repositories, again.changed_pages) == (121, 1)
    await connected.services.db.execute("delete from listed")  # as after a restore of an old database
    again = await discover.refresh_listing(connected.services, connection.id)
    assert (again.repositories, again.changed_pages) == (121, 2)
    assert len(await names(connected, connection)) == 100


async def test_a_listing_that_breaks_off_makes_nothing_gone(alongside: Connected, alice: Person) -> None:
    for number in range(130):
        alongside.host.add_repository(f"alice/r{number:03}", commits=0)
    connection = await alongside.connect(alice)
    await alongside.services.db.execute("update connection set etags = '{}'")
    alongside.host.delete(alongside.host.repositories[0])
    alongside.host.fail(500, times=50, piece="page=2" if isinstance(alongside.host, GitHub) else "id_after")
    with pytest.raises(NetworkError):
        await discover.refresh_listing(alongside.services, connection.id)
    counts = await discovered.counts(alongside.services.db, connection.id)
    assert counts.all == 130
    alongside.host.heal()
    await discover.refresh_listing(alongside.services, connection.id)
    assert (await discovered.counts(alongside.services.db, connection.id)).all == 129


async def test_a_limit_puts_the_listing_off_till_its_end(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await alongside.connect(alice)
    alongside.host.exhaust(alice)
    with pytest.raises(RateLimited) as limited:
        await discover.refresh_listing(alongside.services, connection.id)
    found = await connections.get(alongside.services.db, connection.id)
    assert found and found.list_at == limited.value.retry_at
    assert await names(alongside, connection) == ["alice/garden"]


async def test_a_renamed_repository_keeps_its_history(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await kept(alongside, alice, garden)
    before = await alongside.kept(garden)
    alongside.host.rename(garden, "orchard")
    garden.commit()
    await discover.relist(alongside.services, connection.id)
    now = await alongside.kept(garden)
    assert (now.repo.id, now.repo.name, now.repo.url) == (before.repo.id, "alice/orchard", garden.url)
    synced = await alongside.sync(garden)
    assert (synced.snapshot.number, synced.new) == (2, True)
    ((kind, message),) = await told(alongside)
    assert (
        kind == "moved"
        and message == "alice/garden was renamed to alice/orchard; its history continues as alice/orchard"
    )
    await discover.relist(alongside.services, connection.id)
    assert len(await told(alongside)) == 1


async def test_a_transferred_repository_is_followed(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await kept(alongside, alice, garden)
    alongside.host.transfer(garden, alongside.host.add_org("acme", owners=[alice]))
    await discover.relist(alongside.services, connection.id)
    assert (await alongside.kept(garden)).repo.name == "acme/garden"


async def test_two_that_swapped_their_names_are_followed(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    shed = alongside.host.add_repository("alice/shed")
    connection = await kept(alongside, alice, garden, shed)
    for one, name in ((garden, "aside"), (shed, "garden"), (garden, "shed")):
        alongside.host.rename(one, name)
    await discover.relist(alongside.services, connection.id)
    assert (await alongside.kept(garden)).repo.name == "alice/shed"
    assert (await alongside.kept(shed)).repo.name == "alice/garden"


async def test_a_name_that_a_person_chose_stays(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await choose.add_url(alongside.services, alongside.team, ME, garden.url, name="mine")
    connection = await kept(alongside, alice, garden)
    alongside.host.rename(garden, "orchard")
    await discover.relist(alongside.services, connection.id)
    now = await alongside.kept(garden)
    assert (now.repo.name, now.repo.url) == ("mine", garden.url)


async def test_what_vanishes_is_archived_and_what_comes_back_goes_on(
    alongside: Connected, alice: Person
) -> None:
    bob = alongside.host.add_person("bob")
    shed = alongside.host.add_repository("bob/shed", private=True, access={alice: 50})
    connection = await kept(alongside, alice, shed)
    shed.access.clear()
    await discover.relist(alongside.services, connection.id)
    gone = await alongside.kept(shed)
    assert gone.archived_at is not None and bob
    (row,) = await repos.overview(alongside.services.db)
    assert row.snapshots == 1
    shed.access[alice.id] = 50
    await discover.relist(alongside.services, connection.id)
    assert (await alongside.kept(shed)).archived_at is None
    assert [kind for kind, _ in await told(alongside)] == ["archived", "moved"]


async def test_one_that_is_only_missing_in_the_list_is_not_archived(
    alongside: Connected, alice: Person
) -> None:
    alongside.host.add_person("bob")
    shed = alongside.host.add_repository("bob/shed", access={alice: 50})  # public: seen by anybody who asks
    connection = await kept(alongside, alice, shed)
    shed.access.clear()
    await discover.relist(alongside.services, connection.id)
    assert await names(alongside, connection) == []
    assert (await alongside.kept(shed)).archived_at is None


async def test_another_repository_under_the_old_name_gets_a_history_of_its_own(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await kept(alongside, alice, garden)
    await choose.choose_everything(alongside.services, connection.id, ME, True)
    old = await alongside.kept(garden)
    other = alongside.host.replace(garden)
    await discover.relist(alongside.services, connection.id)
    new, earlier = await alongside.kept(other), await remotes.get(alongside.services.db, old.repo.id)
    assert new.repo.id != old.repo.id
    assert (new.repo.name, new.repo.url) == ("alice/garden", other.url)
    assert earlier.repo.name == f"alice/garden-{garden.id}" and earlier.archived_at is not None
    assert (await alongside.sync(other)).snapshot.number == 1


async def test_a_sync_takes_nothing_from_another_repository_under_the_name(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await kept(alongside, alice, garden)
    alongside.host.replace(garden)
    await discover.refresh_listing(alongside.services, connection.id)
    with pytest.raises(IdentityChanged, match="another repository is at the address"):
        await alongside.sync(garden)
    origin = await alongside.kept(garden)
    assert origin.archived_at is not None
    (row,) = await repos.overview(alongside.services.db)
    assert row.snapshots == 1


async def test_a_delivery_about_the_repository_makes_the_next_sync_ask_first(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await kept(alongside, alice, garden)
    alongside.host.rename(garden, "orchard")
    await alongside.host.deliver()
    if isinstance(alongside.host, GitHub):  # GitLab tells projects' hooks nothing of this
        with pytest.raises(Busy, match="has moved to"):
            await alongside.sync(garden)
    else:
        await _failed(alongside, garden)
    assert (await alongside.kept(garden)).repo.name == "alice/orchard"
    await alongside.sync(garden)


async def _failed(connected: Connected, repository: Repository) -> None:
    """A first sync meets the redirect or goes through, a later one knows better."""
    for _ in range(2):
        try:
            await connected.sync(repository)
        except EverrefError:
            continue
        connection = (await connected.kept(repository)).connection_id
        assert connection
        await discover.relist(connected.services, connection)


async def test_the_sweep_looks_at_what_deliveries_tell_of(github: GitHub, beside: Beside) -> None:
    connected = await beside(github)
    alice = github.add_person("alice")
    garden = github.add_repository("alice/garden")
    await kept(connected, alice, garden)
    github.delete(garden)
    await github.deliver()
    await discover.due(connected.services)
    assert (await connected.kept(garden)).archived_at is not None
    before = github.count("/repositories/")
    await discover.due(connected.services)
    assert github.count("/repositories/") == before


async def test_a_sync_with_no_doubt_asks_the_forge_nothing(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await kept(alongside, alice, garden)
    before = alongside.host.count("/api/")
    await alongside.sync(garden)
    assert alongside.host.count("/api/") == before


async def test_a_gone_repository_says_so_at_the_next_sync(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await kept(alongside, alice, garden)
    alongside.host.delete(garden)
    with pytest.raises(EverrefError):
        await alongside.sync(garden)
    with pytest.raises(RemoteGone, match="is no longer at"):
        await alongside.sync(garden)
    assert (await alongside.kept(garden)).archived_at is not None


async def test_connections_are_listed_hourly_each_once(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await alongside.connect(alice)
    await choose.choose_everything(alongside.services, connection.id, ME, True)
    shed = alongside.host.add_repository("alice/shed")
    await discover.due(replace(alongside.services, hint=alongside.hint))
    assert await alongside.origin(shed) is None
    alongside.later(timedelta(minutes=71))
    await discover.due(replace(alongside.services, hint=alongside.hint))
    assert (await alongside.kept(shed)).repo.name == "alice/shed"
    assert alongside.hinted == [(await alongside.kept(shed)).repo.id]
    asked = len(alongside.host.requests)
    await discover.due(alongside.services)
    assert len(alongside.host.requests) == asked


async def test_one_connection_that_fails_stops_no_other(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    bob = alongside.host.add_person("bob")
    shed = alongside.host.add_repository("bob/shed")
    dead = await alongside.connect(alice)
    for value in [one.value for one in alongside.host.tokens]:
        alongside.host.revoke(value)
    other = await alongside.connect(bob)
    await choose.choose_everything(alongside.services, other.id, ME, True)
    tool = alongside.host.add_repository("bob/tool")
    alongside.later(timedelta(hours=2))
    await discover.due(alongside.services)
    assert await alongside.origin(tool) is not None and shed and garden
    found = await connections.get(alongside.services.db, dead.id)
    assert found and found.state == "reauth"


async def test_a_listing_that_failed_stays_said_until_one_went_well(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await alongside.connect(alice)
    alongside.host.fail(502, times=100)
    said = []
    for _ in range(2):
        with pytest.raises(NetworkError):
            await discover.refresh_listing(alongside.services, connection.id)
        failing = await connections.get(alongside.services.db, connection.id)
        assert failing and failing.list_failed_at and "502" in (failing.list_failure or "")
        said.append(failing.list_failed_at)
        alongside.later(timedelta(minutes=20))
    assert said[0] == said[1]
    alongside.host.heal()
    await discover.refresh_listing(alongside.services, connection.id)
    well = await connections.get(alongside.services.db, connection.id)
    assert well and (well.list_failed_at, well.list_failure) == (None, None)


async def test_a_listing_whose_every_page_names_a_next_one_comes_to_an_end(
    alongside: Connected, alice: Person, garden: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await alongside.connect(alice)
    assert await names(alongside, connection) == ["alice/garden"]
    monkeypatch.setattr(http.Paging.__init__, "__defaults__", (7,))
    piece = "/user/repos" if isinstance(alongside.host, GitHub) else "/projects?"
    before = len(alongside.host.requests)
    alongside.host.never_end(piece.removesuffix("?"))
    with pytest.raises(LimitReached, match="or 7 pages; the rest was not read"):
        await discover.refresh_listing(alongside.services, connection.id)
    assert len(alongside.host.requests) - before == 7
    assert await names(alongside, connection) == ["alice/garden"]  # nothing is gone by it
    failing = await connections.get(alongside.services.db, connection.id)
    assert failing and "7 pages" in (failing.list_failure or "")


async def test_a_listing_that_drips_ends_in_its_time(
    alongside: Connected, alice: Person, garden: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await alongside.connect(alice)
    alongside.host.slow(60, times=9)
    with monkeypatch.context() as patch:
        patch.setattr(discover, "LISTING", 0.3)
        with pytest.raises(LimitReached, match="did not list all repositories within"):
            await discover.refresh_listing(alongside.services, connection.id)
    alongside.host.heal()
    assert (await discover.refresh_listing(alongside.services, connection.id)).repositories == 1


async def test_hooks_and_owners_without_end_are_no_endless_question(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await alongside.connect(alice)
    asked = await client_of(alongside.services, connection.id)
    alongside.host.never_end("/hooks")
    with pytest.raises(LimitReached, match="20 pages"):
        await asked.ask(lambda forge, token: forge.hooks(token, str(garden.id)))
    alongside.host.never_end("/user/orgs" if isinstance(alongside.host, GitHub) else "/groups")
    with pytest.raises(LimitReached, match="20 pages"):
        await asked.ask(lambda forge, token: forge.owners(token))


def test_rows_and_addresses_of_a_listing_are_bounded() -> None:
    paging = http.Paging("forge.example", "/first")
    with pytest.raises(LimitReached, match="more than 100000 rows"):
        paging.turn(http.ROWS + 1, "/second")
    with pytest.raises(Corrupt, match="gave a next page.s address of 5000 characters"):
        http.Paging("forge.example", "/first").turn(1, "/" * 5000)
