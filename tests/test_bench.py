"""The benchmark's pure parts: a wrong median or a lost section would be believed."""

import pytest

from bench import figures
from bench.figures import Row
from bench.profile import Call, covered

SLOWER = Row("one push", "redis", (0.3, 0.1, 0.2), "s", "bare `git fetch`", (0.1, 0.1, 0.4), 1.5, 1.25)
FLAT = Row("peak memory", "1 GiB", (158.0,), "MB", goal=256, stretch=160)


def test_the_median_is_the_middle_one_and_no_sample_is_an_error() -> None:
    assert figures.median([3, 1, 2]) == 2
    assert figures.median([4, 1, 2, 3]) == 2.5
    with pytest.raises(ValueError):
        figures.median([])


def test_a_ratio_is_median_against_median() -> None:
    assert figures.ratio(SLOWER.ours, SLOWER.theirs) == 2.0
    assert SLOWER.measure == 2.0


@pytest.mark.parametrize(
    ("samples", "said"),
    [((1.25,), "stretch"), ((1.5,), "goal"), ((1.51,), "missed")],
    ids=["stretch", "goal", "missed"],
)
def test_a_row_is_judged_by_its_ratio(samples: tuple[float, ...], said: str) -> None:
    assert figures.verdict(Row("one push", "redis", samples, "s", "git", (1.0,), 1.5, 1.25)) == said


def test_a_row_without_a_peer_is_judged_by_its_own_value_and_one_without_a_goal_not_at_all() -> None:
    assert figures.verdict(FLAT) == "stretch"
    assert figures.verdict(Row("one push", "redis", (1.0,), "s")) == ""


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0714, "s", "71 ms"),
        (10.7, "s", "10.70 s"),
        (145.2, "s", "145 s"),
        (93e6, "bytes", "93.00 MB"),
        (12, "bytes", "12 B"),
        (144.6, "MB", "145 MB"),
        (12, "statements", "12 statements"),
        (40, "reads", "40 reads"),
    ],
)
def test_values_are_shown_with_their_unit(value: float, unit: figures.Unit, said: str) -> None:
    assert figures.shown(value, unit) == said


def test_a_small_ratio_is_shown_as_a_fraction_too() -> None:
    assert figures.shown_ratio(1.149) == "1.15"
    assert figures.shown_ratio(0.2) == "0.200 (1/5)"


def test_the_markdown_table_has_a_line_for_each_row_and_keeps_its_columns() -> None:
    lines = figures.markdown_table([SLOWER, FLAT, Row("a|b", "x", (1.0,), "s")]).splitlines()
    assert lines[2] == (
        "| one push | redis | 200 ms | bare `git fetch` | 100 ms | 2.00 | ≤ 1.50 | ≤ 1.25 | missed |"
    )
    assert lines[3] == "| peak memory | 1 GiB | 158 MB |  |  |  | ≤ 256 MB | ≤ 160 MB | stretch |"
    assert lines[4].startswith("| a\\|b | x |")


def test_the_terminal_shows_the_spread_of_the_samples() -> None:
    assert "3 samples: 100 ms 200 ms 300 ms  |  3 samples: 100 ms 100 ms 400 ms" in figures.text_table(
        [SLOWER]
    )


def test_a_later_run_keeps_the_sections_of_the_same_machine_only() -> None:
    text = figures.document("# Measured\n\n- 2 cores\n", {"first": "a table\n", "restore": "another\n"})
    assert figures.sections_of(text, "# Measured\n\n- 2 cores\n") == {
        "first": "a table",
        "restore": "another",
    }
    assert figures.sections_of(text, "# Measured\n\n- 64 cores\n") == {}


def test_time_that_two_calls_share_is_counted_once() -> None:
    calls = [Call("git", "a", 0, 0.0, 2.0), Call("git", "b", 1, 1.0, 3.0), Call("git", "c", 0, 5.0, 6.0)]
    assert covered(calls) == 4.0


def test_the_facts_stay_those_of_the_document_where_only_the_repositories_differ() -> None:
    written = "# Measured\n\n- 2 cores\n- repository dulwich: 1 ref\n"
    document = figures.document(written, {"first": "a table"})
    measured = "# Measured\n\n- 2 cores\n- repository everref: 2 refs\n"
    assert figures.sections_of(document, figures.facts_of(document, measured)) == {"first": "a table"}
    elsewhere = measured.replace("2 cores", "64 cores")
    assert figures.facts_of(document, elsewhere) == elsewhere
