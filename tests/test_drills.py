"""Drills that Everref makes by itself: when, beside what, and what makes one fail and what does not."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import hydrate
from mirror.core.errors import EverrefError, NetworkError, NoSuchObject, Origin
from mirror.core.formats import layout
from mirror.core.model import Repo, Target
from mirror.jobs import proofs
from mirror.jobs.runner import Runner
from mirror.restore import drill
from mirror.store.backup import parts
from mirror.store.evidence import statements
from mirror.store.jobs import jobs
from mirror.store.people import teams
from mirror.store.restore import drills
from mirror.upkeep import compact, prune, verify
from tests.parts.everref import Mirror
from tests.parts.repos import Work

DAY = timedelta(days=1)


async def open_drills(mirror: Mirror) -> list[jobs.Job]:
    team_id = await teams.default(mirror.services.db)
    return await jobs.page(mirror.services.db, team_id, kinds=["drill"])


async def test_a_repo_is_drilled_by_itself_and_again_before_the_period_is_over(
    mirror: Mirror, work: Work
) -> None:
    work.zoo()
    repo = (await mirror.backup(work)).repo
    await proofs.due(mirror.services)
    assert await open_drills(mirror) == []  # its first one is planned within two days
    mirror.clock.now += 3 * DAY
    for _ in range(2):  # twice: none is queued beside one that waits
        await proofs.due(mirror.services)
    assert [job.person_id for job in await open_drills(mirror)] == [None]
    await Runner(mirror.services).work_off()
    first = await drills.latest(mirror.services.db, repo.id)
    assert first is not None and first.problems == () and first.snapshot == 1
    assert await drills.rto(mirror.services.db, repo.id) == first.seconds
    await proofs.due(mirror.services)
    assert len(await open_drills(mirror)) == 1
    mirror.clock.now += 29 * DAY
    await proofs.due(mirror.services)
    assert len(await open_drills(mirror)) == 2


async def test_a_team_without_a_period_is_not_drilled(mirror: Mirror, work: Work) -> None:
    work.commit()
    await mirror.backup(work)
    await proofs.plan(mirror.services)
    await drills.set_periods(mirror.services.db, await teams.default(mirror.services.db), 0, 30)
    mirror.clock.now += 90 * DAY
    await proofs.due(mirror.services)
    assert await open_drills(mirror) == []


async def test_scheduled_drills_wait_for_syncs_and_for_one_another(
    mirror: Mirror, work: Work, make_work: Any
) -> None:
    other = make_work("other.git")
    for one in (work, other):
        one.commit()
        await mirror.backup(one)
    await proofs.plan(mirror.services)
    mirror.clock.now += 3 * DAY
    db = mirror.services.db
    repo = (await mirror.backup(other)).repo
    await db.execute("update repo set wanted_at = $2 where id = $1", repo.id, mirror.clock())
    await proofs.due(mirror.services)
    assert await open_drills(mirror) == []
    await db.execute("update repo set wanted_at = synced_at where id = $1", repo.id)
    await proofs.due(mirror.services)
    assert len(await open_drills(mirror)) == 1  # a twentieth of few slots


async def test_what_git_dislikes_in_a_repository_is_listed_and_no_drill_fails_for_it(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    odd = work.git(
        "hash-object",
        "-t",
        "commit",
        "-w",
        "--literally",
        "--stdin",
        stdin=(
            b"tree "
            + work.git("rev-parse", "main^{tree}").strip()
            + b"\nauthor A <a@example.org> 01 +0000\ncommitter A <a@example.org> 1 +0000\n\nodd\n"
        ),
    ).strip()
    work.set("odd", Target(odd))
    repo = (await mirror.backup(work)).repo
    done = await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    assert done.problems == ()
    assert len(done.findings) == 1 and odd.decode() in done.findings[0]
    kept = await drills.latest(mirror.services.db, repo.id)
    assert kept is not None and kept.findings == done.findings


async def test_a_drill_whose_parts_are_compacted_and_pruned_meanwhile_starts_again(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await _many(mirror, work)
    fill, starts = hydrate.fill, []

    async def slow(*args: Any, **named: Any) -> None:
        starts.append(args[3])
        if len(starts) == 1:
            await compact.compact(mirror.services, repo)
            assert (await prune.prune(mirror.services, timedelta(), repo)).deleted
        await fill(*args, **named)

    monkeypatch.setattr(hydrate, "fill", slow)
    done = await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 10))
    assert done.problems == () and starts[0] != starts[-1]


async def _many(mirror: Mirror, work: Work) -> Repo:
    for _ in range(10):
        work.commit()
        done = await mirror.backup(work)
    return done.repo


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_a_vault_that_goes_away_in_a_drill_is_no_damage_and_it_is_done_again(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    work.zoo()
    repo = (await mirror.backup(work)).repo
    vault = Path(mirror.services.settings.data) / "vault"
    if how == "away":
        vault.rename(vault.with_name("elsewhere"))
    else:

        async def hung(*_: object) -> None:
            error = NetworkError("the store sent nothing for 60 s")
            error.came_from(Origin.VAULT)
            raise error

        monkeypatch.setattr(hydrate, "fill", hung)
    with pytest.raises(EverrefError) as raised:
        await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    assert not isinstance(raised.value, NoSuchObject) and raised.value.origin is Origin.VAULT
    assert await drills.latest(mirror.services.db, repo.id) is None
    row = await mirror.services.db.fetchrow("select damaged_at from repo where id = $1", repo.id)
    assert row is not None and row["damaged_at"] is None


async def test_a_sha256_repository_and_an_empty_one_are_drilled(mirror: Mirror, make_work: Any) -> None:
    modern, empty = make_work("modern.git", object_format="sha256"), make_work("empty.git")
    modern.zoo()
    for one in (modern, empty):
        repo = (await mirror.backup(one)).repo
        done = await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
        assert done.problems == ()
        assert len(await parts.live(mirror.services.db, repo.id)) == (one is modern)
        shutil.rmtree(mirror.services.disk.pool(repo.id), ignore_errors=True)


async def test_a_drill_takes_the_refs_from_the_vault_and_never_from_the_database_alone(
    mirror: Mirror, work: Work
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    work.commit()
    await mirror.backup(work)
    path = mirror.services.disk.root / "vault" / layout.manifest_key(repo.id, 1)
    stored = path.read_bytes()
    second = await mirror.snapshot(repo, 2)
    for found in (None, stored.replace(b"refs/heads/main", b"refs/heads/evil")):
        path.unlink(missing_ok=True)
        if found is not None:
            path.write_bytes(found)
        done = await drill.drill(mirror.services, repo, second)
        assert len(done.problems) == 1 and path.name in done.problems[0]
        row = (await statements.of_repo(mirror.services.db, repo.id, None, 1))[0]
        assert not row.passed
    path.write_bytes(stored)
    assert (await drill.drill(mirror.services, repo, second)).problems == ()
    await mirror.services.db.execute(
        "update ref set name = 'refs/heads/evil'::bytea where name = 'refs/heads/main'::bytea"
    )
    done = await drill.drill(mirror.services, repo, second)
    assert done.problems == (
        "2 refs of #2 are not the same in the vault and the database, such as refs/heads/evil",
    )
    assert (await verify.verify(mirror.services, repo)).problems == done.problems
