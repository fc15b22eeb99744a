"""Recording snapshots and parts, and finding them again."""

from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from mirror.core.errors import Busy, Corrupt
from mirror.core.model import HEAD, Kind, RefChange, Target
from mirror.store import leases, repos
from mirror.store.backup import history, parts, snapshots
from tests.parts.chain import MAIN, SIDE, START, begin, moves, oid, sha256

MINUTE = timedelta(minutes=1)
NOTHING = timedelta(0)


async def test_a_snapshot_is_read_back_as_it_was_recorded(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    snapshot = await chain.take({HEAD: Target(b"ref: refs/heads/main"), MAIN: oid(1)})
    assert await snapshots.latest(db, chain.repo.id) == snapshot
    assert await snapshots.get(db, chain.repo.id, 1) == snapshot


async def test_a_snapshot_that_brought_no_object_has_neither_segment_nor_bundle(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1)})
    snapshot = await chain.take({MAIN: oid(1), SIDE: oid(1)}, objects=False)
    found = await snapshots.latest(db, chain.repo.id)
    assert found == snapshot
    assert (snapshot.segment, snapshot.bundle) == (None, None)
    assert len(await parts.live(db, chain.repo.id)) == 1


async def test_an_empty_repository_has_a_snapshot_too(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    snapshot = await chain.take({}, objects=False)
    assert await snapshots.latest(db, chain.repo.id) == snapshot
    assert await history.refs_at(db, chain.repo.id, 1) == {}


async def test_recording_a_snapshot_twice_changes_nothing(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    first, changes = await chain.take({MAIN: oid(1)}), moves({}, {MAIN: oid(1)})
    await chain.take({MAIN: oid(2)})
    await snapshots.record(db, chain.lease, chain.repo.id, first, changes)
    assert [snapshot async for snapshot in snapshots.every(db, chain.repo.id)] == chain.taken
    assert len([line async for line in history.changes(db, chain.repo.id)]) == 2


@pytest.mark.parametrize("number", [1, 2], ids=["recorded", "next"])
async def test_a_snapshot_of_another_history_is_refused(db: asyncpg.Pool, number: int) -> None:
    chain = await begin(db)
    first = await chain.take({MAIN: oid(1)})
    stranger = replace(
        chain.next({}, []) if number == 2 else first,
        manifest_sha256=sha256("stranger"),
        previous_sha256=sha256("stranger's parent") if number == 2 else None,
    )
    with pytest.raises(Corrupt, match=f"#{number}"):
        await snapshots.record(db, chain.lease, chain.repo.id, stranger, [])
    assert await snapshots.latest(db, chain.repo.id) == first


async def test_many_snapshots_are_recorded_as_one_by_one(db: asyncpg.Pool) -> None:
    one, many = await begin(db), await begin(db, "bob/shed")
    read = []
    for number in range(1, 20):
        map_ = {MAIN: oid(number), SIDE: oid(number // 3)}
        changes = moves(many.maps[-1], map_)
        await one.take(map_)
        many.taken.append(many.next(map_, changes))
        many.maps.append(map_)
        read.append((many.taken[-1], changes))
    await snapshots.record_many(db, many.lease, many.repo.id, read[:5])
    await snapshots.record_many(db, many.lease, many.repo.id, read)
    assert [snapshot async for snapshot in snapshots.every(db, many.repo.id)] == many.taken
    for number in range(1, 20):
        assert await history.refs_at(db, many.repo.id, number) == one.maps[number]


async def test_a_time_means_the_last_snapshot_at_or_before_it(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    first, second = await chain.take({MAIN: oid(1)}), await chain.take({MAIN: oid(2)})
    microsecond = timedelta(microseconds=1)
    assert await snapshots.at(db, chain.repo.id, first.taken_at - microsecond) is None
    assert await snapshots.at(db, chain.repo.id, first.taken_at) == first
    assert await snapshots.at(db, chain.repo.id, second.taken_at - microsecond) == first
    assert await snapshots.at(db, chain.repo.id, second.taken_at + 999 * MINUTE) == second


@pytest.mark.parametrize("number", [-1, 0, 2, 1 << 31, 1 << 80])
async def test_a_number_that_was_never_taken_is_no_snapshot(db: asyncpg.Pool, number: int) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1)})
    assert await snapshots.get(db, chain.repo.id, number) is None


async def test_every_snapshot_comes_in_order_over_page_after_page(
    db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_PAGE", 2)
    chain = await begin(db)
    for number in range(1, 6):
        await chain.take({MAIN: oid(number)})
    assert [snapshot async for snapshot in snapshots.every(db, chain.repo.id)] == chain.taken


async def test_snapshots_say_when_they_were_verified(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    for number in range(1, 4):
        await chain.take({MAIN: oid(number)})
    await snapshots.stamp_verified(db, chain.repo.id, 2, START)
    stamps = [snapshot.verified_at async for snapshot in snapshots.every(db, chain.repo.id)]
    assert stamps == [START, START, None]


async def test_segments_are_those_of_the_log_up_to_a_moment(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    one = await chain.take({MAIN: oid(1)})
    await chain.take({MAIN: oid(1), SIDE: oid(1)}, objects=False)
    three = await chain.take({MAIN: oid(3)})
    await chain.take({MAIN: oid(4)})
    assert await snapshots.segments(db, chain.repo.id, 1, 3) == (one.segment, three.segment)
    assert await snapshots.segments(db, chain.repo.id, 2, 3) == ()


async def test_a_run_that_lost_its_turn_records_nothing(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    first = await chain.take({MAIN: oid(1)})
    await parts.intend(db, chain.lease, chain.repo.id, "late")
    successor = await leases.acquire(db, chain.repo.id, ttl=NOTHING)
    assert successor is not None
    with pytest.raises(Busy, match="took over"):
        await chain.take({MAIN: oid(2)})
    with pytest.raises(Busy, match="took over"):
        await parts.replace(db, chain.lease, chain.repo.id, [], chain.part(1, 1, ()), START)
    with pytest.raises(Busy, match="took over"):
        await repos.forget_history(db, chain.lease, chain.repo.id)
    assert await snapshots.latest(db, chain.repo.id) == first
    assert await history.refs_at(db, chain.repo.id, 1) == {MAIN: oid(1)}
    assert len(await parts.live(db, chain.repo.id)) == 1


async def test_a_turn_is_not_taken_over_in_the_middle_of_recording(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    async with db.acquire() as other, db.acquire() as connection, connection.transaction():
        await leases.fenced(connection, chain.lease, chain.repo.id)
        await other.execute("set lock_timeout = '20ms'")
        with pytest.raises(Busy):
            await leases.acquire(other, chain.repo.id, ttl=NOTHING)


async def test_a_lease_of_one_repo_records_nothing_in_another(db: asyncpg.Pool) -> None:
    mine, theirs = await begin(db), await begin(db, "bob/shed")
    theirs.lease = mine.lease
    with pytest.raises(Busy):
        await theirs.take({MAIN: oid(1)})


async def test_recording_a_bundle_takes_back_its_intent_and_no_other(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    snapshot = chain.next({MAIN: oid(1)}, moves({}, {MAIN: oid(1)}))
    assert snapshot.bundle is not None
    for key in ("first", snapshot.bundle.key):
        await parts.intend(db, chain.lease, chain.repo.id, key)
    await chain.take({MAIN: oid(1)})
    [left] = await parts.intents(db, chain.repo.id)
    assert (left.key, left.owner) == ("first", chain.lease.owner)
    await parts.drop_intent(db, chain.repo.id, "first")
    await parts.drop_intent(db, chain.repo.id, "first")
    assert await parts.intents(db, chain.repo.id) == []


async def test_the_intent_of_a_snapshot_that_could_not_be_recorded_stays(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    changes = [RefChange(MAIN, oid("never there"), oid(1), Kind.FORCED)]
    snapshot = chain.next({MAIN: oid(1)}, changes)
    assert snapshot.bundle is not None
    await parts.intend(db, chain.lease, chain.repo.id, snapshot.bundle.key)
    with pytest.raises(Corrupt):
        await chain.take({MAIN: oid(1)}, changes)
    assert [intent.key for intent in await parts.intents(db, chain.repo.id)] == [snapshot.bundle.key]
    assert await snapshots.latest(db, chain.repo.id) is None
    assert await parts.live(db, chain.repo.id) == []


async def test_a_merged_part_has_every_boundary_of_those_it_replaced(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    for number in range(1, 4):
        await chain.take({MAIN: oid(number)})
    await chain.take({MAIN: oid(3), SIDE: oid(3)}, objects=False)
    await chain.take({MAIN: oid(5)})
    one, two, three, five = await parts.live(db, chain.repo.id)
    merged = chain.part(1, 3, one.segments + two.segments + three.segments, unique=1)
    await parts.intend(db, chain.lease, chain.repo.id, merged.key)
    await parts.replace(db, chain.lease, chain.repo.id, [one, two, three], merged, START)
    assert await parts.live(db, chain.repo.id) == [merged, five]
    assert await parts.intents(db, chain.repo.id) == []
    assert [
        snapshot async for snapshot in snapshots.every(db, chain.repo.id)
    ] == chain.taken  # as they were born


async def test_a_checkpoint_has_no_boundary_inside(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    for number in range(1, 3):
        await chain.take({MAIN: oid(number)})
    checkpoint = chain.part(1, 2, (), unique=1)
    live = await parts.live(db, chain.repo.id)
    await parts.replace(db, chain.lease, chain.repo.id, live, checkpoint, START)
    assert await parts.live(db, chain.repo.id) == [checkpoint]


async def test_replacing_parts_twice_changes_nothing(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    for number in range(1, 3):
        await chain.take({MAIN: oid(number)})
    old, new = await parts.live(db, chain.repo.id), chain.part(1, 2, (), unique=1)
    await parts.replace(db, chain.lease, chain.repo.id, old, new, START)
    await parts.replace(db, chain.lease, chain.repo.id, old, new, START + MINUTE)
    assert {grave.replaced_at for grave in await parts.tombstones(db, chain.repo.id)} == {START}
    with pytest.raises(Busy, match="replaced the same parts"):
        await parts.replace(db, chain.lease, chain.repo.id, old, chain.part(1, 2, (), unique=2), START)


async def test_a_replaced_part_is_a_tombstone_until_its_object_is_deleted(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    for number in range(1, 3):
        await chain.take({MAIN: oid(number)})
    one, two = await parts.live(db, chain.repo.id)
    await parts.bury(db, chain.repo.id, one.key)  # not while it is live
    assert await parts.is_known(db, chain.repo.id, one.key)
    await parts.replace(db, chain.lease, chain.repo.id, [one, two], chain.part(1, 2, (), unique=1), START)
    graves = await parts.tombstones(db, chain.repo.id)
    assert graves == [
        parts.Tombstone(one.key, one.bytes, one.index_bytes, START),
        parts.Tombstone(two.key, two.bytes, two.index_bytes, START),
    ]
    await parts.bury(db, chain.repo.id, one.key)
    await parts.bury(db, chain.repo.id, one.key)
    assert await parts.tombstones(db, chain.repo.id) == graves[1:]
    assert not await parts.is_known(db, chain.repo.id, one.key)
    assert await parts.is_known(db, chain.repo.id, two.key)
    assert await snapshots.get(db, chain.repo.id, 1) == chain.taken[0]


async def test_parts_say_when_they_were_verified(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1)})
    [part] = await parts.live(db, chain.repo.id)
    await parts.stamp_verified(db, chain.repo.id, [part.key], START)
    assert await db.fetchval("select verified_at from part") == START
