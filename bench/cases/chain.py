"""Bringing back a repository that has 500 pushes behind it."""

from pathlib import Path

from bench import peers
from bench.clock import run, seconds_of, side_by_side
from bench.everref import command
from bench.figures import Row
from bench.room import LongChain, Room


async def restore(room: Room) -> list[Row]:
    """The last of 500 moments as a directory, from the vault, against git's two ways to the same state."""
    rows = []
    for source in room.worth_replaying():
        long = await room.long_chain(source)
        what = f"restore of {long.pushes} pushes into a directory"
        restored, cloned, fetched = await _restored(room, long)
        rows += [
            Row(what, source.name, restored, "s", peers.CLONE, cloned, 1.0, 0.3),
            Row(what, source.name, restored, "s", "fetching each bundle in turn", fetched, 1 / 5, 1 / 20),
            Row("a sync late in the chain", source.name, long.seconds[-25:], "s", "early", long.seconds[:25]),
        ]
    return rows


async def _restored(room: Room, long: LongChain) -> list[tuple[float, ...]]:
    async def ours(_: int) -> float:
        to = room.new("restored.git")
        taken = await seconds_of(room.worker.to_directory(long.repo, to))
        room.clear(to)
        return taken

    async def clone(_: int) -> float:
        to = room.new("clone.git")
        taken = peers.clone(long.url, to)
        room.clear(to)
        return taken

    async def in_turn(_: int) -> float:
        to = room.new("fetched.git")
        taken = peers.fetch_bundles(long.parts, to)
        room.clear(to)
        return taken

    return await side_by_side(room.rounds, ours, clone, in_turn)


async def bundle(room: Room) -> list[Row]:
    """A moment as one bundle, from the vault, against `git bundle create` where all objects are at hand."""
    rows = []
    for source in room.worth_replaying():
        long = await room.long_chain(source)
        many = room.new("many.git")  # as git has it after as many fetches, each kept as a pack
        peers.fetch_bundles(long.parts, many)
        pool = room.new("pool.git")  # as Everref has it: packs rolled together now and then
        run("git", "init", "-q", "--bare", pool)
        (pool / "objects/info/alternates").write_text(f"{room.worker.pool(long.repo) / 'objects'}\n")
        run("git", f"--git-dir={pool}", "update-ref", source.branch, long.chain.now)

        async def latest(_: int, long: LongChain = long) -> float:
            return await _bundled(room, long, None)

        async def middle(_: int, long: LongChain = long) -> float:
            return await _bundled(room, long, long.pushes // 2)

        async def by_git(_: int, repo: Path = many) -> float:
            return _bundled_by_git(room, repo)

        async def from_pool(_: int, repo: Path = pool) -> float:
            return _bundled_by_git(room, repo)

        taken = await side_by_side(room.rounds, latest, middle, by_git, from_pool)
        what, peer = f"bundle of a moment out of {len(long.parts)} parts", "`git bundle create`"
        packs = len(list((room.worker.pool(long.repo) / "objects/pack").glob("*.pack")))
        file = room.new("moment.bundle")
        ran = command(room.worker.data, "restore", long.repo.name, "--bundle", file, watch=True)
        there = room.new("git.bundle")
        held = peers.peak_of("git", f"--git-dir={many}", "bundle", "create", "-q", there, "--all")
        rows += [
            Row(what, source.name, taken[0], "s", f"{peer}, as many packs", taken[2], 1 / 5, 1 / 15),
            Row(what, source.name, taken[0], "s", f"{peer} in the pool, {packs} packs", taken[3]),
            Row(f"{what}, the middle one", source.name, taken[1], "s", f"{peer}, as many packs", taken[2]),
            Row(
                f"{what}: peak memory",
                source.name,
                (ran.peak,),
                "MB",
                goal=150,
                remark=f"git below it {ran.git_peak:.0f} MB; {peer} alone {held:.0f} MB",
            ),
            Row(
                f"{what}: its size",
                source.name,
                (float(file.stat().st_size),),
                "bytes",
                peer,
                (float(there.stat().st_size),),
            ),
        ]
        file.unlink()
        there.unlink()
        room.clear(many, pool)
    return rows


async def _bundled(room: Room, long: LongChain, number: int | None) -> float:
    file = room.new("moment.bundle")
    taken = await seconds_of(room.worker.to_bundle(long.repo, file, number))
    file.unlink()
    return taken


def _bundled_by_git(room: Room, repo: Path) -> float:
    file = room.new("git.bundle")
    taken = peers.bundle(repo, file)
    file.unlink()
    return taken


async def push(room: Room) -> list[Row]:
    """A moment pushed to an empty remote, against `git push --mirror` from a plain mirror."""
    rows = []
    for source in room.sources:
        url = room.alias(source.path)
        repo = await room.worker.add(url)
        await room.worker.sync(repo)
        mirror = room.new("mirror.git")
        peers.clone(url, mirror)

        async def ours(_: int, repo=repo) -> float:  # type: ignore[no-untyped-def]
            to = _empty(room)
            taken = await seconds_of(room.worker.to_remote(repo, room.alias(to)))
            room.clear(to)
            return taken

        async def theirs(_: int, mirror: Path = mirror) -> float:
            to = _empty(room)
            taken = peers.push(mirror, room.alias(to))
            room.clear(to)
            return taken

        taken = await side_by_side(room.rounds, ours, theirs)
        rows.append(
            Row("restore by push", source.name, taken[0], "s", "`git push --mirror`", taken[1], 1.1, 1.05)
        )
        room.clear(mirror)
    return rows


def _empty(room: Room) -> Path:
    path = room.new("target.git")
    run("git", "init", "-q", "--bare", path)
    run("git", f"--git-dir={path}", "config", "http.receivepack", "true")
    return path


async def compact(room: Room) -> list[Row]:
    """The same 500 pushes after compaction: what it wrote, and what a restore then takes."""
    rows = []
    for source in room.worth_replaying():
        long = await room.long_chain(source)
        size = float(sum(part.bytes for part in await room.worker.live(long.repo)))
        done = await room.worker.compact(long.repo)
        restored, cloned, _ = await _restored(room, long)
        cut = f"{done.parts_before} parts became {done.parts_after}"
        rows += [
            Row(
                "restore after compaction",
                source.name,
                restored,
                "s",
                peers.CLONE,
                cloned,
                1.0,
                0.3,
                remark=cut,
            ),
            Row(
                "compaction: bytes written",
                source.name,
                (float(done.bytes_written),),
                "bytes",
                "bytes kept",
                (size,),
            ),
        ]
    return rows
