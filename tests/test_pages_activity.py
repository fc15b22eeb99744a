"""Jobs, drills and reports as people see them."""

import csv
import io
import re
from pathlib import Path

import pytest
import pytest_asyncio

from mirror.backup.sync import Synced
from mirror.core.rules.roles import Role
from mirror.jobs import proofs, run
from mirror.restore import drill, restore
from mirror.store.jobs import jobs as store
from mirror.store.people import audit
from mirror.store.people.people import Person
from mirror.store.people.teams import Team
from mirror.store.restore import restores
from tests.parts.repos import Work
from tests.parts.web import Browser, Site


class Seen:
    """Ann's team with one repo that was backed up, and her browser."""

    def __init__(self, site: Site, ann: Person, team: Team, synced: Synced, browser: Browser) -> None:
        self.site, self.ann, self.team, self.synced, self.browser = site, ann, team, synced, browser

    async def asked(self, kind: store.Kind = "drill") -> store.Job:
        return await run.ask(self.site.mirror.services, self.synced.repo.id, kind, {}, person_id=self.ann.id)


@pytest_asyncio.fixture
async def seen(site: Site, work: Work) -> Seen:
    ann = await site.person("ann")
    team = await site.team(ann)
    work.commit("main")
    synced = await site.mirror.backup(work, "acme/api")
    await site.mirror.services.db.execute(
        "update repo set team_id = $1 where id = $2", team.id, synced.repo.id
    )
    return Seen(site, ann, team, synced, await site.signed_in(ann))


async def test_a_job_is_listed_and_shown(seen: Seen) -> None:
    job = await seen.asked()
    page = await seen.browser.get("/ann/-/activity")
    assert "acme/api" in page.text
    assert str(job.id) in page.text
    shown = await seen.browser.get(f"/ann/-/activity/{job.id}")
    assert "Drill of" in shown.text
    assert "data-live" in shown.text


async def test_a_job_is_stopped_and_asked_for_again(seen: Seen) -> None:
    job = await seen.asked()
    await seen.browser.get(f"/ann/-/activity/{job.id}")
    assert (await seen.browser.post(f"/ann/-/activity/{job.id}/cancel")).status_code == 303
    ended = await store.by_id(seen.site.mirror.services.db, job.id)
    assert ended and ended.state == "cancelled"
    again = await seen.browser.post(f"/ann/-/activity/{job.id}/retry")
    assert again.status_code == 303
    new = again.headers["location"].rpartition("/")[2]
    assert new != str(job.id)
    actions = [one.entry.action for one in await audit.page(seen.site.mirror.services.db, seen.team.id)]
    assert actions[:2] == ["job.retry", "job.cancel"]


async def test_events_of_a_job_that_has_ended_end(seen: Seen) -> None:
    job = await seen.asked()
    await store.cancel(seen.site.mirror.services.db, seen.team.id, job.id, seen.site.mirror.clock.now)
    answer = await seen.browser.get(f"/ann/-/activity/{job.id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("event: part\n")
    assert "event: end\n" in answer.text


async def test_a_viewer_stops_nothing_and_a_stranger_sees_nothing(seen: Seen) -> None:
    job = await seen.asked()
    viewer = await seen.site.signed_in(await seen.site.member(seen.team, "victor", Role.VIEWER))
    assert (await viewer.get(f"/ann/-/activity/{job.id}")).status_code == 200
    assert (await viewer.post(f"/ann/-/activity/{job.id}/cancel")).status_code == 403
    stranger = await seen.site.signed_in(await seen.site.person("mallory"))
    assert (await stranger.get(f"/ann/-/activity/{job.id}")).status_code == 404
    assert (await stranger.get(f"/mallory/-/activity/{job.id}")).status_code == 404


async def test_a_drill_is_begun_by_its_button(seen: Seen) -> None:
    await seen.browser.get("/ann/-/drills")
    answer = await seen.browser.post("/ann/acme/api/-/prove/drill")
    shown = await seen.browser.follow(answer)
    assert "Drill of" in shown.text
    assert (await seen.browser.post("/ann/acme/api/-/prove/nothing")).status_code == 404


async def test_all_that_are_due_are_drilled_by_one_press(seen: Seen) -> None:
    await seen.browser.get("/ann/-/drills")
    answer = await seen.browser.post("/ann/-/drills/due")
    assert "1 drill started." in (await seen.browser.follow(answer)).text
    await drill.drill(seen.site.mirror.services, seen.synced.repo, seen.synced.snapshot)
    answer = await seen.browser.post("/ann/-/drills/due")
    assert "0 drills started." in (await seen.browser.follow(answer)).text


async def test_drills_show_what_is_proved_and_settings_say_how_often(seen: Seen) -> None:
    services = seen.site.mirror.services
    page = (await seen.browser.get("/ann/-/drills")).text
    assert "within 30 days" in page and "100 %</strong>" in page and "Restorable in" in page
    await drill.drill(services, seen.synced.repo, seen.synced.snapshot)
    await proofs.plan(services)
    page = (await seen.browser.get("/ann/-/drills")).text
    assert "about " in page and re.search(r"in 2[0-9] days", page)
    await seen.browser.get("/ann/-/settings")
    answer = await seen.browser.post("/ann/-/settings/proofs", drill_days="0", read_days="often")
    assert answer.status_code == 422 and 'value="often"' in answer.text and "0 for never" in answer.text
    await seen.browser.post("/ann/-/settings/proofs", drill_days="0", read_days="7")
    page = (await seen.browser.get("/ann/-/drills")).text
    assert "only when somebody starts one" in page and "none planned" in page and "last 7 days" in page
    viewer = await seen.site.signed_in(await seen.site.member(seen.team, "vera", Role.VIEWER))
    assert "Every stored byte is read again within 7 days" in (await viewer.get("/ann/-/settings")).text
    assert (await viewer.post("/ann/-/settings/proofs", drill_days="1", read_days="1")).status_code == 403


async def test_a_drill_is_evidence(seen: Seen) -> None:
    assert "No drills yet" in (await seen.browser.get("/ann/-/drills")).text
    await drill.drill(seen.site.mirror.services, seen.synced.repo, seen.synced.snapshot)
    page = await seen.browser.get("/ann/-/drills")
    assert ">passed<" in page.text


async def test_a_report_says_what_was_done_in_its_period(seen: Seen) -> None:
    page = await seen.browser.get("/ann/-/report")
    assert "1 of 1 repository is protected." in page.text
    assert "1 snapshot, 0 refs force-pushed or deleted, 0 restores, 0 drills." in page.text
    assert re.search(
        r">2026-03-02 [0-9]{2}:[0-9]{2} UTC</time></td>", page.text
    )  # which paper does not outdate
    told = (await seen.browser.get("/ann/-/report", **{"as": "json"})).json()
    assert told["repos"][0]["repo"] == "acme/api"
    assert told["repos"][0]["snapshots"] == 1
    (row,) = csv.DictReader(io.StringIO((await seen.browser.get("/ann/-/report", **{"as": "csv"})).text))
    assert row["snapshots"] == "1"
    before = await seen.browser.get(
        "/ann/-/report", **{"from": "2020-01-01", "to": "2020-02-01", "as": "json"}
    )
    assert before.json()["repos"][0]["snapshots"] == 0


@pytest.mark.parametrize("query", [{"from": "nonsense"}, {"from": "2026-03-02", "to": "2026-03-01"}])
async def test_a_period_that_is_none_is_told_in_a_line(seen: Seen, query: dict[str, str]) -> None:
    answer = await seen.browser.get("/ann/-/report", **query)
    assert answer.status_code == 422
    assert re.search(r'aria-invalid="true"', answer.text) and '<p id="f-' in answer.text
    assert (await seen.browser.get("/ann/-/report", **query | {"as": "csv"})).status_code == 400


async def test_a_cell_that_a_spreadsheet_would_run_is_quoted(seen: Seen) -> None:
    db = seen.site.mirror.services.db
    await db.execute("update repo set name = '=HYPERLINK(1)' where id = $1", seen.synced.repo.id)
    text = (await seen.browser.get("/ann/-/report", **{"as": "csv"})).text
    assert "'=HYPERLINK(1)" in text


async def test_a_report_is_of_whole_days_of_who_asks_and_both_ends_are_in_it(seen: Seen) -> None:
    """The snapshot was taken at 09:0x UTC on 2 March, which is 22:0x in Auckland."""
    db = seen.site.mirror.services.db
    for zone, day, there in (
        ("UTC", "2026-03-02", 1),
        ("UTC", "2026-03-01", 0),
        ("Pacific/Auckland", "2026-03-02", 1),
        ("Pacific/Kiritimati", "2026-03-02", 1),
        ("Pacific/Kiritimati", "2026-03-01", 0),
    ):
        await db.execute("update person set zone = $1", zone)
        query = {"from": day, "to": day}
        told = (await seen.browser.get("/ann/-/report", **query, **{"as": "json"})).json()
        assert told["repos"][0]["snapshots"] == there, (zone, day)
        page = (await seen.browser.get("/ann/-/report", **query)).text
        assert f'type="date" id="f-from" name="from" value="{day}"' in page
        assert f'type="date" id="f-to" name="to" value="{day}"' in page


async def test_a_report_counts_restores_and_neither_bundles_nor_undos(seen: Seen, tmp_path: Path) -> None:
    services, repo, snapshot = seen.site.mirror.services, seen.synced.repo, seen.synced.snapshot
    await restore.to_bundle(services, repo, snapshot, tmp_path / "it.bundle")
    await restore.to_directory(services, repo, snapshot, tmp_path / "it")
    done = restores.Restore(
        1, "undo of the push to https://example.org/x", {}, True, seen.site.mirror.clock.now
    )
    await restores.add(services.db, repo.id, done)
    told = (await seen.browser.get("/ann/-/report", **{"as": "json"})).json()
    assert (told["repos"][0]["restores"], told["repos"][0]["restores_verified"]) == (1, 1)


async def test_a_report_leads_to_the_drills_that_it_counts(seen: Seen) -> None:
    await drill.drill(seen.site.mirror.services, seen.synced.repo, seen.synced.snapshot)
    page = (await seen.browser.get("/ann/-/report")).text
    (link,) = set(re.findall(r'href="(/ann/-/drills\?repo=[^"]+)"', page))
    shown = (await seen.browser.get(link)).text
    assert "Results of acme/api" in shown and ">passed<" in shown
    assert "every object checked" in shown and seen.synced.snapshot.refs_digest in shown, "a receipt"
    assert ">passed<" not in (await seen.browser.get("/ann/-/drills", repo="acme/other")).text
