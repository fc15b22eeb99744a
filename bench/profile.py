"""Where the time of an incremental sync goes: the calls of the edges, and git's processes, as they come."""

import functools
import importlib
import inspect
import pkgutil
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from types import ModuleType
from typing import Any

import mirror.git
import mirror.store
import mirror.vault
from bench.room import Room
from bench.sources import pushes

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


async def incremental(room: Room) -> None:
    """Print, for the largest source, the calls of a sync of the middle length, and the shares of all."""
    record = Record()
    _watch(record, mirror.git, mirror.store, mirror.vault)
    start, tips = pushes(room.largest, 6 if room.quick else 30)
    chain, url = room.chain(room.largest, start)
    repo = await room.worker.add(url)
    await room.worker.sync(repo)
    taken: list[tuple[float, list[Call], Sequence[float]]] = []
    for tip in tips:
        chain.push(tip)
        before = _cpu()
        record.begin()
        await room.worker.sync(repo)
        whole = time.perf_counter() - record.start
        taken.append(
            (whole, list(record.calls), [now - then for now, then in zip(_cpu(), before, strict=True)])
        )
    taken.sort(key=lambda one: one[0])
    whole, calls, _ = taken[len(taken) // 2]
    print(
        f"{room.largest.name}: {len(taken)} pushes; the sync of the middle length took {whole * 1e3:.1f} ms\n"
    )
    for call in sorted(calls, key=lambda call: (call.start, -call.end)):
        took = call.end - call.start
        print(f"{call.start * 1e3:8.1f} {took * 1e3:7.1f} ms  {'  ' * call.depth}{call.label}")
    print("\nmedians of all:")
    print(f"  a sync                            {median(one[0] for one in taken) * 1e3:7.1f} ms")
    for edge in ("git", "store", "vault"):
        share = median(covered(call for call in one[1] if call.edge == edge) for one in taken)
        print(f"  {edge + ' at work':<33} {share * 1e3:7.1f} ms")
    processes = [[call for call in one[1] if call.label.startswith("$ ")] for one in taken]
    print(f"  a git process running             {median(covered(one) for one in processes) * 1e3:7.1f} ms")
    print(f"  git processes                     {median(len(one) for one in processes):7.0f}")
    for place, name in enumerate(
        ("our CPU, user", "our CPU, system", "children's CPU, user", "children's CPU, system")
    ):
        print(f"  {name:<33} {median(one[2][place] for one in taken) * 1e3:7.1f} ms")
    everything = sorted((call for one in taken for call in one[1]), key=lambda call: call.label)
    print("\nby call, in sum over all syncs (a call includes those below it):")
    sums = [(sum(call.end - call.start for call in same), label) for label, same in _by_label(everything)]
    for took, label in sorted(sums, reverse=True)[:40]:
        print(f"  {took / len(taken) * 1e3:7.2f} ms a sync  {label}")


def _by_label(calls: Iterable[Call]) -> Iterable[tuple[str, list[Call]]]:
    return ((label, list(same)) for label, same in groupby(calls, key=lambda call: call.label))


def _cpu() -> Sequence[float]:
    ours, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ours.ru_utime, ours.ru_stime, theirs.ru_utime, theirs.ru_stime


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
