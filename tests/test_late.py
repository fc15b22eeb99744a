"""Reports that come after the sync which found their moves: names, times, and what was passed over."""

import json
import subprocess
from collections.abc import Callable
from datetime import datetime

import pytest

from mirror.backup import late_reports as telling
from mirror.core.model import Kind, RefName, Refs, Target
from mirror.restore import restore
from mirror.store.backup import history, moments, reported_updates, snapshots
from mirror.store.restore import drills, restores
from mirror.upkeep import verify
from mirror.upkeep.moving import rebuild
from tests.parts.githttp import GitServer
from tests.parts.repos import MAIN, full, refs_of
from tests.test_rescue import SIDE, Garden, garden

__all__ = ["garden"]
Line = tuple[str, RefName, Target | None, Kind, str | None, datetime | None]
V1 = RefName(b"refs/tags/v1")


async def shown(
    garden: Garden,
) -> list[tuple[str, RefName, Target | None, Kind, str | None, datetime | None]]:
    """The history from the second snapshot on, oldest first: what led to which moment."""
    number = {line.snapshot async for line in history.changes(garden.mirror.services.db, garden.repo.id)}
    found = []
    for snapshot in sorted(number - {1}):
        for move, kind in await moments.moves_of(garden.mirror.services.db, garden.repo.id, snapshot):
            label = f"#{snapshot}.{move.moment}" if move.moment else f"#{snapshot}"
            found.append((label, move.name, move.new, kind, move.by, move.at))
    return found


async def restored(garden: Garden) -> dict[str, Refs]:
    """Every moment there is, as git finds it in what was restored, in order."""
    services, found = garden.mirror.services, {}
    async for one in snapshots.every(services.db, garden.repo.id):
        within = await moments.within(services.db, garden.repo.id, one.number)
        mine = [await moments.get(services.db, garden.repo.id, one.number, each.number) for each in within]
        for moment in (*mine, one):
            assert moment
            path = garden.mirror.place / f"late-{garden.mirror.clock():%H%M%S}-{moment.label[1:]}"
            done = await restore.to_directory(services, garden.repo, moment, path)
            assert done.verified
            found[moment.label] = refs_of(path)
    return found


async def test_a_report_that_comes_after_the_look_names_its_move(garden: Garden) -> None:
    first = garden.work.tip()
    when = garden.mirror.clock()
    new = await garden.push(told=False)
    await garden.sync()
    await garden.tell(MAIN, first, new, at=when)
    done = await garden.sync()
    assert (done.new, done.snapshot.number) == (False, 2)
    assert await shown(garden) == [("#2", MAIN, new, Kind.FAST_FORWARDED, "alice", when)]


async def test_a_push_that_a_look_saw_before_its_forges_time_is_one_move_and_no_way_back(
    garden: Garden,
) -> None:
    first = garden.work.tip()
    new = await garden.push(told=False)
    await garden.sync()  # the push came while the listing was under way, or the clocks differ
    when = garden.mirror.clock()
    await garden.tell(MAIN, first, new, at=when)
    done = await garden.sync()
    assert (done.new, done.snapshot.number) == (False, 2)
    await garden.tell(MAIN, first, new, at=when)  # delivered again
    assert (await garden.sync()).snapshot.number == 2
    assert await shown(garden) == [("#2", MAIN, new, Kind.FAST_FORWARDED, "alice", when)]


async def test_a_push_seen_before_its_time_takes_none_of_what_came_after_it(garden: Garden) -> None:
    first = garden.work.tip()
    new = await garden.push(told=False)
    await garden.sync()
    seen, back, again = (garden.mirror.clock() for _ in range(3))
    await garden.tell(MAIN, first, new, at=seen)
    await garden.tell(MAIN, new, first, at=back)
    await garden.tell(MAIN, first, new, at=again)
    await garden.sync()
    assert [(line[2], line[3], line[5]) for line in await shown(garden)] == [
        (new, Kind.FAST_FORWARDED, seen),
        (first, Kind.FORCED, back),
        (new, Kind.FAST_FORWARDED, again),
    ]


async def test_where_the_forge_tells_no_time_the_late_arrival_is_not_taken_for_it(garden: Garden) -> None:
    first = garden.work.tip()
    new = await garden.push(told=False)
    await garden.sync()
    await garden.tell(MAIN, first, new)
    await garden.sync()
    assert await shown(garden) == [("#2", MAIN, new, Kind.FAST_FORWARDED, "alice", None)]


async def test_a_late_report_shows_the_moment_that_was_passed_over(garden: Garden) -> None:
    first = garden.work.tip()
    middle = await garden.push(told=False)
    last = await garden.push(told=False)
    await garden.sync()
    await garden.tell(MAIN, first, middle)
    await garden.tell(MAIN, middle, last)
    done = await garden.sync()
    assert (done.new, done.snapshot.number) == (False, 2)
    assert list((await restored(garden)).items()) == list(
        zip(["#1", "#2.1", "#2"], garden.moments, strict=True)
    )
    assert await shown(garden) == [
        ("#2.1", MAIN, middle, Kind.FAST_FORWARDED, "alice", None),
        ("#2", MAIN, last, Kind.FAST_FORWARDED, "alice", None),
    ]


async def test_what_was_overwritten_is_fetched_for_its_late_report(garden: Garden) -> None:
    """Its objects come in by a snapshot of their own, which changes no ref: the pack log only grows."""
    first = garden.work.tip()
    middle = await garden.push(parents=[], told=False)
    last = await garden.push(parents=[], told=False)
    await garden.sync()
    await garden.tell(MAIN, middle, last)
    await garden.tell(MAIN, first, middle)
    done = await garden.sync()
    assert (done.snapshot.number, done.snapshot.changes_count) == (3, 0)
    found = await restored(garden)
    assert [(label, refs[MAIN]) for label, refs in found.items()] == [
        ("#1", first),
        ("#2.1", middle),
        ("#2", last),
        ("#3", last),
    ]
    assert {line[4] for line in await shown(garden)} == {"alice"}
    db, repo_id = garden.mirror.services.db, garden.repo.id
    assert [middle in await history.targets(db, repo_id, 1, upto) for upto in (2, 3)] == [False, True]


async def test_what_the_remote_has_no_more_is_lost_though_its_report_came_late(garden: Garden) -> None:
    first = garden.work.tip()
    middle = await garden.push(parents=[], told=False)
    last = await garden.push(parents=[first], told=False)
    await garden.sync()
    garden.forget()
    await garden.tell(MAIN, first, middle)
    await garden.tell(MAIN, middle, last)
    assert (await garden.sync()).snapshot.number == 2
    assert [(one.new, one.by) for one in await garden.lost()] == [(middle, "alice")]
    assert await shown(garden) == [("#2", MAIN, last, Kind.FAST_FORWARDED, "alice", None)]


async def test_a_push_to_a_branch_and_then_a_tag_told_late_are_two_moments(garden: Garden) -> None:
    first = garden.work.tip()
    times = [garden.mirror.clock(), garden.mirror.clock()]
    new = await garden.push(told=False)
    garden.work.update({V1: new})
    garden.moments.append(garden.work.refs())
    await garden.sync()
    await garden.tell(V1, None, new, at=times[1])
    await garden.sync()
    await garden.tell(MAIN, first, new, at=times[0])
    await garden.sync()
    assert list((await restored(garden)).items()) == list(
        zip(["#1", "#2.1", "#2"], garden.moments, strict=True)
    )
    found = await snapshots.latest(garden.mirror.services.db, garden.repo.id)
    assert found and found.number == 2


async def test_a_moment_keeps_its_number_when_an_earlier_one_is_told_later(garden: Garden) -> None:
    first = garden.work.tip()
    times = [garden.mirror.clock() for _ in range(4)]
    tips = [first, *[await garden.push(parents=[], told=False) for _ in range(3)]]
    await garden.sync()
    for number in (2, 1, 0):
        await garden.tell(MAIN, tips[number], tips[number + 1], at=times[number])
        await garden.sync()
    found = await restored(garden)
    assert [refs[MAIN] for refs in found.values()] == [first, tips[1], tips[2], tips[3], tips[3], tips[3]]
    assert list(found) == ["#1", "#2.2", "#2.1", "#2", "#3", "#4"]


async def test_a_branch_born_and_deleted_between_two_looks_is_put_where_it_was(garden: Garden) -> None:
    times = [garden.mirror.clock() for _ in range(3)]
    first = garden.work.tip()
    side = await garden.push("side", told=False)
    garden.work.delete("side")
    garden.moments.append(garden.work.refs())
    new = await garden.push(told=False)
    await garden.sync()
    await garden.tell(SIDE, None, side, at=times[0])
    await garden.tell(SIDE, side, None, at=times[1])
    await garden.tell(MAIN, first, new, at=times[2])
    await garden.sync()
    found = await restored(garden)
    assert list(found.values()) == [*garden.moments, garden.moments[-1]]
    assert list(found) == ["#1", "#2.1", "#2.2", "#2", "#3"]


async def test_what_is_told_late_again_changes_nothing(garden: Garden) -> None:
    first = garden.work.tip()
    when = garden.mirror.clock()
    new = await garden.push(told=False)
    await garden.sync()
    for _ in range(3):
        await garden.tell(MAIN, first, new, at=when)
        await garden.sync()
    assert await shown(garden) == [("#2", MAIN, new, Kind.FAST_FORWARDED, "alice", when)]
    assert len([key for key in await garden.mirror.keys() if "/notes/" in key]) == 1


async def test_what_was_told_late_survives_the_loss_of_the_database(
    garden: Garden, git_server: GitServer
) -> None:
    first = garden.work.tip()
    times = [garden.mirror.clock() for _ in range(3)]
    middle = await garden.push(parents=[], told=False)
    last = await garden.push(parents=[], told=False)
    await garden.push("side")
    await garden.sync()
    await garden.tell(MAIN, first, middle, at=times[0])
    await garden.tell(MAIN, middle, last, at=times[1])
    await garden.sync()
    before = (await shown(garden), await restored(garden))
    await lose_the_database(garden)
    assert (await shown(garden), await restored(garden)) == before
    assert (await verify.verify(garden.mirror.services, garden.repo)).problems == ()
    assert full("side") in before[1]["#2"]


async def lose_the_database(garden: Garden) -> None:
    """Forget all that the vault knows, and read it back."""
    db = garden.mirror.services.db
    await db.execute("update claim set open = false")
    await db.execute(
        "truncate moment, note, drill, ref_change, ref_stay, ref, part, snapshot, intent, lost_push"
        " restart identity cascade"
    )
    await rebuild.rebuild(garden.mirror.services)


async def test_the_command_line_lists_and_restores_a_moment_that_was_passed_over(
    garden: Garden, everref: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    first = garden.work.tip()
    when = garden.mirror.clock()
    middle = await garden.push(told=False)
    last = await garden.push(told=False)
    await garden.sync()
    await garden.tell(MAIN, first, middle, at=when)
    await garden.tell(MAIN, middle, last, at=garden.mirror.clock() - 2 * garden.mirror.clock.step)
    await garden.sync()
    name = garden.repo.name
    said = [json.loads(line) for line in everref("log", name, "--json").stdout.splitlines()]
    assert [(line["snapshot"], line.get("moment"), line["new"]) for line in said[:2]] == [
        (2, None, last.decode()),
        (2, 1, middle.decode()),
    ]
    assert everref("log", name).stdout.splitlines()[1].startswith("#2.1")
    for at in ("#2.1", f"{when:%Y-%m-%dT%H:%M:%S}Z"):
        assert f"{middle.decode()}\trefs/heads/main" in everref("refs", name, "--at", at).stdout
    path = garden.mirror.place / "moment"
    done = everref("restore", name, "--at", "#2.1", "--dir", str(path), "--json")
    told = json.loads(done.stdout)
    assert (told["snapshot"], told["moment"], told["verified"]) == (2, 1, True)
    assert refs_of(path) == garden.moments[1]
    everref("drill", name, "--at", "#2.1")
    db = garden.mirror.services.db
    assert [one.label for one in await restores.of(db, garden.repo.id)] == ["#2.1"]
    before = await drills.latest(db, garden.repo.id)
    assert before and before.label == "#2.1"
    await lose_the_database(garden)
    assert await drills.latest(db, garden.repo.id) == before
    assert "has no moment #2.7" in everref("refs", name, "--at", "#2.7").stderr


async def test_forged_reports_cost_no_more_than_so_many_notes(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each late report made a note that repeated all before it: 1,000 forged ones were a million lines."""
    monkeypatch.setattr(telling, "MOMENTS", 3)
    tips = [garden.work.tip()]
    for _ in range(8):
        tips.append(await garden.push(told=False))
    await garden.sync()
    for before, after in zip(tips, tips[1:], strict=False):
        await garden.tell(MAIN, before, after)
        done = await garden.sync()
        assert done.snapshot.number == 2
    db = garden.mirror.services.db
    assert len(await moments.within(db, garden.repo.id, 2)) <= 4
    assert await db.fetchval("select count(*) from note") <= 4
    assert await reported_updates.unanswered(db, garden.repo.id) == []
