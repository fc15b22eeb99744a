"""The most memory that our process takes, git's own apart."""

from bench import sources
from bench.everref import Ran, command
from bench.figures import Row
from bench.room import Room

SMALL, LARGE = 10 << 20, 1 << 30


async def memory(room: Room) -> list[Row]:
    """Peak memory of a command's Python process, at 10 MiB and at 1 GiB of files that do not compress."""
    rows = []
    large = 100 << 20 if room.quick else LARGE
    small_peaks: dict[str, float] = {}
    for source in (
        sources.of_size(room.place, SMALL),
        sources.of_size(room.place, large),
        *room.sources[-1:],
    ):
        url = room.alias(source.path)
        data = room.worker.data
        bundle, directory = room.new("moment.bundle"), room.new("restored.git")
        name = (await room.worker.add(url)).name
        runs: dict[str, Ran] = {
            "backup": command(data, "backup", url, watch=True),
            "restore to a bundle": command(data, "restore", name, "--bundle", bundle, watch=True),
            "restore into a directory": command(data, "restore", name, "--dir", directory, watch=True),
            "verify": command(data, "verify", name, watch=True),
        }
        for what, ran in runs.items():
            at_first = small_peaks.setdefault(what, ran.peak)
            rows.append(
                Row(
                    f"peak memory: {what}",
                    source.name,
                    (ran.peak,),
                    "MB",
                    goal=256,
                    stretch=160,
                    remark=f"{ran.peak / at_first:.2f} of 10 MiB's; git below it {ran.git_peak:.0f} MB",
                )
            )
        bundle.unlink()
        room.clear(directory, source.path if source not in room.sources else directory)
    return rows
