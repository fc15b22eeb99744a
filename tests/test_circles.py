"""Mirrors that lead back to an Everref, under another name or by way of another one, come to an end."""

from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest

from mirror.core.formats import receive_pack
from mirror.core.model import Repo, Secret
from mirror.core.rules import circles
from mirror.discovery import create
from mirror.discovery.choose import EVERREF
from mirror.jobs.mirrors import Mirroring
from mirror.restore import mirroring, mirrors, serving
from mirror.restore.mirrors import Wanted
from mirror.store.backup import received, snapshots
from mirror.store.restore import mirrors as rows
from mirror.store.restore.mirrors import MirrorTarget
from mirror.store.upkeep import vaults
from tests.parts.gitclient import World, done, world
from tests.parts.repos import Work

__all__ = ["world"]

ONE, TWO = UUID(int=1), UUID(int=2)


def test_an_everref_is_known_by_its_agent_and_a_push_by_its_option() -> None:
    mark = circles.mark_of(ONE)
    assert circles.mark_in(circles.agent(mark)) == mark != circles.mark_of(TWO)
    for other in (b"", b"everref", b"git/2.50", b"everref/", b"everref/x", b"git/" + mark.encode(), b"\xff"):
        assert circles.mark_in(other) is None
    assert circles.mark_in(circles.agent(None)) is None
    both = [mark, circles.mark_of(TWO)]
    option = circles.said(both)
    assert circles.marks_in(option.removeprefix(f"{circles.OPTION}=")) == tuple(both)
    for nonsense in (None, "", "x", f"{mark},", f"{mark} {mark}", mark.upper() + "G"):
        assert circles.marks_in(nonsense) == ()
    assert len(circles.marks_in(",".join([mark] * 99))) == circles.MOST
    assert len(circles.said([mark] * 99).split(",")) == circles.MOST
    push = receive_pack.PushRequest((), frozenset(), (option.encode(),))
    assert circles.marks_in(push.option(circles.OPTION)) == tuple(both)


class Circle:
    """Repos of one Everref that people push to, which is reached under another name than its own."""

    def __init__(self, world: World, work: Work) -> None:
        self.world, self.work = world, work
        self.services = world.site.mirror.services
        self.token = ""

    async def made(self, name: str, file: bytes) -> Repo:
        """A repo that somebody has pushed to."""
        repo = await create.create(self.services, self.world.team.id, EVERREF, name)
        self.token = self.token or await self.world.site.token(
            self.world.alice, self.world.team, ("read", "backup")
        )
        await self.push(repo, file)
        return repo

    async def push(self, repo: Repo, file: bytes) -> None:
        self.work.commit("main", {"a": file})
        url = self.world.url(repo.name, self.token)
        await done("-C", self.work.path, "push", "-q", "--force", url, "main")

    async def mirror(self, repo: Repo, to: Repo) -> None:
        """Have a repo mirrored to another, by another name of the same server, and overwrite it."""
        url = self.world.url(to.name, None)
        wanted = Wanted(url, secret=Secret("git", self.token), overwrites=True)
        await mirrors.add(self.services, None, self.world.team, repo, wanted)

    async def at(self, repo: Repo) -> MirrorTarget:
        (found,) = await rows.of_repo(self.services.db, repo.id)
        return found

    async def turn(self) -> None:
        """All that is due is pushed, once."""
        await Mirroring(self.services).once()


@pytest.fixture
def circle(world: World, work: Work) -> Circle:
    world.site.mirror.clock.step = timedelta(milliseconds=1)
    return Circle(world, work)


async def test_our_own_door_under_another_name_is_no_mirror(circle: Circle) -> None:
    """One that led to the repo itself was told to be up to date, though it was no copy elsewhere."""
    here, there = await circle.made("here", b"one"), await circle.made("there", b"two")
    await circle.mirror(here, there)
    await circle.mirror(there, here)
    for _ in range(3):
        circle.world.site.mirror.clock.now += timedelta(days=2)
        await circle.turn()
    for repo in here, there:
        failing = (await circle.at(repo)).failing
        assert failing is not None and "is this Everref by another name" in failing.message
        last = await snapshots.latest(circle.services.db, repo.id)
        assert last is not None and last.number == 1


async def test_a_circle_by_way_of_another_everref_ends(
    circle: Circle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that overwrite each other's branch would push it round for ever."""
    here, there = await circle.made("here", b"one"), await circle.made("there", b"two")
    db = circle.services.db
    real = await vaults.known(db)
    assert real is not None

    async def other(_: object) -> UUID:
        return ONE

    # What pushes is one Everref and what answers, whose vault it is that the database knows, another.
    answers = circles.mark_of(real)
    await circle.mirror(here, there)
    monkeypatch.setattr(mirroring, "vaults", SimpleNamespace(known=other))
    await circle.turn()
    assert (await circle.at(here)).state == "current"
    assert await received.came_from(db, there.id) == (circles.mark_of(ONE),)
    last = await snapshots.latest(db, there.id)
    assert last is not None and last.number == 2
    # Back from there to where that came from is not pushed: nothing would ever stop it.
    monkeypatch.setattr(mirroring, "vaults", vaults)
    monkeypatch.setattr(serving, "vaults", SimpleNamespace(known=other))
    await circle.mirror(there, here)
    await circle.turn()
    failing = (await circle.at(there)).failing
    assert failing is not None and "would make a circle" in failing.message
    assert (await circle.at(there)).pushed == 0
    # What somebody pushes there themselves may go on.
    await circle.push(there, b"three")
    assert await received.came_from(db, there.id) == ()
    circle.world.site.mirror.clock.now += timedelta(hours=2)
    await circle.turn()
    assert (await circle.at(there)).state == "current"
    assert await received.came_from(db, here.id) == (answers,)
