"""What every case is given: room to work in, the server, the sources, and Everref warm."""

import itertools
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bench.everref import Worker
from bench.sources import Chain, Source
from mirror.core.model import Repo

PUSHES = 500  # of a long chain


@dataclass
class Room:
    """Room for one run of the benchmarks."""

    place: Path  # everything happens below it
    served: Path  # what the server serves
    url: str  # of the server
    worker: Worker
    sources: list[Source]
    rounds: int  # at the least, for each comparison
    quick: bool
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _long: "dict[str, LongChain]" = field(default_factory=dict)

    def new(self, name: str) -> Path:
        """A path that nobody has used yet."""
        path = self.place / "scratch" / f"{next(self._numbers)}-{name}"
        path.parent.mkdir(exist_ok=True)
        return path

    def alias(self, path: Path) -> str:
        """A new URL of a repository: to Everref, one that it has never seen."""
        name = f"{next(self._numbers)}-{path.name}"
        (self.served / name).symlink_to(path)
        return f"{self.url}/{name}"

    def chain(self, source: Source, start: str, *, keep_refs: bool = False) -> tuple[Chain, str]:
        """A repository on the server that is played forward, and its URL."""
        chain = Chain(source, self.new(source.path.name), start, keep_refs)
        return chain, self.alias(chain.path)

    def clear(self, *paths: Path) -> None:
        """Make room again."""
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def largest(self) -> Source:
        return max(self.sources, key=Source.bytes)

    def worth_replaying(self) -> list[Source]:
        """The sources with a mainline of some length."""
        return [source for source in self.sources if len(source.mainline()) > 60]

    async def long_chain(self, source: Source) -> "LongChain":
        """A repo with 500 pushes behind it, each its own snapshot; made once a run."""
        if source.name not in self._long:
            self._long[source.name] = await _replay(self, source)
        return self._long[source.name]


@dataclass(frozen=True, slots=True)
class LongChain:
    """A repository that was backed up after each of many pushes."""

    source: Source
    chain: Chain
    url: str
    repo: Repo
    seconds: tuple[float, ...]  # of each sync after the first
    parts: tuple[Path, ...]  # as they were born, in order

    @property
    def pushes(self) -> int:
        return len(self.seconds)


async def _replay(room: Room, source: Source) -> LongChain:
    from bench.clock import seconds_of
    from bench.sources import pushes

    start, tips = pushes(source, 50 if room.quick else PUSHES)
    chain, url = room.chain(source, start)
    repo = await room.worker.add(url)
    await room.worker.sync(repo)
    taken = []
    for tip in tips:
        chain.push(tip)
        taken.append(await seconds_of(room.worker.sync(repo)))
    parts = tuple(room.worker.stored(part.key) for part in await room.worker.live(repo))
    return LongChain(source, chain, url, repo, tuple(taken), parts)
