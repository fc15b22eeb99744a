"""Damage in the vault heals by itself where the bytes are still to be had, and is told where they are not."""

import shutil
import subprocess
from datetime import timedelta
from importlib import resources
from itertools import count
from pathlib import Path

import pytest

from mirror.core.errors import Corrupt, Damaged
from mirror.core.formats import layout
from mirror.core.model import Part, Repo
from mirror.restore import restore
from mirror.store import repos
from mirror.store.backup import parts
from mirror.store.people import notices, teams
from mirror.store.upkeep import healing
from mirror.upkeep import compact, heal, prune, rotation
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.test_rebuild import after_the_loss
from tests.test_verify import flip, some_history, stored


def lose_pool(mirror: Mirror, repo: Repo) -> None:
    shutil.rmtree(mirror.services.disk.pool(repo.id), ignore_errors=True)


def by_script(mirror: Mirror, repo: Repo, number: int) -> None:
    """Bring a snapshot back with the script in the vault."""
    vault = Path(mirror.services.settings.data) / "vault"
    script = resources.files("mirror.vault.readme") / "restore.sh"
    place = mirror.place / f"by-script-{number}"
    words = ["sh", "-s", str(vault / str(repo.id)), str(number), str(place)]
    done = subprocess.run(words, input=script.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


async def is_damaged(mirror: Mirror, repo: Repo) -> bool:
    return (await repos.overview_of(mirror.services.db, repo.id)).state == "damaged"


async def found(mirror: Mirror) -> None:
    """Let the rotation find what is damaged."""
    mirror.clock.now += timedelta(days=31)
    assert (await rotation.turn(mirror.services, at_once=True)).problems


async def told(mirror: Mirror) -> list[str]:
    db = mirror.services.db
    return [one.message for one in await notices.open_of(db, await teams.default(db))]


CASES = {  # what is damaged, how, and with the pool or without; where it is healed from
    "the base, by the pool": (0, "flipped", True, "the pool on this machine"),
    "a later part, by the pool": (2, "missing", True, "the pool on this machine"),
    "the base, by its host": (0, "missing", False, "its host"),
    "a later part, by its host": (1, "flipped", False, "its host"),
    "an index that is missing": (0, "no index", False, ".idx was missing and is made again"),
    "an index that changed": (0, "index", False, "its bundle, which is whole"),
}


@pytest.mark.parametrize(("place", "damage", "pool", "source"), CASES.values(), ids=CASES)
async def test_a_damaged_part_is_healed_told_and_every_moment_comes_back(
    mirror: Mirror, work: Work, empty_database: str, place: int, damage: str, pool: bool, source: str
) -> None:
    repo, moments = await some_history(mirror, work)
    bad = (await parts.live(mirror.services.db, repo.id))[place]
    victim = stored(mirror, layout.index_key(bad.key) if "index" in damage else bad.key)
    before = victim.read_bytes()
    if damage in ("missing", "no index"):
        victim.unlink()
    else:
        flip(victim)
    if not pool:
        lose_pool(mirror, repo)
    await found(mirror)
    assert await is_damaged(mirror, repo)
    await heal.due(mirror.services)
    assert not await is_damaged(mirror, repo)
    (message,) = await told(mirror)
    assert bad.key in message and "healed from" in message and source in message
    aside = await healing.aside(mirror.services.db, repo.id)
    if damage == "no index":
        assert victim.read_bytes() == before and aside == []
    else:
        assert [one.key for one in aside] == [bad.key] and "kept aside until 2026-04-0" in message
        assert stored(mirror, bad.key).exists() == (damage != "missing")  # nothing was overwritten
    lose_pool(mirror, repo)
    for number, refs in enumerate(moments, 1):
        assert await mirror.refs(repo, number) == refs
    by_script(mirror, repo, 4)  # also while the damaged one is in the vault
    mirror.clock.now += timedelta(hours=25)
    await prune.prune(mirror.services, prune.GRACE, repo)
    assert await healing.aside(mirror.services.db, repo.id) == []
    assert stored(mirror, bad.key).exists() == (damage == "no index")
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        for number, refs in enumerate(moments, 1):
            assert await again.refs(repo, number) == refs


async def healed_after_compaction(mirror: Mirror, work: Work) -> tuple[Repo, Part, set[str]]:
    """A repo whose merged part was damaged, and healed by those that it had replaced; that part, and they."""
    work.many_commits(40, "bulk", size=3000)
    for _ in range(10):
        work.commit()
        repo = (await mirror.backup(work)).repo
    old = {part.key for part in await parts.live(mirror.services.db, repo.id)}
    assert (await compact.compact(mirror.services, repo)).merged
    (bad,) = [part for part in await parts.live(mirror.services.db, repo.id) if part.key not in old]
    flip(stored(mirror, bad.key))
    shutil.rmtree(work.path)
    lose_pool(mirror, repo)
    (healed,) = await heal.heal(mirror.services, repo)
    assert healed.how == "the parts that it had replaced, which are live again"
    return repo, bad, old


async def test_a_compacted_part_is_healed_by_those_that_it_replaced(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    repo, bad, old = await healed_after_compaction(mirror, work)
    assert {part.key for part in await parts.live(mirror.services.db, repo.id)} == old
    await mirror.restored(repo, 10)
    assert stored(mirror, bad.key).exists()  # the damaged one is kept aside, and nobody takes it for a part
    by_script(mirror, repo, 10)
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        await again.restored(repo, 10)


@pytest.mark.parametrize("step", [1, -1], ids=["before", "after"])
async def test_a_healed_checkpoint_is_not_mixed_up_with_the_damaged_one_of_the_same_snapshots(
    mirror: Mirror, work: Work, empty_database: str, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    names = count(10**6, step)
    repo, moments = await some_history(mirror, work)
    monkeypatch.setattr(layout, "unique", lambda: f"{next(names):016x}")
    for place in (3, 0, 0):  # the second and the third time it is the checkpoint that healed it
        flip(stored(mirror, (await parts.live(mirror.services.db, repo.id))[place].key))
        await heal.heal(mirror.services, repo)
        by_script(mirror, repo, 4)
        shutil.rmtree(mirror.place / "by-script-4")
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        assert await again.refs(repo, 4) == moments[3]


async def test_what_cannot_be_healed_is_told_and_a_restore_refuses_before_it_writes(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    repo, moments = await some_history(mirror, work)
    bad = (await parts.live(mirror.services.db, repo.id))[2]
    stored(mirror, bad.key).unlink()
    lose_pool(mirror, repo)
    work.path.rename(tmp_path / "gone.git")
    await found(mirror)
    for _ in range(2):  # it is tried again, and told once
        mirror.clock.now += heal.AGAIN
        await heal.due(mirror.services)
    assert await is_damaged(mirror, repo)
    (message,) = [one for one in await told(mirror) if "cannot be healed" in one]
    assert "from the pool: " in message and "from its host: " in message
    assert message.endswith("; #3 and #4 need it, #2 before it can be restored")
    target = mirror.place / "target"
    with pytest.raises(Corrupt, match="#2 before it can be restored"):
        await restore.to_directory(mirror.services, repo, await mirror.snapshot(repo, 4), target)
    assert not target.exists()
    with pytest.raises(Damaged, match="was found damaged; #2 before it can be restored"):
        await restore.plan(mirror.services, repo, await mirror.snapshot(repo, 4))
    assert (await restore.plan(mirror.services, repo, await mirror.snapshot(repo, 2))).bytes
    assert await mirror.refs(repo, 2) == moments[1]
    (tmp_path / "gone.git").rename(work.path)  # its host is back
    mirror.clock.now += heal.AGAIN
    await heal.due(mirror.services)
    assert not await is_damaged(mirror, repo)
    assert await mirror.refs(repo, 4) == moments[3]


@pytest.mark.parametrize("number", [1, 3])
async def test_a_missing_manifest_is_written_again_byte_for_byte_and_a_changed_one_stays(
    mirror: Mirror, work: Work, number: int
) -> None:
    repo, _ = await some_history(mirror, work)
    path = stored(mirror, layout.manifest_key(repo.id, number))
    before = path.read_bytes()
    flip(path)
    changed = path.read_bytes()
    (outcome,) = await heal.heal(mirror.services, repo)
    assert outcome.how is None and "nothing in the vault is overwritten" in outcome.why_not
    assert path.read_bytes() == changed
    path.unlink()
    (outcome,) = await heal.heal(mirror.services, repo)
    assert outcome.how == "the database, which has all that it said"
    assert path.read_bytes() == before
