"""How a repo is doing is said truly: protected as of when, behind since when, why, tried again when."""

from datetime import timedelta

import pytest

from mirror.backup import sync as syncing
from mirror.cli import shapes
from mirror.core.errors import (
    BadCredentials,
    Blocked,
    Corrupt,
    EverrefError,
    IdentityChanged,
    Moved,
    NetworkError,
    RemoteGone,
)
from mirror.core.model import Repo, Secret
from mirror.core.rules.work import backoff
from mirror.discovery import add, follow
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.discovery import remotes
from mirror.store.repos import Overview
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import Work

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


async def kept(mirror: Mirror, work: Work, git_server: GitServer) -> Repo:
    """A repo with one snapshot, over HTTP."""
    work.commit()
    return (await mirror.backup(f"{git_server.url}/remote.git")).repo


async def state(mirror: Mirror, repo: Repo) -> Overview:
    return await repos.overview_of(mirror.services.db, repo.id)


async def fail(mirror: Mirror, repo: Repo, error: type[EverrefError]) -> Overview:
    """A sync that fails with exactly this."""
    with pytest.raises(error) as raised:
        await syncing.sync(mirror.services, repo.id)
    assert type(raised.value) is error
    return await state(mirror, repo)


FAULTS: dict[str, tuple[Fault, type[EverrefError], timedelta | None]] = {
    "credentials": (Fault(status=401), BadCredentials, None),
    "gone": (Fault(status=404), RemoteGone, HOUR),
    "blocked by law": (Fault(status=451), Blocked, 6 * HOUR),
    "blocked": (Fault(status=403, body=b"Repository access blocked"), Blocked, 6 * HOUR),
    "moved": (Fault(status=301, headers={"Location": "https://git.example/new"}), Moved, HOUR),
    "network": (Fault(status=502), NetworkError, MINUTE),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_a_failure_says_its_class_since_when_and_when_it_is_tried_again(
    mirror: Mirror, work: Work, git_server: GitServer, case: str
) -> None:
    fault, error, wait = FAULTS[case]
    repo = await kept(mirror, work, git_server)
    good = await state(mirror, repo)
    work.commit()
    git_server.faults["info/refs"] = fault
    first = await fail(mirror, repo, error)
    if first.failure and first.failure.retry_at:
        mirror.clock.now = first.failure.retry_at
    again = await fail(mirror, repo, error)
    assert first.failure and again.failure
    assert (again.state, again.failure.kind) == ("failing", error.kind)
    assert again.failure.since == again.behind_since == first.failure.since == first.failure.at
    assert (again.protected_as_of, again.snapshots) == (good.protected_as_of, 1)
    if wait is None:
        assert again.failure.retry_at is None
    else:
        assert first.failure.retry_at and again.failure.retry_at
        assert 0.75 * wait <= first.failure.retry_at - first.failure.at <= 1.25 * wait
        assert 1.5 * wait <= again.failure.retry_at - again.failure.at <= 2.5 * wait
    shown = shapes.kept(again)
    assert shown["failure"]["class"] == error.kind
    assert shown["behind_since"] == shown["failure"]["since"] == shapes.at(first.failure.since)
    git_server.faults.clear()
    done = await syncing.sync(mirror.services, repo.id)
    mended = await state(mirror, repo)
    assert (done.snapshot.number, mended.state, mended.failure, mended.behind_since) == (
        2,
        "protected",
        None,
        None,
    )
    assert await repos.failures(mirror.services.db, repo.id, error.kind, mirror.clock.now) == 0


def test_waits_double_up_to_a_limit_and_differ() -> None:
    waits = [backoff.wait("network", number, 0.5) for number in range(1, 9)]
    assert waits == [min(2**power, 60) * MINUTE for power in range(8)]
    assert [backoff.wait("gone", number, 0.5) for number in (1, 2, 5, 6, 10**9)] == [
        HOUR,
        2 * HOUR,
        16 * HOUR,
        DAY,
        DAY,
    ]
    assert [backoff.wait("blocked", number, 0.5) for number in (1, 2, 3)] == [6 * HOUR, 12 * HOUR, DAY]
    assert backoff.wait("network", 1, 0.0) == 0.75 * MINUTE
    assert backoff.wait("network", 1, 1.0) == 1.25 * MINUTE
    assert backoff.wait("credentials", 1, 0.5) is None


async def test_refused_credentials_are_tried_once_until_there_are_others(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    repo = await kept(mirror, work, git_server)
    git_server.credentials = ("alice", "hush")
    await fail(mirror, repo, BadCredentials)
    asked = len(git_server.requests)
    for _ in range(3):  # pushes are told of, and nobody runs against the wall
        await repos.request_sync(mirror.services.db, repo.id, mirror.clock())
        assert await syncing.serve(mirror.services, repo.id)
    assert len(git_server.requests) == asked
    await add.repo_for(mirror.services, repo.url, None, Secret("alice", "wrong"))
    with pytest.raises(BadCredentials):
        await syncing.serve(mirror.services, repo.id)
    assert await syncing.serve(mirror.services, repo.id)
    assert len(git_server.requests) == asked + 1
    await add.repo_for(mirror.services, repo.url, None, Secret("alice", "hush"))
    assert await syncing.serve(mirror.services, repo.id)
    assert (await state(mirror, repo)).state == "protected"


async def test_what_has_been_gone_for_a_day_is_archived_and_kept(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    repo = await kept(mirror, work, git_server)
    git_server.faults["info/refs"] = Fault(status=404)
    await fail(mirror, repo, RemoteGone)
    mirror.clock.now += DAY / 2
    assert (await fail(mirror, repo, RemoteGone)).state == "failing"
    mirror.clock.now += DAY / 2
    archived = await fail(mirror, repo, RemoteGone)
    assert (archived.state, archived.snapshots) == ("archived", 1)
    assert archived.failure is None  # which is no failure; it is looked for still, now and then
    again = await mirror.services.db.fetchval("select retry_at from repo where id = $1", repo.id)
    assert again > mirror.clock.now
    assert await mirror.refs(repo, 1) == work.refs()
    git_server.faults.clear()
    await syncing.sync(mirror.services, repo.id)
    assert (await state(mirror, repo)).state == "protected"


async def test_a_repository_that_broke_at_its_host_is_said_to_be_corrupt(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    repo = await kept(mirror, work, git_server)
    blob = work.blob(b"soon gone")
    work.commit("main", entries={b"gone": (b"100644", blob)})
    (work.path / "objects" / blob[:2].decode() / blob[2:].decode()).unlink()
    found = await fail(mirror, repo, Corrupt)
    assert found.failure and found.failure.retry_at
    assert 5 * MINUTE < found.failure.retry_at - found.failure.at < 15 * MINUTE


async def test_another_repository_under_the_same_name_gets_nothing_into_the_history(
    mirror: Mirror, work: Work, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await kept(mirror, work, git_server)

    async def differs(services: Services, repo: Repo, **_: object) -> None:
        raise IdentityChanged(f"{repo.url} is another repository now (9, not 7); add it under another name")

    monkeypatch.setattr(follow, "identity_at_forge", differs)
    work.commit(parents=[])
    asked = len(git_server.requests)
    with pytest.raises(IdentityChanged):
        await syncing.sync(mirror.services, repo.id)
    found = await state(mirror, repo)
    assert found.failure
    assert (found.snapshots, found.failure.kind, len(git_server.requests)) == (1, "identity", asked)


async def test_a_redirect_is_no_failure_where_another_run_has_given_the_new_address_meanwhile(
    mirror: Mirror, work: Work, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await kept(mirror, work, git_server)
    new = repo.url.replace("127.0.0.1", "localhost")
    git_server.faults["info/refs"] = Fault(status=301, headers={"Location": new})
    work.commit()

    async def followed_by_another_run(services: Services, found: Repo, **_: object) -> None:
        if found.url == new:
            git_server.faults.clear()
        else:  # after this run has read the old address
            await remotes.rename(services.db, {found.id: (found.name, new)}, services.clock())

    monkeypatch.setattr(follow, "identity_at_forge", followed_by_another_run)
    done = await syncing.sync(mirror.services, repo.id)
    assert done.new and (await state(mirror, repo)).failure is None


async def test_behind_since_is_the_oldest_wish_that_nobody_served(mirror: Mirror, work: Work) -> None:
    db = mirror.services.db
    work.commit()
    repo = (await mirror.backup(work)).repo
    assert (await state(mirror, repo)).behind_since is None
    oldest = await repos.request_sync(db, repo.id, mirror.clock())
    await repos.request_sync(db, repo.id, mirror.clock())
    behind = await state(mirror, repo)
    assert (behind.state, behind.behind_since) == ("behind", oldest)
    served = await repos.sync_request(db, repo.id)
    looked = mirror.clock()
    await repos.request_sync(db, repo.id, mirror.clock())  # while the sync runs
    await repos.touch_protected(db, repo.id, looked, served)
    assert (await state(mirror, repo)).behind_since == looked
    await mirror.backup(work)
    assert (await state(mirror, repo)).behind_since is None


async def notices(mirror: Mirror) -> list[str]:
    rows = await mirror.services.db.fetch(
        "select message from notice where kind = 'mass-deletion' order by id"
    )
    return [row["message"] for row in rows]


async def test_half_of_the_refs_gone_at_once_is_told(mirror: Mirror, work: Work) -> None:
    work.commit()
    for name in ("a", "b", "c"):
        work.commit(name)
    done = await mirror.backup(work)
    work.delete("a")
    await mirror.backup(work)
    assert await notices(mirror) == []
    mirror.clock.now += 2 * HOUR
    work.commit("a")
    await mirror.backup(work)
    mirror.clock.now += 2 * HOUR
    work.commit("young")
    await mirror.backup(work)
    work.delete("young")
    await mirror.backup(work)
    work.delete("b")
    await mirror.backup(work)
    assert await notices(mirror) == []
    for name in ("c", "a"):  # one after another
        work.delete(name)
        await mirror.backup(work)
    (told,) = await notices(mirror)
    name = done.repo.name
    assert (
        told == f"{name}: 2 of 4 refs were deleted, as snapshot #7 shows; what was there before is backed up"
    )


async def test_every_branch_replaced_by_something_else_is_told_and_a_rebase_is_not(
    mirror: Mirror, work: Work
) -> None:
    first = work.commit()
    for name in ("v1", "v2", "v3"):
        work.tag(name)
    work.commit()
    await mirror.backup(work)
    work.commit("main", parents=[first])
    await mirror.backup(work)
    assert await notices(mirror) == []
    work.commit("main", {"ransom": b"pay"}, parents=[])
    await mirror.backup(work)
    assert len(await notices(mirror)) == 1


async def test_an_address_put_right_while_a_run_waited_is_the_one_that_is_asked(
    mirror: Mirror, work: Work, git_server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    repo = await mirror.repo(f"{git_server.url}/mistyped.git")
    right = f"{git_server.url}/remote.git"
    stale = await repos.get(mirror.services.db, repo.id)

    async def get(db: object, repo_id: object) -> Repo:
        monkeypatch.undo()
        await repos.move(mirror.services.db, repo.id, right)
        return stale

    monkeypatch.setattr(repos, "get", get)
    done = await syncing.sync(mirror.services, repo.id)
    assert (done.new, done.repo.url) == (True, right)
    assert git_server.count("mistyped") == 0


async def test_pushes_at_a_host_in_trouble_do_not_make_the_wait_longer(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    repo = await kept(mirror, work, git_server)
    git_server.faults["info/refs"] = Fault(status=503)
    mirror.clock.step = timedelta()
    first = (await fail(mirror, repo, NetworkError)).failure
    for _ in range(6):  # pushes, that are told and tried at once
        last = (await fail(mirror, repo, NetworkError)).failure
    assert first and first.retry_at and last and last.retry_at
    assert last.retry_at - last.at < 2 * (first.retry_at - first.at)
    mirror.clock.now = last.retry_at + MINUTE
    later = (await fail(mirror, repo, NetworkError)).failure
    assert later and later.retry_at and later.retry_at - later.at > last.retry_at - last.at
