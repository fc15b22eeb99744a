"""A transfer is too slow when a minute of waiting brought too little, not because we were slow ourselves."""

from mirror.core.lowspeed import LowSpeed, Speeds


def test_a_byte_a_second_is_too_slow_after_a_minute() -> None:
    speed = LowSpeed()
    assert [speed.is_slow(1, 1.0) for _ in range(60)] == [False] * 59 + [True]


def test_a_thousand_bytes_a_second_are_enough() -> None:
    speed = LowSpeed()
    assert not any(speed.is_slow(1000, 1.0) for _ in range(1000))


def test_what_came_fast_at_first_excuses_only_the_minute_in_which_it_came() -> None:
    speed = LowSpeed()
    assert not speed.is_slow(1 << 30, 30.0)
    assert not speed.is_slow(1, 30.0)
    assert not speed.is_slow(1, 59.0)
    assert speed.is_slow(1, 1.0)


def test_time_that_is_not_waited_does_not_count() -> None:
    speed = LowSpeed()
    assert not any(speed.is_slow(1, 0.0) for _ in range(100_000))


def test_the_longer_it_takes_the_more_must_have_come() -> None:
    """Five remotes a little above the least rate held every slot of a worker for a day."""

    def ends_after(rate: int) -> float | None:
        speeds = Speeds()
        return next((10.0 * tens for tens in range(1, 8640) if speeds.is_slow(10 * rate, 10.0)), None)

    assert [ends_after(rate) for rate in (999, 1001, 10_001, 50_001)] == [60.0, 900.0, 7200.0, None]


def test_what_came_fast_at_first_pays_for_no_hours_of_dripping() -> None:
    speeds = Speeds()
    assert not speeds.is_slow(10 << 30, 60.0)
    waits = [minute for minute in range(1, 1440) if speeds.is_slow(100_000, 60.0)]
    assert waits and waits[0] <= 30
