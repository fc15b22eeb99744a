"""Repositories with very many refs."""

from pathlib import Path

from bench import peers, sources
from bench.clock import seconds_of, side_by_side
from bench.everref import command
from bench.figures import Row
from bench.room import Room


async def nothing_new(room: Room) -> list[Row]:
    """A sync that finds nothing new, against `git ls-remote`."""
    count = 5_000 if room.quick else 50_000
    source = sources.many_refs(room.place, count)
    url = room.alias(source.path)
    repo = await room.worker.add(url)
    await room.worker.sync(repo)

    async def ours(_: int) -> float:
        return await seconds_of(room.worker.sync(repo))

    async def theirs(_: int) -> float:
        return peers.ls_remote(url)

    async def one_shot(_: int) -> float:
        return command(room.worker.data, "backup", url).seconds

    taken = await side_by_side(max(room.rounds, 9), ours, theirs, one_shot)
    what, peer = "nothing new", "`git ls-remote`"
    return [
        Row(what, source.name, taken[0], "s", peer, taken[1], 1.5, 1.2),
        Row(f"{what}, as a command", source.name, taken[2], "s", peer, taken[1]),
    ]


async def many(room: Room) -> list[Row]:
    """100,000 refs: the first backup, one push, nothing new, and a restore, each against git's own way."""
    source = sources.many_refs(room.place, 10_000 if room.quick else 100_000)
    url = room.alias(source.path)

    def cloned() -> tuple[Path, float]:
        to = room.new("clone.git")
        return to, peers.clone(url, to)

    async def clone(_: int) -> float:
        to, taken = cloned()
        room.clear(to)
        return taken

    async def first(_: int) -> float:
        return await seconds_of(room.worker.sync(await room.worker.add(room.alias(source.path))))

    firsts = await side_by_side(room.rounds, first, clone)

    chain, url_of_chain = room.chain(source, source.mainline()[-1], keep_refs=True)
    mirror = room.new("mirror.git")
    peers.clone(url_of_chain, mirror)
    repo = await room.worker.add(url_of_chain)
    await room.worker.sync(repo)
    pushes: list[tuple[float, ...]] = [(), ()]

    async def sync(_: int) -> float:
        return await seconds_of(room.worker.sync(repo))

    async def fetch(_: int) -> float:
        return peers.fetch(mirror)

    for number in range(max(5, room.rounds)):
        chain.invent(number)
        one = await side_by_side(1, sync, fetch)
        pushes = [before + now for before, now in zip(pushes, one, strict=True)]

    async def ls_remote(_: int) -> float:
        return peers.ls_remote(url_of_chain)

    nothing = await side_by_side(max(5, room.rounds), sync, ls_remote)

    async def restore(_: int) -> float:
        to = room.new("restored.git")
        taken = await seconds_of(room.worker.to_directory(repo, to))
        room.clear(to)
        return taken

    restores = await side_by_side(room.rounds, restore, clone)
    mirrored = "`git clone --mirror`"
    return [
        Row("first backup", source.name, firsts[0], "s", mirrored, firsts[1]),
        Row("one push", source.name, pushes[0], "s", "bare `git fetch`", pushes[1], 1.5, 1.25),
        Row("nothing new", source.name, nothing[0], "s", "`git ls-remote`", nothing[1], 1.5, 1.2),
        Row("restore into a directory", source.name, restores[0], "s", mirrored, restores[1], 1.0, 0.3),
    ]
