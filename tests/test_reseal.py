"""What was stored plain is sealed later: nothing is lost on the way, and in the end none of it lies plain."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from mirror.backup import describe, notes
from mirror.core.errors import UsageError
from mirror.core.formats import layout
from mirror.core.model import Repo
from mirror.core.rules.keeping import resealing
from mirror.core.rules.keeping.resealing import Lying
from mirror.jobs import run as jobbing
from mirror.restore import drill
from mirror.services import failpoints
from mirror.services.reading import reading
from mirror.store.backup import parts
from mirror.store.people import teams
from mirror.store.upkeep import reseal as rows
from mirror.upkeep import compact, epoch, heal, prune, reseal, verify
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.test_cli import Everref, everref
from tests.test_epoch import WHY
from tests.test_rebuild import after_the_loss
from tests.test_recovery_keys import Owner, owner
from tests.test_sealed_team import all_back, by_script, killed, seal

REPO = "c6946f59-60a8-4f3f-96d2-ffedd8285108"

__all__ = ["everref", "owner"]


async def plain_history(mirror: Mirror, work: Work, count: int) -> tuple[Repo, list[object]]:
    """Snapshots of every kind, with notes and more than one description, nothing of it sealed."""
    work.zoo()
    moments: list[object] = []
    for number in range(count):
        if number % 3 == 2:
            work.commit("main", {"forced": b"%d" % number}, parents=[])
        else:
            work.commit("main", {"pushed": os.urandom(2000)})
        repo = (await mirror.backup(work)).repo
        moments.append(work.refs())
    await mirror.services.db.execute("update repo set name = 'renamed' where id = $1", repo.id)
    await describe.due(mirror.services)
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    await notes.store_waiting(mirror.services)
    return repo, moments


async def plain_keys(mirror: Mirror, repo: Repo) -> list[str]:
    """What of the repo lies plain and should not."""
    return [
        key
        for key in await mirror.keys()
        if layout.repo_of(key) == repo.id and not layout.is_sealed(key) and not layout.is_evidence(key)
    ]


async def chain_of(mirror: Mirror, repo: Repo) -> list[tuple[str, str]]:
    found = await mirror.services.db.fetch(
        "select manifest_sha256, previous_sha256 from snapshot where repo_id = $1 order by number", repo.id
    )
    return [tuple(row) for row in found]


async def pruned(mirror: Mirror, repo: Repo) -> None:
    await prune.prune(mirror.services, timedelta(0), repo)


async def test_all_that_lay_plain_is_sealed_and_every_moment_stays(
    mirror: Mirror, work: Work, empty_database: str, tmp_path: Path
) -> None:
    services = mirror.services
    repo, moments = await plain_history(mirror, work, 9)
    await compact.compact(services, repo)  # a complete part, and merged ones
    chain = await chain_of(mirror, repo)
    with pytest.raises(UsageError, match="everref keys seal"):
        await reseal.reseal(services, repo)
    own = await seal(mirror)
    work.commit("main", {"new": b"sealed at once"})
    await mirror.backup(work)
    moments.append(work.refs())
    before = await plain_keys(mirror, repo)
    done = await reseal.reseal(services, repo)
    assert done.problems == () and done.left.objects == 0 and done.objects >= 9 + 1 + 2 + 2
    assert done.left.kept_objects == len(before) and done.left.kept_until
    assert done.left.kept_until > mirror.clock.now and not done.left.kept_held
    assert await plain_keys(mirror, repo) == before  # both can be read meanwhile
    assert (await verify.verify(services, repo)).problems == ()
    await all_back(mirror, repo, moments)
    again = await reseal.reseal(services, repo)
    assert (again.objects, again.left.kept_objects) == (0, len(before))

    async with reading(services, repo.id):
        await pruned(mirror, repo)
        assert await plain_keys(mirror, repo) == before  # who reads by the old rows is not cut off
    await pruned(mirror, repo)
    assert await plain_keys(mirror, repo) == []
    assert (await chain_of(mirror, repo))[:-1] == chain
    found = await verify.verify(services, repo)
    assert (found.problems, found.strays) == ((), ())
    (tmp_path / "own").write_text(own.text + "\n")
    for number in (1, 10):
        out = tmp_path / f"by-script-{number}"
        script = await asyncio.to_thread(
            by_script, mirror, repo, tmp_path / "own", str(out), *([] if number == 10 else [str(number)])
        )
        assert script.returncode == 0, script.stderr
    async with after_the_loss(mirror, empty_database) as lost:
        lost.services.keys.given.append(own)
        back = await rebuild.rebuild(lost.services)
        assert [(one.repo.name, one.snapshots, one.missing) for one in back.repos] == [("renamed", 10, None)]
        await all_back(lost, repo, moments)
        live = await parts.live(services.db, repo.id)
        assert live == await parts.live(lost.services.db, repo.id)
    work.commit("main")
    assert (await mirror.backup(work)).snapshot


async def test_killed_at_every_step_it_goes_on_and_loses_nothing(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = mirror.services
    repo, moments = await plain_history(mirror, work, 3)
    await seal(mirror)
    for step in (*failpoints.RESEAL, *failpoints.RESEAL[3:]):
        await killed(step, partial(reseal.reseal, services, repo), monkeypatch)
        await mirror.restored(repo, 2)
        assert (await verify.verify(services, repo)).problems == ()
        work.commit("main", {"meanwhile": step.encode()})
        await mirror.backup(work)
        moments.append(work.refs())
    assert (await reseal.reseal(services, repo)).left.objects == 0
    await killed("prune: plain object deleted", partial(pruned, mirror, repo), monkeypatch)
    await pruned(mirror, repo)
    assert await plain_keys(mirror, repo) == [] and await rows.graves(services.db, repo.id) == []
    found = await verify.verify(services, repo)
    assert (found.problems, found.strays) == ((), ())
    assert await parts.intents(services.db, repo.id) == []
    await all_back(mirror, repo, moments)


async def test_a_database_that_is_lost_halfway_finds_what_is_plain_again(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    repo, moments = await plain_history(mirror, work, 9)
    await compact.compact(mirror.services, repo)
    own = await seal(mirror)
    await reseal.reseal(mirror.services, repo)
    async with after_the_loss(mirror, empty_database) as lost:
        lost.services.keys.given.append(own)
        await rebuild.rebuild(lost.services)
        assert all(part.sealed for part in await parts.live(lost.services.db, repo.id))
        await seal(lost)
        assert (await reseal.reseal(lost.services, repo)).left.objects == 0
        assert (await verify.verify(lost.services, repo)).problems == ()  # until then nothing is deleted
        lost.clock.now = datetime.now(UTC) + timedelta(days=1)  # the replaced parts are strays now
        await pruned(lost, repo)
        assert await plain_keys(lost, repo) == []
        await all_back(lost, repo, moments)


async def test_an_epoch_that_begins_meanwhile_and_its_record_are_sealed_as_well(
    mirror: Mirror, work: Work
) -> None:
    repo, moments = await plain_history(mirror, work, 4)
    await epoch.new_epoch(mirror.services, repo, drop={2}, why=WHY)
    await seal(mirror)
    done = await reseal.reseal(mirror.services, repo)
    assert (done.problems, done.left.objects) == ((), 0)
    await pruned(mirror, repo)
    assert await plain_keys(mirror, repo) == []
    assert (await verify.verify(mirror.services, repo)).problems == ()
    await all_back(mirror, repo, moments[:1])


def changed(path: Path) -> None:
    path.chmod(0o600)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])


async def test_what_is_damaged_is_named_and_left_alone_and_the_rest_is_sealed(
    mirror: Mirror, work: Work
) -> None:
    services = mirror.services
    repo, _ = await plain_history(mirror, work, 3)
    bad = (await parts.live(services.db, repo.id))[1]
    vault = Path(services.settings.data) / "vault"
    for key in (bad.key, layout.manifest_key(repo.id, 2)):
        changed(vault / key)
    await seal(mirror)
    done = await reseal.reseal(services, repo)
    assert sorted(one.split()[0] for one in done.problems) == sorted(
        [bad.key, layout.manifest_key(repo.id, 2)]
    )
    assert done.left.objects == 2 + bool(bad.index_bytes)
    assert layout.sealed(layout.manifest_key(repo.id, 2)) not in await mirror.keys()
    progress = await rows.progress(services.db, await teams.default(services.db))
    assert progress.problem in done.problems and progress.left.objects == done.left.objects
    assert [one.how is not None for one in await heal.heal(services, repo)][0]  # which seals what it makes
    await pruned(mirror, repo)
    left = (await reseal.reseal(services, repo)).left
    assert (left.objects, left.kept_objects) == (1, 0)  # the manifest, which nothing overwrites


async def test_a_plain_record_is_deleted_only_while_the_sealed_one_is_there(
    mirror: Mirror, work: Work
) -> None:
    repo, _ = await plain_history(mirror, work, 2)
    await seal(mirror)
    await reseal.reseal(mirror.services, repo)
    key = layout.manifest_key(repo.id, 1)
    (Path(mirror.services.settings.data) / "vault" / layout.sealed(key)).unlink()
    await pruned(mirror, repo)
    assert await plain_keys(mirror, repo) == [key]


async def test_a_turn_makes_way_for_syncs_and_ends_where_sealing_is_switched_off(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = mirror.services
    repo, _ = await plain_history(mirror, work, 2)
    await reseal.due(services)
    team = await teams.default(services.db)
    assert await services.db.fetchval("select count(*) from reseal") == 0  # nobody seals
    await seal(mirror)
    await jobbing.ask(services, repo.id, "sync", {})
    before = await mirror.keys()
    await reseal.due(services)
    assert await mirror.keys() == before and (await rows.progress(services.db, team)).unlooked == 1
    await services.db.execute("delete from job")
    await services.db.execute("delete from queue")

    async def seal_no_more() -> None:
        other = await asyncpg.connect(services.settings.database_url)
        await other.execute("update team set sealed_since = null")
        await other.close()

    def switch_off(name: str) -> None:
        if name == "reseal: records recorded":
            with ThreadPoolExecutor(1) as beside:  # done before the turn goes on
                beside.submit(asyncio.run, seal_no_more()).result()

    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "reached", switch_off)
        await reseal.due(services)
    assert await rows.claim(services.db, services.clock()) is None  # nothing of it would be sealed
    live = await parts.live(services.db, repo.id)
    assert sum(part.sealed is None for part in live) > 0
    await reseal.due(services)
    assert await services.db.fetchval("select count(*) from reseal") == 0
    await seal(mirror)  # once more: it is looked at again at once
    await reseal.due(services)
    assert all(part.sealed for part in await parts.live(services.db, repo.id))
    found = await rows.progress(services.db, team)
    assert (found.left.objects, found.unlooked, found.problem) == (0, 0, None) and found.left.kept_objects
    mirror.clock.now += timedelta(days=2)
    await pruned(mirror, repo)
    await reseal.due(services)
    assert (await rows.progress(services.db, team)).left.kept_objects == 0


BUNDLE = f"{REPO}/bundles/0001-0000000001-0000000002-0123456789abcdef.bundle"
OLD = BUNDLE.replace("0123", "ffff")


@pytest.mark.parametrize(
    ("key", "where"),
    [
        (BUNDLE, "parts"),
        (layout.index_key(BUNDLE), "parts"),
        (OLD, "kept"),
        (layout.index_key(OLD), "kept"),
        (layout.sealed(BUNDLE), ""),
        (f"{REPO}/snapshots/0000000001.json", "records"),
        (f"{REPO}/snapshots/0000000002.json", "kept"),
        (f"{REPO}/snapshots/0000000001.json.age", ""),
        (f"{REPO}/repo.json", "records"),
        (f"{REPO}/repo/0000000001.json", "records"),
        (f"{REPO}/retention/0002.json", "records"),
        (f"{REPO}/notes/20260302T090000.000000Z-0123456789abcdef.json", "records"),
        (f"{REPO}/evidence/20260302T090000.000000Z-0123456789abcdef.json", ""),
    ],
)
def test_what_is_plain_is_told_by_its_key(key: str, where: str) -> None:
    found = resealing.sort([Lying(key, 7)], {BUNDLE}, {f"{REPO}/snapshots/0000000002.json"})
    assert {name for name in ("parts", "records", "kept") if getattr(found, name)} == ({where} - {""})
    assert found.bytes == (7 if where in ("parts", "records") else 0)


async def test_the_page_and_the_api_say_what_is_still_plain_and_until_when(
    owner: Owner, mirror: Mirror, work: Work
) -> None:
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    await services.db.execute("update repo set team_id = $1 where id = $2", owner.team.id, repo.id)
    await owner.proved()
    await owner.browser.get(owner.base)
    await owner.browser.post(f"{owner.base}/seal", on="1")
    assert "1 repo is still to be searched" in (await owner.browser.get(owner.base)).text
    await rows.register(services.db, services.clock())
    left = rows.Left(3, 4096, 0, 0, None, False)
    await rows.looked(
        services.db, repo.id, left, "a.json is not as it was stored", mirror.clock(), mirror.clock()
    )
    page = (await owner.browser.get(owner.base)).text
    assert "3 objects (4.1 kB) are still unencrypted" in page and "a.json is not as it was stored" in page
    await reseal.due(services)
    found = (await rows.progress(services.db, owner.team.id)).left
    page = (await owner.browser.get(owner.base)).text
    assert found.kept_objects > 2 and f"{found.kept_objects} objects" in page and found.kept_until
    assert "cannot be deleted yet" in page and found.kept_until.strftime("%Y-%m-%dT%H:%M") in page
    assert "Until then whoever can read the vault can still read them" in page
    shown = (await owner.browser.get("/api/v1/teams/ann/keys")).json()
    assert shown["plain"]["left_objects"] == 0 and shown["plain"]["kept_objects"] == found.kept_objects
    assert shown["plain"]["kept_until"] and shown["plain_problem"] is None
    await prune.prune(services, timedelta(0), repo)
    await services.db.execute("update reseal set due_at = $1", services.clock())
    await reseal.due(services)
    assert "backups is stored unencrypted." in (await owner.browser.get(owner.base)).text


def test_everything_is_sealed_by_the_command_line(everref: Everref, work: Work) -> None:
    work.commit()
    everref("backup", str(work.path))
    assert "everref keys seal" in everref("reseal", code=2).err
    sheet = everref.json("keys", "sheet").one
    everref("keys", "prove", sheet["recipient"], stdin="\n".join(sheet["words"]))
    everref("keys", "seal")
    assert "1 repo not looked at yet" in everref("keys").out
    done = everref.json("reseal").one
    assert done["objects"] >= 3 and done["left_objects"] == 0 and done["problems"] == []
    assert done["kept_objects"] == done["objects"] and done["kept_until"]
    said = everref("reseal", "--repo", done["repo"]).out
    assert "nothing to seal" in said and "still in the vault unencrypted until 20" in said
    assert "replaced, but in the vault until 20" in everref("keys").out
