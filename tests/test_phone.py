"""Pages that were too narrow for what they hold, measured in a real browser: on a phone, and at a desk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from playwright.async_api import Browser as Chromium
from playwright.async_api import Page, ViewportSize

from mirror.core.rules.roles import Role
from mirror.restore import drill
from mirror.store.discovery import remotes
from mirror.store.people import audit
from tests import test_pages_activity
from tests.parts.browser import DESK, PHONE
from tests.test_pages_activity import Seen

STYLE: Final = Path(__file__).parents[1] / "mirror" / "web" / "static" / "style.css"
LONG: Final = "a11d28421ff4755989551d8ff0788d54e5535690f8526c16693b5f16050ae983"
seen = test_pages_activity.seen  # the fixture


@asynccontextmanager
async def shown(chromium: Chromium, html: str, width: ViewportSize) -> AsyncIterator[Page]:
    """The page as it looks; without its scripts, which change nothing of that."""
    page = await chromium.new_page(viewport=width, java_script_enabled=False)
    try:
        await page.set_content(html.replace("</head>", f"<style>{STYLE.read_text()}</style></head>"))
        yield page
    finally:
        await page.close()


async def box(page: Page, what: str) -> tuple[float, float, float]:
    """The left edge, width and height of the first that there is of it."""
    found = await page.locator(what).first.bounding_box()
    assert found is not None, what
    return found["x"], found["width"], found["height"]


async def test_the_head_of_an_archived_repo_is_as_wide_as_the_page(chromium: Chromium, seen: Seen) -> None:
    services, synced = seen.site.mirror.services, seen.synced
    await drill.drill(services, synced.repo, synced.snapshot)
    await remotes.archive(services.db, synced.repo.id, services.clock())
    html = (await seen.browser.get("/ann/acme/api")).text
    assert "drill passed" in html
    async with shown(chromium, html, PHONE) as page:
        assert (await box(page, "h1"))[1] > 300


async def test_the_settings_of_a_team_of_two_are_no_wider_than_a_phone(
    chromium: Chromium, seen: Seen
) -> None:
    await seen.site.member(seen.team, "maximiliane", Role.OPERATOR)
    html = (await seen.browser.get("/ann/-/settings")).text
    assert "Maximiliane" in html and "Sign-in link" in html
    async with shown(chromium, html, PHONE) as page:
        assert await page.locator("html").evaluate("one => one.scrollWidth") <= PHONE["width"]
        card = page.locator(".card").first
        assert await card.evaluate("one => one.scrollWidth - one.clientWidth") <= 0


async def test_the_audit_log_says_what_was_granted_in_words(seen: Seen) -> None:
    entry = audit.Entry(
        person_id=None,
        actor="Ann",
        action="token.make",
        subject="ci",
        detail={"scopes": ["read", "restore"], "daily": True, "days": None, "counts": {"a": 1, "b": 2}},
    )
    await audit.add(seen.site.mirror.services.db, seen.team.id, entry, seen.site.mirror.clock())
    page = (await seen.browser.get("/ann/-/settings/audit")).text
    for said in ("scopes: read, restore", "daily: yes", "days: none", "counts: a 1, b 2"):
        assert f">{said}</div>" in page, said


async def test_no_page_of_the_api_shows_a_backtick(seen: Seen) -> None:
    page = (await seen.browser.get("/api/docs")).text
    assert "`" not in page and page.count("<code>") > 3


async def test_an_entry_of_the_audit_log_is_no_tower_of_letters(chromium: Chromium, seen: Seen) -> None:
    services = seen.site.mirror.services
    entry = audit.Entry(
        person_id=None,
        actor="whoever runs Everref",
        action="restore.push",
        subject="acme/api",
        detail={"to": f"https://git.example.org/{LONG}.git", "snapshot": 1},
    )
    await audit.add(services.db, seen.team.id, entry, services.clock())
    html = (await seen.browser.get("/ann/-/settings/audit")).text
    async with shown(chromium, html, PHONE) as page:
        assert (await box(page, "tbody tr"))[2] < 200


async def test_a_failed_drill_is_counted_and_told_within_the_page(chromium: Chromium, seen: Seen) -> None:
    services, synced = seen.site.mirror.services, seen.synced
    done = await drill.drill(services, synced.repo, synced.snapshot)
    assert not done.problems
    why = f"{LONG}/bundles/{LONG}.bundle is damaged (expected sha256 {LONG}); no snapshot can be restored"
    await services.db.execute("update drill set problems = array[$1::text]", why)
    html = (await seen.browser.get("/ann/-/drills")).text
    assert '<dt>Last drill failed</dt><dd class="lost-text">1</dd>' in html
    for width in (PHONE, DESK):
        async with shown(chromium, html, width) as page:
            for what in ("tr.more td", "thead th:last-child", "tbody tr:first-child td:last-child"):
                left, wide, _ = await box(page, what)
                card = await box(page, ".card.scroll")
                assert left >= card[0] and left + wide <= card[0] + card[1], (what, width)


async def test_the_name_of_what_is_brought_back_can_be_read_on_a_phone(
    chromium: Chromium, seen: Seen
) -> None:
    query = {"at": "#1", "ref": "refs/heads/main", "as": "refs/heads/restored/main-20261121-205148"}
    html = (await seen.browser.get("/ann/acme/api/-/restore", **query)).text
    async with shown(chromium, html, PHONE) as page:
        assert (await box(page, "#as"))[1] > 200
        left, wide, _ = await box(page, ".way:first-of-type .means")
        assert left + wide <= PHONE["width"]
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
