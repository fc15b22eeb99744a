"""Backing up and bringing back: what goes in comes out, whatever the remote did in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mirror.backup import snapshot as building
from mirror.core import refs
from mirror.core.errors import Corrupt, NetworkError, NotFound, Refused, UsageError
from mirror.core.formats import layout, manifest
from mirror.core.model import HEAD, Kind, RefName, Secret, Target
from mirror.discovery import add
from mirror.store import repos
from mirror.store.backup import history, parts
from mirror.store.discovery import hooks
from tests.parts.everref import Mirror
from tests.parts.repos import ODD_NAMES, Work, fsck, objects_of, refs_of

MAIN = RefName(b"refs/heads/main")


async def test_the_first_backup_holds_every_ref_and_object(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    assert (done.new, done.snapshot.number, done.snapshot.refs_count) == (True, 1, len(work.refs()) - 1)
    path = await mirror.restored(done.repo, 1)
    assert refs_of(path) == work.refs()
    assert objects_of(path) == objects_of(work.path)
    fsck(path)


async def test_a_second_look_at_an_unchanged_remote_takes_no_snapshot(mirror: Mirror, work: Work) -> None:
    work.zoo()
    first = await mirror.backup(work)
    keys = await mirror.keys()
    second = await mirror.backup(work)
    assert (second.new, second.snapshot) == (False, first.snapshot)
    assert await mirror.keys() == keys


async def test_every_moment_comes_back_after_force_pushes_and_deletions(mirror: Mirror, work: Work) -> None:
    work.zoo()
    moments = [work.refs()]
    done = await mirror.backup(work)
    first = work.tip()
    work.commit("main", parents=[first])
    work.commit("feature")
    moments.append(work.refs())
    await mirror.backup(work)
    work.commit("main", {"rewritten": b"1"}, parents=[])  # a force-push over everything
    work.delete("feature", *[name for name in ODD_NAMES if name != b"refs/stash"])
    moments.append(work.refs())
    await mirror.backup(work)
    work.set("main", first)  # and back again
    work.commit("feature/sub")  # a name that was a file is a directory now
    moments.append(work.refs())
    done = await mirror.backup(work)
    assert done.snapshot.number == len(moments)
    for number, expected in enumerate(moments, 1):
        path = await mirror.restored(done.repo, number)
        assert refs_of(path) == expected
        fsck(path)


async def test_a_change_of_refs_without_objects_has_a_manifest_and_no_bundle(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    await mirror.backup(work)
    work.set("copy", work.tip())
    done = await mirror.backup(work)
    assert done.new and done.snapshot.bundle is None
    work.commit()
    done = await mirror.backup(work)
    live = await parts.live(mirror.services.db, done.repo.id)
    assert [(part.first, part.last) for part in live] == [(1, 1), (2, 3)]
    assert await mirror.refs(done.repo, 2) != await mirror.refs(done.repo, 3)


async def test_content_that_comes_back_is_stored_once(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"old content\n" * 100})
    await mirror.backup(work)
    work.commit("main", {"a": b"new content\n" * 100})
    await mirror.backup(work)
    work.commit("main", {"a": b"old content\n" * 100})
    done = await mirror.backup(work)
    assert done.snapshot.bundle is not None
    assert done.snapshot.bundle.entries == 1  # the commit: tree and blob are in the log already
    fsck(await mirror.restored(done.repo, 3))


@pytest.mark.parametrize("head", ["refs/heads/main", "refs/heads/nobody", "detached"])
async def test_head_comes_back_as_it_was(mirror: Mirror, work: Work, head: str) -> None:
    tip = work.commit()
    work.head(tip if head == "detached" else head)
    done = await mirror.backup(work)
    assert (await mirror.refs(done.repo, 1))[HEAD] == work.refs()[HEAD]


async def test_an_empty_repository_is_a_snapshot_and_the_next_one_is_full(mirror: Mirror, work: Work) -> None:
    work.head("trunk")
    done = await mirror.backup(work)
    assert (done.new, done.snapshot.refs_count, done.snapshot.bundle) == (True, 0, None)
    assert await mirror.refs(done.repo, 1) == {HEAD: Target(b"ref: refs/heads/trunk")}
    work.commit("trunk")
    done = await mirror.backup(work)
    assert await mirror.refs(done.repo, 2) == work.refs()


async def test_a_sha256_repository_comes_back(mirror: Mirror, make_work: Callable[..., Work]) -> None:
    work = make_work("sha256.git", object_format="sha256")
    work.zoo()
    await mirror.backup(work)
    work.commit()
    work.delete("side")
    done = await mirror.backup(work)
    path = await mirror.restored(done.repo, 2)
    assert refs_of(path) == work.refs()
    fsck(path)


async def test_a_hundred_thousand_refs_come_back(mirror: Mirror, work: Work) -> None:
    work.many_commits(50)
    work.many_refs(100_000)
    await mirror.backup(work)
    work.delete("many/000007")
    work.commit()
    done = await mirror.backup(work)
    assert done.snapshot.changes_count == 2
    assert await mirror.refs(done.repo, 2) == work.refs()
    assert len(await mirror.refs(done.repo, 1)) == 100_002


async def test_the_history_names_each_change(mirror: Mirror, work: Work) -> None:
    first = work.commit()
    work.tag("v1")
    work.tag("tree", work.tree({}))
    await mirror.backup(work)
    work.commit()
    forced = work.commit("side", parents=[first])
    await mirror.backup(work)
    work.commit("side", parents=[])
    work.set("refs/tags/v1", forced)
    work.head("side")
    work.delete("refs/tags/tree")
    done = await mirror.backup(work)
    kinds = {
        (line.snapshot, line.change.name): line.change.kind
        async for line in history.changes(mirror.services.db, done.repo.id)
    }
    assert kinds[1, MAIN] == Kind.CREATED
    assert kinds[2, MAIN] == Kind.FAST_FORWARDED
    assert kinds[3, RefName(b"refs/heads/side")] == Kind.FORCED
    assert kinds[3, RefName(b"refs/tags/v1")] == Kind.MOVED
    assert kinds[3, RefName(b"refs/tags/tree")] == Kind.DELETED
    assert kinds[3, HEAD] == Kind.MOVED
    assert (3, MAIN) not in kinds


async def test_a_pool_that_was_lost_is_made_again_from_the_vault(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    work.commit()
    await mirror.backup(work)
    import shutil

    shutil.rmtree(mirror.services.disk.pool(done.repo.id))
    work.commit("later")
    done = await mirror.backup(work)
    assert await mirror.refs(done.repo, 3) == work.refs()


async def test_manifests_form_a_chain_and_add_up(mirror: Mirror, work: Work) -> None:
    work.zoo()
    done = await mirror.backup(work)
    for _ in range(3):
        work.commit()
        done = await mirror.backup(work)
    known: dict[RefName, Target] = {}
    for number in range(1, done.snapshot.number + 1):
        one = manifest.decode(await mirror.services.vault.get(layout.manifest_key(done.repo.id, number)))
        known = refs.apply(known, one.changes)
        assert refs.digest(known) == one.refs_digest
    assert known == work.refs()


async def test_an_address_is_kept_under_one_name(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.commit()
    await mirror.backup(work, "first")
    with pytest.raises(UsageError, match="already backed up as first"):
        await mirror.backup(work, "second")
    other = make_work()
    with pytest.raises(UsageError, match="name first is taken"):
        await mirror.backup(other, "first")


async def test_a_name_whose_address_was_never_reached_can_be_given_another_address(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    wrong = "http://bob:secret@127.0.0.1:9/acme/api.git"
    with pytest.raises(NetworkError):
        await mirror.backup(wrong)
    with pytest.raises(UsageError, match="--name acme/api"):
        await mirror.repo("http://127.0.0.1:8/acme/api.git")
    done = await mirror.backup(work, "acme/api")
    (kept,) = await repos.overview(mirror.services.db)
    url = str(work.path)
    assert (kept.repo.url, kept.state, kept.failure) == (url, "protected", None)
    assert (await add.remote_of(mirror.services, done.repo.id, url)).secret is None
    await add.repo_for(mirror.services, url, None, Secret("alice", "hush"))
    assert (await add.remote_of(mirror.services, done.repo.id, url)).secret == Secret("alice", "hush")
    assert (await add.remote_of(mirror.services, done.repo.id, wrong)).secret is None  # a late run's
    with pytest.raises(UsageError, match="name acme/api is taken"):
        await mirror.backup(wrong, "acme/api")


async def test_first_backups_at_once_of_one_address_make_one_repo(mirror: Mirror, work: Work) -> None:
    made = await asyncio.gather(*(mirror.repo(str(work.path)) for _ in range(8)))
    assert len({repo.id for repo in made}) == 1


async def test_a_repository_that_changed_its_object_format_is_refused(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    import shutil

    work.commit()
    done = await mirror.backup(work)
    other = make_work("other.git", object_format="sha256")
    other.commit()
    shutil.rmtree(work.path)
    other.path.rename(work.path)
    with pytest.raises(Refused, match="another name"):
        await mirror.backup(work)
    assert refs_of(await mirror.restored(done.repo, 1))
    assert (await repos.overview(mirror.services.db))[0].state == "failing"


async def test_a_remote_with_a_missing_object_takes_no_snapshot(mirror: Mirror, work: Work) -> None:
    work.commit()
    done = await mirror.backup(work)
    keys = await mirror.keys()
    blob = work.blob(b"soon gone")
    work.commit("main", entries={b"gone": (b"100644", blob)})
    (work.path / "objects" / blob[:2].decode() / blob[2:].decode()).unlink()
    with pytest.raises(Corrupt):
        await mirror.backup(work)
    assert await mirror.keys() == keys
    assert (await mirror.refs(done.repo, 1))[MAIN] != work.tip()


async def test_a_missing_repository_leaves_everything_as_it_was(mirror: Mirror, work: Work) -> None:
    with pytest.raises((NotFound, UsageError)):
        await mirror.backup("/nonexistent/repository")
    assert await repos.overview(mirror.services.db) == []
    assert set(await mirror.keys()) <= {layout.MARKER}


async def test_a_large_push_is_kept_as_it_was_sent_and_a_small_one_packed_anew(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_LARGE", 1 << 20)
    work.commit()
    await mirror.backup(work)
    work.many_commits(300, size=8000)
    large = await mirror.backup(work)
    work.commit()
    done = await mirror.backup(work)
    assert large.snapshot.bundle and large.snapshot.bundle.bytes > 2_000_000
    path = await mirror.restored(done.repo, 3)
    assert refs_of(path) == work.refs()
    fsck(path)
    assert objects_of(path, everything=True) == objects_of(work.path)


async def test_a_large_push_that_brings_old_content_back_is_packed_without_it(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_LARGE", 1 << 20)
    import random

    big = random.Random(1).randbytes(1_500_000)
    work.commit("main", {"big": big})
    await mirror.backup(work)
    work.commit("main", {"big": None})
    await mirror.backup(work)
    work.delete("main")
    work.set("refs/heads/unrelated", work.commit("unrelated", {"big": big, "more": big[::-1]}, parents=[]))
    done = await mirror.backup(work)
    assert done.snapshot.bundle and done.snapshot.bundle.bytes < 2_000_000
    fsck(await mirror.restored(done.repo, 3))


async def test_a_sync_serves_the_wish_that_was_open_when_it_began(mirror: Mirror, work: Work) -> None:
    db = mirror.services.db
    work.commit()
    repo = await mirror.repo(str(work.path))
    for _ in ("something new", "nothing new"):
        await repos.request_sync(db, repo.id, mirror.clock())
        await mirror.backup(work)
        assert await repos.sync_request(db, repo.id) is None


async def test_a_wish_that_comes_after_the_remote_was_asked_stays_open(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = mirror.services.db
    work.commit()
    repo = await mirror.repo(str(work.path))
    await repos.request_sync(db, repo.id, mirror.clock())
    real = building.build_part

    @asynccontextmanager
    async def late(*args: Any, **kwargs: Any) -> AsyncIterator[building.BuiltPart]:
        await repos.request_sync(db, repo.id, mirror.clock())
        async with real(*args, **kwargs) as built:
            yield built

    monkeypatch.setattr(building, "build_part", late)
    await mirror.backup(work)
    (row,) = await repos.overview(db)
    assert row.state == "behind"
    await mirror.backup(work)
    (row,) = await repos.overview(db)
    assert row.state == "protected"


async def test_changes_take_who_and_when_from_the_claims_that_fit(mirror: Mirror, work: Work) -> None:
    db, keys = mirror.services.db, mirror.services.keyring
    assert keys
    first = work.commit()
    repo = (await mirror.backup(work)).repo
    await hooks.add(db, repo.id, "github", hooks.lock(keys, "h" * 32, "secret"), mirror.clock())
    pushed = mirror.clock()
    second = work.commit()
    work.set("refs/tags/v1", first)
    elsewhere = Target(b"0" * 40)
    updates = (
        hooks.NewUpdate(RefName(b"refs/tags/v1"), None, elsewhere, "mallory", pushed),
        hooks.NewUpdate(MAIN, first, second, "alice", pushed),
    )
    await hooks.deliver(db, "h" * 32, hooks.Delivery("1", "push", "7", updates, None, b"{}"), mirror.clock())
    await mirror.backup(work)
    oldest_first = history.changes(db, repo.id, reverse=True)
    found = {line.change.name: line.change async for line in oldest_first}
    assert (found[MAIN].by, found[MAIN].at) == ("alice", pushed)
    tag = found[RefName(b"refs/tags/v1")]
    assert (tag.new, tag.by, tag.at) == (first, None, None)
    stored = manifest.decode(await mirror.services.vault.get(layout.manifest_key(repo.id, 2)))
    assert {change.by for change in stored.changes} == {"alice", None}


async def test_a_push_adds_to_the_vault_what_it_changed_and_not_every_ref(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "WHOLE_MAP_EVERY", 2)
    tip = work.commit("main")
    work.update({RefName(b"refs/tags/v%d" % number): tip for number in range(300)})
    done = await mirror.backup(work)
    sizes = []
    for _ in range(6):
        work.commit("main")
        done = await mirror.backup(work)
        key = layout.manifest_key(done.repo.id, done.snapshot.number)
        sizes.append(len(await mirror.services.vault.get(key)))
    assert max(sizes) < 2000
