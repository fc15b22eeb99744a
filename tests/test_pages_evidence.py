"""Evidence on pages: what a team downloads, what an auditor reads, what a stranger sees of a badge."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from mirror.core.formats import statements
from mirror.core.rules import evidence as judging
from mirror.core.rules.health import badge as rules
from mirror.restore import drill
from mirror.store.browse import auditors, badges
from mirror.store.people import audit
from mirror.upkeep import checkpoints, daily, verify
from tests.parts.repos import Work
from tests.parts.web import Site
from tests.test_pages_activity import Seen, seen

__all__ = ["seen"]

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


async def test_a_statement_is_downloaded_and_holds(seen: Seen) -> None:
    services = seen.site.mirror.services
    empty = await seen.browser.get("/ann/acme/api/-/evidence")
    assert "Nothing is proved yet" in empty.text and "within a day" in empty.text
    await drill.drill(services, seen.synced.repo, seen.synced.snapshot)
    await verify.verify(services, seen.synced.repo)
    await checkpoints.due(services)
    page = await seen.browser.get("/ann/acme/api/-/evidence")
    assert "Drill of #1" in page.text and "Verification of #1" in page.text
    assert '">Download</a>' in page.text and not re.search(r'aria-label="[^"]*<', page.text)
    published = (await (await seen.site.browser()).get("/.well-known/everref-evidence.json")).content
    keys = statements.keys_of(published, "keys.json")
    links = set(re.findall(r'href="(/ann/acme/api/-/evidence/[^"]+)"', page.text))
    kinds = [judging.shown(link, (await seen.browser.get(link)).content, keys).kind for link in links]
    assert sorted(kinds) == ["drill", "inclusion", "verification"]
    assert (await seen.browser.get("/ann/acme/api/-/evidence/other.json")).status_code == 404
    home = (await seen.browser.get("/ann/acme/api", at="#1")).text
    assert "Signed evidence" in home
    own = re.search(r'Restored by a drill .{1,200} in .{1,40}s</span>, <a href="([^"]+)">evidence</a>', home)
    assert own and judging.shown("own", (await seen.browser.get(own[1])).content, keys).kind == "drill"


async def test_an_auditor_reads_what_is_kept_and_no_more(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    services = seen.site.mirror.services
    db, repo = services.db, seen.synced.repo
    await drill.drill(services, repo, seen.synced.snapshot)
    await db.execute(
        """
        update ref_change set pushed_at = taken_at - interval '90 seconds'
        from snapshot where snapshot.repo_id = ref_change.repo_id and number = snapshot
        """
    )
    await db.execute("update repo set excluded = '{refs/pull/*}' where id = $1", repo.id)
    for action in ("repo.exclude", "repo.drill"):
        entry = audit.Entry(person_id=seen.ann.id, actor="Ann", action=action, subject="=acme/api")
        await audit.add(db, seen.team.id, entry, services.clock())
    page = (await seen.browser.get("/ann/-/report/details")).text
    for words in ("1 min", "signed statement", "repo.exclude", "Refs are excluded: refs/pull/*", "A.8.13"):
        assert words in page, words
    told = (await seen.browser.get("/ann/-/report/details", **{"as": "json"})).json()["report"]
    assert told["delays"][0]["worst_seconds"] == 90.0 and told["delays"][0]["timed"] >= 1
    assert [one["action"] for one in told["actions"] if one["actor"] == "Ann"] == ["repo.exclude"]
    assert [one["passed"] for one in told["drills"]] == [True] and told["drills"][0]["evidence"]
    assert told["access"][0]["role"] == "owner" and told["retention"]["snapshots"] == 1
    query = {"as": "csv", "section": "actions"}
    rows = list(csv.DictReader(io.StringIO((await seen.browser.get("/ann/-/report/details", **query)).text)))
    assert rows[0]["subject"] == "'=acme/api"  # which no spreadsheet takes for a formula
    signed = (await seen.browser.get("/ann/-/report/details", **{"as": "signed"})).content
    keys = statements.keys_of(
        (await seen.browser.get("/.well-known/everref-evidence.json")).content, "keys.json"
    )
    assert judging.shown("r.json", signed, keys).sentence.startswith("report of team ann, 2026-")
    said = json.loads(json.dumps(statements.read(signed, "r.json")[0].predicate))
    assert said["report"]["drills"] == told["drills"]
    empty = {"from": "2020-01-01", "to": "2020-02-01", "as": "json"}
    before = (await seen.browser.get("/ann/-/report/details", **empty)).json()["report"]
    assert before["drills"] == before["actions"] == [] and before["delays"][0]["worst_seconds"] is None
    turned = await seen.browser.get("/ann/-/report/details", **{"from": "2026-12-01", "to": "2026-01-02"})
    assert turned.status_code == 422 and 'value="2026-12-01"' in turned.text
    assert 'value="2026-01-02" aria-invalid' in turned.text
    assert (
        "Every stored byte is read again in a rotation"
        in (await seen.browser.get("/ann/acme/api/-/evidence")).text
    )
    yesterday = (services.clock() - timedelta(days=1)).date()
    await db.execute("insert into reading values ($1, $2, 4096, 3, 1)", seen.team.id, yesterday)
    await daily.due(services)
    day, period = f"/ann/-/evidence/{yesterday}.json", {"from": str(yesterday), "to": str(yesterday)}
    assert f'href="{day}"' in (await seen.browser.get("/ann/acme/api/-/evidence")).text
    assert f'href="{day}"' in (await seen.browser.get("/ann/-/report/details", **period)).text
    said = judging.shown("day.json", (await seen.browser.get(day)).content, keys).sentence
    assert "in 3 objects of team ann" in said and "1 MISSING OR CHANGED" in said
    assert (await seen.browser.get("/ann/-/evidence/2020-01-01.json")).status_code == 404
    for most, ending in ((1000, "-actions.csv"), (1, "-actions-newest-1.csv")):
        monkeypatch.setattr(auditors, "MOST", most)
        cut = await seen.browser.get("/ann/-/report/details", **query)
        assert ending in cut.headers["content-disposition"]
    wrong = await seen.browser.get("/ann/-/report/details", **{"as": "csv", "section": "people"})
    assert wrong.status_code == 400


@pytest.mark.parametrize(
    ("age", "failed", "damaged", "says"),
    [
        (None, False, False, "not proved yet"),
        (timedelta(days=3), False, False, "restorable, proved 3 days ago"),
        (timedelta(days=40), False, False, "proved 40 days ago"),
        (timedelta(days=3), True, False, "not restorable"),
        (timedelta(days=3), False, True, "not restorable"),
        (None, False, True, "not restorable"),
    ],
)
def test_a_badge_says_one_line(age: timedelta | None, failed: bool, damaged: bool, says: str) -> None:
    one = rules.badge(NOW - age if age else None, failed, damaged, NOW)
    assert one.says == says
    picture = ElementTree.fromstring(rules.svg(one))
    assert picture.find("{http://www.w3.org/2000/svg}title").text == f"backup: {says}"  # type: ignore[union-attr]


async def test_a_badge_is_private_until_it_is_switched_on_and_shows_nothing_else(
    seen: Seen, site: Site, work: Work
) -> None:
    db, repo = site.mirror.services.db, seen.synced.repo
    assert "It is off" in (await seen.browser.get("/ann/acme/api/-/settings")).text
    settings = "/ann/acme/api/-/settings/badge"
    assert (await seen.browser.post(settings, on="1")).status_code == 303
    name = await badges.of(db, repo.id)
    assert name and f"/badges/{name}.svg" in (await seen.browser.get("/ann/acme/api/-/settings")).text
    stranger = await site.browser()
    shown = await stranger.get(f"/badges/{name}.svg")
    assert (
        shown.headers["content-type"] == "image/svg+xml" and "max-age=300" in shown.headers["cache-control"]
    )
    assert "not proved yet" in shown.text and "acme" not in shown.text
    await drill.drill(site.mirror.services, repo, seen.synced.snapshot)
    assert "restorable, proved" in (await stranger.get(f"/badges/{name}.svg")).text
    await seen.browser.post(settings, on="1")
    assert (await stranger.get(f"/badges/{name}.svg")).status_code == 404
    await seen.browser.post(settings)
    assert await badges.of(db, repo.id) is None


async def test_programs_list_statements_and_switch_the_badge(seen: Seen, site: Site) -> None:
    services, repo = site.mirror.services, seen.synced.repo
    for _ in range(3):
        await drill.drill(services, repo, seen.synced.snapshot)
    base = f"/api/v1/teams/ann/repos/{repo.id}"
    headers = {"authorization": f"Bearer {await site.token(seen.ann, seen.team, ('read', 'admin'))}"}
    client = (await site.browser()).client
    first = (await client.get(f"{base}/evidence?limit=2", headers=headers)).json()
    second = (await client.get(f"{base}/evidence?limit=2&cursor={first['next']}", headers=headers)).json()
    assert [len(first["items"]), len(second["items"]), second["next"]] == [2, 1, None]
    name = second["items"][0]["name"]
    stored = (await client.get(f"{base}/evidence/{name}", headers=headers)).content
    keys = statements.keys_of((await client.get("/.well-known/everref-evidence.json")).content, "keys.json")
    assert judging.shown("s.json", stored, keys).kind == "drill"
    assert (await client.get(f"{base}/badge", headers=headers)).json() == {"url": None}
    url = (await client.put(f"{base}/badge", headers=headers)).json()["url"]
    assert (await client.get(url)).status_code == 200
    assert (await client.delete(f"{base}/badge", headers=headers)).status_code == 204
    assert (await client.get(url)).status_code == 404
