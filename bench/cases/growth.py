"""How much a vault grows, against programs that back up the directory of a mirror; and what forks share."""

from collections.abc import Sequence

from bench import peers
from bench.clock import run
from bench.figures import Row
from bench.room import Room
from bench.sources import Source, pushes

PUSHES = 30
BEHIND = (0, 30, 300)  # pushes of its own that a fork has


async def growth(room: Room) -> list[Row]:
    """What 30 pushes add, each backed up by itself; and then a `git gc` of the mirror."""
    rows: list[Row] = []
    for source in room.worth_replaying():
        rows += await _grown(room, source, 6 if room.quick else PUSHES)
    return rows


async def _grown(room: Room, source: Source, count: int) -> Sequence[Row]:
    start, tips = pushes(source, count)
    chain, url = room.chain(source, start)
    mirror, place = room.new("mirror.git"), room.new("archives")
    place.mkdir()
    peers.clone(url, mirror)
    archives, absent = peers.archivers(place)
    repo = await room.worker.add(url)
    await room.worker.sync(repo)
    ours = room.worker.vault_bytes(repo)
    for archive in archives:
        archive.backup(mirror)
    theirs = [archive.bytes() for archive in archives]
    for tip in tips:
        chain.push(tip)
        await room.worker.sync(repo)
        peers.fetch_as_people_do(mirror)
        for archive in archives:
            archive.backup(mirror)
    rows = []
    for when in (f"growth over {count} pushes", f"growth over {count} pushes and a `git gc`"):
        grown = float(room.worker.vault_bytes(repo) - ours)
        for archive, before in zip(archives, theirs, strict=True):
            added = (float(archive.bytes() - before),)
            rows.append(Row(when, source.name, (grown,), "bytes", archive.name, added, 1 / 10, 1 / 40))
        rows += [
            Row(when, source.name, (grown,), "bytes", remark=f"{name} is absent here") for name in absent
        ]
        run("git", f"--git-dir={mirror}", "gc", "-q")
        run("git", f"--git-dir={chain.path}", "gc", "-q")
        await room.worker.sync(repo)
        for archive in archives:
            archive.backup(mirror)
    room.clear(mirror, place)
    return rows


async def forks(room: Room) -> list[Row]:
    """The first part of a fork whose parent is stored too: what a thin one would take, against a whole one.

    Git packs both. No part is stored thin against another repo's: docs/decisions.md says why.
    """
    rows = []
    for source in room.worth_replaying():
        for count in BEHIND[: 2 if room.quick else None]:
            start, tips = pushes(source, max(1, count))
            fork, parent = tips[-1], start if count else tips[-1]
            whole, thin = _packed(source, fork), _packed(source, fork, parent)
            name = f"a fork with {count} pushes of its own"
            rows.append(Row(name, source.name, (float(thin),), "bytes", "whole", (float(whole),)))
    return rows


def _packed(source: Source, tip: str, but: str | None = None) -> int:
    """The bytes of a pack of what a commit reaches, thin against another one."""
    wanted = f"{tip}\n" + (f"^{but}\n" if but else "")
    git = ("git", f"--git-dir={source.path}", "pack-objects", "--revs", "--thin", "--stdout", "-q")
    return len(run(*git, stdin=wanted.encode()))
