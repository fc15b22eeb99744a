"""What an attacker and Murphy would try: lost pushes, foreign objects, poison, clocks, stolen browsers."""

from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from mirror.backup import snapshot as taking
from mirror.core.errors import EverrefError, IdentityChanged, NetworkError
from mirror.core.model import Target
from mirror.core.rules.history import pushes
from mirror.discovery import choose, discover
from mirror.jobs import sweep
from mirror.jobs.runner import Runner
from mirror.store import repos
from mirror.store.backup import reported_updates
from mirror.store.browse import home as home_rows
from mirror.store.discovery import remotes
from mirror.store.jobs import jobs, runs
from mirror.store.people import attempts, people
from mirror.web.pages import home
from tests.parts.connected import Connected
from tests.parts.everref import Mirror
from tests.parts.forges import Person, Repository
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import MAIN, Work
from tests.parts.web import ORIGIN, Site
from tests.test_late import restored
from tests.test_relist import ME, alice, kept
from tests.test_rescue import Garden, garden
from tests.test_signin import Forged, asked_to_link, forged
from tests.test_worker import sync_requested, take

__all__ = ["alice", "forged", "garden"]


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
    between, take = await back_and_forth(garden), taking.take_snapshot

    async def failing(*given: object) -> object:
        git_server.faults["git-upload-pack"] = fault
        return await take(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(taking, "take_snapshot", failing)
        with pytest.raises(NetworkError, match="not saved yet"):
            await garden.sync()
    db = garden.mirror.services.db
    assert await repos.sync_request(db, garden.repo.id) is not None
    (row,) = await repos.overview(db)
    assert row.state == "failing" and row.failure and row.failure.retry_at
    await garden.sync()
    assert [shown[MAIN] for shown in await garden.maps()][1] == between
    assert await repos.sync_request(db, garden.repo.id) is None and await garden.lost() == []


async def test_more_pushes_than_a_sync_takes_leave_a_wish(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "AT_ONCE", 2)
    monkeypatch.setattr(reported_updates, "AT_ONCE", 4)
    tips = [await garden.push(parents=[]) for _ in range(7)]
    db, syncs = garden.mirror.services.db, 0
    while await repos.sync_request(db, garden.repo.id) is not None:
        await garden.sync()
        syncs += 1
        assert syncs < 7
    assert {shown[MAIN] for shown in (await restored(garden)).values()} >= set(tips)


# Nothing of another repository is taken.


async def digests(connected: Connected, repository: Repository) -> list[str]:
    """What the snapshots of the repo that follows this one show."""
    origin = await connected.kept(repository)
    rows = await connected.services.db.fetch(
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
    await alongside.host.deliver()  # what tells of it, which else may come while the next sync runs
    assert (await alongside.sync(shed)).snapshot.number == 2
    before = alongside.host.count(f"/{shed.id}")
    shed.commit()
    await alongside.host.deliver()
    assert (await alongside.sync(shed)).snapshot.number == 3
    assert alongside.host.count(f"/{shed.id}") == before > 0


async def test_a_repo_that_cannot_follow_its_repository_takes_nothing_from_the_next_one_at_its_address(
    alongside: Connected, alice: Person
) -> None:
    shed = alongside.host.add_repository("alice/shed")
    connection = await kept(alongside, alice, shed)
    await choose.choose_everything(alongside.services, connection.id, ME, True)
    before = await digests(alongside, shed)
    taken = alongside.host.add_repository("alice/barn")
    await choose.add_url(alongside.services, alongside.team, ME, taken.url)  # follows the address
    alongside.host.delete(taken)
    alongside.host.rename(shed, "barn")
    new = alongside.host.add_repository("alice/shed")
    for _ in range(3):
        await discover.relist(alongside.services, connection.id)
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
    await choose.choose_everything(alongside.services, connection.id, ME, False)
    await choose.add_url(alongside.services, alongside.team, ME, three.url)
    alongside.host.delete(three)
    alongside.host.rename(two, "three")
    alongside.host.rename(one, "two")
    for _ in range(2):
        await discover.relist(alongside.services, connection.id)
    assert (await alongside.kept(one)).repo.url == one.url
    earlier = await alongside.kept(two)
    assert earlier.repo.name == f"alice/two-{two.id}" and earlier.archived_at is not None
    assert (await alongside.sync(one)).snapshot.number in (1, 2)
    assert await remotes.of(alongside.services.db, earlier.repo.id)


# Poison, crashes and clocks.

OTHER = "elsewhere/1/1/1/aa"


async def die(mirror: Mirror) -> None:
    """The worker that `take` is goes away, and another one notices."""
    await mirror.services.db.execute("update worker set beat_at = '-infinity' where id = $1", OTHER)
    runner = Runner(mirror.services)
    await runner.beat_once()
    await runs.leave(mirror.services.db, runner.me)


async def test_a_repo_that_kills_its_worker_each_time_is_left_alone_for_longer_and_longer(
    mirror: Mirror,
) -> None:
    repo_id = await sync_requested(mirror)
    for _ in range(runs.ATTEMPTS):
        assert len(await take(mirror)) == 1
        await die(mirror)
    assert not await take(mirror, now=mirror.clock.now)
    (row,) = await repos.overview(mirror.services.db)
    assert row.failure and row.failure.kind == "ours" and "stopped every time" in row.failure.message
    assert row.failure.retry_at and await repos.sync_request(mirror.services.db, repo_id)
    mirror.clock.now = row.failure.retry_at
    assert len(await take(mirror, now=mirror.clock.now)) == 1  # one try
    await die(mirror)
    assert not await take(mirror, now=mirror.clock.now)
    await repos.request_sync(mirror.services.db, repo_id, mirror.clock())
    assert len(await take(mirror, now=mirror.clock.now)) == 1  # a push is worth one, too


async def test_two_jobs_of_one_repo_that_were_under_way_when_everything_died_become_one(
    mirror: Mirror,
) -> None:
    db, repo_id = mirror.services.db, await sync_requested(mirror)
    first = await jobs.queue(db, repo_id, "sync", {}, mirror.clock())
    await db.execute("update job set state = 'running'")  # its run ended, and the database was away
    second = await jobs.queue(db, repo_id, "sync", {}, mirror.clock())
    assert [run.job and run.job.id for run in await take(mirror)] == [second.id]
    await die(mirror)
    found = [await jobs.by_id(db, one.id) for one in (first, second)]
    assert [one and one.state for one in found] == ["failed", "queued"]


async def test_first_backups_from_one_host_leave_room_for_its_pushes(mirror: Mirror) -> None:
    for number in range(20):
        await sync_requested(mirror, f"https://busy.example/alice/{number}")
    assert len(await take(mirror)) < runs.AT_HOST
    known = await sync_requested(mirror, "https://busy.example/bob/shed")
    await repos.touch_protected(mirror.services.db, known, mirror.clock())
    assert [run.repo_id for run in await take(mirror)] == [known]


async def test_after_a_clock_that_went_far_ahead_and_back_all_goes_on(mirror: Mirror, work: Work) -> None:
    db = mirror.services.db
    work.commit()
    kept = (await mirror.backup(work)).repo
    lost = await sync_requested(mirror)
    true = mirror.clock.now
    mirror.clock.now += timedelta(days=4000)
    await sweep.tick(mirror.services)
    await repos.set_failure(
        db, lost, "network", "away", mirror.clock(), mirror.clock() + timedelta(minutes=1)
    )
    await attempts.take(db, "somebody", 1, timedelta(minutes=1), mirror.clock())
    await repos.touch_protected(db, kept.id, mirror.clock())
    mirror.clock.now = true
    assert (await sweep.tick(mirror.services)).looks == 1
    assert (await sweep.tick(mirror.services)).looks == 0
    (row,) = [one for one in await repos.overview(db) if one.repo.id == kept.id]
    assert row.protected_as_of and row.protected_as_of < true + timedelta(days=1)
    assert [run.repo_id for run in await take(mirror)] == [lost]
    assert await attempts.take(db, "somebody", 1, timedelta(minutes=1), mirror.clock())


async def test_a_bug_in_a_chore_or_a_sweep_stops_no_worker(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def broken(*_: object) -> None:
        done.append("broken")
        raise ValueError("a bug")

    async def sound(*_: object) -> None:
        done.append("sound")

    maintenance = [
        sweep.Task("broken", timedelta(hours=1), broken),
        sweep.Task("sound", timedelta(hours=1), sound),
    ]
    monkeypatch.setattr(sweep, "TASKS", maintenance)
    await sweep.tend(mirror.services)
    assert sorted(done) == ["broken", "sound"]


# A browser that was left open, or lured.


async def test_an_account_at_a_forge_is_no_proof_and_no_new_way_in_for_an_old_session(forged: Forged) -> None:
    site = forged.site
    victim = await site.person("victim")
    browser = await site.signed_in(victim)
    await site.mirror.services.db.execute("update session set sure_at = sure_at - interval '1 hour'")
    await browser.get("/account")
    to = await forged.come_back(browser, await forged.consent(browser, next="/account"))
    assert to.startswith("/account/sure")
    assert "confirm who you are in another way first" in (await browser.get(to)).text
    assert await people.identities(site.mirror.services.db, victim.id) == []
    assert (
        (await browser.post("/account/password", password="a password of mine"))
        .headers["location"]
        .startswith("/account/sure")
    )
    await site.mirror.services.db.execute("update session set sure_at = $1", site.mirror.clock())
    _, account = await asked_to_link(forged, browser, forged.ann)
    await browser.post("/auth/link", account=account)
    assert len(await people.identities(site.mirror.services.db, victim.id)) == 1


async def test_a_consent_planted_in_another_session_gives_its_account_to_nobody(forged: Forged) -> None:
    attacker = await forged.site.browser()
    address = urlsplit(await forged.consent(attacker))
    victim = await forged.site.person("victim")
    browser = await forged.site.signed_in(victim)
    browser.client.cookies.set(
        "consent", attacker.client.cookies["consent"], domain="127.0.0.1", path="/auth/"
    )
    answer = await browser.get(f"{address.path}?{address.query}")
    assert answer.status_code == 400
    assert await people.identities(forged.site.mirror.services.db, victim.id) == []


async def test_a_form_without_end_is_refused_whoever_sends_it(site: Site) -> None:
    browser = await site.browser()
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield b"a" * 500_000 + b"&"

    answer = await browser.client.post(
        "/sign-in",
        content=endless(),
        headers={"origin": ORIGIN, "content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413


async def test_what_is_paused_is_not_said_to_be_protected(mirror: Mirror) -> None:
    repo_id = await sync_requested(mirror)
    db = mirror.services.db
    await repos.touch_protected(db, repo_id, mirror.clock(), await repos.sync_request(db, repo_id))
    team = (await remotes.get(db, repo_id)).team_id
    assert home.sentence(await home_rows.summary(db, team, mirror.clock.now)) == "1 repository, protected"
    await remotes.pause(db, repo_id, mirror.clock())
    assert home.sentence(await home_rows.summary(db, team, mirror.clock.now)) == "1 repository, paused"
