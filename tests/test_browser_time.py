"""Time zones in a real browser: taken at the sign-in, and offered where they differ."""

import re

from playwright.async_api import expect

from tests.parts.browser import Visitor
from tests.parts.demo import Stage


async def test_the_zone_of_the_browser_is_taken_at_the_sign_in_and_offered_once_when_it_differs(
    visitor: Visitor, stage: Stage
) -> None:
    stage.github.add_person("zoe")
    stage.github.add_repository("zoe/diary")
    first = await visitor("zoe", timezone_id="America/New_York")
    await first.sign_in()
    offer = first.page.get_by_role("form", name="Where your browser is")
    await expect(first.page.locator("html")).to_have_attribute("data-zone", "America/New_York")
    await expect(offer).to_be_hidden()
    await first.connect()
    await first.keep_everything()

    later = await visitor("zoe", timezone_id="Europe/Berlin")
    await later.sign_in()
    page, offer = later.page, later.page.get_by_role("form", name="Where your browser is")
    await expect(offer).to_contain_text("Your browser is in Europe/Berlin; Everref shows America/New_York.")
    await page.goto(f"{later.url}/zoe/-/drills?before=2026-01-01")
    await later.press("Keep America/New_York")
    await expect(page).to_have_url(f"{later.url}/zoe/-/drills?before=2026-01-01")
    await expect(offer).to_be_hidden()
    await page.reload()
    await expect(offer).to_be_hidden()

    # Another browser is asked by itself, and the clocks of Vienna are those of Berlin.
    third = await visitor("zoe", timezone_id="Europe/Vienna")
    await third.sign_in()
    await third.press("Use Europe/Vienna")
    await expect(third.page.get_by_role("status")).to_contain_text("Times are now those of Europe/Vienna")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-zone", "Europe/Vienna")
    await expect(offer).to_be_hidden()

    # While a slider is dragged its time is called as on the pages.
    await third.go("/zoe/zoe/diary?at=%231")
    said, slider = third.page.locator("[data-moment]"), third.page.locator("[data-slider]")
    there = await said.inner_text()
    assert re.fullmatch(r"\d+ \w+, \d\d:\d\d:\d\d CES?T", there), there
    await slider.evaluate("(slider) => slider.dispatchEvent(new Event('input'))")
    await expect(said).to_have_text(there)
    await third.go("/account")
    await expect(third.page.get_by_label("Time zone")).to_have_value("Europe/Vienna")
    await expect(third.page.locator(".lede")).to_contain_text(re.compile("CES?T"))
