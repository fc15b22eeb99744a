"""Everref as a whole against a model of it: a plain dictionary of what every ref was at every moment.

Hypothesis chooses what happens upstream, what Everref does, where it dies and what is damaged, in any order.
The judge is stock git, over what `restore.sh` brings back out of the vault alone.
"""

import asyncio
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mirror.backup import sync as syncing
from mirror.core import identities
from mirror.core.config import Place, Settings
from mirror.core.errors import EverrefError
from mirror.core.formats import layout
from mirror.core.model import HEAD, RefName, Refs, Repo, Snapshot, Target
from mirror.core.rules.keeping import compaction
from mirror.discovery import add
from mirror.restore import drill, restore
from mirror.services.open import Services, open_services
from mirror.store import repos
from mirror.store.backup import history, moments, parts, snapshots
from mirror.store.discovery import hooks
from mirror.store.people import keys, teams
from mirror.upkeep import compact, epoch, heal, prune, state, verify
from mirror.upkeep import copies as copying
from mirror.upkeep.epoch import Why
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Clock
from tests.parts.mortal import Death
from tests.parts.postgres import Server
from tests.parts.repos import MAIN, Work, fsck, full, refs_of, run_git

T = TypeVar("T")
HOOK: Final = "h" * 32
STUCK: Final = 120.0  # seconds; no flow waits for anything here
BRANCHES: Final = ("main", "side", "topic", "topic/deeper", "café")  # one cannot be where another is
OTHERS: Final = ("refs/pull/1/head", "refs/notes/commits")  # no host reports their moves
TAGS: Final = ("v1", "v2")
_serial: Final = count(1)

branch = st.sampled_from(BRANCHES)
told = st.sampled_from([True, True, True, False])  # whether the host's webhook arrives
dying = st.one_of(st.none(), st.none(), st.integers(0, 25))  # after so many steps; None: it lives


@dataclass(frozen=True)
class Pushed:
    """One move of one ref upstream."""

    name: RefName
    old: Target | None
    new: Target | None
    refs: Refs  # all of them, afterwards
    at: datetime
    told: bool


class Everything(RuleBasedStateMachine):
    """The model, and Everref beside it. Nothing here reads Everref's database to know what is right."""

    postgres: ClassVar[Server]
    rooms: ClassVar[Path]
    death: ClassVar[Death]

    def __init__(self) -> None:
        super().__init__()
        self.room = self.rooms / f"example-{next(_serial)}"
        self.room.mkdir()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.clock.now = datetime.now(UTC).replace(microsecond=0)
        self.work = Work(self.room / "remote.git")
        self.stack = AsyncExitStack()
        self.deliveries = count(1)
        # The model.
        self.saved: dict[int, Refs] = {}  # every snapshot, as it must come back for ever
        self.ever: dict[RefName, set[Target]] = {}  # where each ref ever was
        self.pending: list[Pushed] = []  # since the latest sync that was finished
        self.held_up: list[Pushed] = []  # whose reports have not arrived yet
        self.late: list[Pushed] = []  # reports that arrived when a sync had passed over their moves
        self.owed: set[tuple[RefName, Target]] = set()  # reported, and answered by a finished sync
        self.dropped: set[int] = set()  # snapshots that went on purpose
        self.unsure: set[int] = set()  # those of a drop that died on its way
        self.identity: Path | None = None  # what opens what is sealed; None: nothing ever was
        self.collected = False  # the host has collected its garbage
        self.seen = self.work.refs()

    # How it is run

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, STUCK))

    @initialize(bulk=st.sampled_from([0, 0, 20]), copied=st.booleans(), seed=st.integers(0, 1 << 16))
    def begin(self, bulk: int, copied: bool, seed: int) -> None:
        self.copies = (Place("offsite", f"file://{self.room}/offsite"),) if copied else ()
        self.chance = random.Random(seed)
        self.death.seed(seed)
        self.work.commit("main", {"README": b"hello\n"})
        if bulk:
            self.work.many_commits(bulk, "bulk", size=1500)
        self._look()
        self.run(self._begin())
        self.sync(None)

    async def _begin(self) -> None:
        self.database = await self._database()
        await self._open()
        self.repo_id = (await add.repo_for(self.services, str(self.work.path), "acme/model")).id
        await self._hook()

    async def _database(self) -> str:
        name = f"model_{next(_serial)}"
        await self.postgres.sql(f"create database {name} template migrated")
        return name

    async def _open(self) -> None:
        self.death.again()
        settings = Settings(
            data=str(self.room / "data"),
            database_url=self.postgres.url(self.database),
            allow_private_remotes=True,
            secret_keys=("k" * 40,),
            vault_copies=self.copies,
        )
        self.services: Services = await self.stack.enter_async_context(
            open_services(settings, clock=self.clock)
        )

    async def _close(self) -> None:
        stack, self.stack = self.stack, AsyncExitStack()
        await stack.aclose()

    async def _hook(self) -> None:
        if await hooks.of(self.services.db, self.repo_id) is None:
            assert self.services.keyring
            locks = hooks.lock(self.services.keyring, HOOK, "secret")
            await hooks.add(self.services.db, self.repo_id, "github", locks, self.clock())

    async def _do(self, flow: Callable[[Services], Coroutine[Any, Any, T]], dies: int | None) -> T | None:
        """What a flow returns. None: it died on the way, and another process has begun."""
        if dies is None:
            return await flow(self.services)
        found = None
        async with self.death.after(dies, self.services):
            found = await flow(self.services)
        if not self.death.dead:
            return found
        await self._close()
        await self._open()
        return None

    def teardown(self) -> None:
        try:
            if self.saved and sys.exc_info()[0] is None:  # else a rule has failed
                self.end()
        finally:
            self.run(self._close())
            self.run(self.loop.shutdown_asyncgens())
            self.loop.close()
            shutil.rmtree(self.room)

    # What happens upstream

    def _look(self) -> None:
        self.seen = self.work.refs()
        for name, target in self.seen.items():
            self.ever.setdefault(name, set()).add(target)

    def _moved(self, name: str | bytes, told: bool) -> None:
        """A push has moved one ref; its report arrives at once, or is held up."""
        before, at = self.seen, self.clock()
        self._look()
        ref = full(name)
        one = Pushed(ref, before.get(ref), self.seen.get(ref), self.seen, at, told)
        self.pending.append(one)
        reported = ref.startswith((b"refs/heads/", b"refs/tags/"))
        if told and reported:
            self.run(self._deliver([one]))
        else:
            self.pending[-1] = replace(one, told=False)
            self.held_up += [replace(one, told=True)] * reported

    async def _deliver(self, pushes: list[Pushed]) -> None:
        for one in pushes:
            update = hooks.NewUpdate(one.name, one.old, one.new, "alice", one.at)
            delivery = hooks.Delivery(f"d-{next(self.deliveries)}", "push", "7", (update,), None, b"{}")
            assert await hooks.deliver(self.services.db, HOOK, delivery, self.clock())

    def _room_for(self, name: str) -> bool:
        """Whether git can have this branch beside those there are."""
        there = {one for one in self.seen if one.startswith(b"refs/heads/")}
        mine = full(name)
        return not any(
            one.startswith(mine + b"/") or mine.startswith(one + b"/") for one in there if one != mine
        )

    def _is_there(self, name: str) -> bool:
        return full(name) in self.seen

    @rule(name=branch, told=told)
    def push(self, name: str, told: bool) -> None:
        if self._room_for(name):
            tip = self.seen.get(full(name)) or self.seen.get(MAIN)
            parents = [tip] if tip else []
            self.work.commit(name, parents=parents)
            self._moved(name, told)

    @rule(name=branch, told=told, size=st.sampled_from([10, 4000]))
    def force(self, name: str, told: bool, size: int) -> None:
        if self._is_there(name):
            self.work.commit(name, {"forced": self.chance.randbytes(size)}, parents=[])
            self._moved(name, told)

    @rule(name=branch, told=told)
    def go_back(self, name: str, told: bool) -> None:
        if self._is_there(name) and not self.collected:
            old = sorted(self.ever[full(name)] - {self.seen[full(name)]})
            if old:
                self.work.set(name, self.chance.choice(old))
                self._moved(name, told)

    @rule(name=branch, told=told)
    def delete(self, name: str, told: bool) -> None:
        if self._is_there(name):
            self.work.delete(name)
            self._moved(name, told)

    @rule(name=branch, to=branch, told=told)
    def rename(self, name: str, to: str, told: bool) -> None:
        if self._is_there(name) and not self._is_there(to):
            tip = self.seen[full(name)]
            self.work.delete(name)
            self._moved(name, told)
            if self._room_for(to):
                self.work.set(to, tip)
                self._moved(to, told)

    @rule(name=st.sampled_from(TAGS), message=st.sampled_from([None, "signed off"]), told=told)
    def tag(self, name: str, message: str | None, told: bool) -> None:
        if self._is_there("main"):
            self.work.tag(name, self.seen[MAIN], message=message)
            if self.work.refs() != self.seen:
                self._moved(f"refs/tags/{name}", told)

    @rule(name=st.sampled_from(OTHERS))
    def push_what_no_host_reports(self, name: str) -> None:
        self.work.commit(name)
        self._moved(name, False)

    @rule(name=branch)
    def turn_head(self, name: str) -> None:
        self.work.head(name)
        if self.work.refs() != self.seen:
            self._moved("HEAD", False)

    @precondition(lambda self: self.held_up)
    @rule(backwards=st.booleans())
    def the_held_up_reports_arrive(self, backwards: bool) -> None:
        late, self.held_up = self.held_up, []
        self.run(self._deliver(late[::-1] if backwards else late))
        waiting = {(one.name, one.at) for one in self.pending}
        arrived = {(one.name, one.at) for one in late}
        self.pending = [replace(one, told=one.told or (one.name, one.at) in arrived) for one in self.pending]
        self.late += [one for one in late if (one.name, one.at) not in waiting]

    @precondition(lambda self: not self.pending and not self.held_up and not self.late)
    @rule()
    def the_host_collects_its_garbage(self) -> None:
        run_git("-C", self.work.path, "gc", "--prune=now", "-q")
        self.collected = True

    # What Everref does

    @rule(dies=dying)
    def sync(self, dies: int | None) -> None:
        done = self.run(self._do(lambda now: syncing.sync(now, self.repo_id), dies))
        if done is None:
            return
        maps = self.run(self._maps(after=len(self.saved)))
        last = self.saved.get(len(self.saved), {})
        assert (maps[-1] if maps else last) == self.seen
        assert done.snapshot.number == len(self.saved) + len(maps)
        if all(one.told for one in self.pending):
            states = [one.refs for one in self.pending]
            expected = [now for before, now in zip([last, *states], states, strict=False) if before != now]
            if self.saved:
                assert maps == expected, (maps, expected)
        for number, refs in enumerate(maps, len(self.saved) + 1):
            for name, target in refs.items():
                assert target in self.ever[name], f"#{number} has {name!r} where it never was"
            self.saved[number] = refs
        self._settle()
        self.owed |= {(one.name, one.new) for one in [*self.pending, *self.late] if one.told and one.new}
        self.pending, self.late = [], []
        self.run(self._owed())

    async def _maps(self, after: int) -> list[Refs]:
        """The snapshots after this one, as Everref lists them."""
        every = await self._every()
        assert [one.number for one in every] == list(range(1, len(every) + 1))
        return [await history.refs_at(self.services.db, self.repo_id, one.number) for one in every[after:]]

    async def _every(self) -> list[Snapshot]:
        return [one async for one in snapshots.every(self.services.db, self.repo_id)]

    async def _owed(self) -> None:
        """Every push that was reported is where its ref was at some moment."""
        left = self.owed - {(name, target) for refs in self.saved.values() for name, target in refs.items()}
        for number in self.saved if left else ():
            for one in await moments.within(self.services.db, self.repo_id, number):
                refs = await history.refs_at(self.services.db, self.repo_id, number, one.number)
                left -= set(refs.items())
        assert not left

    @rule(dies=dying)
    def compact(self, dies: int | None) -> None:
        self.run(self._with_repo(compact.compact, dies))

    async def _with_repo(self, flow: Callable[..., Coroutine[Any, Any, T]], dies: int | None) -> T | None:
        repo = await repos.get(self.services.db, self.repo_id)
        return await self._do(lambda now: flow(now, repo), dies)

    @rule(dies=dying, hours=st.sampled_from([0, 25]))
    def prune(self, dies: int | None, hours: int) -> None:
        self.clock.now += timedelta(hours=hours)
        self.run(self._do(lambda now: prune.prune(now, prune.GRACE), dies))

    @precondition(lambda self: bool(self.copies))
    @rule(dies=dying)
    def copy(self, dies: int | None) -> None:
        async def follow(services: Services) -> bool:
            await copying.due(services)
            return True

        if not self.run(self._do(follow, dies)):
            self.clock.now += timedelta(hours=1)  # what a run had claimed that died
            self.run(copying.due(self.services))
        number = self.chance.choice(self.kept())
        place = self._run_script(number, self.room / "offsite")
        self._is_moment(place, number)
        shutil.rmtree(place)

    @precondition(lambda self: shutil.which("age") is not None)
    @rule(on=st.sampled_from([True, True, False]))
    def seal(self, on: bool) -> None:
        """What is stored from now on is sealed, or is not."""

        async def switch(services: Services) -> str:
            team, own = await teams.default(services.db), identities.made()
            assert services.keyring
            if not await keys.add_identity(services.db, services.keyring, team, own, self.clock()):
                (own,) = await keys.identities(services.db, services.keyring, team)
            await keys.set_sealed(services.db, team, self.clock() if on else None, self.clock())
            return own.text

        self.identity = self.room / "identity"
        self.identity.write_text(self.run(switch(self.services)))

    def kept(self) -> list[int]:
        """The snapshots that must come back."""
        return sorted(self.saved.keys() - self.dropped - self.unsure)

    @precondition(lambda self: len(self.saved) > 2)
    @rule(share=st.sampled_from([0.2, 0.7]), dies=dying)
    def drop(self, share: float, dies: int | None) -> None:
        going = {number for number in self.kept()[:-1] if self.chance.random() < share}
        if not going or self.unsure:
            return

        async def flow(services: Services, repo: Repo) -> bool:
            await epoch.new_epoch(services, repo, drop=going, why=Why("a policy", "they are too old"))
            return True

        if self.run(self._with_repo(flow, dies)):
            self._forget(going)
        else:
            self.unsure = going

    def _settle(self) -> None:
        """After a run that recovered what was left: a drop that died has happened, or it has not."""
        every = self.run(self._every())
        gone = {one.number for one in every if one.dropped_at is not None}
        assert gone - self.dropped in (set(), self.unsure)
        self._forget(gone - self.dropped)
        self.unsure = set()

    def _forget(self, going: set[int]) -> None:
        self.dropped |= going
        self.owed.clear()
        if going:
            number = self.chance.choice(sorted(going))
            place = self._run_script(number)
            if place.exists():  # what is kept has all of it
                self._is_moment(place, number)
                shutil.rmtree(place)
            with pytest.raises(EverrefError):
                self.run(self._with_repo(partial(self._restore, number), None))

    async def _restore(self, number: int, services: Services, repo: Repo) -> None:
        snapshot = await snapshots.get(services.db, repo.id, number)
        assert snapshot
        await restore.to_directory(services, repo, snapshot, self.room / "dropped")

    @rule()
    def everything_at_once(self) -> None:
        async def all_of_it(services: Services, repo: Repo) -> None:
            snapshot = await snapshots.get(services.db, repo.id, len(self.saved))
            assert snapshot
            place = self.room / "beside"
            await asyncio.gather(
                compact.compact(services, repo),
                syncing.sync(services, repo.id),
                restore.to_directory(services, repo, snapshot, place),
                prune.prune(services, prune.GRACE),
                syncing.sync(services, repo.id),
            )
            self._is_moment(place, snapshot.number)
            shutil.rmtree(place)

        self.run(self._with_repo(all_of_it, None))
        self.sync(None)

    @rule()
    def verify(self) -> None:
        found = self.run(self._with_repo(verify.verify, None))
        assert found and found.problems == ()

    @rule(whole=st.booleans())
    def lose_the_pool(self, whole: bool) -> None:
        pool = self.services.disk.pool(self.repo_id)
        packs = sorted(pool.glob("objects/pack/*.pack"))
        if whole or not packs:
            shutil.rmtree(pool, ignore_errors=True)
        else:
            flip(self.chance.choice(packs), self.chance)

    @rule(how=st.sampled_from(["flipped", "cut", "missing", "no index", "no manifest"]), dies=dying)
    def damage_and_heal(self, how: str, dies: int | None) -> None:
        if self.collected:  # then the pool is all that is left
            if self.pending:
                return
            shutil.rmtree(self.services.disk.pool(self.repo_id), ignore_errors=True)
            self.run(self._with_repo(self._fill_pool, None))
        live = self.run(parts.live(self.services.db, self.repo_id))
        vault = self.room / "data" / "vault"
        if how == "no manifest":
            key = layout.manifest_key(self.repo_id, self.chance.randint(1, len(self.saved)))
            (victim,) = (vault / key).parent.glob(f"{Path(key).name}*")
        else:
            live = [one for one in live if one.index_bytes or how != "no index"]
            part = self.chance.choice(sorted(live, key=lambda one: one.key))
            victim = vault / (layout.index_key(part.key) if how == "no index" else part.key)
        if how == "flipped":
            flip(victim, self.chance)
        elif how == "cut":
            victim.write_bytes(victim.read_bytes()[:-7])
        else:
            victim.unlink()
        healed = self.run(self._with_repo(heal.heal, dies))
        if healed is None:
            healed = self.run(self._with_repo(heal.heal, None))
        assert healed is not None and all(one.how for one in healed), healed
        self.verify()

    async def _fill_pool(self, services: Services, repo: Repo) -> None:
        await syncing.sync(services, repo.id)

    @rule()
    def drill(self) -> None:
        async def flow(services: Services, repo: Repo) -> drill.Drilled:
            number = self.chance.choice(self.kept())
            snapshot = await snapshots.get(services.db, repo.id, number)
            assert snapshot
            return await drill.drill(services, repo, snapshot)

        found = self.run(self._with_repo(flow, None))
        assert found and found.problems == ()

    @rule(export=st.booleans(), dies=dying)
    def lose_the_database(self, export: bool, dies: int | None) -> None:
        if export or self.identity:  # the keys are nowhere else
            self.run(state.export(self.services))

        async def lost() -> None:
            await self._close()
            self.database = await self._database()
            await self._open()
            if await self._do(rebuild.rebuild, dies) is None:
                await rebuild.rebuild(self.services)
            await self._hook()

        self.run(lost())
        # Reports that no sync had seen yet were in the database alone.
        self.pending, self.late = [replace(one, told=False) for one in self.pending], []
        maps = self.run(self._maps(after=0))
        for number, refs in self.saved.items():
            assert maps[number - 1] == refs, number

    @rule(way=st.sampled_from(["directory", "bundle"]), pool=st.booleans())
    def restore_by_everref(self, way: str, pool: bool) -> None:
        number = self.chance.choice(self.kept())
        if not pool:
            self.lose_the_pool(True)
        if not self.saved[number].keys() - {HEAD}:
            way = "directory"  # no bundle can hold nothing
        place = self.room / "restored"

        async def flow(services: Services, repo: Repo) -> None:
            snapshot = await snapshots.get(services.db, repo.id, number)
            assert snapshot
            how = restore.to_directory if way == "directory" else restore.to_bundle
            assert (await how(services, repo, snapshot, place)).verified

        self.run(self._with_repo(flow, None))
        if way == "directory":
            self._is_moment(place, number)
            shutil.rmtree(place)
        else:
            heads = {
                line.split()[1]: line.split()[0]
                for line in run_git("bundle", "list-heads", place).splitlines()
            }
            wanted = {n: t for n, t in self.saved[number].items() if n != HEAD}
            assert {n: t for n, t in heads.items() if n != HEAD} == wanted
            place.unlink()

    # What must hold

    def _is_moment(self, place: Path, number: int) -> None:
        assert refs_of(place) == self.saved[number]
        fsck(place)

    def _by_script(self, number: int) -> Path:
        place = self._run_script(number)
        assert place.exists()
        return place

    def _run_script(self, number: int, vault: Path | None = None) -> Path:
        """Where restore.sh has put this moment, or nothing if it refused."""
        place = self.room / f"script-{next(_serial)}"
        vault = vault or self.room / "data" / "vault"
        words: list[str | Path] = ["sh", vault / "restore.sh", vault / str(self.repo_id), str(number), place]
        env = {"PATH": os.environ["PATH"], "AGE_IDENTITY": str(self.identity or "")}
        done = subprocess.run(words, env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == place.exists(), done.stderr
        if done.returncode:
            print(done.stderr)  # pytest shows it where the test fails
            assert done.stderr.startswith("restore.sh: ") or number in self.dropped
        return place

    @rule()
    def a_random_moment_comes_back_from_the_vault_alone(self) -> None:
        number = self.chance.choice(self.kept())
        place = self._by_script(number)
        self._is_moment(place, number)
        shutil.rmtree(place)

    def end(self) -> None:
        """All moments at once: the manifests say what refs there were, and one copy has every object."""
        assert self._told_by_manifests() == self.saved
        place = self._by_script(len(self.saved))
        self._is_moment(place, len(self.saved))
        tips = {t for number in self.kept() for t in self.saved[number].values() if not t.startswith(b"ref:")}
        tips |= {target for _, target in self.owed}
        run_git("-C", place, "rev-list", "--objects", "--quiet", "--stdin", stdin=b"\n".join(sorted(tips)))

    def _told_by_manifests(self) -> dict[int, Refs]:
        """What a few lines of anybody's code read out of the vault."""
        now: dict[RefName, Target] = {}
        found: dict[int, Refs] = {}
        folder = self.room / "data" / "vault" / str(self.repo_id) / "snapshots"
        previous = None
        for file in sorted(folder.iterdir()):
            stored = file.read_bytes()
            if file.suffix == ".age":
                assert self.identity
                words: list[str | Path] = ["age", "-d", "-i", self.identity, file]
                stored = subprocess.run(words, capture_output=True, check=True).stdout
            said = json.loads(stored)
            assert said["previous"] == previous
            previous = hashlib.sha256(stored).hexdigest()
            for change in said["changes"]:
                name = RefName(change["name"].encode())
                if change["new"] is None:
                    now.pop(name)
                else:
                    now[name] = Target(change["new"].encode())
            found[said["number"]] = dict(now)
        return {number: refs for number, refs in found.items() if number in self.saved}


def flip(file: Path, chance: random.Random) -> None:
    """Change one bit somewhere."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)


@pytest.fixture
def model(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Everything]:
    """The model over real parts. Merges are due after three parts instead of eight; whatever runs can die."""
    monkeypatch.setattr(compaction, "due", partial(compaction.due, fan_in=3))
    death = Death()
    death.install(monkeypatch)
    for name, part in (("postgres", postgres), ("rooms", tmp_path), ("death", death)):
        monkeypatch.setattr(Everything, name, part, raising=False)
    return Everything


def check(model: type[Everything], examples: int, steps: int, *, same: bool) -> None:
    """Run so many examples; with `same`, the same ones each time."""
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=same,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # making a failing example shorter would take hours
    )
    run_state_machine_as_test(model, settings=how)


def test_every_moment_comes_back_whatever_happens(model: type[Everything]) -> None:
    check(model, 7, 40, same=True)


@pytest.mark.chaos
def test_every_moment_comes_back_whatever_happens_for_minutes(model: type[Everything]) -> None:
    check(model, 50, 60, same=False)
