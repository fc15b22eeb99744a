"""Times on pages are those of who looks: what they type, what they pick, and what they read."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from mirror.backup import sync
from mirror.store import repos
from mirror.store.people import people
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

# 02:30, 07:30 and 15:00 in New York, on a Tuesday; 08:30, 13:30 and 21:00 in Berlin.
SAVED = ["2026-11-17T07:30:05+00:00", "2026-11-17T12:30:05+00:00", "2026-11-17T20:00:05+00:00"]
NOON = datetime(2026, 11, 18, 17, 0, tzinfo=UTC)  # in New York, on the Wednesday after
PAGE = "/acme/acme/api"


async def _visited(
    site: Site, work: Work, zone: str | None = "America/New_York", now: datetime = NOON
) -> Browser:
    """A browser of somebody in this zone, and a repository with three snapshots."""
    person = await site.person("acme")
    db, clock = site.mirror.services.db, site.mirror.clock
    clock.step = timedelta(milliseconds=1)
    if zone is not None:
        await people.set_profile(db, person.id, name=person.name, email=None, zone=zone)
    team = await site.team(person)
    repo = await repos.add(db, team.id, "acme/api", str(work.path), clock())
    for moment in SAVED:
        work.commit(message=f"Work of {moment}")
        clock.now = datetime.fromisoformat(moment)
        await sync.sync(site.mirror.services, repo.id)
    clock.now = now
    return await site.signed_in(person)


def _moment(text: str) -> str:
    """The snapshot whose restore the page offers."""
    found = re.search(r'href="[^"]+/-/restore\?at=%23(\d+)', text)
    assert found, text
    return f"#{found[1]}"


@pytest.mark.parametrize(
    ("zone", "asked", "opened"),
    [
        ("America/New_York", "2026-11-17 08:00", "#2"),
        ("America/New_York", "2026-11-17T02:31", "#1"),
        ("America/New_York", "yesterday 08:00", "#2"),
        ("America/New_York", "Tuesday 16:00", "#3"),
        ("Europe/Berlin", "2026-11-17 13:00", "#1"),
        ("Europe/Berlin", "Tuesday 13:31", "#2"),
        ("Asia/Kolkata", "2026-11-17 18:01", "#2"),
        (None, "2026-11-17 08:00", "#1"),
        ("America/New_York", "2026-11-17 08:00 UTC", "#1"),
        ("America/New_York", "2026-11-17T13:00:00Z", "#2"),
        ("America/New_York", "17 November, 07:30:05 EST", "#2"),  # as the page says it
    ],
)
async def test_a_time_that_is_typed_is_one_of_who_types(
    site: Site, work: Work, zone: str | None, asked: str, opened: str
) -> None:
    browser = await _visited(site, work, zone)
    page = await browser.get(PAGE, at=asked)
    assert page.status_code == 200, page.text
    assert _moment(page.text) == opened


async def test_the_page_answers_what_was_asked_and_its_links_mean_the_same_to_everybody(
    site: Site, work: Work
) -> None:
    browser = await _visited(site, work)
    page = unescape((await browser.get(PAGE, at="Tuesday 10:00")).text)
    assert "Tuesday 17 November, 10:00 EST. Nothing changed since 07:30:05 (#2)." in page
    assert 'value="Tuesday 10:00"' in page
    assert f'href="{PAGE}/-/files?at=2026-11-17T15%3A00%3A00Z"' in page
    assert 'data-zone="America/New_York"' in page
    next_day = unescape((await browser.get(PAGE, at="today 08:00")).text)
    assert "Everref last checked at Tuesday 17 November, 15:0" in next_day and "#3 is the latest." in next_day
    exact = unescape((await browser.get(PAGE, at="yesterday 07:30:05")).text)
    assert "Tuesday 17 November, 07:30:05 EST. That is #2." in exact
    by_number = unescape((await browser.get(PAGE, at="#2")).text)
    assert "Nothing changed since" not in by_number and "17 November, 07:30:05 EST" in by_number


async def test_a_picked_time_is_one_of_who_picks_and_goes_before_what_stands_in_the_field(
    site: Site, work: Work
) -> None:
    browser = await _visited(site, work)
    page = await browser.get(PAGE, at="#3", picked="2026-11-17T08:00")
    assert _moment(page.text) == "#2"
    assert 'value="2026-11-17 08:00"' in page.text


NO_MOMENTS = [
    ("next full moon", "'next full moon' is not a moment; write it like yesterday 10:00, Tuesday 10:00"),
    ("12", "for the snapshot of that number write #12"),
    ("2026-02-30 10:00", "is not a time that exists"),
    ("x" * 101, "That is too long for a moment"),
    ("#77", "has no snapshot #77; it has #1 to #3"),
    (
        "2026-11-01 10:00",
        "Nothing of acme/api had been saved by Sunday 1 November, 10:00 EST; "
        "the first snapshot is #1 of Tuesday 17 November, 02:30:05 EST.",
    ),
]


async def test_what_is_no_moment_is_said_at_the_field_and_the_page_stays(site: Site, work: Work) -> None:
    browser = await _visited(site, work)
    pages = ["", "/-/files", "/-/refs", "/-/commits", "/-/pushes", "/-/lost", "/-/difference"]
    for page, (asked, said) in [("", one) for one in NO_MOMENTS] + [(page, NO_MOMENTS[0]) for page in pages]:
        answer = await browser.get(PAGE + page, at=asked)
        text = unescape(answer.text)
        assert answer.status_code == 422, (page, asked)
        assert said in text and f'value="{asked}"' in text, (page, asked)
        assert 'aria-invalid="true" aria-describedby="at-wrong"' in text
        assert _moment(text) == "#3"


async def test_a_comparison_takes_times_of_who_asks_and_says_at_the_field_what_is_none(
    site: Site, work: Work
) -> None:
    browser = await _visited(site, work)
    page = await browser.get(f"{PAGE}/-/difference", **{"from": "2026-11-17 08:00", "at": "#3"})
    assert page.status_code == 200 and "From #2 to #3" in page.text
    for wrong in ("next full moon", "#77"):
        page = await browser.get(f"{PAGE}/-/difference", **{"from": wrong, "at": "#3"})
        assert page.status_code == 422 and f'value="{wrong}"' in page.text
        assert 'aria-describedby="from-wrong"' in page.text and 'id="from-wrong" class="wrong"' in page.text


@pytest.mark.parametrize("page", ["/-/restore", "/-/raw/README.md"])
async def test_what_gives_bytes_or_restores_takes_no_other_moment(site: Site, work: Work, page: str) -> None:
    browser = await _visited(site, work)
    assert (await browser.get(PAGE + page, at="next full moon")).status_code == 400
    assert (await browser.get(PAGE + page, at="#77")).status_code == 404


async def test_a_time_that_the_clocks_skip_or_show_twice_says_which_moment_was_taken(
    site: Site, work: Work
) -> None:
    browser = await _visited(site, work, "Pacific/Auckland", datetime(2027, 4, 20, tzinfo=UTC))
    twice = unescape((await browser.get(PAGE, at="2027-04-04 02:30")).text)
    assert "Sunday 4 April, 02:30 NZDT (there were two 02:30 that day; this is the first)." in twice


async def test_the_zone_of_the_browser_is_taken_at_the_first_sign_in_and_no_later(site: Site) -> None:
    browser = await site.browser()
    new = {"name": "Kim", "email": "kim@example.org", "password": "a long enough one"}
    await browser.get("/sign-up")
    await browser.post("/sign-up", **new, zone="Asia/Calcutta")  # as Chromium says it
    home = await browser.get("/account")
    assert 'data-zone="Asia/Kolkata"' in home.text
    await browser.post("/sign-out")
    again = {name: new[name] for name in ("email", "password")}
    await browser.post("/sign-in", **again, zone="America/New_York")
    home = await browser.get("/account")
    assert 'data-zone="Asia/Kolkata"' in home.text


@pytest.mark.parametrize("zone", ["", "Mars/Phobos", "../../etc/passwd", "x" * 5000, "localtime"])
async def test_what_is_no_zone_is_not_taken(site: Site, zone: str) -> None:
    browser = await site.browser()
    await browser.get("/sign-up")
    new = {"name": "Kim", "email": "kim@example.org", "password": "a long enough one"}
    await browser.post("/sign-up", **new, zone=zone)
    home = await browser.get("/account")
    assert 'data-zone="UTC"' in home.text


async def test_a_zone_that_is_offered_is_used_or_kept_from_and_not_offered_again(site: Site) -> None:
    person = await site.person("acme")
    browser = await site.signed_in(person)
    assert 'data-zone-offer=""' in (await browser.get("/acme")).text
    kept = await browser.post("/account/zone", zone="Europe/Berlin", next="/acme?q=1", do="keep")
    assert (kept.status_code, kept.headers["location"]) == (303, "/acme?q=1")
    page = await browser.follow(kept)
    assert 'data-zone-offer="Europe/Berlin"' in page.text and 'data-zone="UTC"' in page.text
    found = await people.find(site.mirror.services.db, person.id)
    assert found is not None and found.zone == "UTC"  # the next sign-in takes no other
    used = await browser.post("/account/zone", zone="Europe/Berlin", next="//evil.example", do="use")
    assert (used.status_code, used.headers["location"]) == (303, "/")
    account = await browser.get("/account")
    assert 'data-zone="Europe/Berlin"' in account.text and 'value="Europe/Berlin"' in account.text
    assert (await browser.post("/account/zone", zone="Mars/Phobos", do="use")).status_code == 400
