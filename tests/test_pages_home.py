"""The home of a team: the sentence on top, what needs somebody, the list by search, state and order."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from mirror.backup import sync
from mirror.core.errors import NetworkError, Origin
from mirror.core.model import RefName, Repo, RepoId
from mirror.core.rules.plan import Wrote
from mirror.core.rules.roles import Role
from mirror.services.queue import NoQueue
from mirror.store import repos
from mirror.store.browse import home
from mirror.store.browse.home import Broken, Day, Forced, RepoOverview, Summary
from mirror.store.jobs import jobs, runs
from mirror.store.people import notices, people
from mirror.store.people.notices import Notice
from mirror.store.people.teams import Team
from mirror.store.repos import Failure
from mirror.store.restore import drills, restores
from mirror.store.restore.restores import Cause
from mirror.store.upkeep import damages, outages, vaults
from mirror.web.pages import status
from mirror.web.pages.home import TOLD, needs, on_their_way, sentence, strip
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TODAY = date(2026, 3, 2)
API = RepoOverview(
    id=RepoId(uuid4()),
    name="acme/api",
    url="https://example.org/api",
    state="protected",
    protected_as_of=NOW,
    behind_since=None,
    failure=None,
    archived_at=None,
    paused_at=None,
    snapshots=1,
    first_at=NOW,
    saved_at=NOW,
    refs=1,
    bytes=1,
    proved_at=None,
    problems=0,
    at_work=False,
)


def summary(**states: int) -> Summary:
    return Summary(sum(states.values()), {one: states.get(one, 0) for one in home.STATES}, NOW, None, None)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"protected": 47, "behind": 1}, "48 repositories, 47 protected"),
        ({"protected": 1200}, "1,200 repositories, all protected"),
        ({"protected": 1}, "1 repository, protected"),
        ({"never": 1}, "1 repository, not protected"),
        ({"damaged": 1}, "1 repository, damaged"),
        ({"protected": 3, "damaged": 1}, "4 repositories, 3 protected, 1 damaged"),
        ({"damaged": 2, "never": 1}, "3 repositories, none protected, 2 damaged"),
        ({"never": 2, "archived": 1}, "3 repositories, none protected"),
    ],
)
def test_the_sentence_says_whether_all_is_protected(states: dict[str, int], said: str) -> None:
    assert sentence(summary(**states)) == said


def test_what_stops_backups_comes_before_what_was_taken_and_what_is_late() -> None:
    failure = Failure("network", "example.org does not answer", NOW, NOW, NOW + timedelta(minutes=5))
    found = needs(
        "acme",
        NOW,
        connections=[Broken("github", "github.com", "kim", None)],
        hooks=[Broken("gitlab", "acme/web", None, "the forge switched it off")],
        told=[Notice(7, API.id, "acme/api", "mass-deletion", "12 of 14 refs are gone", NOW, None)],
        troubled=[
            replace(API, name="acme/infra", state="failing", failure=failure),
            replace(API, name="acme/slow", state="behind", behind_since=NOW - timedelta(minutes=51)),
            replace(API, name="acme/old", state="archived", archived_at=NOW - timedelta(days=2)),
        ],
        forced=[
            Forced(
                API.id, "acme/api", RefName(b"refs/heads/main"), 4, "kim", NOW - timedelta(hours=3), True, 2
            )
        ],
    )
    assert [(one.title, one.chip, one.tone) for one in found] == [
        ("kim at github.com", "sign in again", "late"),
        ("acme/infra", "failing", "late"),
        ("acme/api", "mass deletion", "lost"),
        ("acme/api", "force-pushed", "lost"),
        ("acme/web", "no webhook", "late"),
        ("acme/slow", "behind 51 min", "late"),
        ("acme/old", "archived", ""),
    ]
    assert found[1].why == (
        "example.org does not answer. What was saved is safe. Everref tries again in 5 min."
    )
    assert found[2].notice == 7
    assert found[3].why == (
        "kim replaced main by a force-push 3 h ago. The old commits are kept. "
        "This is one of 2 force-pushes this week."
    )
    assert found[3].to == "/acme/acme/api/-/lost"


def test_an_audit_log_that_was_changed_needs_somebody() -> None:
    notice = Notice(8, None, None, "audit", "entry 3 of the audit log was changed or removed", NOW, None)
    (found,) = needs("acme", NOW, connections=[], hooks=[], told=[notice], troubled=[], forced=[])
    assert notice.kind in TOLD
    assert (found.title, found.chip, found.tone, found.link) == (
        "acme",
        "audit",
        "lost",
        "/acme/-/settings/audit",
    )


def test_webhooks_that_wait_are_said_with_how_many_and_until_when() -> None:
    assert on_their_way(0, NOW) is None
    assert on_their_way(1, NOW) == (
        "1 webhook is being registered (within 5 min); until then pushes are found on a schedule."
    )
    assert "1,201 webhooks are being registered (within 65 min)" in (on_their_way(1201, NOW) or "")


def test_webhooks_that_are_refused_are_one_line() -> None:
    refused = [
        Broken("github", f"acme/{n}", None, "the account kim may not register hooks") for n in range(44)
    ]
    [one] = needs("acme", NOW, hooks=refused)
    assert (one.title, one.chip) == ("acme/0", "no webhook")
    assert one.why == (
        "The account kim may not register hooks. This concerns 44 repositories. "
        "Everref checks them on a schedule instead."
    )


def test_a_token_that_is_refused_is_replaced_by_one_button() -> None:
    failure = Failure("credentials", "the forge refuses the token (401)", NOW, NOW)
    failed, connection = replace(API, state="never", failure=failure, snapshots=0), uuid4()
    [one] = needs("acme", NOW, troubled=[replace(failed, connection_id=connection)])
    assert (one.action, one.again) == ("Sign in again", connection)
    assert one.why == (
        "The forge refuses the token (401). Nothing is saved yet. "
        "Everref does not try again until its token is replaced."
    )
    [pasted] = needs("acme", NOW, troubled=[failed])
    assert (pasted.action, pasted.again, pasted.to) == ("See", None, pasted.link)


def test_a_push_that_is_being_saved_needs_nobody() -> None:
    fresh = replace(API, state="behind", behind_since=NOW - timedelta(seconds=20))
    under_way = replace(API, state="behind", behind_since=NOW - timedelta(hours=1), at_work=True)
    topic = Forced(API.id, "acme/api", RefName(b"refs/heads/topic"), 4, None, NOW, False, 1)
    assert needs("acme", NOW, troubled=[API, fresh, under_way], forced=[topic]) == []


def test_the_strip_has_a_bar_a_day_and_says_so_in_words() -> None:
    days = [Day(TODAY - timedelta(days=100), 9, 0), Day(TODAY - timedelta(days=1), 1, 0), Day(TODAY, 8, 2)]
    drawn = strip(days, TODAY, TODAY)
    assert drawn.saved == "M265 22v-5"
    assert drawn.forced == "M268 22v-14"
    assert drawn.late == "M267 21h3"
    assert drawn.words == ("9 backups on 2 days of the last 90; force-pushes on 1 day; failing for 1 day")


async def _kept(site: Site, team: Team, work: Work, name: str) -> Repo:
    repo = await repos.add(site.mirror.services.db, team.id, name, str(work.path), site.mirror.clock())
    await sync.sync(site.mirror.services, repo.id)
    return repo


async def _visitor(site: Site) -> tuple[Team, Browser]:
    person = await site.person("acme")
    return await site.team(person), await site.signed_in(person)


def _listed(text: str) -> list[str]:
    return re.findall(r'<th scope="row" class="anywhere"><a class="strong" href="[^"]+">([^<]+)</a>', text)


async def test_a_team_without_repos_is_led_through_connect(site: Site) -> None:
    _, browser = await _visitor(site)
    page = await browser.get("/acme")
    assert page.status_code == 200
    assert 'href="/acme/-/connect"' in page.text
    assert "everref backup https://" in page.text


async def test_the_start_leads_to_ones_own_team(site: Site) -> None:
    _, browser = await _visitor(site)
    assert (await browser.get("/")).headers["location"] == "/acme"
    assert (await (await site.browser()).get("/")).headers["location"] == "/sign-in"


async def test_every_repo_of_the_team_is_listed_and_no_other(
    site: Site, make_work: Callable[..., Work]
) -> None:
    team, browser = await _visitor(site)
    other = await site.team(await site.person("other"))
    for owner, name in ((team, "acme/web"), (team, "acme/api"), (other, "theirs")):
        work = make_work(name.replace("/", "-"))
        work.commit()
        work.head("main")
        await _kept(site, owner, work, name)
    page = (await browser.get("/acme")).text
    assert _listed(page) == ["acme/api", "acme/web"]
    assert "<h1>2 repositories, all protected</h1>" in page
    assert "theirs" not in page
    assert _listed((await browser.get("/acme", q="WEB")).text) == ["acme/web"]
    assert _listed((await browser.get("/acme", q="100%_")).text) == []


async def test_a_force_push_to_the_default_branch_needs_somebody_until_it_is_old(
    site: Site, work: Work
) -> None:
    team, browser = await _visitor(site)
    work.commit(message="first")
    work.head("main")
    await _kept(site, team, work, "api")
    work.set("main", work.commit(None, message="instead", parents=[]))
    await _kept_again(site, team, "api")
    page = (await browser.get("/acme")).text
    assert "Somebody replaced main" in page
    assert 'href="/acme/api/-/lost"' in page
    assert _listed((await browser.get("/acme", state="forced")).text) == ["api"]
    later = site.mirror.clock.now + timedelta(days=8)
    assert await home.forced_lately(site.mirror.services.db, team.id, later - timedelta(days=7)) == []


async def test_what_the_teams_own_restore_replaced_alarms_nobody(site: Site, work: Work) -> None:
    team, browser = await _visitor(site)
    old = work.commit(message="first")
    work.head("main")
    await _kept(site, team, work, "api")
    new = work.commit(None, message="instead", parents=[])
    work.set("main", new)
    repo = await repos.by_name(site.mirror.services.db, team.id, "api")
    assert repo is not None
    job = await jobs.attend(site.mirror.services.db, repo.id, "restore", {}, site.mirror.clock.now)
    await restores.will_write(
        site.mirror.services.db, Cause(job.id), [Wrote(RefName(b"refs/heads/main"), old, new)]
    )
    await _kept_again(site, team, "api")
    assert "replaced main" not in (await browser.get("/acme")).text
    work.set("main", old)  # as undoing it does
    await _kept_again(site, team, "api")
    assert "replaced main" not in (await browser.get("/acme")).text


async def _kept_again(site: Site, team: Team, name: str) -> None:
    repo = await repos.by_name(site.mirror.services.db, team.id, name)
    assert repo is not None
    await sync.sync(site.mirror.services, repo.id)


async def test_states_filter_and_sort_the_list(site: Site, make_work: Callable[..., Work]) -> None:
    team, browser = await _visitor(site)
    db, clock = site.mirror.services.db, site.mirror.clock
    for name in ("a-small", "b-large", "c-failing"):
        work = make_work(name)
        work.commit(files={"x": name.encode() * (1 if name != "b-large" else 9)})
        work.head("main")
        if name == "b-large":
            work.many_commits(50)
        repo = await _kept(site, team, work, name)
        if name == "c-failing":
            await repos.set_failure(db, repo.id, "network", "example.org does not answer", clock())
    await repos.add(db, team.id, "d-new", "https://example.org/new", clock())
    assert _listed((await browser.get("/acme", sort="size")).text)[0] == "b-large"
    assert _listed((await browser.get("/acme", sort="state")).text)[:2] == ["c-failing", "d-new"]
    assert _listed((await browser.get("/acme", sort="saved")).text)[0] == "c-failing"
    assert _listed((await browser.get("/acme", state="failing")).text) == ["c-failing"]
    assert _listed((await browser.get("/acme", state="never")).text) == ["d-new"]
    assert _listed((await browser.get("/acme", state="no-such", sort="x", page="-1")).text)[0] == "a-small"
    page = (await browser.get("/acme")).text
    assert "example.org does not answer. What was saved is safe." in page
    assert "<h1>4 repositories, 2 protected</h1>" in page


async def test_many_repos_come_a_page_at_a_time(site: Site) -> None:
    team, browser = await _visitor(site)
    await site.mirror.services.db.execute(
        """
        insert into repo (id, team_id, name, url, created_at)
        select gen_random_uuid(), $1, 'repo-' || lpad(n::text, 3, '0'), 'https://example.org/' || n, now()
        from generate_series(1, 120) n
        """,
        team.id,
    )
    assert len(_listed((await browser.get("/acme")).text)) == 50
    page = (await browser.get("/acme", page="3", q="repo")).text
    assert _listed(page)[0] == "repo-101"
    assert 'href="/acme?q=repo&amp;page=2"' in page
    assert _listed((await browser.get("/acme", page="9")).text) == []


async def test_a_notice_is_dismissed_once_for_all(site: Site) -> None:
    team, browser = await _visitor(site)
    db = site.mirror.services.db
    repo = await repos.add(db, team.id, "api", "https://example.org/api", site.mirror.clock())
    await notices.add(db, team.id, repo.id, "mass-deletion", "12 of 14 refs are gone", site.mirror.clock())
    [notice] = await notices.open_of(db, team.id)
    assert "12 of 14 refs are gone." in (await browser.get("/acme")).text
    viewer = await site.signed_in(await site.member(team, "viewer", Role.VIEWER))
    await viewer.get("/acme")
    assert (await viewer.post(f"/acme/-/notices/{notice.id}/seen")).status_code == 403
    assert (await browser.post(f"/acme/-/notices/{notice.id}/seen")).status_code == 303
    assert "12 of 14 refs" not in (await browser.get("/acme")).text


async def test_a_drill_that_failed_shows_in_the_list(site: Site, work: Work) -> None:
    team, browser = await _visitor(site)
    work.commit()
    work.head("main")
    repo = await _kept(site, team, work, "api")
    assert "not drilled yet" in (await browser.get("/acme")).text
    db, at = site.mirror.services.db, site.mirror.clock()
    await drills.add(db, repo.id, drills.Drill(1, 1, 10, 0.5, (), at))
    assert "Drilled" in (await browser.get("/acme")).text
    failed = drills.Drill(1, 1, 10, 0.5, ("refs/heads/main is gone",), at + timedelta(minutes=1))
    await drills.add(db, repo.id, failed)
    assert "drill failed" in (await browser.get("/acme")).text


async def test_what_is_damaged_is_said_where_it_was_called_protected(
    site: Site, make_work: Callable[..., Work]
) -> None:
    team, browser = await _visitor(site)
    repo = await _kept(site, team, make_work("a.git"), "acme/api")
    await _kept(site, team, make_work("b.git"), "acme/web")
    now = site.mirror.clock()
    await damages.found(site.mirror.services.db, repo.id, "a part is gone", "a drill found it", now)
    page = (await browser.get("/acme")).text
    assert "<h1>2 repositories, 1 protected, 1 damaged</h1>" in page
    assert re.search(r"A drill found it\. Found \d+ \w+ ago\.", page)
    assert re.search(r'href="[^"]*state=damaged">Damaged 1</a>', page)
    assert _listed((await browser.get("/acme", state="damaged")).text) == ["acme/api"]
    assert "Protected as of" not in (await browser.get("/acme", state="damaged")).text
    assert _listed((await browser.get("/acme", sort="state")).text) == ["acme/api", "acme/web"]
    page = (await browser.get("/acme/acme/api")).text
    assert "Part of its backup is damaged; found " in page and "A part is gone." in page
    assert "then run everref verify acme/api." in page and "Protected as of" not in page
    assert '<span class="chip lost">damaged</span>' in (await browser.get("/acme/-/report")).text
    await repos.set_failure(site.mirror.services.db, repo.id, "network", "it does not answer", now)
    page = (await browser.get("/acme/acme/api")).text
    assert "Backups started to fail" in page and "safe" not in page and "Protected as of" not in page
    assert "It does not answer. Everref " in (await browser.get("/acme")).text  # and not that it is safe


async def test_files_of_ours_are_kept_by_browsers_under_the_address_of_their_content(site: Site) -> None:
    browser = await site.browser()
    page = (await browser.get("/status")).text
    address = re.findall(r'href="(/static/style\.css\?v=[^"]+)"', page)[0]
    style = await browser.get(address)
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in style.headers["cache-control"]
    assert "immutable" not in (await browser.get("/static/style.css?v=old")).headers["cache-control"]
    manifest = await browser.get("/manifest.webmanifest")
    assert manifest.headers["content-type"] == "application/manifest+json"
    assert (await browser.get("/static/..%2fpages.py")).status_code == 303  # a page to sign in for, no file
    assert (await browser.get("/static/nothing.css")).status_code == 404


async def test_without_a_worker_nothing_is_shown_as_well(site: Site) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    db = site.mirror.services.db
    repo = await repos.add(db, team.id, "acme/api", "https://x.example/a", site.mirror.clock.now)
    await repos.touch_protected(db, repo.id, site.mirror.clock.now)
    browser = await site.signed_in(ann)
    assert "1 repository, protected" in (await browser.get("/ann")).text
    await runs.leave(db, "a test's worker")
    page = (await browser.get("/ann")).text
    assert "<h1>Nothing new is being saved</h1>" in page
    assert "no worker is running" in page


async def test_a_worker_is_there_while_only_the_queue_is_away(site: Site) -> None:
    away = Redis.from_url("redis://127.0.0.1:1")  # where nothing listens
    health = await status.look(site.mirror.services.db, away)
    await away.aclose()
    assert (health.database, health.queue, health.worker) == (True, False, True)
    await runs.leave(site.mirror.services.db, "a test's worker")
    health = await status.look(site.mirror.services.db, site.outside.queue)
    assert (health.database, health.queue, health.worker) == (True, True, False)
    page = (await (await site.browser()).get("/status")).text
    assert page.count("not working</span>") == 1 and "by itself" not in page


async def test_a_service_without_redis_is_ready(site: Site) -> None:
    health = await status.look(site.mirror.services.db, NoQueue())
    assert (health.queue, health.ready, health.well) == (None, True, True)


async def test_while_the_vault_is_away_the_home_and_the_status_say_so_once(site: Site) -> None:
    ann = await site.person("ann")
    team = await site.team(ann)
    db, now = site.mirror.services.db, site.mirror.clock.now
    for name in ("api", "web"):
        repo = await repos.add(db, team.id, f"acme/{name}", f"https://x.example/{name}", now)
        await repos.touch_protected(db, repo.id, now)
    error = NetworkError("the vault at s3.example stopped answering", origin=Origin.VAULT)
    assert await outages.begin(db, "", error, now)
    assert not await outages.begin(db, "", error, now)
    browser = await site.signed_in(ann)
    page = (await browser.get("/ann")).text
    assert page.count(">the vault does not answer<") == 1
    assert "<h1>Nothing new is being saved</h1>" in page
    assert "s3.example" not in page
    assert (await browser.get("/status")).text.count("not working") >= 1
    (outage,) = await outages.now(db)
    assert await outages.end(db, outage, now) and not await outages.end(db, outage, now)
    assert "2 repositories, all protected" in (await browser.get("/ann")).text


async def test_who_runs_everref_is_told_of_a_vault_that_the_database_does_not_know(
    site: Site, work: Work
) -> None:
    db = site.mirror.services.db
    await site.mirror.services.vault.recognise()
    owner = await site.signed_in(await people.first_owner(db, site.mirror.clock.now))
    assert "Nothing is backed up for everref yet" in (await owner.get("/everref")).text
    await vaults.set_unknown(db, 3)
    words = "the vault has 3 repos that this database does not know: run everref rebuild".capitalize()
    for path in ("/everref", "/status"):
        page = (await owner.get(path)).text
        assert words in page
        assert "Nothing is backed up for everref yet" not in page and "Everref is up" not in page
    ann = await site.signed_in(await site.person("ann"))
    assert words not in (await ann.get("/ann")).text
    work.commit()
    await site.mirror.backup(work)
    page = (await owner.get("/everref")).text
    assert words in page and "the database was lost" in page
