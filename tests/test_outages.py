"""The vault or a disk that is away is one state of the installation, and no failure of any repo."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mirror.backup import sync as syncing
from mirror.core.errors import Corrupt, Damaged, EverrefError, LimitReached, NetworkError, Origin, Refused
from mirror.core.model import Repo, RepoId
from mirror.core.rules.work.fairness import Free
from mirror.git.disk import disk_error
from mirror.jobs import run as jobbing
from mirror.jobs.runner import Runner
from mirror.store import repos
from mirror.store.jobs import jobs, runs
from mirror.store.jobs.jobs import Job
from mirror.store.jobs.runs import Preference
from mirror.store.people import notices, teams
from mirror.store.upkeep import outages as rows
from mirror.upkeep import outages
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.test_worker import jobs_of, sync_requested

REPOS = 3


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether something is back asks it."""
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0)


@pytest.fixture
def vault(mirror: Mirror) -> Iterator["Moving"]:
    yield Moving(Path(mirror.services.settings.data, "vault"), mirror.place / "elsewhere")


class Moving:
    """The vault's directory, which somebody unmounts."""

    def __init__(self, here: Path, there: Path) -> None:
        self._here, self._there = here, there

    def goes(self) -> None:
        shutil.move(self._here, self._there)

    def comes(self) -> None:
        shutil.move(self._there, self._here)


async def kept(mirror: Mirror, work: Work) -> list[Repo]:
    """Repos that are saved, and of which each has an open wish."""
    work.commit()
    found = []
    for number in range(REPOS):
        copy = work.path.with_name(f"copy-{number}.git")
        shutil.copytree(work.path, copy)
        found.append((await mirror.backup(str(copy), f"copy-{number}")).repo)
    for repo in found:
        await repos.request_sync(mirror.services.db, repo.id, mirror.clock())
    return found


async def told(mirror: Mirror) -> list[tuple[str, bool]]:
    """What the team was told of outages, the newest first, and whether it is still news."""
    team = await teams.default(mirror.services.db)
    found = await notices.page(mirror.services.db, team)
    return [(one.message, one.seen_at is None) for one in found if one.kind == "outage"]


async def test_a_vault_that_is_away_is_noticed_once_and_nothing_is_held_against_any_repo(
    mirror: Mirror, work: Work, vault: Moving, caplog: pytest.LogCaptureFixture
) -> None:
    found, services = await kept(mirror, work), mirror.services
    asked = await jobbing.ask(services, found[0].id, "verify", {})
    vault.goes()
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * runs.ATTEMPTS):
            services.away.clear()  # as a worker that was just started
            await Runner(services, slots=2).work_off()
    assert [record.levelname for record in caplog.records if "away" in record.message] == ["ERROR"]
    assert {one.failure for one in await repos.overview(services.db)} == {None}
    assert {one.state for one in await repos.overview(services.db)} == {"behind"}
    waiting = await jobs.by_id(services.db, asked.id)
    assert waiting and (waiting.state, waiting.attempt) == ("queued", 0)
    assert await services.db.fetchval("select count(*) from job where state = 'failed'") == 0
    (outage,) = await rows.now(services.db)
    assert (outage.origin, outage.kind) == (Origin.VAULT, "refused")
    assert [news for _, news in await told(mirror)] == [True]

    assert not await outages.look(services)
    vault.comes()
    assert await outages.look(services) and await outages.look(services)
    mirror.clock.now += timedelta(minutes=1)
    await Runner(services).work_off()
    assert {one.state for one in await repos.overview(services.db)} == {"protected"}
    waiting = await jobs.by_id(services.db, asked.id)
    assert waiting and waiting.state == "done"
    assert list(await rows.now(services.db)) == []
    assert [news for _, news in await told(mirror)] == [True, False]


async def test_while_it_is_away_nothing_is_taken_up(mirror: Mirror, vault: Moving) -> None:
    repo_id, services = await sync_requested(mirror), mirror.services
    vault.goes()
    assert await outages.met(services, LimitReached("full", origin=Origin.VAULT))
    runner = Runner(services)
    await runner.work_off()
    assert await jobs_of(mirror, repo_id) == []
    assert (await repos.overview_of(services.db, repo_id)).failure is None


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[EverrefError], None]:
    """Let every sync end with this."""

    def set_to(error: EverrefError) -> None:
        async def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(syncing, "_sync_once", fail)

    return set_to


async def tried(mirror: Mirror, repo_id: RepoId, times: int) -> Job:
    """The repo's job after a worker has tried it so often."""
    mirror.clock.step = timedelta(0)
    for _ in range(times):
        mirror.clock.now += timedelta(hours=1)
        await Runner(mirror.services).work_off()
    (job,) = await jobs_of(mirror, repo_id)
    return job


@pytest.mark.parametrize(
    "error",
    [
        Corrupt("bytes change on their way (BadDigest)", origin=Origin.VAULT),
        Refused("refused (KMS.ThrottlingException)", origin=Origin.VAULT),
        LimitReached("the disk is full", origin=Origin.DISK),
        LimitReached("the database is out of memory", origin=Origin.DATABASE),
        NetworkError("forge.example answers 500", origin=Origin.FORGE),
    ],
    ids=lambda error: f"{error.origin} {error.kind}",
)
async def test_what_others_fail_in_for_one_repo_is_tried_again_and_is_no_failure_of_the_repo(
    mirror: Mirror, fails: Callable[[EverrefError], None], error: EverrefError
) -> None:
    repo_id = await sync_requested(mirror)
    fails(error)
    job = await tried(mirror, repo_id, runs.ATTEMPTS - 1)
    assert (job.state, job.attempt) == ("queued", runs.ATTEMPTS - 1)
    assert job.due_at and job.due_at > mirror.clock.now
    assert (await repos.overview_of(mirror.services.db, repo_id)).failure is None
    assert not mirror.services.away


async def test_a_repo_that_the_vault_never_takes_is_said_in_the_end(
    mirror: Mirror, fails: Callable[[EverrefError], None]
) -> None:
    repo_id = await sync_requested(mirror)
    fails(LimitReached("the vault takes no object this large", origin=Origin.VAULT))
    job = await tried(mirror, repo_id, runs.ATTEMPTS)
    assert job.state == "failed"
    assert job.failure and job.failure.origin is Origin.VAULT
    failure = (await repos.overview_of(mirror.services.db, repo_id)).failure
    assert failure and failure.kind == "limit"


async def test_a_forge_that_does_not_answer_never_marks_a_repo_as_failing(
    mirror: Mirror, fails: Callable[[EverrefError], None]
) -> None:
    repo_id = await sync_requested(mirror)
    fails(NetworkError("forge.example answers 500", origin=Origin.FORGE))
    job = await tried(mirror, repo_id, runs.ATTEMPTS + 2)
    assert job.state == "queued"
    assert (await repos.overview_of(mirror.services.db, repo_id)).failure is None


async def test_a_part_that_is_damaged_is_its_repos_own_trouble_at_once(
    mirror: Mirror, fails: Callable[[EverrefError], None]
) -> None:
    repo_id = await sync_requested(mirror)
    fails(Damaged("the part is missing"))
    await Runner(mirror.services).work_off()
    failure = (await repos.overview_of(mirror.services.db, repo_id)).failure
    assert failure and failure.kind == "corrupt"


async def test_a_full_disk_holds_up_the_workers_of_its_machine_alone(
    mirror: Mirror, fails: Callable[[EverrefError], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobbing, "PROGRESS_SECONDS", 3600.0)  # a run that takes longer gets a row for it
    services, repo_id = mirror.services, await sync_requested(mirror)
    full = disk_error(services.disk.root, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def no_room(_: Path) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(outages, "_probe", no_room)
        fails(full)
        await Runner(services).work_off()
        assert services.away == {Origin.DISK} and not await outages.look(services)
    assert (await repos.overview_of(services.db, repo_id)).failure is None
    assert await jobs_of(mirror, repo_id) == []
    assert await rows.at(services.db, "another machine") == []
    assert await told(mirror) == []
    assert await outages.look(services) and not services.away


async def test_a_database_that_went_away_in_the_midst_of_a_job_costs_it_no_try(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo

    async def fail(*_: object) -> None:
        raise NetworkError("the database does not answer", origin=Origin.DATABASE)

    monkeypatch.setattr(jobbing.verify, "verify", fail)  # type: ignore[attr-defined]
    asked = await jobbing.ask(mirror.services, repo.id, "verify", {})
    for _ in range(2 * runs.ATTEMPTS):
        mirror.clock.now += timedelta(minutes=1)
        (run,) = await runs.take(
            mirror.services.db,
            "here/1/1/1/aa",
            mirror.clock(),
            Free(9, 9),
            Preference(range(256), timedelta(0)),
        )
        await jobbing.run(mirror.services, run)
        await runs.end(mirror.services.db, "here/1/1/1/aa", run.key)
    job = await jobs.by_id(mirror.services.db, asked.id)
    assert job and (job.state, job.attempt) == ("queued", 0)
