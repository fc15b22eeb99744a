"""What sealing costs: the same repository in a team that seals its backups and in one that does not."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.clock import seconds_of, side_by_side
from bench.figures import Row
from bench.room import Room
from bench.sources import pushes
from mirror.core import identities
from mirror.core.model import Repo
from mirror.store import repos
from mirror.store.people import keys, teams
from mirror.store.people.teams import TeamId

GOAL = 1.10
RECOVERY = 2  # keys besides the team's own: a sheet, and somebody's


async def sealed(room: Room) -> list[Row]:
    """First backup, one push and restores of a sealed repository, against the same one that is not sealed."""
    rows = []
    team = await _sealing_team(room)
    for source in room.worth_replaying():

        async def first_plain(_: int, path: Path = source.path) -> float:
            return await seconds_of(room.worker.sync(await room.worker.add(room.alias(path))))

        async def first_sealed(_: int, path: Path = source.path) -> float:
            return await seconds_of(room.worker.sync(await _repo(room, team, room.alias(path))))

        taken = await side_by_side(room.rounds, first_sealed, first_plain)
        rows.append(Row("first backup, sealed", source.name, taken[0], "s", "plain", taken[1], GOAL))
        start, tips = pushes(source, 12 if room.quick else 40)
        chain, url = room.chain(source, start)
        plain, secret = await room.worker.add(url), await _repo(room, team, url)
        ours: list[float] = []
        theirs: list[float] = []
        for number, tip in enumerate([start, *tips]):
            if number:
                chain.push(tip)
            for repo in (plain, secret) if number % 2 else (secret, plain):
                spent = await seconds_of(room.worker.sync(repo))
                if number:
                    (theirs if repo is plain else ours).append(spent)
        rows.append(Row("one push, sealed", source.name, tuple(ours), "s", "plain", tuple(theirs), GOAL))

        for at, what in ((None, "restore of the latest"), (len(tips) // 2, "bundle of a moment")):
            one, other = _restoring(room, secret, at), _restoring(room, plain, at)
            taken = await side_by_side(max(7, room.rounds), one, other)
            rows.append(Row(f"{what}, sealed", source.name, taken[0], "s", "plain", taken[1], GOAL))
        await room.worker.compact(plain)
        await room.worker.compact(secret)
        middle = len(tips) // 2
        one, other = _restoring(room, secret, middle), _restoring(room, plain, middle)
        taken = await side_by_side(max(7, room.rounds), one, other)
        what = "bundle of a moment, its part cut, sealed"
        rows.append(Row(what, source.name, taken[0], "s", "plain", taken[1], GOAL))
    return rows


def _restoring(room: Room, repo: Repo, number: int | None) -> Callable[[int], Awaitable[float]]:
    async def once(_: int) -> float:
        to = room.new("restored")
        if number is None:
            spent = await seconds_of(room.worker.to_directory(repo, to))
        else:
            spent = await seconds_of(room.worker.to_bundle(repo, to, number))
        room.clear(to)
        return spent

    return once


async def _sealing_team(room: Room) -> TeamId:
    services = room.worker.services
    assert services.keyring
    team = (await teams.add_named(services.db, "sealed", services.clock())).id
    await keys.add_identity(services.db, services.keyring, team, identities.made(), services.clock())
    for number in range(RECOVERY):
        await services.db.execute(
            """
            insert into recovery_key (team_id, recipient, kind, name, added_at, proved_at)
            values ($1, $2, 'age', $3, $4, $4)
            """,
            *(team, identities.made().recipient, f"key {number}", services.clock()),
        )
    await services.db.execute("update team set sealed_since = $2 where id = $1", team, services.clock())
    return team


async def _repo(room: Room, team: TeamId, url: str) -> Repo:
    services = room.worker.services
    return await repos.add(services.db, team, url.rpartition("/")[2], url, services.clock())
