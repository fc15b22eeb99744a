"""What a rebuild brings back besides snapshots: teams, addresses after a rename, lost pushes, drills."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from mirror.backup import describe, notes
from mirror.backup import sync as syncing
from mirror.cli import render
from mirror.core.errors import Damaged, RemoteGone
from mirror.core.formats import layout
from mirror.core.model import RefName, Repo, Target
from mirror.core.rules.history.pushes import Lost
from mirror.core.rules.roles import Role
from mirror.core.words import not_known
from mirror.restore import drill, target
from mirror.restore.target import Authority
from mirror.services import failpoints
from mirror.services.lease import leased
from mirror.services.open import Services, open_services
from mirror.store import repos
from mirror.store.backup import reported_updates
from mirror.store.discovery import remotes
from mirror.store.people import teams
from mirror.store.people.teams import TeamId
from mirror.store.restore import drills
from mirror.store.upkeep import vaults
from mirror.upkeep import doctor, outages, state, verify
from mirror.upkeep.moving import rebuild, unknown_repos
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of
from tests.parts.whole import until

FORGED = Target(b"ab" * 20)


@asynccontextmanager
async def after_the_loss(mirror: Mirror, database: str) -> AsyncIterator[Mirror]:
    """Everref with the same vault and an empty database."""
    settings = replace(mirror.services.settings, database_url=database)
    async with open_services(settings, clock=mirror.clock) as services:
        yield Mirror(services, mirror.clock, mirror.place)


async def another_team(mirror: Mirror, name: str) -> TeamId:
    return (await teams.add_named(mirror.services.db, name, mirror.clock())).id


async def tell(services: Services) -> None:
    """Have the vault know all that it should, as the sweep does."""
    await describe.due(services)
    await notes.store_waiting(services)


async def lose(services: Services, repo: Repo, why: str = "the remote no longer has it") -> None:
    """Remember a push that could not be rescued, as a sync does."""
    async with services.db.acquire() as connection, connection.transaction():
        lost = Lost(RefName(b"refs/heads/caf\xe9"), None, FORGED, "Ann", services.clock(), why)
        await reported_updates._lose(connection, repo.id, [lost], 1, services.clock())


async def rows(services: Services, table: str) -> list[dict[str, object]]:
    """A table without what only this database knows."""
    found = await services.db.fetch(f"select * from {table} order by 2, 3")
    return [{key: value for key, value in row.items() if key != "id"} for row in found]


async def test_two_teams_that_keep_one_url_both_have_their_history_after_a_rebuild(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    first = (await mirror.backup(work)).repo
    other = await another_team(mirror, "other")
    made = await repos.add(mirror.services.db, other, first.name, first.url, mirror.clock())
    second = (await syncing.sync(mirror.services, made.id)).repo
    async with after_the_loss(mirror, empty_database) as again:
        assert {one.repo.id for one in (await rebuild.rebuild(again.services)).repos} == {first.id, second.id}
        for repo, team in ((first, teams.DEFAULT), (second, "other")):
            kept = await repos.overview_of(again.services.db, repo.id)
            assert (kept.team, kept.repo.name, kept.repo.url) == (team, repo.name, repo.url)
            assert refs_of(await again.restored(repo, 1)) == work.refs()
        assert (await teams.by_name(again.services.db, "other")) == teams.Team(other, "other")


async def test_repos_of_a_vault_without_teams_that_have_one_url_all_come_back(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    done = [await mirror.backup(work)]
    made = await repos.add(
        mirror.services.db,
        await another_team(mirror, "other"),
        done[0].repo.name,
        done[0].repo.url,
        mirror.clock(),
    )
    done.append(await syncing.sync(mirror.services, made.id))
    for one in done:  # as it was written before descriptions told of teams
        await mirror.services.vault.delete(layout.repo_file(one.repo.id))
        old = '{"format":1,"repo":"%s","name":"%s","forge":"generic","url":"%s","object_format":"sha1"}'
        said = old % (one.repo.id, one.repo.name, one.repo.url)
        await mirror.services.vault.put(layout.repo_file(one.repo.id), said.encode())
    async with after_the_loss(mirror, empty_database) as again:
        for added in (1, 0):
            assert [one.added for one in (await rebuild.rebuild(again.services)).repos] == [added, added]
        kept = await repos.overview(again.services.db)
        assert [one.state for one in kept].count("archived") == 1
        for one in done:
            assert refs_of(await again.restored(one.repo, 1)) == work.refs()


async def test_what_a_repo_became_comes_back_and_no_object_is_ever_written_twice(
    mirror: Mirror, work: Work, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    db = mirror.services.db
    await tell(mirror.services)
    assert layout.description_key(repo.id, 1) not in await mirror.keys()  # repo.json says so already
    await db.execute(
        """
        update repo set forge = 'github', host = 'github.com', repository_id = '42', private = true,
          schedule = '6h', excluded = '{refs/pull/*}', paused_at = $1
        """,
        mirror.clock(),
    )
    await tell(mirror.services)
    await remotes.rename(db, {repo.id: ("new/name", "https://github.com/new/name.git")}, mirror.clock())
    await teams.rename(db, await teams.default(db), "renamed")
    before = {key: (await mirror.services.vault.get(key)) for key in await mirror.keys()}
    for _ in range(2):
        await tell(mirror.services)
    after = await mirror.keys()
    assert set(after) - before.keys() == {layout.description_key(repo.id, 2)}
    assert all([await mirror.services.vault.get(key) == before[key] for key in before])
    wanted = await db.fetchval("select repo_description(repo) from repo")
    assert (await verify.verify(mirror.services, repo)).strays == ()
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        assert await again.services.db.fetchval("select repo_description(repo) from repo") == wanted
        found = await repos.get(again.services.db, repo.id)
        assert (found.name, found.url) == ("new/name", "https://github.com/new/name.git")
        await tell(again.services)
        kept = [key for key in await mirror.keys() if not key.startswith(layout.STATES)]
        assert [key for key in kept if "evidence/" not in key] == after  # which the verification signed


@pytest.mark.parametrize("step", (*failpoints.DESCRIBE, *failpoints.NOTES))
async def test_a_run_killed_after_it_told_the_vault_tells_it_once(
    mirror: Mirror, work: Work, empty_database: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    await mirror.services.db.execute("update repo set schedule = '1d'")
    await lose(mirror.services, repo)

    class Killed(BaseException): ...

    def killed(reached: str) -> None:
        if reached == step:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(failpoints, "reached", killed)
        await tell(mirror.services)
    await lose(mirror.services, repo, "what it had was broken")
    await mirror.services.db.execute("update repo set schedule = '2d'")
    await tell(mirror.services)
    before = await rows(mirror.services, "lost_push")
    assert len(before) == 2
    async with after_the_loss(mirror, empty_database) as again:
        for noted in (1 if step == "describe: stored" else 2, 0):
            assert [one.notes for one in (await rebuild.rebuild(again.services)).repos] == [noted]
        assert await rows(again.services, "lost_push") == before
        assert await again.services.db.fetchval("select schedule from repo") == "2d"


async def test_lost_pushes_and_drills_are_history_and_come_back(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    done = await mirror.backup(work)
    await lose(mirror.services, done.repo)
    await drill.drill(mirror.services, done.repo, done.snapshot)
    lost, proofs = (
        await reported_updates.lost(mirror.services.db, done.repo.id),
        await rows(mirror.services, "drill"),
    )
    assert [one.why for one in lost] == ["the remote no longer has it"] and len(proofs) == 1
    assert len([key for key in await mirror.keys() if layout.parse_note_key(key)]) == 2
    async with after_the_loss(mirror, empty_database) as again:
        await rebuild.rebuild(again.services)
        assert await reported_updates.lost(again.services.db, done.repo.id) == lost
        assert await rows(again.services, "drill") == proofs
        assert await drills.latest(again.services.db, done.repo.id) is not None
        await drill.drill(again.services, done.repo, done.snapshot)
        assert len([key for key in await mirror.keys() if layout.parse_note_key(key)]) == 3


async def test_a_rebuild_beside_repos_that_were_added_anew_merges_and_takes_nothing_from_them(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    old = (await mirror.backup(work)).repo
    async with after_the_loss(mirror, empty_database) as again:
        new = (await again.backup(work)).repo
        mirror.clock.now += timedelta(minutes=1)
        told, again_told = [await rebuild.rebuild(again.services) for _ in range(2)]
        assert (await repos.get(again.services.db, new.id)).url == new.url
        kept = await repos.overview_of(again.services.db, old.id)
        assert (kept.state, kept.repo.name) == ("archived", f"{old.name}-{str(old.id)[:8]}")
        assert {one.repo.id: one.was for one in told.repos} == {old.id: old.name, new.id: None}
        assert [one.was for one in again_told.repos] == [None, None]
        eye = render.Eye(mirror.clock())
        (line,) = [render.rebuilt(one, eye) for one in told.repos if one.was]
        assert f"was {old.name}, which was started again after the database was lost" in line
        listed = render.kept(await repos.overview(again.services.db), eye)
        assert f"archived: an older history of {old.url}, from before the database was lost" in listed
        assert "no longer at its host" not in listed
        with pytest.raises(RemoteGone, match="is an older history of"):
            await syncing.sync(again.services, old.id)
        to = await target.reach(
            again.services,
            await teams.default(again.services.db),
            {"kept": str(old.id)},
            Authority(Role.OWNER),
        )
        assert to.url == old.url
        for repo in (old, new):
            assert refs_of(await again.restored(repo, 1)) == work.refs()


@pytest.mark.parametrize("objects", [pytest.param(1000, id="all-seen"), pytest.param(1, id="too-many")])
async def test_who_starts_over_a_full_vault_with_an_empty_database_is_told_to_rebuild(
    mirror: Mirror, work: Work, empty_database: str, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_repos, "_OBJECTS", objects)
    work.commit()
    old = (await mirror.backup(work)).repo
    assert await unknown_repos.look(mirror.services) == 0
    await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database) as again:
        db = again.services.db
        await noticed(again)
        assert await vaults.unknown(db) == 1
        found = {one.what: one for one in await doctor.doctor(again.services)}
        assert not found["vault: repos"].ok
        assert found["vault: repos"].value == not_known(1)
        assert (found["state"].ok, found["state"].advice) == (False, "run everref rebuild")
        await again.backup(work)  # which takes nothing of it away
        assert await unknown_repos.look(again.services) == 1
        await rebuild.rebuild(again.services)
        assert await vaults.unknown(db) == 0
        assert "vault: repos" not in {one.what for one in await doctor.doctor(again.services)}
        assert (await repos.get(db, old.id)).id == old.id


async def noticed(mirror: Mirror) -> None:
    """What a worker does at its start, and every few minutes."""
    watching = asyncio.create_task(outages.watch(mirror.services, lambda: None))
    try:
        await until(lambda: vaults.unknown(mirror.services.db))
    finally:
        watching.cancel()


async def test_repos_of_a_vault_without_an_exported_state_are_noticed_too(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    await mirror.backup(work)
    async with after_the_loss(mirror, empty_database) as again:
        assert await unknown_repos.look(again.services) == 1
        await rebuild.rebuild(again.services)
        assert await unknown_repos.look(again.services) == 0


async def test_nobody_is_given_what_was_another_teams_because_of_its_name(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    repo = await repos.add(
        mirror.services.db, await another_team(mirror, "acme"), "r", str(work.path), mirror.clock()
    )
    await syncing.sync(mirror.services, repo.id)
    async with after_the_loss(mirror, empty_database) as again:
        stranger = await another_team(again, "acme")
        await rebuild.rebuild(again.services)
        assert await repos.find_in(again.services.db, stranger, repo.id) is None
        assert (await repos.overview_of(again.services.db, repo.id)).team == "acme-2"


async def test_what_is_before_a_missing_manifest_comes_back_and_nobody_writes_another_in_its_place(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    shown = []
    for _ in range(5):
        work.commit()
        shown.append(work.refs())
        repo = (await mirror.backup(work)).repo
    other = await repos.add(
        mirror.services.db, await another_team(mirror, "o"), "o", repo.url, mirror.clock()
    )
    await syncing.sync(mirror.services, other.id)
    vault, key = mirror.services.vault, layout.manifest_key(repo.id, 3)
    manifest = await vault.get(key)
    await vault.delete(key)
    async with after_the_loss(mirror, empty_database) as again:
        for added in (2, 0):
            with pytest.raises(rebuild.Incomplete, match="#1 and #2 are here, #4 and #5 cannot") as caught:
                await rebuild.rebuild(again.services)
            found = {one.repo.id: (one.snapshots, one.added) for one in caught.value.recovered.repos}
            assert found == {repo.id: (2, added), other.id: (1, added // 2)}
        for number in (1, 2):
            assert refs_of(await again.restored(repo, number)) == shown[number - 1]
        keys = await mirror.keys()
        await again.services.db.execute("update repo set failure_class = 'network' where id = $1", repo.id)
        for _ in range(2):
            with pytest.raises(Damaged, match="0000000003.json is missing from the vault"):
                await syncing.sync(again.services, repo.id)
        assert await mirror.keys() == keys
        verified = await verify.verify(again.services, repo)
        assert verified.strays == () and "#4 and #5 cannot be read" in verified.problems[0]
        await vault.put(key, manifest)
        assert {one.snapshots for one in (await rebuild.rebuild(again.services)).repos} == {5, 1}
        assert refs_of(await again.restored(repo, 5)) == shown[4]
        work.commit()
        assert (await syncing.sync(again.services, repo.id)).snapshot.number == 6
        assert (await verify.verify(again.services, repo)).problems == ()


async def test_a_repo_without_snapshots_here_is_not_begun_anew_over_later_ones_in_the_vault(
    mirror: Mirror, work: Work
) -> None:
    for _ in range(2):
        work.commit()
        repo = (await mirror.backup(work)).repo
    await mirror.services.vault.delete(layout.manifest_key(repo.id, 1))
    async with leased(mirror.services, repo) as lease:
        await repos.forget_history(mirror.services.db, lease, repo.id)
    keys = await mirror.keys()
    with pytest.raises(Damaged, match="no snapshot is before it, #2 cannot be read without it"):
        await syncing.sync(mirror.services, repo.id)
    assert await mirror.keys() == keys
