"""When something is told, and when a channel gets it: the rules by tables, and by hypothesis."""

from datetime import UTC, datetime, time, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.core.rules.health import alarms, telling
from mirror.core.rules.health.alarms import Alarm, Seen
from mirror.core.rules.health.telling import Channel

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ID = UUID(int=1)


def said(cause: str, looks: list[tuple[int, int]]) -> list[tuple[int, str]]:
    """What is said at which minute, of looks at these minutes that find so many repos."""
    found, alarm = list[tuple[int, str]](), None
    for minute, many in looks:
        now = NOW + minute * MINUTE
        step = alarms.step(cause, alarm, Seen(now, many) if many else None, now)
        alarm = step.alarm
        if step.say:
            found.append((minute, step.say))
    return found


@pytest.mark.parametrize(
    ("cause", "looks", "told"),
    [
        pytest.param("token:x", [(0, 10), (1, 10), (90, 10)], [(0, "began")], id="ten repos are told once"),
        pytest.param("token:x", [(0, 1), (9, 0), (10, 0)], [(0, "began"), (9, "ended")], id="and the end"),
        pytest.param("network:x", [(0, 1), (1, 1), (2, 1)], [(2, "began")], id="after its grace"),
        pytest.param("network:x", [(0, 9), (1, 0), (5, 0)], [], id="healed within it"),
        pytest.param("damage", [(0, 1), (59, 40), (60, 40)], [(0, "began"), (60, "grew")], id="much larger"),
        pytest.param("damage", [(0, 1), (61, 9)], [(0, "began")], id="a little larger"),
        pytest.param(
            "damage",
            [(0, 1), (1, 0), (2, 1), (3, 0), (4, 1), (30, 0), (50, 1), (109, 1), (110, 1), (111, 1)],
            [(0, "began"), (1, "ended"), (2, "began"), (3, "flaps"), (110, "settled")],
            id="flapping is told once, then silence until it was stable for an hour",
        ),
        pytest.param(
            "network:x",
            [(0, 1), (1, 0), (2, 1), (3, 0), (63, 0), (64, 0)],
            [(3, "flaps"), (63, "settled")],
            id="also what never outlasts its grace",
        ),
        pytest.param(
            "damage",
            [(0, 1), (1, 0), (65, 1), (66, 0)],
            [(0, "began"), (1, "ended"), (65, "began"), (66, "ended")],
            id="slow turns are no flapping",
        ),
    ],
)
def test_a_state_is_told_once_a_turn(
    cause: str, looks: list[tuple[int, int]], told: list[tuple[int, str]]
) -> None:
    assert said(cause, looks) == told


@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans()), max_size=60))
def test_nothing_is_told_twice_and_nothing_that_lasts_is_lost(looks: list[tuple[int, bool]]) -> None:
    """However it comes and goes, whoever reads along knows in the end how it stands."""
    alarm: Alarm | None = None
    now, knows = NOW, False
    words = list[tuple[datetime, str]]()
    for seconds, on in [
        *looks,
        (1, looks[-1][1] if looks else False),
        (7200, looks[-1][1] if looks else False),
    ]:
        now += timedelta(seconds=seconds)
        seen = Seen(now, 1) if on else None
        step = alarms.step("token:x", alarm, seen, now)
        again = alarms.step("token:x", step.alarm, seen, now)
        assert again.say is None  # what a look that ran twice would say
        alarm = step.alarm
        if step.say == "began":
            assert not knows
        if step.say == "ended":
            assert knows
        if step.say:
            knows = on
            words.append((now, step.say))
    assert knows is (looks[-1][1] if looks else False)
    for at, _ in words:  # 3 turns, that it flaps, and how it settles
        assert len([one for one, _ in words if at <= one < at + HOUR]) <= 5


def channel(**given: object) -> Channel:
    return Channel(**({"id": ID, "of_person": True} | given))  # type: ignore[arg-type]


NIGHT = {"quiet_from": time(22), "quiet_to": time(7)}


@pytest.mark.parametrize(
    ("urgent", "to", "minutes", "held"),
    [
        pytest.param(False, channel(), 0, False, id="the first goes at once"),
        pytest.param(False, channel(calm_at=NOW - 20 * MINUTE), 40, True, id="the second an hour after it"),
        pytest.param(False, channel(calm_at=NOW + 40 * MINUTE), 40, True, id="the third with the second"),
        pytest.param(False, channel(calm_at=NOW - 2 * HOUR), 0, False, id="after an hour at once again"),
        pytest.param(
            False, channel(calm_at=NOW - MINUTE, of_person=False), 0, False, id="a team's has no digest"
        ),
        pytest.param(True, channel(calm_at=NOW - MINUTE), 0, False, id="urgent: at once"),
        pytest.param(True, channel(urgent_at=[NOW] * 5), 10, True, id="a flood of urgent ones goes together"),
        pytest.param(
            True, channel(urgent_at=[NOW] * 5 + [NOW + 3 * MINUTE]), 3, True, id="and joins what waits"
        ),
        pytest.param(
            True, channel(urgent_at=[NOW - 2 * HOUR] * 9), 0, False, id="the hour before does not count"
        ),
        pytest.param(False, channel(quiet_from=time(11), quiet_to=time(13, 30)), 90, True, id="quiet by day"),
        pytest.param(
            True, channel(quiet_from=time(11), quiet_to=time(13, 30)), 0, False, id="but for urgent ones"
        ),
        pytest.param(
            False, channel(quiet_from=time(13), quiet_to=time(12)), 0, False, id="the end is not quiet"
        ),
        pytest.param(
            False,
            channel(zone="Asia/Tokyo", quiet_from=time(20), quiet_to=time(7)),
            600,
            True,
            id="at night, by the clocks of the zone",
        ),
        pytest.param(False, channel(zone="America/New_York", **NIGHT), 0, False, id="a night that is over"),
        pytest.param(
            False, channel(zone="America/Los_Angeles", **NIGHT), 180, True, id="a night that is not"
        ),
        pytest.param(False, channel(quiet_from=time(3), quiet_to=time(3)), 0, False, id="an empty stretch"),
    ],
)
def test_when_a_channel_gets_a_message(urgent: bool, to: Channel, minutes: int, held: bool) -> None:
    assert telling.due(urgent, to, NOW) == telling.Due(ID, NOW + minutes * MINUTE, held)


@given(st.lists(st.integers(0, 5400), max_size=40), st.booleans())
def test_a_person_gets_one_digest_an_hour_at_most(gaps: list[int], nights: bool) -> None:
    now, calm, times = NOW, None, list[datetime]()
    for seconds in gaps:
        now += timedelta(seconds=seconds)
        due = telling.due(False, channel(calm_at=calm, **(NIGHT if nights else {})), now)
        assert due.at >= now
        calm = max(due.at, calm or due.at)
        times.append(due.at)
    moments = sorted(set(times))
    assert all(later - sooner >= HOUR for sooner, later in zip(moments, moments[1:], strict=False))


@pytest.mark.parametrize(
    ("zone", "now", "at"),
    [
        (None, NOW, datetime(2026, 3, 2, 8, 0, tzinfo=UTC)),
        ("America/New_York", NOW, datetime(2026, 2, 23, 13, 0, tzinfo=UTC)),
        ("America/New_York", NOW + HOUR, datetime(2026, 3, 2, 13, 0, tzinfo=UTC)),
        ("Asia/Tokyo", NOW - 13 * HOUR, datetime(2026, 3, 1, 23, 0, tzinfo=UTC)),
    ],
)
def test_the_report_comes_on_mondays_at_eight_where_its_reader_is(
    zone: str | None, now: datetime, at: datetime
) -> None:
    assert telling.report_at(zone, now) == at


def test_a_channel_that_fails_is_left_alone_for_longer_and_longer() -> None:
    assert [telling.wait(tries) for tries in (1, 2, 3, 4, 40)] == [
        MINUTE / 2,
        2 * MINUTE,
        10 * MINUTE,
        HOUR,
        HOUR,
    ]
