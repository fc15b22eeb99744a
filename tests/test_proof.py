"""The sentence that an auditor reads first."""

from datetime import UTC, datetime, timedelta

import pytest

from mirror.core.rules.health.proof import State, standing

NOW = datetime(2026, 11, 21, 14, 20, tzinfo=UTC)


def some(
    number: int, state: str, ago: timedelta | None = timedelta(minutes=1), paused: bool = False
) -> list[State]:
    return [State(state, None if ago is None else NOW - ago, paused)] * number


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "There is no repository yet."),
        (some(1, "protected"), "1 of 1 repository is protected."),
        (some(2, "protected"), "2 of 2 repositories are protected."),
        (
            some(311, "protected")
            + some(5, "behind")
            + some(20, "late")
            + some(1, "late", timedelta(hours=3))
            + some(1, "failing")
            + some(1, "archived"),
            "337 of 339 repositories are protected; 21 of them are late, at worst by 3 h. 1 failing, 1 gone.",
        ),
        (some(1, "never", None), "0 of 1 repository are protected. 1 not saved yet."),
        (
            some(1, "protected", paused=True) + some(1, "behind", paused=True) + some(1, "damaged"),
            "0 of 3 repositories are protected. 1 damaged, 2 paused.",
        ),
        (
            some(1000, "protected") + some(1, "late", timedelta(seconds=-5)),
            "1,001 of 1,001 repositories are protected; 1 of them is late, at worst by 1 s.",
        ),
    ],
)
def test_a_report_begins_with_one_sentence_that_adds_up(states: list[State], said: str) -> None:
    found = standing(states, NOW)
    assert found.sentence == said
    assert found.protected + sum(found.otherwise.values()) == found.total == len(states)
