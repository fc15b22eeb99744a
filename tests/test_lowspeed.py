"""A transfer is too slow when a minute of waiting brought too little, not because we were slow ourselves."""

from mirror.lowspeed import LowSpeed


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
