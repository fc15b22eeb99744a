"""Proving, damaging, reading back: verify names what is wrong, the vault alone gives everything back."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mirror.browse import moments as browse
from mirror.core.errors import Corrupt, Locked, Origin
from mirror.core.formats import layout
from mirror.core.model import Repo
from mirror.restore import drill, restore
from mirror.services.open import open_services
from mirror.store import repos
from mirror.store.backup import history, parts
from mirror.store.browse import home
from mirror.store.jobs import runs
from mirror.store.people import notices, teams
from mirror.store.restore import drills
from mirror.store.upkeep import damages, measures
from mirror.upkeep import compact, doctor, prune, verify
from mirror.upkeep.moving import rebuild
from mirror.vault.contract import Stat
from mirror.vault.directory import DirectoryVault
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of


def stored(mirror: Mirror, key: str) -> Path:
    """Where the directory vault keeps an object."""
    return Path(mirror.services.settings.data) / "vault" / key


async def some_history(mirror: Mirror, work: Work, pushes: int = 4) -> tuple[Repo, list[object]]:
    work.zoo()
    moments: list[object] = []
    for number in range(pushes):
        if number == 2:
            work.commit("main", {"forced": b"1"}, parents=[])
            work.delete("side")
        else:
            work.commit("main", {"n": b"%d" % number})
        moments.append(work.refs())
        done = await mirror.backup(work)
    return done.repo, moments


async def test_a_sound_backup_verifies_and_is_stamped(mirror: Mirror, work: Work) -> None:
    repo, _ = await some_history(mirror, work)
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays, found.damaged) == ((), (), ())
    assert found.snapshots == 4
    assert (await mirror.snapshot(repo, 4)).verified_at is not None


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "swapped"])
async def test_a_damaged_part_is_named_and_what_still_works_is_known(
    mirror: Mirror, work: Work, damage: str
) -> None:
    repo, moments = await some_history(mirror, work)
    live = await parts.live(mirror.services.db, repo.id)
    victim = stored(mirror, live[2].key)
    content = bytearray(victim.read_bytes())
    victim.unlink()
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    if damage == "swapped":
        content = bytearray(stored(mirror, live[1].key).read_bytes())
    if damage != "missing":
        victim.write_bytes(content[:-7] if damage == "cut" else content)
    found = await verify.verify(mirror.services, repo)
    assert any(live[2].key in problem for problem in found.problems)
    assert found.damaged == (3, 4)
    assert refs_of(await mirror.restored(repo, 2)) == moments[1]
    with pytest.raises(Corrupt, match=live[2].key.rsplit("/", 1)[1][:20]) as restoring:
        await mirror.restored(repo, 4)
    assert (restoring.value.kind, restoring.value.origin) == ("corrupt", Origin.VAULT)
    said = str(restoring.value)
    assert "; #2 before it can be restored, and everref verify" in said and "\n" not in said
    for _ in range(2):
        failed = await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 3))
        assert len(failed.problems) == 1 and "#2 before it can be restored" in failed.problems[0]
    proof = await drills.latest(mirror.services.db, repo.id)
    assert proof is not None and (proof.snapshot, proof.problems) == (3, failed.problems)
    told = await notices.open_of(mirror.services.db, await teams.default(mirror.services.db))
    assert [(one.kind, one.message.partition(" found damage")[0]) for one in told] == [
        ("drill-failed", f"a drill of #3 of {repo.name}"),
        ("damage", f"a verification of {repo.name}"),
    ]
    shutil.rmtree(mirror.services.disk.pool(repo.id))  # which has it all
    with pytest.raises(Corrupt, match="#2 before it can be restored"):
        await restore.to_bundle(
            mirror.services, repo, await mirror.snapshot(repo, 4), mirror.place / "four.bundle"
        )
    async with browse.opened(mirror.services, repo, await mirror.snapshot(repo, 2)):
        pass  # what is before it can be read, although what came later is damaged
    with pytest.raises(Corrupt, match="#2 before it can be restored"):
        async with browse.opened(mirror.services, repo, await mirror.snapshot(repo, 3)):
            pass
    assert not [path for path in mirror.place.iterdir() if "restored" in path.name and "-4-" in path.name]


async def damaged(mirror: Mirror, repo: Repo) -> Path:
    """The repo's first part, whose content a bit flip changed."""
    victim = stored(mirror, (await parts.live(mirror.services.db, repo.id))[0].key)
    flip(victim)
    return victim


def flip(path: Path) -> None:
    """Change a bit of the file; again, and it is as it was."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


async def state_of(mirror: Mirror, repo: Repo) -> str:
    """The state of the repo, as the command line and the home say alike."""
    db = mirror.services.db
    team = await teams.default(db)
    (kept,), _ = await home.page(db, team)
    summary = await home.summary(db, team, mirror.clock.now)
    assert summary.states[kept.state] == summary.total == 1
    assert (await measures.measures(db, mirror.clock.now)).repos == {kept.state: 1}
    assert (kept.state == "damaged") == (kept.damage is not None)
    assert (await repos.overview_of(db, repo.id)).state == kept.state
    return kept.state


async def told(mirror: Mirror) -> list[tuple[str, str]]:
    """The open notices, newest first: their kind and who found what they tell."""
    found = await notices.open_of(mirror.services.db, await teams.default(mirror.services.db))
    return [(one.kind, one.message.partition(" of ")[0]) for one in found]


async def test_what_is_kept_is_damaged_and_not_protected_until_a_verification_finds_it_whole(
    mirror: Mirror, work: Work
) -> None:
    repo, _ = await some_history(mirror, work)
    assert await state_of(mirror, repo) == "protected"
    victim = await damaged(mirror, repo)
    await verify.verify(mirror.services, repo)
    assert await state_of(mirror, repo) == "damaged"
    work.commit("main")
    await mirror.backup(work)  # saves what is new; what was kept is damaged still
    assert await state_of(mirror, repo) == "damaged"
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 4))
    flip(victim)
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 5))
    assert await state_of(mirror, repo) == "damaged"  # a drill reads less than the verification that found it
    assert ("damage", "a verification") in await told(mirror)
    await verify.verify(mirror.services, repo)
    assert (await state_of(mirror, repo), await told(mirror)) == ("protected", [])


async def test_damage_that_only_a_drill_found_ends_with_a_drill_that_finds_none(
    mirror: Mirror, work: Work
) -> None:
    repo, _ = await some_history(mirror, work)
    victim = await damaged(mirror, repo)
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 3))
    assert (await state_of(mirror, repo), await told(mirror)) == ("damaged", [("drill-failed", "a drill")])
    flip(victim)
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 2))
    assert await state_of(mirror, repo) == "damaged"  # of #3 it says nothing
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 4))
    assert (await state_of(mirror, repo), await told(mirror)) == ("protected", [])


async def test_damage_that_is_found_again_after_its_notice_was_dismissed_is_told_anew(
    mirror: Mirror, work: Work
) -> None:
    repo, _ = await some_history(mirror, work)
    await damaged(mirror, repo)
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    await verify.verify(mirror.services, repo)
    await verify.verify(mirror.services, repo)
    (first,) = await notices.open_of(db, team)  # once, while nobody has dismissed it
    assert await notices.seen(db, team, first.id, mirror.services.clock())
    assert await state_of(mirror, repo) == "damaged"
    await verify.verify(mirror.services, repo)
    (second,) = await notices.open_of(db, team)
    assert second.id > first.id and second.message == first.message


async def test_a_verification_that_began_before_damage_was_found_does_not_end_it(
    mirror: Mirror, work: Work
) -> None:
    repo, _ = await some_history(mirror, work)
    db, now = mirror.services.db, mirror.services.clock()
    await damages.found(db, repo.id, "a part is gone", "a drill of it", now, 4)
    await damages.nothing_found(db, repo.id, now - timedelta(seconds=1), now)
    assert (await state_of(mirror, repo), len(await told(mirror))) == ("damaged", 1)
    await damages.found(db, repo.id, "a part is gone", "a verification of it", now)
    await damages.nothing_found(db, repo.id, now, now, 4)
    assert await state_of(mirror, repo) == "damaged"
    await damages.nothing_found(db, repo.id, now, now)
    assert (await state_of(mirror, repo), await told(mirror)) == ("protected", [])


async def test_the_doctor_misses_a_worker_and_redis_where_they_are_expected(
    mirror: Mirror, redis_url: str
) -> None:
    async def found(url: str | None) -> list[tuple[bool, str]]:
        services = replace(mirror.services, settings=replace(mirror.services.settings, redis_url=url))
        return [
            (one.ok, one.value) for one in await doctor.doctor(services) if one.what in ("worker", "queue")
        ]

    alone = (True, "none is running; commands do the work themselves")
    assert await found(None) == [alone, (True, "no REDIS_URL is set here; commands need none")]
    assert await found("none") == [
        alone,
        (True, "none, as REDIS_URL says; workers check for due work every 2 s"),
    ]
    assert await found(redis_url) == [(False, "none is running"), (True, "Redis answers")]
    await runs.beat(mirror.services.db, "a test's worker")
    away = "redis://:a-password@127.0.0.1:1"  # where nothing listens
    assert await found(away) == [(True, "at least one is running"), (False, "Redis does not answer")]
    await mirror.services.db.execute(
        "update worker set beat_at = beat_at - interval '1 hour'"
    )  # it was killed
    settings = replace(mirror.services.settings, database_url="postgresql:///a-server")
    services = replace(mirror.services, settings=settings)
    (worker,) = [one for one in await doctor.doctor(services) if one.what == "worker"]
    assert (worker.ok, worker.value) == (False, "none is running")


async def test_an_edited_manifest_breaks_the_chain(mirror: Mirror, work: Work) -> None:
    repo, _ = await some_history(mirror, work)
    path = stored(mirror, layout.manifest_key(repo.id, 2))
    text = path.read_bytes().replace(b'"reason":"manual"', b'"reason":"sweep"')
    path.unlink()
    path.write_bytes(text)
    found = await verify.verify(mirror.services, repo)
    assert found.damaged == (2,)
    assert any("expected sha256" in problem for problem in found.problems)


async def test_a_drill_restores_from_the_vault_alone_and_keeps_its_evidence(
    mirror: Mirror, work: Work
) -> None:
    repo, _ = await some_history(mirror, work)
    done = await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 3))
    assert (done.problems, done.snapshot.number) == ((), 3)


async def lines(mirror: Mirror, repo: Repo) -> list[object]:
    return [line async for line in history.changes(mirror.services.db, repo.id)]


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_lost_database_is_read_back_from_the_vault(
    mirror: Mirror, work: Work, empty_database: str, compacted: bool
) -> None:
    repo, moments = await some_history(mirror, work, pushes=12)
    if compacted:
        await compact.compact(mirror.services, repo)
        mirror.clock.now += timedelta(days=2)
        await prune.prune(mirror.services, timedelta(hours=1))
    from dataclasses import replace

    before = await lines(mirror, repo)
    settings = replace(mirror.services.settings, database_url=empty_database)
    async with open_services(settings, clock=mirror.clock) as services:
        again = Mirror(services, mirror.clock, mirror.place)
        assert [
            (one.repo.name, one.snapshots, one.added) for one in (await rebuild.rebuild(services)).repos
        ] == [(repo.name, 12, 12)]
        assert await lines(again, repo) == before
        assert [one.added for one in (await rebuild.rebuild(services)).repos] == [0]
        found = await verify.verify(services, repo)
        assert (found.problems, found.strays) == ((), ())
        for number, expected in enumerate(moments, 1):
            assert refs_of(await again.restored(repo, number)) == expected
        work.commit()
        assert (await again.backup(work)).snapshot.number == 13


async def test_compaction_keeps_every_moment_exact(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    work.many_commits(40, "bulk", size=3000)
    moments = []
    for number in range(20):
        work.commit("main", {"n": b"%d" % number})
        moments.append(work.refs())
        done = await mirror.backup(work)
    before = len(await parts.live(mirror.services.db, done.repo.id))
    result = await compact.compact(mirror.services, done.repo)
    live = await parts.live(mirror.services.db, done.repo.id)
    assert (result.parts_before, result.parts_after) == (before, len(live))
    assert len(live) < before / 2
    for number, expected in enumerate(moments, 1):
        assert refs_of(await mirror.restored(done.repo, number)) == expected
    bundle = tmp_path / "half.bundle"
    await restore.to_bundle(mirror.services, done.repo, await mirror.snapshot(done.repo, 10), bundle)
    path = await mirror.restored(done.repo, 20)
    fsck(path)


async def test_a_checkpoint_holds_every_overwritten_commit(mirror: Mirror, work: Work) -> None:
    work.commit()
    moments = []
    for number in range(12):
        work.commit("main", {"big": b"%d" % number * 500}, parents=[] if number % 4 == 3 else None)
        moments.append(work.refs())
        done = await mirror.backup(work)
    await compact.compact(mirror.services, done.repo)
    live = await parts.live(mirror.services.db, done.repo.id)
    assert live[0].complete and not live[0].segments
    for number, expected in enumerate(moments, 1):
        path = await mirror.restored(done.repo, number)
        assert refs_of(path) == expected
        fsck(path)
    found = await verify.verify(mirror.services, done.repo)
    assert (found.problems, found.strays) == ((), ())


async def test_the_manifest_is_lines_of_json(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    work.zoo()
    done = await mirror.backup(work)
    text = await mirror.services.vault.get(layout.manifest_key(done.repo.id, 1))
    read = json.loads(text)
    assert (read["format"], read["number"], read["refs_count"]) == (1, 1, len(work.refs()) - 1)
    assert read["bundle"]["key"] == done.snapshot.bundle.key if done.snapshot.bundle else False


async def test_what_object_lock_keeps_is_said_by_prune_and_goes_when_it_may(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, _ = await some_history(mirror, work, pushes=10)
    await compact.compact(mirror.services, repo)
    graves = {grave.key for grave in await parts.tombstones(mirror.services.db, repo.id)}
    assert graves
    until = mirror.clock() + timedelta(days=30)

    async def delete(_: DirectoryVault, key: str) -> None:
        raise Locked(f"the vault keeps {key}", until)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryVault, "delete", delete)
        kept = await prune.prune(mirror.services, timedelta(0), repo)
    assert (kept.deleted, kept.bytes) == ((), 0)
    assert set(kept.locked) == graves and kept.locked_until == until
    gone = await prune.prune(mirror.services, timedelta(0), repo)
    assert graves <= set(gone.deleted) and gone.locked == () and gone.locked_until is None
    assert (await verify.verify(mirror.services, repo)).problems == ()


async def test_prune_takes_what_a_deletion_had_only_hidden_and_nothing_that_is_needed(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, _ = await some_history(mirror, work)
    (first, *_) = await parts.live(mirror.services.db, repo.id)
    old = layout.bundle_key(repo.id, 1, 1, 1, "f" * 16)
    deleted = []

    async def hidden(_: DirectoryVault, prefix: str = "") -> AsyncIterator[Stat]:
        for key in (first.key, layout.manifest_key(repo.id, 1), old):
            yield Stat(key, 7, mirror.clock.now - timedelta(days=2))

    async def delete(_: DirectoryVault, key: str) -> None:
        deleted.append(key)

    monkeypatch.setattr(DirectoryVault, "hidden", hidden)
    monkeypatch.setattr(DirectoryVault, "delete", delete)
    done = await prune.prune(mirror.services, timedelta(days=1), repo)
    assert list(done.deleted) == deleted == [old]
