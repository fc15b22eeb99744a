"""Mirrors at hosts that hang or lead elsewhere: backups, and the mirrors of others, go on."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from mirror.backup import sync as syncing
from mirror.core.model import Repo
from mirror.jobs import mirrors as pushing
from mirror.jobs.mirrors import Mirroring
from mirror.restore import mirroring, mirrors
from mirror.restore.mirrors import Wanted
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.people import people, teams
from mirror.store.people.teams import Team
from mirror.store.restore import mirrors as rows
from mirror.store.restore.mirrors import MirrorTarget
from tests.parts.everref import Mirror
from tests.parts.githttp import Fault, GitServer
from tests.parts.repos import Work
from tests.parts.whole import until


@dataclass
class Teams:
    """Repos of several teams, and their mirrors."""

    mirror: Mirror
    make_work: Callable[..., Work]
    server: GitServer

    @property
    def services(self) -> Services:
        return self.mirror.services

    async def team(self, name: str) -> Team:
        await people.add(self.services.db, name.title(), self.mirror.clock.now, team_name=name)
        found = await teams.by_name(self.services.db, name)
        assert found is not None
        return found

    async def repo(self, team: Team, name: str) -> tuple[Repo, Work]:
        """A repo that is backed up."""
        work = self.make_work(f"{team.name}-{name}")
        work.commit()
        repo = await repos.add(self.services.db, team.id, name, str(work.path), self.mirror.clock.now)
        return (await syncing.sync(self.services, repo.id)).repo, work

    async def place(self, team: Team, repo: Repo, name: str) -> None:
        """A mirror of it below the server."""
        there = self.make_work(name)
        url = self.server.add(there.path, name)
        await mirrors.add(self.services, None, team, repo, Wanted(url))

    async def at(self, repo: Repo, name: str) -> MirrorTarget:
        found = await rows.of_repo(self.services.db, repo.id)
        return next(one for one in found if one.url.endswith(name))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker's lanes are at work."""
        running = asyncio.create_task(Mirroring(self.services).work())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@pytest.fixture
def several(mirror: Mirror, make_work: Callable[..., Work], git_server: GitServer) -> Teams:
    mirror.clock.step *= 0
    git_server.push = True
    return Teams(mirror, make_work, git_server)


STAGES = {
    "before it answers at all": ("hangs", "info/refs?service=git-upload-pack", Fault(silent=True)),
    "in its greeting": ("hangs", "info/refs?service=git-upload-pack", Fault(hang_after=20)),
    "listing its refs": ("hangs", "/git-upload-pack", Fault(hang_after=0)),
    "before it takes a push": ("hangs", "info/refs?service=git-receive-pack", Fault(silent=True)),
    "after it took the pack": ("hangs", "/git-receive-pack", Fault(hang_after=0)),
}


@pytest.mark.parametrize(("name", "stage", "fault"), STAGES.values(), ids=STAGES)
async def test_a_mirror_that_hangs_holds_up_neither_backups_nor_other_mirrors(
    several: Teams, monkeypatch: pytest.MonkeyPatch, name: str, stage: str, fault: Fault
) -> None:
    monkeypatch.setattr(pushing, "EVERY", 0.02)
    team = await several.team("acme")
    repo, work = await several.repo(team, "api")
    await several.place(team, repo, name)
    several.server.faults[f"{name}/{stage.removeprefix('/')}"] = fault
    async with several.working():
        await until(lambda: asked(several.server, f"{name}/{stage.removeprefix('/')}"))
        await several.place(team, repo, "works")
        work.commit()
        assert (await syncing.sync(several.services, repo.id)).snapshot.number == 2
        await until(lambda: pushed(several, repo, "works", 2))
        assert (await several.at(repo, name)).pushed == 0
    # Who stopped has given its claim back: the next one begins at once.
    several.server.faults.clear()
    await Mirroring(several.services).once()
    assert (await several.at(repo, name)).pushed == 2


async def asked(server: GitServer, what: str) -> bool:
    return bool(server.count(what))


async def pushed(several: Teams, repo: Repo, name: str, number: int) -> bool:
    return (await several.at(repo, name)).pushed == number


async def test_hosts_of_one_team_that_hang_for_hours_leave_a_place_for_others(
    several: Teams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "EVERY", 0.02)
    monkeypatch.setattr(pushing, "SLOW_SECONDS", 0.0)  # each push counts as one that takes long at once
    mallory, acme = await several.team("mallory"), await several.team("acme")
    hers, _ = await several.repo(mallory, "trap")
    for number in range(6):
        await several.place(mallory, hers, f"hangs-{number}")
    several.server.faults["hangs-"] = Fault(silent=True)
    repo, _ = await several.repo(acme, "api")
    looks: list[bool] = []
    claim = Mirroring._claim

    async def noted(self: Mirroring, most: int, troubled: bool, *rest: Any) -> list[rows.Claimed]:
        found = await claim(self, most, troubled, *rest)
        if not troubled:
            looks.append(bool(found))
        return found

    monkeypatch.setattr(Mirroring, "_claim", noted)
    async with several.working():
        most = pushing.AT_ONCE + pushing.SLOW - 1
        await until(lambda: enough(several.server, "hangs-", most))
        seen = len(looks)
        await until(lambda: more(looks, seen + 3))  # with nothing due but hers
        await several.place(acme, repo, "works")
        await until(lambda: pushed(several, repo, "works", 1))
        assert several.server.count("hangs-") == most


async def more(looks: list[bool], count: int) -> bool:
    return len(looks) >= count


async def enough(server: GitServer, what: str, count: int) -> bool:
    return server.count(what) >= count


async def test_a_long_queue_of_one_team_does_not_get_each_place_that_becomes_free(several: Teams) -> None:
    """What was pushed counted for nothing, so that the oldest of 50 mirrors came before any newer one."""
    mallory, acme = await several.team("mallory"), await several.team("acme")
    hers, _ = await several.repo(mallory, "many")
    for number in range(4):
        await several.place(mallory, hers, f"hers-{number}")
    several.mirror.clock.now += pushing.PATIENCE * 2
    repo, _ = await several.repo(acme, "api")
    await several.place(acme, repo, "works")

    async def claim() -> str:
        now = several.mirror.clock.now
        (found,) = await rows.claim(
            several.services.db,
            *(now, now + mirroring.CLAIM, 1),
            troubled=False,
            shares=pushing.ALL,
            patience=pushing.PATIENCE,
        )
        return found.target.url.rpartition("/")[2]

    assert [(await claim())[:5] for _ in range(3)] == ["hers-", "works", "hers-"]


async def test_no_redirect_of_a_mirror_is_followed(
    several: Teams,
) -> None:
    team = await several.team("acme")
    repo, _ = await several.repo(team, "api")
    with socket.create_server(("127.0.0.1", 0)) as private:
        private.setblocking(False)
        inside = f"http://127.0.0.1:{private.getsockname()[1]}/secret"
        await several.place(team, repo, "moved")
        for stage in (
            "info/refs?service=git-upload-pack",
            "info/refs?service=git-receive-pack",
            "git-receive-pack",
        ):
            several.server.faults = {f"moved/{stage}": Fault(status=302, headers={"location": inside})}
            several.mirror.clock.now += mirroring.TOLD_AFTER * 48
            await Mirroring(several.services).once()
            one = await several.at(repo, "moved")
            assert one.failing is not None or one.counts.get("refused"), stage
            assert one.pushed == 0 or one.counts.get("refused")
        with pytest.raises(BlockingIOError):  # nobody came
            private.accept()
