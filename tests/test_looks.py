"""Looks wait for nobody who drips, and leave a host alone that wants to be, for as long as it says."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from mirror.backup import sync as syncing
from mirror.core.errors import NetworkError, RateLimited
from mirror.core.model import Repo
from mirror.core.rules.work import backoff
from mirror.git import upstream
from mirror.jobs import looks, sweep
from mirror.jobs.looks import Ticked
from mirror.store import repos
from mirror.store.discovery import holds
from mirror.store.jobs import schedules
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer, serving
from tests.parts.repos import Work

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


async def kept(mirror: Mirror, make_work: Callable[..., Work], url: str, *names: str) -> list[Repo]:
    """Repositories at a host, each kept."""
    found = []
    for name in names:
        make_work(f"{name}.git").commit()
        found.append((await mirror.backup(f"{url}/{name}.git", name)).repo)
    return found


async def look_at_of(mirror: Mirror, repo: Repo) -> datetime:
    rhythm = await schedules.of(mirror.services.db, repo.id)
    assert rhythm.look_at
    return rhythm.look_at


async def due_now(mirror: Mirror, *some: Repo) -> None:
    for repo in some:
        await schedules.set_schedule(mirror.services.db, repo.id, None, mirror.clock.now)


async def test_a_remote_that_answers_nothing_keeps_no_other_waiting(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One remote at a byte a second stopped a worker's whole sweep."""
    slow, good = await kept(mirror, make_work, git_server.url, "slow", "good")
    git_server.faults["slow.git"] = Fault(silent=True)
    monkeypatch.setattr(looks, "RECORDING", 0.01)
    monkeypatch.setattr(looks, "SLOW", 0.01)
    mirror.clock.step = timedelta(0)  # a look may take as many ticks as it wants
    await due_now(mirror, slow)
    async with looks.looking(mirror.services) as under_way:
        total = Ticked(0, 0, 0)
        for _ in range(2):  # what becomes due meanwhile has its turn as well
            await due_now(mirror, good)
            before = total.looks
            while total.looks == before:
                total += await under_way.tick()
            assert await look_at_of(mirror, good) > mirror.clock.now
        assert total == Ticked(2, 0, 0) and not under_way.idle
    assert (await repos.overview_of(mirror.services.db, slow.id)).state == "protected"


async def test_a_host_that_is_slow_takes_up_its_own_slots_and_no_more(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"slow-{number}" for number in range(4)]
    await kept(mirror, make_work, git_server.url, *names)
    git_server.faults["slow"] = Fault(silent=True)
    monkeypatch.setattr(looks, "RECORDING", 0.01)
    monkeypatch.setattr(looks, "SLOW", 0.0)
    monkeypatch.setattr(looks, "AT_ONCE", 3)
    monkeypatch.setattr(upstream, "PER_HOST", 2)
    async with serving(git_server.root) as other, looks.looking(mirror.services) as under_way:
        before = len(git_server.requests)
        await under_way.step(mirror.clock.now)
        (good,) = await kept(mirror, make_work, other.url, "good")
        while not (await under_way.step(mirror.clock.now)).looks:
            pass
        assert await look_at_of(mirror, good) > mirror.clock.now
        asked = [request.path for request in git_server.requests[before:]]
        assert len(asked) == 2  # as many as it has slots, however many are due


async def test_one_teams_many_dripping_hosts_leave_half_of_the_looks_to_others(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wildcard name gives each of its remotes a host of its own: 32 of them held every look."""
    monkeypatch.setattr(looks, "RECORDING", 0.01)
    monkeypatch.setattr(looks, "AT_ONCE", 4)
    db = mirror.services.db
    hog, others = [
        await db.fetchval("insert into team (name) values ($1) returning id", name)
        for name in ("hog", "others")
    ]
    make_work("good.git").commit()
    good = await repos.add(db, others, "good", f"{git_server.url}/good.git", mirror.clock())
    async with AsyncExitStack() as stack, looks.looking(mirror.services) as under_way:
        for number in range(12):
            host = await stack.enter_async_context(await asyncio.start_server(_silent, "127.0.0.1", 0))
            url = f"http://127.0.0.1:{host.sockets[0].getsockname()[1]}/drip.git"
            await due_now(mirror, await repos.add(db, hog, f"drip-{number}", url, mirror.clock()))
        await schedules.set_schedule(db, good.id, None, mirror.clock.now + timedelta(hours=1))
        await under_way.step(mirror.clock.now)
        assert len(under_way._under_way) == 4  # a team alone has every place
        await due_now(mirror, good)
        while not (await under_way.step(mirror.clock.now)).looks:
            pass
        assert await look_at_of(mirror, good) > mirror.clock.now
        assert len(under_way._under_way) == 4


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host that takes every request and never answers."""
    while await reader.read(1 << 16):
        pass
    writer.close()


@pytest.mark.parametrize("status", [429, 403, 503])
async def test_a_host_that_says_when_is_left_alone_until_then(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer, status: int
) -> None:
    """Told to wait for 100 s, it was asked again after 67."""
    first, other = await kept(mirror, make_work, git_server.url, "first", "other")
    git_server.faults["first.git"] = Fault(status=status, headers={"Retry-After": "7200"})
    with pytest.raises(RateLimited, match="the host wants no more requests until"):
        await syncing.sync(mirror.services, first.id)
    failure = (await repos.overview_of(mirror.services.db, first.id)).failure
    assert failure and failure.kind == "limit" and failure.retry_at
    assert timedelta(hours=2) <= failure.retry_at - failure.at + mirror.clock.step * 3
    assert failure.retry_at - failure.at < timedelta(hours=3)

    git_server.faults.clear()
    git_server.requests.clear()
    with pytest.raises(RateLimited):  # nor is anything else asked there with the same credentials
        await syncing.sync(mirror.services, other.id)
    await due_now(mirror, other)
    assert await sweep.tick(mirror.services) == Ticked(0, 0, 0)
    assert await look_at_of(mirror, other) >= failure.at + timedelta(hours=1)
    assert git_server.requests == []

    mirror.clock.now = failure.retry_at
    assert (await syncing.sync(mirror.services, first.id)).new is False
    assert (await repos.overview_of(mirror.services.db, first.id)).state == "protected"
    await holds.forget_before(mirror.services.db, mirror.clock())
    assert await mirror.services.db.fetchval("select count(*) from host_hold") == 0


async def test_a_look_that_is_told_to_wait_asks_no_more_and_wishes_for_nothing(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    some = await kept(mirror, make_work, git_server.url, *[f"r{number}" for number in range(12)])
    git_server.faults["/r"] = Fault(status=429, headers={"Retry-After": "86400"})
    git_server.requests.clear()
    mirror.clock.step = timedelta(0)
    done = await sweep.tick(mirror.services)
    assert done.failed == done.looks == len(git_server.requests) <= upstream.PER_HOST
    for repo in some:
        assert await look_at_of(mirror, repo) >= mirror.clock.now + timedelta(days=1)
        assert await repos.sync_request(mirror.services.db, repo.id) is None


async def test_who_comes_with_other_credentials_is_not_held_back(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    public, private = await kept(mirror, make_work, git_server.url, "public", "private")
    await mirror.backup(git_server.url.replace("//", "//alice:secret@") + "/private.git", "private")
    until = mirror.clock.now + timedelta(hours=5)
    await holds.put(mirror.services.db, private.id, git_server.url + "/", until)
    await holds.put(mirror.services.db, private.id, git_server.url + "/", until - timedelta(hours=1))
    assert await holds.until(mirror.services.db, private.id, git_server.url + "/", mirror.clock.now) == until
    assert await holds.until(mirror.services.db, public.id, git_server.url + "/", mirror.clock.now) is None
    assert await holds.until(mirror.services.db, private.id, "https://elsewhere/", mirror.clock.now) is None
    ahead = mirror.clock.now - timedelta(days=30)  # the clock was ahead when it was told
    assert await holds.until(mirror.services.db, private.id, git_server.url + "/", ahead) is None


async def test_what_one_teams_address_is_told_keeps_no_other_team_from_the_host(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    """A 429 for one address held everything that was asked without credentials at that host."""
    mine, same = await kept(mirror, make_work, git_server.url, "mine", "same")
    db = mirror.services.db
    others = await db.fetchval("insert into team (name) values ('others') returning id")
    theirs = await repos.add(db, others, "theirs", f"{git_server.url}/same.git", mirror.clock())
    git_server.faults["mine.git"] = Fault(status=429, headers={"Retry-After": "7200"})
    with pytest.raises(RateLimited):
        await syncing.sync(mirror.services, mine.id)
    with pytest.raises(RateLimited):
        await syncing.sync(mirror.services, same.id)
    assert (await syncing.sync(mirror.services, theirs.id)).new


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("100", "", 100),
        (" 100 ", "", 100),
        ("0", "", 1),
        ("99999999999", "", 86400),
        ("Mon, 02 Mar 2026 09:05:00 GMT", "", 300),
        ("Mon, 02 Mar 2026 09:05:00 GMT", "Mon, 02 Mar 2026 09:04:00 GMT", 60),
        ("Mon, 02 Mar 2026 08:00:00 GMT", "", 1),
        ("Tue, 02 Mar 2027 09:00:00 GMT", "nonsense", 86400),
        ("", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("1.5", "", None),
    ],
)
def test_retry_after_is_seconds_or_a_time(value: str, date: str, seconds: int | None) -> None:
    wanted = None if seconds is None else AT + timedelta(seconds=seconds)
    assert backoff.retry_after(value, date, AT) == wanted


def test_nobody_comes_before_it_is_told_and_all_within_a_minute_after() -> None:
    told = AT + timedelta(seconds=100)
    assert backoff.spread(told, AT, 0.0) == told
    assert backoff.spread(told, AT, 1.0) == told + timedelta(seconds=10)
    assert backoff.spread(AT + timedelta(days=1), AT, 1.0) == AT + timedelta(days=1, minutes=1)
    assert backoff.spread(AT - timedelta(days=1), AT, 1.0) == AT - timedelta(days=1)


async def test_trouble_without_a_word_is_the_network(
    mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer
) -> None:
    (repo,) = await kept(mirror, make_work, git_server.url, "one")
    git_server.faults["one.git"] = Fault(status=503)
    with pytest.raises(NetworkError):
        await syncing.sync(mirror.services, repo.id)
    assert await mirror.services.db.fetchval("select count(*) from host_hold") == 0
