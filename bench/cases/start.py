"""A command where nothing is running: the embedded services come up with it."""

from bench import sources
from bench.everref import command
from bench.figures import Row
from bench.room import Room


async def start(room: Room) -> list[Row]:
    """From the start of `everref backup`, nothing running, to open edges; and such a command as a whole."""
    source = sources.generated(room.new("start"), 50, 20)
    url = room.alias(source.path)
    cold, later, whole = [], [], []
    for _ in range(room.rounds):
        data = room.new("data")
        cold.append(command(data, "backup", url).up)
        again = command(data, "backup", url)
        later.append(again.up)
        whole.append(again.seconds)
        room.clear(data)
    return [
        Row("services up, first time", "-", tuple(cold), "s", goal=2.0, stretch=1.0),
        Row("services up, later", "-", tuple(later), "s", goal=2.0, stretch=1.0),
        Row("`everref backup` with nothing new, nothing running", "-", tuple(whole), "s"),
    ]
