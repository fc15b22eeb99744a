"""Every push counts: what was overwritten between two looks is a snapshot too, or is said to be lost."""

import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, pairwise

import pytest
import pytest_asyncio

from mirror.backup.sync import Synced
from mirror.core.model import HEAD, Kind, Reason, RefName, Refs, Repo, Target
from mirror.core.rules.history import pushes
from mirror.core.rules.history.pushes import Lost
from mirror.git import read
from mirror.restore import restore
from mirror.services import failpoints
from mirror.store import repos
from mirror.store.backup import history, parts, reported_updates, snapshots
from mirror.store.discovery import hooks
from mirror.upkeep import verify
from tests.parts.everref import Mirror
from tests.parts.githttp import GitServer
from tests.parts.repos import MAIN, Work, fsck, full, refs_of, run_git
from tests.test_crash import nothing_left

HOOK = "h" * 32
SIDE = full("side")


@dataclass
class Garden:
    """A kept repository with a hook: what is pushed is told, and what was seen is remembered."""

    mirror: Mirror
    work: Work
    repo: Repo
    moments: list[Refs] = field(default_factory=list)  # every state that the remote ever had
    serial: Iterator[int] = field(default_factory=lambda: count(1))

    async def tell(
        self,
        name: RefName,
        before: Target | None,
        after: Target | None,
        by: str | None = "alice",
        at: datetime | None = None,
    ) -> None:
        """Deliver this claim; `at` is the forge's time."""
        update = hooks.NewUpdate(name, before, after, by, at)
        delivery = hooks.Delivery(f"d-{next(self.serial)}", "push", "7", (update,), None, b"{}")
        assert await hooks.deliver(self.mirror.services.db, HOOK, delivery, self.mirror.clock())

    async def push(self, name: str = "main", told: bool = True, **how: object) -> Target:
        """A commit on a branch; by `parents=[]` a force-push."""
        before = self.work.refs().get(full(name))
        after = self.work.commit(name, **how)  # type: ignore[arg-type]
        self.moments.append(self.work.refs())
        if told:
            await self.tell(full(name), before, after)
        return after

    async def drop(self, name: str) -> None:
        """Delete a branch."""
        before = self.work.refs()[full(name)]
        self.work.delete(name)
        self.moments.append(self.work.refs())
        await self.tell(full(name), before, None)

    async def sync(self) -> Synced:
        return await self.mirror.backup(str(self.repo.url))

    def forget(self) -> None:
        """The remote collects its garbage."""
        run_git("-C", self.work.path, "reflog", "expire", "--expire=now", "--all")
        run_git("-C", self.work.path, "gc", "--prune=now", "-q")

    async def maps(self) -> list[Refs]:
        """What each snapshot restores to, by git."""
        latest = await snapshots.latest(self.mirror.services.db, self.repo.id)
        assert latest
        found = []
        for number in range(1, latest.number + 1):
            path = await self.mirror.restored(self.repo, number)
            fsck(path)
            found.append(refs_of(path))
        return found

    async def log(self) -> list[tuple[int, bytes, Target | None, Target | None, Kind, str | None]]:
        """The ref history from the second snapshot on, oldest first."""
        return [
            (line.snapshot, one.name, one.old, one.new, one.kind, one.by)
            async for line in history.changes(self.mirror.services.db, self.repo.id, reverse=True)
            if line.snapshot > 1
            for one in [line.change]
        ]

    async def lost(self) -> list[Lost]:
        return await reported_updates.lost(self.mirror.services.db, self.repo.id)


@pytest_asyncio.fixture
async def garden(mirror: Mirror, work: Work, git_server: GitServer) -> AsyncIterator[Garden]:
    """One commit on main, which is kept already."""
    work.commit()
    repo = (await mirror.backup(f"{git_server.url}/remote.git")).repo
    assert mirror.services.keyring
    await hooks.add(
        mirror.services.db, repo.id, "github", hooks.lock(mirror.services.keyring, HOOK, "x"), mirror.clock()
    )
    made = Garden(mirror, work, repo, [work.refs()])
    yield made
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())
    assert await reported_updates.unanswered(mirror.services.db, repo.id) == []
    await git_is_content(made)


async def git_is_content(garden: Garden) -> None:
    """No object is in the log twice, and each snapshot with a part has a segment of its own."""
    live = await parts.live(garden.mirror.services.db, garden.repo.id)
    latest = await snapshots.latest(garden.mirror.services.db, garden.repo.id)
    assert latest and sum(part.entries for part in live) == latest.log_entries
    held = await read.everything(garden.mirror.services.disk.pool(garden.repo.id))
    assert len(held) == latest.log_entries


async def test_a_force_push_between_two_looks_is_restorable_before_and_after(garden: Garden) -> None:
    first = garden.work.tip()
    lost = await garden.push(parents=[])
    new = await garden.push(parents=[first])
    done = await garden.sync()
    assert (done.new, done.snapshot.number) == (True, 3)
    assert await garden.maps() == garden.moments
    assert await garden.log() == [
        (2, MAIN, first, lost, Kind.FORCED, "alice"),
        (3, MAIN, lost, new, Kind.FORCED, "alice"),
    ]
    middle = await garden.mirror.snapshot(garden.repo, 2)
    assert (middle.reason, await garden.lost()) == (Reason.PUSH, [])
    bundle = garden.mirror.place / "middle.bundle"
    await restore.to_bundle(garden.mirror.services, garden.repo, middle, bundle)
    heads = run_git("bundle", "list-heads", bundle).splitlines()
    assert sorted(heads) == sorted([lost + b" " + MAIN, lost + b" HEAD"])


async def test_three_pushes_in_one_look_are_three_snapshots(garden: Garden) -> None:
    for _ in range(3):
        await garden.push()
    done = await garden.sync()
    assert done.snapshot.number == 4
    assert await garden.maps() == garden.moments
    assert {kind for _, _, _, _, kind, _ in await garden.log()} == {Kind.FAST_FORWARDED}
    taken = [line.taken_at async for line in snapshots.every(garden.mirror.services.db, garden.repo.id)]
    assert taken == sorted(taken)


async def test_pushes_to_several_branches_come_in_the_order_of_their_arrival(garden: Garden) -> None:
    await garden.push("side")
    await garden.push()
    await garden.push("side", parents=[])
    await garden.drop("side")
    await garden.push("side")
    await garden.sync()
    assert await garden.maps() == garden.moments


async def test_a_branch_born_and_deleted_between_two_looks_is_rescued(garden: Garden) -> None:
    await garden.push("side")
    await garden.drop("side")
    done = await garden.sync()
    assert (done.new, done.snapshot.number) == (True, 3)
    assert await garden.maps() == garden.moments
    assert not (await garden.sync()).new


async def test_what_the_remote_has_no_more_is_lost_and_said_so(garden: Garden) -> None:
    first = garden.work.tip()
    gone = await garden.push("side")
    await garden.drop("side")
    lost = await garden.push(parents=[])
    await garden.push(parents=[first])
    garden.forget()
    done = await garden.sync()
    assert done.snapshot.number == 2
    assert (await garden.mirror.refs(garden.repo, 2)) == garden.moments[-1]
    found = [(one.name, one.old, one.new, one.by, one.why) for one in await garden.lost()]
    why = "the remote no longer has it"
    assert found == [(SIDE, None, gone, "alice", why), (MAIN, first, lost, "alice", why)]
    assert [(line[1], line[5]) for line in await garden.log()] == [(MAIN, "alice")]


async def test_a_lost_branch_alone_takes_no_snapshot(garden: Garden) -> None:
    gone = await garden.push("side")
    await garden.drop("side")
    garden.forget()
    done = await garden.sync()
    assert (done.new, done.snapshot.number) == (False, 1)
    assert [(one.new, one.snapshot) for one in await garden.lost()] == [(gone, 1)]


async def test_the_log_shows_what_was_not_rescued_where_it_was_noticed(
    garden: Garden, everref: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    gone = await garden.push("side")
    await garden.drop("side")
    await garden.push()
    garden.forget()
    await garden.sync()
    await garden.push()
    await garden.sync()
    said = everref("log", garden.repo.name).stdout.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["#3", "#2", "#2"]
    assert "not rescued     refs/heads/side  " + gone.decode()[:10] + "  by alice  (the remote" in said[2]
    lines = [
        json.loads(line)
        for line in everref("log", garden.repo.name, "--json", "--reverse").stdout.splitlines()
    ]
    assert [line.get("rescued", True) for line in lines] == [True, True, False, True, True]
    assert (lines[2]["new"], lines[2]["kind"]) == (gone.decode(), None)
    assert everref("log", garden.repo.name, "--ref", "main", "--json").stdout.count("rescued") == 0


async def test_an_old_server_gives_no_ids_that_it_does_not_show(
    garden: Garden, git_server: GitServer
) -> None:
    git_server.protocol = 0
    first = garden.work.tip()
    middle = await garden.push()
    last = await garden.push()
    lost = await garden.push("side")
    await garden.drop("side")
    done = await garden.sync()
    assert await garden.log() == [
        (2, MAIN, first, middle, Kind.FAST_FORWARDED, "alice"),
        (3, MAIN, middle, last, Kind.FAST_FORWARDED, "alice"),
    ]
    assert done.snapshot.number == 3
    assert [one.new for one in await garden.lost()] == [lost]
    run_git("-C", garden.work.path, "config", "uploadpack.allowAnySHA1InWant", "true")
    await garden.push("other")
    await garden.drop("other")
    assert (await garden.sync()).snapshot.number == 5
    assert await garden.mirror.refs(garden.repo, 4) == garden.moments[-2]


async def test_a_lost_delivery_loses_only_its_name(garden: Garden) -> None:
    first = garden.work.tip()
    middle = await garden.push(parents=[], told=False)
    last = await garden.push(parents=[])
    await garden.sync()
    assert await garden.maps() == garden.moments
    assert await garden.log() == [
        (2, MAIN, first, middle, Kind.FORCED, None),
        (3, MAIN, middle, last, Kind.FORCED, "alice"),
    ]


async def test_deliveries_may_arrive_in_any_order(garden: Garden) -> None:
    first = garden.work.tip()
    middle = await garden.push(parents=[], told=False)
    last = await garden.push(parents=[], told=False)
    await garden.tell(MAIN, middle, last)
    await garden.tell(MAIN, first, middle)
    await garden.sync()
    assert await garden.maps() == garden.moments
    assert {line[5] for line in await garden.log()} == {"alice"}


async def test_what_is_delivered_again_is_not_replayed(garden: Garden) -> None:
    first = garden.work.tip()
    middle = await garden.push(parents=[])
    garden.work.set("main", first)  # and back again
    await garden.tell(MAIN, middle, first)
    done = await garden.sync()
    assert done.snapshot.number == 3
    for _ in range(2):
        await garden.tell(MAIN, first, middle)  # under another id, which nothing signs
        again = await garden.sync()
        assert (again.new, again.snapshot) == (False, done.snapshot)
    await garden.tell(MAIN, first, middle)
    new = await garden.push()
    await garden.sync()
    assert [line[1:4] for line in await garden.log()] == [
        (MAIN, first, middle),
        (MAIN, middle, first),
        (MAIN, first, new),
    ]


@pytest.mark.parametrize("odd", ["nothing", "a blob", "a short id", "inside a branch"])
async def test_a_forged_claim_changes_nothing_of_what_the_remote_shows(garden: Garden, odd: str) -> None:
    blob = garden.work.blob(b"no commit")
    garden.work.tag("blob", blob)
    tip = garden.work.tip()
    name, target = {
        "nothing": (full("evil"), Target(b"1" * 40)),
        "a blob": (full("evil"), blob),
        "a short id": (full("evil"), Target(b"1" * 64)),
        "inside a branch": (full("main/evil"), tip),
    }[odd]
    await garden.tell(name, None, target, "mallory")
    await garden.tell(MAIN, tip, target, "mallory")
    await garden.push()
    done = await garden.sync()
    assert (await garden.mirror.refs(garden.repo, done.snapshot.number)) == garden.work.refs()
    for shown in await garden.maps():
        assert full("evil") not in shown and full("main/evil") not in shown
    assert all(line[5] != "mallory" or odd == "inside a branch" for line in await garden.log())
    assert (await garden.sync()).new is False


async def test_a_forged_claim_of_a_real_commit_is_overruled_at_once(garden: Garden) -> None:
    tip = garden.work.tip()
    await garden.tell(full("evil"), None, tip, "mallory")
    await garden.sync()
    maps = await garden.maps()
    assert [full("evil") in shown for shown in maps] == [False, True, False]
    assert maps[-1] == garden.work.refs()


async def test_claims_of_before_the_first_backup_are_compared_with_it(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    first = work.commit()
    repo = await mirror.repo(f"{git_server.url}/remote.git")
    assert mirror.services.keyring
    await hooks.add(
        mirror.services.db, repo.id, "github", hooks.lock(mirror.services.keyring, HOOK, "x"), mirror.clock()
    )
    garden = Garden(mirror, work, repo)
    middle = await garden.push()
    forced = await garden.push(parents=[first])
    done = await garden.sync()
    found = [shown[MAIN] for shown in await garden.maps()]
    assert found == [forced, middle, forced]
    assert (done.new, await reported_updates.unanswered(mirror.services.db, repo.id)) == (True, [])
    assert await repos.sync_request(mirror.services.db, repo.id) is None


async def test_more_pushes_than_a_sync_takes_wait_for_the_next_one(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "AT_ONCE", 2)
    tips = [await garden.push(parents=[]) for _ in range(5)]
    done = await garden.sync()
    assert (
        done.snapshot.number,
        len(await reported_updates.unanswered(garden.mirror.services.db, garden.repo.id)),
    ) == (
        4,
        2,
    )
    await garden.sync()
    found = {shown[MAIN] for shown in await garden.maps()}
    assert found >= set(tips)
    assert (await garden.maps())[-1] == garden.work.refs()


async def test_beyond_them_what_comes_along_is_a_change_of_its_own(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushes, "AT_ONCE", 1)
    tips = [garden.work.tip(), *[await garden.push() for _ in range(4)]]
    done = await garden.sync()
    assert done.snapshot.number == 3
    assert await garden.log() == [
        (min(number, 3), MAIN, old, new, Kind.FAST_FORWARDED, "alice")
        for number, (old, new) in enumerate(pairwise(tips), 2)
    ]


@pytest.mark.parametrize("step", failpoints.SYNC)
async def test_a_rescue_killed_at_any_step_is_finished_by_the_next_sync(
    garden: Garden, everref: Callable[..., subprocess.CompletedProcess[str]], step: str
) -> None:
    await garden.push(parents=[])
    await garden.push("side")
    await garden.drop("side")
    await garden.push(parents=[])
    killed = everref("backup", garden.repo.url, kill=step)
    assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
    again = everref("backup", garden.repo.url, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["snapshot"] == len(garden.moments)
    assert await garden.maps() == garden.moments
    assert HEAD in garden.moments[0]
    await nothing_left(garden.mirror, garden.repo)
