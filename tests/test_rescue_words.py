"""What a page of a restore says: addresses at hosts, people, times, and one reason for many refs."""

import pytest

from mirror.core.config import App
from mirror.web import host_links, rescue
from mirror.web.pages.repos.restores import Row, groups

APPS = (
    App("github", "https://github.com", "https://api.github.com", "", ""),
    App("gitlab", "https://gitlab.example", "https://gitlab.example/api/v4", "", ""),
)


@pytest.mark.parametrize(
    ("url", "branch", "request_"),
    [
        (
            "https://github.com/acme/api.git",
            "https://github.com/acme/api/tree/restored/main-1118",
            "https://github.com/acme/api/compare/main...restored/main-1118?expand=1",
        ),
        (
            "https://gitlab.example/acme/tools/api.git",
            "https://gitlab.example/acme/tools/api/-/tree/restored/main-1118",
            "https://gitlab.example/acme/tools/api/-/merge_requests/new"
            "?merge_request%5Bsource_branch%5D=restored%2Fmain-1118&merge_request%5Btarget_branch%5D=main",
        ),
    ],
    ids=["github", "gitlab"],
)
def test_a_branch_and_the_request_to_merge_it_are_where_the_host_has_them(
    url: str, branch: str, request_: str
) -> None:
    found = host_links.of(url, APPS)
    assert found is not None
    assert found.branch("restored/main-1118") == branch
    assert found.new_request("restored/main-1118", "main") == request_
    assert "#" not in found.branch("a#b?c") and "?" not in found.branch("a#b?c")


def test_a_host_that_nobody_set_up_has_no_links() -> None:
    assert host_links.of("https://git.example.org/acme/api.git", APPS) is None
    assert host_links.of("https://github.com.evil.example/acme/api.git", APPS) is None
    assert host_links.of("git@github.com:acme/api.git", APPS) is None


def test_people_are_named_as_a_sentence_has_them() -> None:
    assert rescue.people(["lena"]) == "lena"
    assert rescue.people(["lena", "sam"]) == "lena and sam"
    assert rescue.people(["lena", "sam", "kim"]) == "lena, sam and kim"
    assert rescue.people(["lena", "sam", "kim", "ann"]) == "lena, sam and 2 others"
    assert rescue.people([]) == ""


def test_how_long_it_takes_is_said_only_where_that_is_known() -> None:
    assert rescue.expected(297_000, ()) == "a few seconds"
    assert rescue.expected(50_000_000_000, ()) == ""


def test_one_reason_stands_for_many_refs_only_as_far_as_they_share_it() -> None:
    why = "as refs/archive/pull/{}/head"
    rows = [Row(f"refs/pull/{n}/head", "1" * 40, "created", why.format(n), "") for n in range(1, 40)]
    (found,) = groups(rows)
    assert found.why == "as refs/archive/pull/…"
    (same,) = groups(
        [Row(f"refs/pull/{n}/head", "1" * 40, "skipped", "hosts refuse it", "") for n in range(20)]
    )
    assert same.why == "hosts refuse it"
