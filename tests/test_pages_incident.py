"""The page of an incident: what one account pushed everywhere, and putting it back; and the API of it."""

import asyncio
import csv
import io
import re
from dataclasses import dataclass
from datetime import timedelta
from html import unescape
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from mirror.backup import sync
from mirror.browse import plan_commits
from mirror.core.model import RefName
from mirror.core.rules.history import rollback as rules
from mirror.core.rules.roles import Role
from mirror.jobs.runner import Runner
from mirror.restore import rollback as planning
from mirror.store import repos
from mirror.store.people import attempts, audit
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.restore.rollbacks import RollbackId
from mirror.web import drafts
from mirror.web import rollbacks as web
from mirror.web.pages.teams import incident as pages
from tests.parts.api import with_token
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

WINDOW = {"since": "2020-01-01", "until": "2030-01-01"}
PAGE = "/ann/-/incident"
MAIN, SIDE = RefName(b"refs/heads/main"), RefName(b"refs/heads/side")


@dataclass
class Attacked:
    """Ann's team, with two repositories to which mallory pushed, and her browser."""

    site: Site
    ann: Person
    team: Team
    works: list[Work]
    browser: Browser

    async def worked_off(self) -> None:
        await Runner(self.site.mirror.services).work_off()

    async def actions(self) -> list[str]:
        return [one.entry.action for one in await audit.page(self.site.mirror.services.db, self.team.id)]


@pytest_asyncio.fixture
async def attacked(site: Site, make_work: Any, monkeypatch: pytest.MonkeyPatch) -> Attacked:
    monkeypatch.setattr(pages, "READING", 60.0)  # seconds: a busy machine counts no commits in two
    monkeypatch.setattr(web, "WAITS", 60.0)  # nor makes a plan
    ann = await site.person("ann")
    team = await site.team(ann)
    services, works = site.mirror.services, []
    for name in ("api", "web"):
        work = make_work(f"{name}.git")
        work.commit("main", message="Good work")
        work.commit("side")
        repo = await repos.add(services.db, team.id, f"acme/{name}", str(work.path), site.mirror.clock())
        await sync.sync(services, repo.id)
        work.set("main", work.commit(None, {"evil": b"1\n"}, message="Evil work", parents=[]))
        work.delete("side")
        work.set("backdoor", work.tip("main"))
        await sync.sync(services, repo.id)
        works.append(work)
    await services.db.execute("update ref_change set pushed_by = '=Mallory' where snapshot = 2")
    site.mirror.clock.step = timedelta(seconds=1)  # who has signed in stays sure
    return Attacked(site, ann, team, works, await site.signed_in(ann))


def places(page: str) -> list[str]:
    return re.findall(r'name="place" value="(\d+)" checked', page)


async def test_what_an_account_pushed_is_listed_planned_put_back_and_undone(attacked: Attacked) -> None:
    browser, works = attacked.browser, attacked.works
    before = [dict(work.refs()) for work in works]
    listed = await browser.get(PAGE, **WINDOW, actor="=mallory")
    assert listed.status_code == 200 and "6 refs in 2 repositories" in listed.text
    assert "Good work" in listed.text and "Evil work" in listed.text
    planned = await browser.post(f"{PAGE}/plan", **WINDOW, actor="=mallory")
    address = planned.headers["location"]
    page = await browser.follow(planned)
    assert "Put the ticked refs back" in page.text and "loses 1 commit" in unescape(page.text)
    ticked = places(page.text)
    assert len(ticked) == 4 and "It did not exist before" in page.text
    assert "4 refs in 2 repositories are ticked.</strong> 2 are not" in page.text
    assert page.text.count("2 of 3 refs ticked") == 2
    nothing = await browser.follow(await browser.post(f"{address}/begin"))
    assert "No ref is chosen" in nothing.text
    begun = await browser.post(f"{address}/begin", place=ticked)
    assert begun.headers["location"] == address
    waits = await browser.get(address)
    assert "0 of 2 repositories done" in waits.text and "Undo the whole" not in waits.text
    await attacked.worked_off()
    receipt = await browser.get(address)
    assert "4 refs of 2 repositories put back." in receipt.text
    assert all(SIDE in work.refs() for work in works)
    again = await browser.post(f"{address}/begin", place=ticked)  # a second press starts nothing
    assert again.status_code == 303
    queued = "select count(*) from job where kind = 'restore'"
    assert await attacked.site.mirror.services.db.fetchval(queued) == 2
    stream = await browser.get(f"{address}/events")
    assert "4 refs of 2 repositories put back" in stream.text
    listed = await browser.get(PAGE)
    assert f'href="{address}">4 refs in 2 repositories pushed by =mallory</a>' in listed.text
    await browser.post(f"{address}/undo")
    await attacked.worked_off()
    assert "2 of 2 repositories undone." in (await browser.get(address)).text
    assert [dict(work.refs()) for work in works] == before
    actions = await attacked.actions()
    assert actions.count("restore.push") == 2 and actions.count("restore.undo") == 2
    assert [one for one in actions if one.startswith("rollback")] == ["rollback.undo", "rollback.begin"]


async def test_what_is_not_counted_or_was_no_push_is_not_passed_over(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_commits, "COUNTED", 1)
    browser = attacked.browser
    page = await browser.follow(await browser.post(f"{PAGE}/plan", **WINDOW, actor="=mallory"))
    assert page.text.count("loses 1 commit") == 2
    assert page.text.count("What 1 ref loses and gains was not counted.") == 2
    first = await browser.get(PAGE, **WINDOW, untold="yes")  # what the first backups found
    assert "3 created" in first.text and "1 default branch changed" not in first.text


async def test_a_plan_that_takes_long_says_how_far_it_is_goes_on_and_begins_only_once_it_is_whole(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, site = attacked.browser, attacked.site
    whole = await browser.follow(await browser.post(f"{PAGE}/plan", **WINDOW, actor="=mallory"))
    answers, asked, of_repo = asyncio.Event(), asyncio.Event(), planning._of_repo

    async def slow(services: Any, team_id: Any, repo_id: Any, *given: Any) -> Any:
        if (await repos.get(services.db, repo_id)).name == "acme/web":
            asked.set()
            await answers.wait()
        return await of_repo(services, team_id, repo_id, *given)

    monkeypatch.setattr(planning, "_of_repo", slow)
    monkeypatch.setattr(planning, "AT_ONCE", 1)
    monkeypatch.setattr(web, "WAITS", 0.0)
    made = (await browser.post(f"{PAGE}/plan", **WINDOW, actor="=mallory")).headers["location"]
    await asked.wait()
    page = await browser.get(made)
    assert "Planning a rollback" in page.text and "1 of 2 repositories read." in page.text
    assert f'data-live="{made}/events"' in page.text and 'name="place"' not in page.text
    refused = await browser.follow(await browser.post(f"{made}/begin", place=["1", "2"]))
    assert "This plan is still being made: 1 of 2 repositories read" in refused.text
    mine = await with_token(site, attacked.ann, attacked.team)
    told = await mine.get(f"/teams/ann/rollbacks/{made.rpartition('/')[2]}")
    assert (told["state"], told["begun_at"]) == ("planning", None)
    await site.outside.background.end()  # the process ended, and another one has the next look
    asked.clear()
    viewer = await site.signed_in(await site.member(attacked.team, "vera", Role.VIEWER))
    assert "1 of 2 repositories read." in (await viewer.get(made)).text
    assert not site.outside.background.is_busy(web._about(RollbackId(UUID(made.rpartition("/")[2]))))
    await browser.get(made)
    await asked.wait()
    answers.set()
    stream = await browser.get(f"{made}/events")
    assert "event: end" in stream.text
    page = await browser.get(made)
    assert "Put these refs back?" in page.text and places(page.text) == places(whole.text)
    queued = "select count(*) from job where kind = 'restore'"
    assert await site.mirror.services.db.fetchval(queued) == 0


async def test_what_was_ticked_is_kept_where_a_rollback_is_refused(attacked: Attacked) -> None:
    site, browser, db = attacked.site, attacked.browser, attacked.site.mirror.services.db
    planned = await browser.post(f"{PAGE}/plan", **WINDOW, actor="=mallory")
    made, page = planned.headers["location"], await browser.follow(planned)
    created = re.findall(r'name="place" value="(\d+)">', page.text)
    mine = [places(page.text)[0], created[-1]]
    other = await site.signed_in(await site.member(attacked.team, "olaf", Role.OPERATOR))
    await other.post(f"{made}/begin", place=created)
    assert places((await browser.get(made)).text) == places(page.text)  # nobody else chooses
    await db.execute("update session set sure_at = sure_at - interval '1 hour'")
    asked = await browser.post(f"{made}/begin", place=mine)
    assert asked.headers["location"].startswith("/account/sure")
    kept = await browser.get(made)
    assert places(kept.text) == mine
    assert "2 refs in 2 repositories are ticked.</strong> 4 are not." in kept.text
    assert "What you ticked and unticked is kept." in kept.text
    await db.execute("update session set sure_at = sure_at + interval '1 hour'")
    await browser.post(f"{made}/begin")
    assert places((await browser.get(made)).text) == []
    assert await db.fetchval("select count(*) from tries") == 0  # what did not begin counts as none
    who, now = f"restore {attacked.ann.id}", site.mirror.clock.now
    for _ in range(drafts.PER_HOUR):
        await attempts.take(db, who, drafts.PER_HOUR, drafts.HOUR, now)
    often = await browser.follow(await browser.post(f"{made}/begin", place=mine))
    assert "You have started 5 restores within an hour" in often.text and places(often.text) == mine
    await db.execute("delete from tries")
    await db.execute("update rollback set planned_at = planned_at - interval '2 hours'")
    old = await browser.follow(await browser.post(f"{made}/begin", place=mine))
    assert "This plan is more than an hour old" in old.text and places(old.text) == mine
    again = dict(re.findall(r'<input type="hidden" name="(since|until|actor)" value="([^"]*)">', old.text))
    anew = await browser.follow(await browser.post(f"{PAGE}/plan", **again))
    assert places(anew.text) == places(page.text) and "Plan again" not in anew.text
    await db.execute("update rollback set planned_at = planned_at + interval '2 hours'")
    await browser.post(f"{made}/begin", place=mine)
    await browser.post(f"{made}/begin", place=created)  # a second press, which comes too late
    await attacked.worked_off()
    assert "2 refs of 2 repositories put back." in (await browser.get(made)).text


async def test_an_account_with_a_comma_in_its_name_is_found_planned_and_linked(attacked: Attacked) -> None:
    browser, services = attacked.browser, attacked.site.mirror.services
    name = '"Doe, Jane'
    await services.db.execute("update ref_change set pushed_by = $1 where snapshot = 2", name)
    unknown = await browser.get(PAGE, **WINDOW, actor="nobody")
    address = re.search(r'<a href="([^"]*)">&#34;Doe, Jane</a>', unknown.text)
    assert address and "No push by “nobody” is known" in unknown.text, unknown.text
    listed = await browser.get(unescape(address[1]))
    assert "6 refs in 2 repositories" in listed.text and "is known" not in listed.text
    typed = unescape(re.findall(r'id="f-actor" name="actor" value="([^"]*)"', listed.text)[0])
    assert rules.accounts_of(typed) == [name] and rules.accounts_of(f"{typed}, bob, Al Z") == [
        name,
        "bob",
        "Al Z",
    ]
    planned = await browser.post(f"{PAGE}/plan", **WINDOW, actor=typed)
    page = await browser.follow(planned)
    assert len(places(page.text)) == 4
    back = unescape(re.findall(r'href="([^"]*)">Pushes</a>', page.text)[0])
    assert "6 refs in 2 repositories" in (await browser.get(back)).text


async def test_a_viewer_sees_and_only_who_proved_who_they_are_puts_back(attacked: Attacked) -> None:
    site, address = attacked.site, f"{PAGE}/plan"
    viewer = await site.signed_in(await site.member(attacked.team, "vera", Role.VIEWER))
    seen = await viewer.get(PAGE, **WINDOW)
    assert seen.status_code == 200 and "Plan to put these back" not in seen.text
    assert (await viewer.post(address, **WINDOW)).status_code in (403, 404)
    planned = await attacked.browser.post(address, **WINDOW)
    made = planned.headers["location"]
    assert "Somebody with the role operator" in (await viewer.get(made)).text
    assert (await viewer.post(f"{made}/begin", place="1")).status_code in (403, 404)
    other = await site.signed_in(await site.member(attacked.team, "olaf", Role.OPERATOR))
    theirs = await other.follow(await other.post(f"{made}/begin", place="1"))
    assert "Somebody else made this plan" in theirs.text
    stranger = await site.signed_in(await site.person("sam"))
    assert (await stranger.get(made)).status_code == 404
    await site.mirror.services.db.execute("update session set sure_at = sure_at - interval '1 hour'")
    late = await attacked.browser.post(f"{made}/begin", place="1")
    assert late.status_code == 303 and late.headers["location"].startswith("/account/sure")


async def test_the_table_runs_no_formulas_and_bad_words_are_named_at_their_field(attacked: Attacked) -> None:
    browser = attacked.browser
    table = await browser.get(PAGE, **WINDOW, actor="=mallory", **{"as": "csv"})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert {row["by"] for row in rows} == {"'=Mallory"} and len(rows) == 6
    assert {row["what"] for row in rows} == {"forced", "deleted", "created"}
    assert "attachment" in table.headers["content-disposition"]
    told = (await browser.get(PAGE, **WINDOW, kind="forced deleted", **{"as": "json"})).json()
    assert sorted(one["name"] for one in told["items"]) == ["refs/heads/main"] * 2 + ["refs/heads/side"] * 2
    for field, value in (("since", "whenever"), ("until", "2019-01-01"), ("kind", "odd")):
        wrong = await browser.get(PAGE, **(WINDOW | {field: value}))
        assert wrong.status_code == 422 and 'class="wrong"' in wrong.text, field
    empty = await browser.get(PAGE, **WINDOW, actor="=mallory", ref="none")
    assert "Nothing was pushed that matches" in empty.text
    misspelt = await browser.get(PAGE, **WINDOW, actor="malory")
    assert "No push by “malory” is known" in misspelt.text and ">=Mallory</a> (6)" in misspelt.text
    assert "Nothing was pushed" not in misspelt.text
    refused = await browser.post(f"{PAGE}/plan", **WINDOW, actor="malory", ref="main")
    assert refused.status_code == 303 and refused.headers["location"].endswith("actor=malory&ref=main")
    assert "No push by &#39;malory&#39; is known" in (await browser.follow(refused)).text


async def test_a_program_lists_plans_begins_and_undoes(attacked: Attacked) -> None:
    site, works = attacked.site, attacked.works
    mine = await with_token(site, attacked.ann, attacked.team)
    asked = WINDOW | {"actor": "=MALLORY"}
    found = await mine.get("/teams/ann/changes", **asked, kind="deleted")
    assert [(one["repo"], one["what"], one["by"]) for one in found["items"]] == [
        ("acme/web", "deleted", "=Mallory"),
        ("acme/api", "deleted", "=Mallory"),
    ]
    assert (found["unknown_actors"], found["accounts"]) == ([], [])
    found = await mine.get("/teams/ann/changes", **WINDOW, actor="malory")
    assert (found["items"], found["unknown_actors"]) == ([], ["malory"])
    assert found["accounts"] == [{"name": "=Mallory", "changes": 6}]
    misspelt = WINDOW | {"actor": ["malory"]}
    assert (await mine.ask("POST", "/teams/ann/rollbacks", misspelt)).status_code == 404
    plan = await mine.post("/teams/ann/rollbacks", asked | {"actor": ["=mallory"], "created": True})
    assert (plan["state"], plan["refs_chosen"]) == ("planned", 6)
    (main,) = [ref for ref in plan["repos"][0]["refs"] if ref["name"] == "refs/heads/main"]
    assert (main["loses"], main["gains"], main["lost"][0]["summary"]) == (1, 1, "Evil work")
    path = f"/teams/ann/rollbacks/{plan['id']}"
    moved = works[0].commit("main", message="Pushed after the plan")
    assert (await mine.post(f"{path}/begin"))["state"] == "running"
    await attacked.worked_off()
    done = await mine.get(path)
    assert done["state"] == "failed"
    assert done["repos"][0]["counts"] == {"created": 1, "refused": 1, "removed": 1}
    assert "refused" in done["repos"][0]["problem"] and done["repos"][1]["state"] == "done"
    assert works[0].refs()[MAIN] == moved
    assert (await mine.ask("POST", f"{path}/retry", {})).status_code == 202
    await attacked.worked_off()
    await mine.post(f"{path}/undo")
    await attacked.worked_off()
    assert (await mine.get(path))["state"] == "undone"
    reader = await with_token(site, attacked.ann, attacked.team, ("read",))
    assert (await reader.ask("POST", f"{path}/begin", {})).status_code == 403
    assert (await reader.get("/teams/ann/changes", **asked))["more"] is False


async def test_one_accounts_changes_are_found_by_index(attacked: Attacked) -> None:
    db = attacked.site.mirror.services.db
    await db.execute(
        """
        insert into ref_change (repo_id, snapshot, position, ref_id, old, new, kind, pushed_by)
        select repo_id, 2, 1000 + n, ref_id, new, new, 'fast-forwarded', 'user' || n % 300
        from (select * from ref_change where new is not null limit 1) one, generate_series(1, 20000) n
        """
    )
    await db.execute("analyze ref_change")
    plan = await db.fetch(
        """
        explain select * from ref_change move where repo_id = (select repo_id from ref_change limit 1)
          and snapshot between 1 and 5 and pushed_by is not null and lower(pushed_by) = any(array['user7'])
        """
    )
    assert any("ref_change_by" in row[0] for row in plan), plan
