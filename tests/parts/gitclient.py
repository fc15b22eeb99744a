"""Stock git as a client of Everref's own smart HTTP, beside the server in the same event loop."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from mirror.backup import sync as syncing
from mirror.core.model import Repo
from mirror.core.rules.roles import Role
from mirror.store import repos
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from tests.parts.repos import ENVIRONMENT, Work
from tests.parts.sockets import Served, serving
from tests.parts.web import Site


@dataclass(frozen=True)
class Said:
    """What git said, and how it ended."""

    code: int
    out: str
    err: str


async def git(*args: str | Path, cwd: Path | None = None, **env: str) -> Said:
    """Run stock git while the server of the same loop answers it."""
    child = await asyncio.create_subprocess_exec(
        "git",
        *map(str, args),
        cwd=cwd,
        env=ENVIRONMENT | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    assert child.returncode is not None
    return Said(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def done(*args: str | Path, cwd: Path | None = None, **env: str) -> str:
    """The same where it must succeed; its output."""
    said = await git(*args, cwd=cwd, **env)
    assert said.code == 0, f"git {args!r}: {said.err}"
    return said.out.strip()


@dataclass
class World:
    """A site on a real port, Alice who owns a team, Vic who may read, and a token of his."""

    site: Site
    served: Served
    alice: Person
    vic: Person
    team: Team
    token: str
    place: Path

    async def backup(self, work: Work, name: str = "acme/api") -> Repo:
        """Save what the work has now in Alice's team."""
        mirror = self.site.mirror
        db, url = mirror.services.db, str(work.path)
        repo = await repos.by_url(db, self.team.id, url)
        repo = repo or await repos.add(db, self.team.id, name, url, mirror.clock.now)
        return (await syncing.sync(mirror.services, repo.id)).repo

    def url(self, what: str = "acme/api", token: str | None = "") -> str:
        """The address of a repo or moment; with Vic's token, or another, or None."""
        shown = self.token if token == "" else token
        user = f"git:{shown}@" if shown else ""
        return f"http://{user}127.0.0.1:{self.served.port}/git/{self.team.name}/{what}"


@pytest_asyncio.fixture
async def world(site: Site, tmp_path: Path) -> AsyncIterator[World]:
    """The site with its two people, served."""
    alice = await site.person("alice")
    team = await site.team(alice)
    vic = await site.member(team, "vic", Role.VIEWER)
    token = await site.token(vic, team)
    place = tmp_path / "clones"
    place.mkdir()
    async with serving(site.app, site) as served:
        yield World(site, served, alice, vic, team, token, place)
