"""Every ref over time: which lanes a window has, what they show, and the pages of pushes beside it."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.model import HEAD, Kind, RefChange, RefName, Target
from mirror.core.rules.history import timeline
from mirror.core.rules.history.timeline import Cut, Push, Stretch, Telling
from mirror.store.browse import timeline as stored
from tests.parts.chain import MAIN, SIDE, START, Chain, begin, oid

MINUTE = timedelta(minutes=1)
END = START + timedelta(minutes=60)
TO_MAIN = Target(b"ref: refs/heads/main")
TAG = RefName(b"refs/tags/v1")


def pull(number: int) -> RefName:
    return RefName(b"refs/pull/%d/head" % number)


def at(number: int) -> datetime:
    """When the chain's snapshot of this number was taken."""
    return START + number * MINUTE


async def story(db: asyncpg.Pool) -> Chain:
    """A branch that is pushed, forced and deleted while others come and stay."""
    chain = await begin(db)
    pulls = {pull(n): oid(n) for n in range(5)}
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1), SIDE: oid(1), TAG: oid(1)})
    forward = [RefChange(MAIN, oid(1), oid(2), Kind.FAST_FORWARDED, "lena", at(2) - timedelta(seconds=9))]
    await chain.take({HEAD: TO_MAIN, MAIN: oid(2), SIDE: oid(1), TAG: oid(1)}, forward)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(3), SIDE: oid(1), TAG: oid(1)})  # forced
    await chain.take({HEAD: TO_MAIN, MAIN: oid(3), TAG: oid(1)})  # SIDE deleted
    await chain.take({HEAD: TO_MAIN, MAIN: oid(3), TAG: oid(1), **pulls})
    await chain.take({HEAD: TO_MAIN, MAIN: oid(3), SIDE: oid(5), TAG: oid(1), **pulls})  # SIDE is back
    return chain


async def test_lanes_show_bars_pushes_and_what_was_taken_away(db: asyncpg.Pool) -> None:
    chain = await story(db)
    shown = await stored.lanes(db, chain.repo.id, START, END)
    assert [lane.name for lane in shown.lanes] == [MAIN, SIDE, TAG, b"refs/pull/"]
    main, side, tag, pulls = shown.lanes
    assert [(bar.start, bar.end) for bar in main.bars] == [(at(1), at(3)), (at(3), END)]
    assert main.pushes == (Push(at(2) - timedelta(seconds=9), 2, 1, "lena"),)
    assert main.cuts == (Cut(at(3), 3, "forced", 1, END),)
    assert [(bar.start, bar.end) for bar in side.bars] == [(at(1), at(4)), (at(6), END)]
    assert side.cuts == (Cut(at(4), 4, "deleted", 1, at(6)),)  # no dotted line where it is back
    assert [(bar.start, bar.end) for bar in tag.bars] == [(START, END)] and tag.pushes == ()
    assert pulls.refs == 5 and pulls.folded and sum(push.moves for push in pulls.pushes) == 5


async def test_a_window_shows_what_was_there_before_it(db: asyncpg.Pool) -> None:
    chain = await story(db)
    shown = await stored.lanes(db, chain.repo.id, at(3) - MINUTE / 2, at(4) + MINUTE / 2)
    lanes = {lane.name: lane for lane in shown.lanes}
    assert [(bar.start, bar.end) for bar in lanes[SIDE].bars] == [(shown.start, at(4))]
    assert [(bar.start, bar.end) for bar in lanes[MAIN].bars] == [(shown.start, at(3)), (at(3), shown.end)]
    quiet = await stored.lanes(db, chain.repo.id, at(10), at(20))
    assert [lane.name for lane in quiet.lanes] == [MAIN, SIDE, TAG]
    assert all(not lane.pushes and not lane.cuts for lane in quiet.lanes)


async def test_only_what_was_really_lost_has_a_dotted_line_when_that_is_told(db: asyncpg.Pool) -> None:
    chain = await story(db)
    shown = await stored.lanes(db, chain.repo.id, START, END, lost={(SIDE, 4)})
    cuts = {lane.name: lane.cuts for lane in shown.lanes}
    assert [cut.until for cut in cuts[MAIN]] == [at(3)]
    assert [cut.until for cut in cuts[SIDE]] == [at(6)]


async def test_a_cut_is_at_the_move_that_took_away_also_when_others_followed_at_once(
    db: asyncpg.Pool,
) -> None:
    chain = await story(db)
    main = RefChange(MAIN, oid(3), oid(7), Kind.FAST_FORWARDED)
    await chain.take({**chain.maps[-1], MAIN: oid(7)}, [main])
    shown = await stored.lanes(db, chain.repo.id, START - timedelta(days=90), END, lost={(MAIN, 3)})
    assert shown.lanes[0].cuts == (Cut(at(3), 3, "forced", 1, END),)


async def test_a_folder_can_be_looked_into(db: asyncpg.Pool) -> None:
    chain = await story(db)
    shown = await stored.lanes(db, chain.repo.id, START, END, unfolded=b"refs/pull/")
    assert sorted(lane.name for lane in shown.lanes) == [pull(n) for n in range(5)]
    assert all([bar.start for bar in lane.bars] == [at(5)] for lane in shown.lanes)


async def test_a_repo_without_snapshots_has_an_empty_picture(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    assert (await stored.lanes(db, chain.repo.id, START, END)).lanes == ()
    assert await stored.moment(db, chain.repo.id, 1) is None
    assert await stored.feed(db, chain.repo.id) == []


async def test_pushes_come_newest_first_in_pages(db: asyncpg.Pool) -> None:
    chain = await story(db)
    first = await stored.feed(db, chain.repo.id, limit=4)
    rest = await stored.feed(db, chain.repo.id, before=first[-1].snapshot)
    assert [push.snapshot for push in first + rest] == [6, 5, 4, 3, 2, 1]
    assert rest[0].by == ("lena",) and rest[0].at == at(2) - timedelta(seconds=9)
    assert [line.change.name for line in rest[1].changes] == [HEAD, MAIN, SIDE, TAG]
    short = await stored.feed(db, chain.repo.id, shown=2)
    assert (len(short[1].changes), short[1].count) == (2, 5)


async def test_pushes_are_found_by_kind_ref_and_who(db: asyncpg.Pool) -> None:
    chain = await story(db)

    async def found(**asked: object) -> list[tuple[int, list[bytes]]]:
        pushes = await stored.feed(db, chain.repo.id, **asked)  # type: ignore[arg-type]
        return [(push.snapshot, [line.change.name for line in push.changes]) for push in pushes]

    assert await found(kinds={Kind.FORCED, Kind.DELETED}) == [(4, [SIDE]), (3, [MAIN])]
    assert await found(glob="side") == [(6, [SIDE]), (4, [SIDE]), (1, [SIDE])]
    assert await found(glob="s[ix]de", limit=2) == [(6, [SIDE]), (4, [SIDE])]
    assert await found(glob="refs/pull/1*") == [(5, [pull(1)])]
    assert await found(by="lena") == [(2, [MAIN])]
    assert await found(by="nobody") == []
    assert await found(glob="side", kinds={Kind.DELETED}) == [(4, [SIDE])]


async def test_days_tell_snapshots_moves_and_what_was_taken_of_many_repos(db: asyncpg.Pool) -> None:
    chain, other = await story(db), await begin(db, "bob/shed")
    found = await stored.days(db, [chain.repo.id, other.repo.id], START - timedelta(days=90))
    assert found == {
        chain.repo.id: [stored.Day(date(2026, 1, 1), snapshots=6, moves=13, taken=2, failures=0)],
        other.repo.id: [],
    }
    assert (await stored.days(db, [chain.repo.id], END))[chain.repo.id] == []


async def test_a_moment_knows_its_neighbours(db: asyncpg.Pool) -> None:
    chain = await story(db)
    first, middle, last = [await stored.moment(db, chain.repo.id, number) for number in (1, 3, 6)]
    assert first and middle and last
    assert (first.before, first.after) == (None, (2, at(2)))
    assert (middle.before, middle.taken_at, middle.after) == ((2, at(2)), at(3), (4, at(4)))
    assert (last.before, last.after) == ((5, at(5)), None)


def telling(name: bytes, taken: int = 0, last: int = 1) -> Telling:
    return Telling(RefName(name), 1, 1, taken, last)


def test_the_most_telling_lanes_come_first() -> None:
    found = [
        telling(b"refs/heads/lately", last=9),
        telling(b"refs/heads/forced", taken=1, last=2),
        telling(b"refs/heads/main", last=1),
        telling(b"refs/notes/x", last=8),
        *[telling(pull(n), taken=1, last=9) for n in range(4)],
    ]
    names = [one.name for one in timeline.chosen(found, MAIN, 10)]
    assert names == [b"refs/heads/main", b"refs/heads/forced", b"refs/heads/lately", b"refs/notes/x"]
    assert len(timeline.chosen(found, MAIN, 2)) == 2


def test_a_ref_begins_where_it_was_created_also_where_it_was_pushed_right_after() -> None:
    """The bar began at the last push of its first stretch, later than the refs that were created with it."""
    made = Stretch(0, 2, Kind.CREATED, Kind.FAST_FORWARDED, at(5), 2, 0, 0, 1, first_at=at(1))
    lane = timeline.lane(MAIN, [made], START, END)
    assert [bar.start for bar in lane.bars] == [at(1)]
    assert [push.at for push in lane.pushes] == [at(5)]


kinds = st.sampled_from(list(Kind))


@given(st.lists(st.tuples(kinds, kinds, st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_bars_never_overlap_and_nothing_leaves_the_window(told: list[tuple[Kind, Kind, int, int]]) -> None:
    stretches = [
        Stretch(n, 1 + forced + deleted, first, last, at(n), n + 1, forced, deleted, 0)
        for n, (first, last, forced, deleted) in enumerate(told)
    ]
    lane = timeline.lane(MAIN, stretches, START, END)
    services = [edge for bar in lane.bars for edge in (bar.start, bar.end)]
    assert services == sorted(services)
    assert all(START <= cut.at <= cut.until <= END for cut in lane.cuts)


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(minutes=6), ["12:01", "12:02", "12:03", "12:04", "12:05", "12:06"]),
        (timedelta(hours=5), ["13:00", "14:00", "15:00", "16:00", "17:00"]),
        (timedelta(days=1), ["15:00", "18:00", "21:00", "2 Jan", "03:00", "06:00", "09:00", "12:00"]),
        (timedelta(days=5), ["2 Jan", "3 Jan", "4 Jan", "5 Jan", "6 Jan"]),
        (timedelta(days=90), ["12 Jan", "26 Jan", "9 Feb", "23 Feb", "9 Mar", "23 Mar"]),
        (timedelta(days=800), ["Jul 2026", "Jan 2027", "Jul 2027", "Jan 2028"]),
    ],
)
def test_the_axis_speaks_in_sensible_units(span: timedelta, labels: list[str]) -> None:
    start = START + timedelta(seconds=1)
    found = [tick.label for tick in timeline.ticks(start, start + span)]
    assert found[: len(labels)] == labels and len(found) <= 9


@pytest.mark.parametrize(
    ("zone", "start", "hours", "labels"),
    [
        (
            "America/New_York",
            "2026-11-17T13:00:01+00:00",
            24,
            "09:00 12:00 15:00 18:00 21:00 18_Nov 03:00 06:00",
        ),
        ("Asia/Kolkata", "2026-11-17T13:00:01+00:00", 5, "19:00 20:00 21:00 22:00 23:00"),
        ("Asia/Kolkata", "2026-11-17T13:00:01+00:00", 72, "18_Nov 19_Nov 20_Nov"),
        (
            "Pacific/Auckland",
            "2026-01-15T00:00:00+00:00",
            24 * 150,
            "Feb_2026 Mar_2026 Apr_2026 May_2026 Jun_2026",
        ),
        # Clocks are put forward at 02:00: that hour has no tick; and back at 03:00: an hour has one.
        ("Europe/Berlin", "2026-03-28T23:00:00+00:00", 4, "29_Mar 01:00 03:00 04:00 05:00"),
        ("Europe/Berlin", "2026-10-24T22:00:00+00:00", 5, "25_Oct 01:00 02:00 03:00 04:00"),
        ("Australia/Lord_Howe", "2026-10-02T13:30:00+00:00", 71, "3_Oct 4_Oct 5_Oct"),
    ],
)
def test_the_axis_is_round_on_the_clocks_of_who_looks(zone: str, start: str, hours: int, labels: str) -> None:
    begins = datetime.fromisoformat(start)
    found = timeline.ticks(begins, begins + timedelta(hours=hours), zone=ZoneInfo(zone))
    assert [tick.label.replace(" ", "_") for tick in found][:8] == labels.split()
    assert [tick.at for tick in found] == sorted({tick.at for tick in found})
    for tick in found:
        there = tick.at.astimezone(ZoneInfo(zone))
        assert there.strftime("%H:%M") == (tick.label if ":" in tick.label else "00:00")


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9000, 1, 1)), st.timedeltas(timedelta(1)))
def test_every_span_has_a_few_ticks_in_order(start: datetime, span: timedelta) -> None:
    begin_ = start.replace(tzinfo=UTC)
    end = min(begin_ + min(span, timedelta(days=300_000)), datetime(9999, 1, 1, tzinfo=UTC))
    found = timeline.ticks(begin_, end)
    assert len(found) <= 9
    assert [tick.at for tick in found] == sorted({tick.at for tick in found})
    assert all(begin_ <= tick.at <= end for tick in found)
