"""Where the time goes: the calls of the edges, and git's processes, as they come, beside a peer's whole."""

import functools
import importlib
import inspect
import os
import pkgutil
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import mirror.git
import mirror.store
import mirror.vault
from bench import peers
from bench.clock import Failed, run
from bench.room import Room
from bench.sources import Chain, pushes, strides
from mirror.core.model import Repo

_depth: ContextVar[int] = ContextVar("depth", default=0)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an edge."""

    edge: str  # "git", "store", "vault"
    label: str
    depth: int  # timed calls around it
    start: float  # seconds
    end: float


@dataclass
class Record:
    """The calls of one stretch of work."""

    calls: list[Call] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def add(self, edge: str, label: str, depth: int, start: float) -> None:
        self.calls.append(Call(edge, label, depth, start - self.start, time.perf_counter() - self.start))

    def begin(self) -> None:
        self.calls.clear()
        self.start = time.perf_counter()


def covered(calls: Iterable[Call]) -> float:
    """Seconds during which at least one of these calls was under way."""
    total = reached = 0.0
    for call in sorted(calls, key=lambda call: call.start):
        total += max(0.0, call.end - max(call.start, reached))
        reached = max(reached, call.end)
    return total


@dataclass(frozen=True, slots=True)
class Scene:
    """One piece of work, to be done several times beside a peer's way."""

    rounds: int
    before: Callable[[int], None]  # what has to happen in the world first
    ours: Callable[[], Awaitable[object]]
    theirs: Callable[[], object]


async def profile(room: Room, name: str) -> None:
    """Print, for the largest source, the calls in the round of the middle length, and the shares of all."""
    scene = await SCENES[name](room)
    record = Record()
    _watch(record, mirror.git, mirror.store, mirror.vault)
    taken: list[tuple[float, list[Call], Sequence[float]]] = []
    others: list[tuple[float, Sequence[float]]] = []
    for number in range(scene.rounds):
        scene.before(number)
        os.sync()
        start, before = time.perf_counter(), _cpu()
        scene.theirs()
        others.append((time.perf_counter() - start, _since(before)))
        os.sync()
        before = _cpu()
        record.begin()
        await scene.ours()
        taken.append((time.perf_counter() - record.start, list(record.calls), _since(before)))
    taken.sort(key=lambda one: one[0])
    print(f"{room.largest.name}, {name}: the calls of the middle one of {len(taken)} rounds\n")
    _print_calls(taken[len(taken) // 2][1])
    print("\nmedians of all rounds:")
    _say("the peer", median(other[0] for other in others))
    for place, what in enumerate(_CPU):
        _say(f"  {what}", median(other[1][place] for other in others))
    _say("Everref", median(one[0] for one in taken))
    for place, what in enumerate(_CPU):
        _say(f"  {what}", median(one[2][place] for one in taken))
    for edge in ("git", "store", "vault"):
        _say(f"  {edge} at work", median(covered(c for c in one[1] if c.edge == edge) for one in taken))
    processes = [[call for call in one[1] if call.label.startswith("$ ")] for one in taken]
    _say("  a git process running", median(covered(one) for one in processes))
    print(f"    git processes: {median(len(one) for one in processes):.0f}")
    print("\nby call, a round on average (a call includes those below it):")
    everything = sorted((call for one in taken for call in one[1]), key=lambda call: call.label)
    sums = [(sum(call.end - call.start for call in same), label) for label, same in _by_label(everything)]
    for took, label in sorted(sums, reverse=True)[:40]:
        _say(f"  {label}", took / len(taken))


_CPU = (
    "CPU of this process, user",
    "of this process, system",
    "of its children, user",
    "of its children, system",
)


def _say(what: str, seconds: float) -> None:
    print(f"  {seconds * 1e3:9.2f} ms  {what}")


def _print_calls(calls: Iterable[Call]) -> None:
    for call in sorted(calls, key=lambda call: (call.start, -call.end)):
        took = call.end - call.start
        if took > 0.0002:  # the rest is noise
            print(
                f"  at {call.start * 1e3:8.1f} ms for {took * 1e3:8.1f} ms  {'  ' * call.depth}{call.label}"
            )


async def _synced(room: Room, start: str) -> tuple[Chain, Repo, Path]:
    """A chain at its start, backed up by Everref, and git's mirror of it."""
    chain, url = room.chain(room.largest, start)
    repo, mirror = await room.worker.add(url), room.new("mirror.git")
    await room.worker.sync(repo)
    peers.clone(url, mirror)
    return chain, repo, mirror


async def _one_push(room: Room) -> Scene:
    start, tips = pushes(room.largest, 6 if room.quick else 30)
    chain, repo, mirror = await _synced(room, start)
    return Scene(
        len(tips),
        lambda number: chain.push(tips[number]),
        lambda: room.worker.sync(repo),
        lambda: peers.fetch(mirror),
    )


async def _thousand(room: Room) -> Scene:
    found = strides(room.largest, 1000, 5)
    if found is None:
        raise Failed(f"{room.largest.name} has no 5,000 commits")
    start, tips = found
    chain, repo, mirror = await _synced(room, start)
    return Scene(
        len(tips),
        lambda number: chain.push(tips[number]),
        lambda: room.worker.sync(repo),
        lambda: peers.fetch(mirror),
    )


async def _first(room: Room) -> Scene:
    url = room.alias(room.largest.path)
    repos = [await room.worker.add(room.alias(room.largest.path)) for _ in range(3)]
    return Scene(
        len(repos),
        lambda number: None,
        lambda: room.worker.sync(repos.pop()),
        lambda: peers.clone(url, room.new("clone.git")),
    )


async def _nothing(room: Room) -> Scene:
    url = room.alias(room.largest.path)
    repo = await room.worker.add(url)
    await room.worker.sync(repo)
    return Scene(15, lambda number: None, lambda: room.worker.sync(repo), lambda: peers.ls_remote(url))


async def _restore(room: Room) -> Scene:
    long = await room.long_chain(room.largest)
    return Scene(
        5,
        lambda number: None,
        lambda: room.worker.to_directory(long.repo, room.new("restored.git")),
        lambda: peers.clone(long.url, room.new("clone.git")),
    )


async def _push(room: Room) -> Scene:
    url = room.alias(room.largest.path)
    repo, mirror = await room.worker.add(url), room.new("mirror.git")
    await room.worker.sync(repo)
    peers.clone(url, mirror)

    def target() -> str:
        path = room.new("target.git")
        run("git", "init", "-q", "--bare", path)
        run("git", f"--git-dir={path}", "config", "http.receivepack", "true")
        return room.alias(path)

    ours, theirs = [target() for _ in range(3)], [target() for _ in range(3)]
    return Scene(
        3,
        lambda number: None,
        lambda: room.worker.to_remote(repo, ours.pop()),
        lambda: peers.push(mirror, theirs.pop()),
    )


SCENES: Mapping[str, Callable[[Room], Awaitable[Scene]]] = {
    "one-push": _one_push,
    "1000-commits": _thousand,
    "first": _first,
    "nothing-new": _nothing,
    "restore": _restore,
    "push": _push,
}


def _by_label(calls: Iterable[Call]) -> Iterable[tuple[str, list[Call]]]:
    return ((label, list(same)) for label, same in groupby(calls, key=lambda call: call.label))


def _cpu() -> Sequence[float]:
    ours, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ours.ru_utime, ours.ru_stime, theirs.ru_utime, theirs.ru_stime


def _since(before: Sequence[float]) -> Sequence[float]:
    return [now - then for now, then in zip(_cpu(), before, strict=True)]


def _watch(record: Record, *packages: ModuleType) -> None:
    """Time every coroutine function and asynchronous context manager of these packages, for good."""
    for package in packages:
        edge = package.__name__.rpartition(".")[2]
        modules = [
            importlib.import_module(info.name)
            for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        ]
        for module in (package, *modules):
            kinds = [kind for kind in vars(module).values() if inspect.isclass(kind)]
            for owner in (module, *(kind for kind in kinds if kind.__module__ == module.__name__)):
                for name, found in list(vars(owner).items()):
                    if getattr(found, "__module__", None) == module.__name__ and (
                        new := _timed(record, edge, found)
                    ):
                        setattr(owner, name, new)


def _timed(record: Record, edge: str, call: Any) -> Callable[..., Any] | None:
    label = f"{call.__module__.removeprefix('mirror.')}: {getattr(call, '__qualname__', '')}"
    inner = getattr(call, "__wrapped__", None)
    if inspect.isasyncgenfunction(inner):
        return _timed_block(record, edge, label, call)
    if inspect.iscoroutinefunction(call):
        return _timed_call(record, edge, label, call)
    return None


def _timed_call(record: Record, edge: str, label: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    async def timed(*args: Any, **kwargs: Any) -> Any:
        depth, start = _depth.get(), time.perf_counter()
        token = _depth.set(depth + 1)
        try:
            return await call(*args, **kwargs)
        finally:
            _depth.reset(token)
            record.add(edge, label, depth, start)

    return timed


def _timed_block(record: Record, edge: str, label: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Entering and leaving are timed; of a git process, its whole life."""
    is_git = label.endswith("Git.process")

    @asynccontextmanager
    async def timed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        depth, start = _depth.get(), time.perf_counter()
        block = call(*args, **kwargs)
        try:
            async with block as entered:
                if not is_git:
                    record.add(edge, f"{label} (enter)", depth, start)
                yield entered
                if not is_git:
                    start = time.perf_counter()
        finally:
            verb = " ".join(str(arg) for arg in args[1:3])
            record.add(edge, f"$ git {verb}" if is_git else f"{label} (leave)", depth, start)

    return timed
