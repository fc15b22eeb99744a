"""Repos without a remote: what is sent to Everref becomes a snapshot, as if a remote had shown it."""

import pytest

from mirror.backup import receive, sync
from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Kind, Reason, RefName, Repo, Target, has_remote
from mirror.discovery import add, create
from mirror.discovery.choose import EVERREF
from mirror.git.upstream import NotOurRef
from mirror.git.view import View
from mirror.store import repos
from mirror.store.backup import history
from mirror.store.people import teams
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of

MAIN = RefName(b"refs/heads/main")


async def laptop(mirror: Mirror) -> Repo:
    team = await teams.default(mirror.services.db)
    return await create.create(mirror.services, team, EVERREF, "acme/laptop")


def sent(work: Work) -> View:
    return View(work.path, "sha1")


async def test_what_is_sent_becomes_a_snapshot_and_what_is_overwritten_stays(
    mirror: Mirror, work: Work
) -> None:
    work.zoo()
    repo, first = await laptop(mirror), work.refs()
    done = await receive.take(mirror.services, repo, sent(work), first, by="ann")
    assert (done.new, done.snapshot.number, done.snapshot.reason) == (True, 1, Reason.PUSH)
    again = await receive.take(mirror.services, repo, sent(work), first, by="ann")
    assert (again.new, again.snapshot) == (False, done.snapshot)
    work.commit("main", {"other": b"1"}, parents=[])
    second = work.refs()
    done = await receive.take(mirror.services, repo, sent(work), second, by="bob")
    changes = await history.of_snapshot(mirror.services.db, repo.id, 2)
    assert {(change.name, change.kind, change.by) for change in changes} >= {(MAIN, Kind.FORCED, "bob")}
    for number, expected in enumerate((first, second), 1):
        path = await mirror.restored(repo, number)
        assert refs_of(path) == expected
        fsck(path)


async def test_nobody_asks_a_remote_that_is_not_there_and_it_is_never_late(
    mirror: Mirror, work: Work
) -> None:
    repo = await laptop(mirror)
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    assert not has_remote(repo.url)
    assert await create.create(mirror.services, team, EVERREF, "acme/laptop.git") == repo
    assert (await repos.overview_of(db, repo.id, now=mirror.clock())).state == "never"
    with pytest.raises(NotFound, match="nothing has been pushed to acme/laptop yet"):
        await sync.sync(mirror.services, repo.id)
    with pytest.raises(UsageError, match="no remote"):
        await add.remote_of(mirror.services, repo.id, repo.url)
    work.commit()
    await receive.take(mirror.services, repo, sent(work), work.refs())
    mirror.clock.now = mirror.clock.now.replace(year=2027)
    shown = await repos.overview_of(db, repo.id, now=mirror.clock())
    assert (shown.state, shown.outside_rpo, shown.behind_since) == ("protected", False, None)
    assert (await sync.sync(mirror.services, repo.id)).new is False


async def test_refs_whose_objects_were_not_sent_are_refused_and_nothing_is_kept(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    repo, keys = await laptop(mirror), await mirror.keys()
    with pytest.raises(NotOurRef):
        await receive.take(mirror.services, repo, sent(work), {MAIN: Target(b"1" * 40)})
    new = set(await mirror.keys()) - set(keys)
    assert not [key for key in new if "/bundles/" in key or "/snapshots/" in key]
    assert await repos.sync_request(mirror.services.db, repo.id) is None


@pytest.mark.parametrize(
    "name", ["", "a@b", "../x", "a/../b", "-x", "a//b", "/a", "a/-/b", ".git", "ä", "a b", "x" * 101]
)
def test_a_name_that_an_address_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="a name has letters"):
        create.checked_name(name)
