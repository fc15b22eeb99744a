"""Backing up: the first time, and after every push."""

from pathlib import Path

from bench import peers
from bench.clock import seconds_of, side_by_side
from bench.everref import command
from bench.figures import Row
from bench.room import Room
from bench.sources import Chain, Source, pushes, strides


async def first(room: Room) -> list[Row]:
    """First backup into a directory vault, sums and database included, against git alone."""
    rows = []
    for source in room.sources:
        big = source.bytes() >= 25_000_000  # below that, fixed costs decide
        url = room.alias(source.path)

        async def ours(_: int, source: Source = source) -> float:
            repo = await room.worker.add(room.alias(source.path))
            return await seconds_of(room.worker.sync(repo))

        async def clone(_: int, url: str = url) -> float:
            to = room.new("clone.git")
            taken = peers.clone(url, to)
            room.clear(to)
            return taken

        async def clone_and_bundle(_: int, url: str = url) -> float:
            to = room.new("clone.git")
            taken = peers.clone_and_bundle(url, to)
            room.clear(to)
            return taken

        async def one_shot(_: int, source: Source = source) -> float:
            return command(room.worker.data, "backup", room.alias(source.path)).seconds

        taken = await side_by_side(room.rounds, ours, clone, clone_and_bundle, one_shot)
        what, said = "first backup", peers.CLONE
        goal, stretch = (1.15, 1.00) if big else (None, None)
        rows += [
            Row(what, source.name, taken[0], "s", said, taken[1], goal, stretch),
            Row(what, source.name, taken[0], "s", f"{said}, then `git bundle create --all`", taken[2]),
            Row(f"{what}, as a command", source.name, taken[3], "s", said, taken[1]),
        ]
    return rows


async def incremental(room: Room) -> list[Row]:
    """A backup after each push, warm and as a command, against a bare `git fetch`; and the bytes it adds."""
    rows = []
    for source in room.worth_replaying():
        start, tips = pushes(source, 6 if room.quick else 20)
        chain, url = room.chain(source, start)
        rows += await _pushes(room, "one push", chain, url, tips, 1.5, with_bytes=True)
        long = strides(source, 1000, max(3, room.rounds))
        if long:
            chain, url = room.chain(source, long[0])
            rows += await _pushes(room, "1,000 commits", chain, url, long[1], 1.6)
        chain, url = room.chain(source, source.mainline()[-1], keep_refs=True)
        invented = [str(number) for number in range(len(tips))]
        rows += await _pushes(room, f"one push, {chain.refs():,} refs", chain, url, invented, 1.5)
    return rows


async def _pushes(
    room: Room, what: str, chain: Chain, url: str, tips: list[str], goal: float, *, with_bytes: bool = False
) -> list[Row]:
    """Play pushes forward; after each, all bring themselves up to date: the command has a repo of its own."""
    mirror = room.new("mirror.git")
    peers.clone(url, mirror)
    repo = await room.worker.add(url)
    await room.worker.sync(repo)
    other = room.alias(chain.path)
    command(room.worker.data, "backup", other)
    ours: list[float] = []
    theirs: list[float] = []
    commands: list[float] = []
    sizes = _Sizes(room, chain, mirror)

    async def sync(_: int) -> float:
        before = room.worker.vault_bytes(repo)
        synced = []

        async def once() -> None:
            synced.append(await room.worker.sync(repo))

        taken = await seconds_of(once())
        bundle = synced[0].snapshot.bundle
        sizes.bundles += bundle.bytes if bundle else 0
        sizes.vault += room.worker.vault_bytes(repo) - before
        return taken

    async def fetch(_: int) -> float:
        return peers.fetch(mirror)

    async def one_shot(_: int) -> float:
        return command(room.worker.data, "backup", other).seconds

    for number, tip in enumerate(tips):
        before = chain.now
        if len(tip) < 40:
            chain.invent(int(tip))
        else:
            chain.push(tip)
        contestants = [sync, fetch] if number % 2 else [fetch, sync]
        taken = await side_by_side(1, *contestants, one_shot)
        ours += taken[contestants.index(sync)]
        theirs += taken[contestants.index(fetch)]
        commands += taken[2]
        sizes.theirs += sizes.bundle_of(before)
    name = chain.source.name
    rows = [
        Row(what, name, tuple(ours), "s", "bare `git fetch`", tuple(theirs), goal, 1.25),
        Row(f"{what}, as a command", name, tuple(commands), "s", "bare `git fetch`", tuple(theirs)),
    ]
    peer, others = "`git bundle create ^old`", (float(sizes.theirs),)
    rows.append(Row(f"{what}: its bundle", name, (float(sizes.bundles),), "bytes", peer, others, 1.10, 1.02))
    if with_bytes:
        remark = (
            f"the sum of {len(tips)} pushes; manifests of {(sizes.vault - sizes.bundles) // len(tips)} bytes"
        )
        everything = (float(sizes.vault),)
        rows.append(
            Row(f"{what}: all it adds to the vault", name, everything, "bytes", peer, others, remark=remark)
        )
    return rows


class _Sizes:
    """What the pushes of one chain added, in bytes."""

    def __init__(self, room: Room, chain: Chain, mirror: Path) -> None:
        self.bundles = self.vault = self.theirs = 0
        self._room, self._chain, self._mirror = room, chain, mirror

    def bundle_of(self, before: str) -> int:
        """The size of the bundle that git makes of what came since."""
        file = self._room.new("push.bundle")
        peers.bundle(self._mirror, file, f"^{before}", self._chain.source.branch)
        size = file.stat().st_size
        file.unlink()
        return size
