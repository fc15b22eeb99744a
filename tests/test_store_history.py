"""Where every ref pointed at every snapshot, and every move that it made."""

import json
import random
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from mirror.core.errors import Corrupt
from mirror.core.model import HEAD, Kind, RefChange, RefName, Target
from mirror.store.backup import history, snapshots
from mirror.store.database import query
from tests.parts.chain import MAIN, SIDE, START, Chain, begin, moves, oid

TO_MAIN, TO_SIDE = Target(b"ref: refs/heads/main"), Target(b"ref: refs/heads/side")
SECOND = timedelta(seconds=1)


async def test_every_moment_of_a_random_history_comes_back(db: asyncpg.Pool) -> None:
    chance, chain = random.Random(5), await begin(db)
    names = [HEAD, MAIN, SIDE, *(RefName(b"refs/heads/%d" % number) for number in range(20))]
    map_: dict[RefName, Target] = {}
    for _ in range(60):
        for name in chance.sample(names, chance.randrange(5)):
            if name in map_ and chance.random() < 0.4:
                del map_[name]
            else:
                map_[name] = oid(chance.randrange(4))
        await chain.take(map_)
    for number, expected in enumerate(chain.maps):
        found = await history.refs_at(db, chain.repo.id, number)
        assert found == expected
        assert list(found) == sorted(found)


async def test_two_repos_with_the_same_names_do_not_meet(db: asyncpg.Pool) -> None:
    mine, theirs = await begin(db), await begin(db, "bob/shed")
    await mine.take({MAIN: oid("mine")})
    await theirs.take({MAIN: oid("theirs")})
    await theirs.take({})
    assert await history.refs_at(db, mine.repo.id, 1) == {MAIN: oid("mine")}
    assert await history.refs_at(db, mine.repo.id, 2) == {MAIN: oid("mine")}  # nothing ended there
    assert [line.change.new async for line in history.changes(db, mine.repo.id)] == [oid("mine")]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"refs/heads/\xff\xfe\x80", id="no UTF-8"),
        pytest.param("refs/heads/\u202egnp".encode(), id="right to left"),
        pytest.param(b"refs/heads/--upload-pack=x", id="like a flag"),
        pytest.param(b"refs/heads/" + random.Random(1).randbytes(4000), id="longer than an index entry"),
    ],
)
async def test_a_ref_may_have_any_name(db: asyncpg.Pool, name: bytes) -> None:
    chain = await begin(db)
    await chain.take({RefName(name): oid(1)})
    await chain.take({RefName(name): oid(2)})
    assert await history.refs_at(db, chain.repo.id, 1) == {name: oid(1)}
    assert [line.change.name async for line in history.changes(db, chain.repo.id)] == [name, name]


async def test_the_log_is_newest_first_or_in_its_order(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1), SIDE: oid(1)})
    await chain.take({HEAD: TO_SIDE, SIDE: oid(2)})
    expected = [
        (1, HEAD, None, TO_MAIN, Kind.CREATED),
        (1, MAIN, None, oid(1), Kind.CREATED),
        (1, SIDE, None, oid(1), Kind.CREATED),
        (2, HEAD, TO_MAIN, TO_SIDE, Kind.MOVED),
        (2, MAIN, oid(1), None, Kind.DELETED),
        (2, SIDE, oid(1), oid(2), Kind.FORCED),
    ]

    def told(line: history.Logged) -> tuple[object, ...]:
        change = line.change
        assert line.at == line.taken_at == START + timedelta(minutes=line.snapshot)
        return line.snapshot, change.name, change.old, change.new, change.kind

    assert [told(line) async for line in history.changes(db, chain.repo.id, reverse=True)] == expected
    assert [told(line) async for line in history.changes(db, chain.repo.id)] == expected[::-1]


@pytest.mark.parametrize("reverse", [False, True], ids=["newest first", "oldest first"])
async def test_the_log_goes_on_over_page_after_page(
    db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    monkeypatch.setattr(history, "_PAGE", 3)
    chain = await begin(db)
    for number in range(1, 5):
        await chain.take({RefName(b"refs/heads/%d" % n): oid((number, n)) for n in range(4)})
    lines = [line async for line in history.changes(db, chain.repo.id, reverse=reverse)]
    places = [(line.snapshot, line.change.name) for line in lines]
    assert len(places) == 16
    assert places == sorted(places, reverse=not reverse)


async def test_several_pushes_between_two_snapshots_are_a_change_each(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1), SIDE: oid(9)})
    pushes = [
        RefChange(MAIN, oid(1), oid(2), Kind.FAST_FORWARDED, "alice", START + 61 * SECOND),
        RefChange(MAIN, oid(2), oid(3), Kind.FORCED, "bob\0\udcff", START + 62 * SECOND),
        RefChange(SIDE, oid(9), oid(8), Kind.FORCED, "alice", START + 63 * SECOND),
        RefChange(SIDE, oid(8), oid(9), Kind.FORCED, "alice", START + 64 * SECOND),
    ]
    await chain.take({MAIN: oid(3), SIDE: oid(9)}, pushes)
    await chain.take({MAIN: oid(3), SIDE: oid(7)})
    for number, expected in enumerate(chain.maps):
        assert await history.refs_at(db, chain.repo.id, number) == expected
    lines = [line async for line in history.changes(db, chain.repo.id, reverse=True) if line.snapshot == 2]
    assert [(line.change.new, line.change.kind) for line in lines] == [(p.new, p.kind) for p in pushes]
    assert [line.change.by for line in lines] == ["alice", "bob\ufffd\ufffd", "alice", "alice"]
    assert [line.at for line in lines] == [p.at for p in pushes]


async def test_a_branch_that_came_and_went_between_two_snapshots_is_in_the_log_alone(
    db: asyncpg.Pool,
) -> None:
    chain = await begin(db)
    await chain.take({MAIN: oid(1)})
    came = RefChange(SIDE, None, oid(2), Kind.CREATED)
    went = RefChange(SIDE, oid(2), None, Kind.DELETED)
    await chain.take({MAIN: oid(1)}, [came, went])
    assert await history.refs_at(db, chain.repo.id, 2) == {MAIN: oid(1)}
    assert [line.change async for line in history.changes(db, chain.repo.id)][:2] == [went, came]


async def test_the_log_can_leave_out_what_is_older_and_other_kinds(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    for number in range(1, 4):
        await chain.take({MAIN: oid(number)})
    late = RefChange(MAIN, oid(3), oid(4), Kind.FAST_FORWARDED, "alice", START + timedelta(minutes=1))
    await chain.take({MAIN: oid(4)}, [late])  # pushed long before anybody looked

    async def told(**which: Any) -> list[int]:
        return [line.snapshot async for line in history.changes(db, chain.repo.id, **which)]

    assert await told(since=chain.taken[1].taken_at) == [3, 2]
    assert await told(since=chain.taken[0].taken_at) == [4, 3, 2, 1]
    assert await told(kinds=[Kind.FORCED]) == [3, 2]
    assert await told(kinds=[Kind.FORCED, Kind.CREATED], reverse=True) == [1, 2, 3]
    assert await told(since=START + timedelta(days=1)) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(RefChange(MAIN, oid(9), oid(2), Kind.FORCED), id="from elsewhere"),
        pytest.param(RefChange(MAIN, None, oid(2), Kind.CREATED), id="created where it is"),
        pytest.param(RefChange(SIDE, oid(1), oid(2), Kind.FORCED), id="moved without being"),
        pytest.param(RefChange(SIDE, oid(1), None, Kind.DELETED), id="deleted without being"),
    ],
)
async def test_a_change_that_does_not_fit_the_history_changes_nothing(
    db: asyncpg.Pool, change: RefChange
) -> None:
    chain = await begin(db)
    first = await chain.take({MAIN: oid(1)})
    with pytest.raises(Corrupt, match="#2"):
        await chain.take({MAIN: oid(2)}, [change])
    assert await snapshots.latest(db, chain.repo.id) == first
    assert await history.refs_at(db, chain.repo.id, 1) == {MAIN: oid(1)}


async def test_the_targets_of_an_epoch_are_every_object_that_a_ref_ever_pointed_at(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1)})
    unseen = RefChange(MAIN, oid(1), oid(2), Kind.FAST_FORWARDED)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(3)}, [unseen, RefChange(MAIN, oid(2), oid(3), Kind.FORCED)])
    await chain.take({HEAD: oid(4)})
    assert await history.targets(db, chain.repo.id, 1, 1) == {oid(1)}
    assert await history.targets(db, chain.repo.id, 1, 2) == {oid(1), oid(2), oid(3)}
    assert await history.targets(db, chain.repo.id, 1, 3) == {oid(1), oid(2), oid(3), oid(4)}
    assert await history.targets(db, chain.repo.id, 2, 3) == set()


@pytest.mark.parametrize(
    ("map_", "kind", "overwritten"),
    [
        pytest.param({HEAD: TO_MAIN, MAIN: oid(2)}, Kind.FAST_FORWARDED, False, id="fast-forward"),
        pytest.param({HEAD: TO_MAIN, MAIN: oid(2)}, Kind.FORCED, True, id="force-push"),
        pytest.param({HEAD: TO_SIDE, MAIN: oid(1)}, Kind.MOVED, False, id="HEAD to another branch"),
        pytest.param({HEAD: TO_MAIN, MAIN: oid(1), SIDE: oid(2)}, Kind.CREATED, False, id="new branch"),
        pytest.param({HEAD: TO_MAIN}, Kind.DELETED, True, id="deleted branch"),
    ],
)
async def test_what_was_overwritten_is_known_from_the_moment_on(
    db: asyncpg.Pool, map_: dict[RefName, Target], kind: Kind, overwritten: bool
) -> None:
    chain = await begin(db)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1)})
    [move] = moves(chain.maps[-1], map_)
    await chain.take(map_, [RefChange(move.name, move.old, move.new, kind)])
    assert not await history.overwritten(db, chain.repo.id, 1)
    assert await history.overwritten(db, chain.repo.id, 2) is overwritten


async def _rows_read(db: asyncpg.Pool, question: str, *args: object) -> int:
    """How many rows the database touched to answer, counted by itself; what it changed is rolled back."""

    def count(node: dict[str, Any]) -> int:
        removed = sum(amount for key, amount in node.items() if key.startswith("Rows Removed"))
        below = sum(count(child) for child in node.get("Plans", []))
        scans = "Relation Name" in node and node["Node Type"] != "ModifyTable"
        return below + (int(node["Actual Loops"] * (node["Actual Rows"] + removed)) if scans else 0)

    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        told = await connection.fetchval(f"explain (analyze, format json) {question}", *args)
        await transaction.rollback()
    return count(json.loads(told)[0]["Plan"])


async def _with_history(db: asyncpg.Pool, names: int, pushes: int) -> Chain:
    chain = await begin(db)
    map_ = {RefName(b"refs/heads/%05d" % number): oid(number) for number in range(names)}
    await chain.take(map_)
    busy, read = RefName(b"refs/heads/00007"), []
    for number in range(pushes):
        change = RefChange(busy, map_[busy], oid(("push", number)), Kind.FORCED)
        map_ = {**map_, busy: oid(("push", number))}
        chain.taken.append(chain.next(map_, [change]))
        read.append((chain.taken[-1], [change]))
    await snapshots.record_many(db, chain.lease, chain.repo.id, read)
    await db.execute("analyze")
    return chain


async def test_the_refs_at_a_moment_cost_one_row_a_name_however_long_the_history(db: asyncpg.Pool) -> None:
    chain = await _with_history(db, names=2000, pushes=500)
    for number in (1, 250, 501):
        read = await _rows_read(db, query("refs_at"), chain.repo.id, number)
        assert read == 2 * 2000  # each name, and one stay of each


async def test_recording_one_move_reads_only_what_moved(db: asyncpg.Pool) -> None:
    chain = await _with_history(db, names=2000, pushes=500)
    name, target = RefName(b"refs/heads/00007"), oid(("push", 499))
    ref_id = await db.fetchval("select id from ref where name = $1", name)
    assert await _rows_read(db, query("ref_ids"), chain.repo.id, [name]) == 1
    assert await _rows_read(db, query("end_stays"), 502, [ref_id], [target]) == 1


async def test_the_log_is_read_along_the_index_and_never_sorted(
    db: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = await _with_history(db, names=2000, pushes=500)
    plans: list[str] = []

    async def fetch(self: Any, question: str, *args: object) -> list[Any]:
        plans.append(await self.fetchval(f"explain (format json) {question}", *args))
        return []

    monkeypatch.setattr(asyncpg.pool.PoolConnectionProxy, "fetch", fetch)
    assert [line async for line in history.changes(db, chain.repo.id)] == []
    assert len(plans) == 1
    assert "Sort" not in plans[0]
