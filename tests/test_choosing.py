"""Which repositories a rule chooses: a pattern's reach, and what somebody has let go of before."""

from dataclasses import dataclass

import pytest

from mirror.core.errors import UsageError
from mirror.core.rules import choosing


@dataclass(frozen=True)
class There:
    repository_id: str
    full_name: str


API, WEB, DEEP = There("1", "acme/api"), There("2", "Acme/Web"), There("3", "acme/group/tool")
OTHER = There("4", "other/api")
ALL = [API, WEB, DEEP, OTHER]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        pytest.param(["acme/*"], [API, WEB, DEEP], id="an-owner-with-subgroups-in-any-case"),
        pytest.param(["*/api"], [API, OTHER], id="a-name-under-every-owner"),
        pytest.param(["ACME/api", "other/*"], [API, OTHER], id="several"),
        pytest.param(["acme"], [], id="an-owner-alone-is-no-pattern"),
        pytest.param(["acme/[aw]*"], [API, WEB], id="a-set-of-letters"),
        pytest.param([], [], id="none"),
    ],
)
async def test_a_pattern_means_whole_names(patterns: list[str], found: list[There]) -> None:
    assert await choosing.wanted(ALL, False, patterns, ()) == found


async def test_everything_leaves_out_only_what_was_chosen_before() -> None:
    assert await choosing.wanted(ALL, True, [], {"2"}) == [API, DEEP, OTHER]


def test_patterns_are_kept_trimmed_and_once() -> None:
    assert choosing.patterns([" acme/* ", "", "acme/*", "/other/"]) == ("acme/*", "other")


@pytest.mark.parametrize("bad", ["a b", "a\nb", "x" * 201, "\x00", "a\u2028b"])
def test_what_no_name_can_match_is_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="a pattern is"):
        choosing.patterns([bad])


def test_a_connection_takes_a_hundred_patterns() -> None:
    with pytest.raises(UsageError, match="101 patterns are too many"):
        choosing.patterns([f"acme/{number}" for number in range(101)])
