"""The home page at work: one of 1,000 repositories, the rescue of a branch, ten rows beside five causes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pytest
from playwright.async_api import Locator, Page, expect

from mirror.services.embedded import join
from tests.parts.browser import DESK, PATIENCE, Someone, Visitor
from tests.parts.demo import Stage
from tests.parts.tasks import WAYS, Task, Way, options

# Repositories that are protected as of now, and that no worker looks at. Of the first sixteen each four fail
# for another reason, so that with the force-push there are five causes.
REPOS: Final = """
insert into repo (
  id, team_id, name, url, created_at, protected_as_of, look_at, forge, host,
  failure_class, failure_message, failing_since, failed_at
)
select gen_random_uuid(), team.id, 'acme/app-' || lpad(n::text, 4, '0'), 'https://git.example/acme/' || n,
  now(), now(), now() + interval '1 year', 'generic', 'git.example', class, message, since, since
from team, generate_series(1, 1000) n,
lateral (
  select
    case when n <= 16 then (array['network', 'blocked', 'gone', 'credentials'])[1 + (n - 1) / 4] end as class,
    case when n <= 16 then 'it failed' end as message,
    case when n <= 16 then now() - interval '1 hour' end as since
) fault
where team.name = $1
"""
# Of the last one main was force-pushed by its second snapshot.
FORCED: Final = """
with last as (
  select repo.id from repo join team on team.id = repo.team_id
  where team.name = $1 order by repo.name desc limit 1
), snapshots as (
  insert into snapshot (
    repo_id, number, taken_at, reason, object_format, head, refs_count, refs_digest, changes_count,
    epoch, log_entries, log_bytes, manifest_sha256
  )
  select id, n, now() - interval '2 hours' / n, 'push', 'sha1', convert_to('ref: refs/heads/main', 'UTF8'),
    1, repeat(n::text, 64), 1, 1, 0, 0, repeat(n::text, 64)
  from last, generate_series(1, 2) n
  returning repo_id
), main as (
  insert into ref (repo_id, name) select id, convert_to('refs/heads/main', 'UTF8') from last
  returning id, repo_id
), moved as (
  insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by)
  select repo_id, 2, 1, id, convert_to(repeat('1', 40), 'UTF8'), convert_to(repeat('2', 40), 'UTF8'),
    'forced', 'lena'
  from main
)
insert into ref_stay (ref_id, first_snapshot, last_snapshot, target)
select id, n, case when n = 1 then 1 end, convert_to(repeat(n::text, 40), 'UTF8')
from main, generate_series(1, 2) n
"""


@asynccontextmanager
async def database(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    """The database of the demo."""
    async with join.join(stage.data, postgres=True, redis=False) as joined:
        connection = await asyncpg.connect(joined.urls["postgres"])
        try:
            yield connection
        finally:
            await connection.close()


async def busy(visitor: Visitor, stage: Stage, login: str, way: Way) -> Someone:
    """Somebody at the home of a team of 1,000 repositories with five causes for attention."""
    stage.github.add_person(login)
    someone = await visitor(login, **options(way))
    await someone.sign_in()
    async with database(stage) as db:
        await db.execute(REPOS, login)
        await db.execute(FORCED, login)
    await someone.go(f"/{login}")
    await expect(heading(someone.page)).to_have_text("1,000 repositories: 984 protected, 16 failing")
    return someone


def heading(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


def rows(page: Page) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader"))


@pytest.mark.parametrize("way", WAYS)
async def test_one_of_a_thousand_is_a_press_and_enter_away_and_a_rescue_one_press(
    visitor: Visitor, stage: Stage, way: Way
) -> None:
    someone = await busy(visitor, stage, f"desk-{way}", way)
    page = someone.page

    # Ten rows beside five causes.
    needs = (
        page.get_by_role("main")
        .locator("ul.needs")
        .first.get_by_role("listitem")
        .filter(has=page.locator(".acts"))
    )
    await expect(needs).to_have_count(5)
    await expect(page.get_by_role("heading", name="5 things need attention")).to_be_in_viewport()
    for number in range(10):
        await expect(rows(page).nth(number)).to_be_in_viewport(ratio=1)
    bottom = await rows(page).nth(9).bounding_box()
    assert bottom and bottom["y"] + bottom["height"] <= DESK["height"]

    # The first row is within five Tabs of the page's beginning.
    if way == "keyboard":
        assert await Task(someone, way).reach(page.get_by_role("link", name="Skip to the repositories")) == 2
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.locator("tbody a").first).to_be_focused()
        await someone.go(f"/{someone.login}")

    # A search: type, then Enter.
    task = Task(someone, way)
    await task.type(page.get_by_role("searchbox"), "app-0742")
    await task.enter()
    await page.wait_for_url(f"**/{someone.login}/acme/app-0742", timeout=PATIENCE)
    assert task.presses <= 2

    # What was force-pushed is one press away from its rescue.
    await someone.go(f"/{someone.login}")
    task = Task(someone, way)
    await task.press(
        page.get_by_role("link", name="Bring back main: lena force-pushed main of acme/app-1000")
    )
    await page.wait_for_url("**/acme/app-1000/-/restore?at=%231&ref=refs%2Fheads%2Fmain")
    assert task.presses == 1


async def test_results_come_while_somebody_types_and_a_reload_disturbs_nobody(
    visitor: Visitor, stage: Stage
) -> None:
    someone = await busy(visitor, stage, "typist", "pointer")
    page, team = someone.page, someone.login
    await page.keyboard.press("/")
    await page.keyboard.type("app-07")
    await expect(page.get_by_role("heading", name="Repositories 100")).to_be_visible(timeout=PATIENCE)
    search = page.get_by_role("searchbox")
    await expect(search).to_be_focused()
    await expect(page.get_by_role("link", name="5 things need attention")).to_be_visible()
    await expect(needs_of(page)).to_have_count(0)
    assert page.url.endswith("?q=app-07")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="acme/app-0700", exact=True)).to_be_focused()
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="acme/app-0701", exact=True)).to_be_focused()

    # All again; what changes meanwhile comes by itself, and what is unfolded and focused stays so.
    await search.fill("")
    await expect(needs_of(page)).to_have_count(5, timeout=PATIENCE)
    names = page.get_by_text("Which 4").first
    await names.click()
    await expect(page.get_by_role("link", name="acme/app-0001", exact=True).first).to_be_visible()
    await names.focus()
    async with database(stage) as db:
        await db.execute(
            """
            update repo set paused_at = now() from team
            where team.id = team_id and team.name = $1 and repo.name = 'acme/app-0500'
            """,
            team,
        )
    await expect(heading(page)).to_have_text(
        "1,000 repositories: 983 protected, 16 failing, 1 paused", timeout=PATIENCE
    )
    await expect(page.get_by_text("Which 4").first).to_be_focused()
    await expect(page.get_by_role("link", name="acme/app-0001", exact=True).first).to_be_visible()

    # Each part of the bar is a filter.
    await page.get_by_role("navigation", name="States").get_by_role("link", name="1 paused").click()
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page)).to_contain_text("acme/app-0500")


def needs_of(page: Page) -> Locator:
    return page.locator("ul.needs > li")
