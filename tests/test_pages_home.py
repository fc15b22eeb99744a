"""The home of a team: the sentence on top, what needs somebody, the list by search, state and order."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis
from starlette.responses import Response

from mirror.backup import sync
from mirror.core.errors import NetworkError, Origin
from mirror.core.model import RefName, Repo, RepoId, Target
from mirror.core.rules.history.plan import Wrote
from mirror.core.rules.roles import Role
from mirror.core.rules.work.schedule import STEPS
from mirror.services.queue import NoQueue
from mirror.shapes.repos import Repo as Shown
from mirror.store import repos
from mirror.store.browse import causes, found, home
from mirror.store.browse.causes import Forced, Refused, Settled, Trouble
from mirror.store.browse.home import Day, Summary
from mirror.store.database import query
from mirror.store.discovery import connections
from mirror.store.discovery.connections import ConnectionId, NewConnection
from mirror.store.jobs import jobs, runs, schedules
from mirror.store.jobs.jobs import JobId
from mirror.store.people import notices, people, teams
from mirror.store.people.notices import Notice
from mirror.store.people.teams import Team
from mirror.store.restore import drills, restores
from mirror.store.restore.restores import Cause, Restore
from mirror.store.upkeep import damages, measures, outages, vaults
from mirror.web.dispatch import RequestContext
from mirror.web.live import Look
from mirror.web.pages import home as home_page
from mirror.web.pages import status
from mirror.web.pages.home import on_their_way, parts, sentence, strip
from mirror.web.pages.needs import TOLD, Told, done, needs
from mirror.web.pages.repos import repo as repo_page
from tests.parts.repos import Work
from tests.parts.web import Browser, Site

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TODAY = date(2026, 3, 2)
API = RepoId(uuid4())


def summary(**states: int) -> Summary:
    return Summary(sum(states.values()), {one: states.get(one, 0) for one in home.STATES}, NOW, None, None)


def trouble(kind: str, where: str, *names: str, **known: Any) -> Trouble:
    """A cause of these repositories, that began an hour ago."""
    told = [(name, f"the fault of {name}") for name in names]
    return replace(Trouble(kind, where, len(names), 0, NOW - timedelta(hours=1), told), **known)


KIM = Refused(uuid4(), "github", "github.com", "kim", "github.com refuses kim's token", by_token=False)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"protected": 47, "late": 1}, "48 repositories: 47 protected, 1 late"),
        ({"protected": 47, "behind": 1}, "48 repositories: 47 protected, 1 being saved"),
        (
            {"protected": 336, "failing": 1, "paused": 1, "archived": 1},
            "339 repositories: 336 protected, 1 failing, 1 paused, 1 gone",
        ),
        ({"protected": 1200}, "1,200 repositories, all protected"),
        ({"protected": 1}, "1 repository, protected"),
        ({"never": 1}, "1 repository, not saved yet"),
        ({"damaged": 1}, "1 repository, damaged"),
        ({"protected": 3, "damaged": 1}, "4 repositories: 3 protected, 1 damaged"),
        ({"damaged": 2, "never": 1}, "3 repositories: none protected, 1 not saved yet, 2 damaged"),
        ({"failing": 3}, "3 repositories, all failing"),
        ({"never": 2}, "2 repositories, none saved yet"),
    ],
)
def test_the_sentence_adds_up(states: dict[str, int], said: str) -> None:
    assert sentence(summary(**states)) == said


def test_the_bar_has_a_part_for_each_state_which_fill_it_and_can_all_be_seen() -> None:
    shown = parts(summary(protected=9000, failing=1, paused=1, behind=3, late=2))
    assert [(one.state, one.number) for one in shown] == [
        ("protected", 9000),
        ("behind", 3),
        ("late", 2),
        ("failing", 1),
        ("paused", 1),
    ]
    assert sum(one.width for one in shown) == 1000 and min(one.width for one in shown) >= 8
    assert [one.left for one in shown][:2] == [0, shown[0].width]
    assert "protected" not in {one.tone for one in parts(summary(protected=3), held_up=True)}


def test_each_cause_is_one_row_and_what_stops_most_or_was_taken_comes_first() -> None:
    found = needs(
        "acme",
        NOW,
        Told(
            troubles=[
                trouble("hook", "gitlab.com", "acme/web", since=None),
                trouble("network", "git.example", "acme/infra"),
                trouble("token", str(KIM.id), *(f"acme/{n}" for n in range(12)), many=336, refused=KIM),
                trouble("late", "", "acme/slow"),
                trouble("archived", "", "acme/old"),
                trouble("blocked", "github.com", "acme/a", "acme/b", unsaved=1),
                trouble("damage", "", "acme/c"),
            ],
            notices=[Notice(7, API, "acme/api", "mass-deletion", "12 of 14 refs are gone", NOW, None)],
            forced=[FORCED],
        ),
    )
    assert [(one.title, one.chip, one.tone) for one in found] == [
        ("GitHub refuses kim's token", "sign in again", "late"),
        ("Part of the backup of acme/c is damaged", "damaged", "lost"),
        ("kim force-pushed main of acme/api", "force-pushed", "lost"),
        ("acme/api", "mass deletion", "lost"),
        ("github.com blocks access to 2 repositories", "blocked", "late"),
        ("git.example cannot be reached for acme/infra", "not reachable", "late"),
        ("gitlab.com sends no pushes of acme/web", "no webhook", "late"),
        ("acme/slow is late", "late", "late"),
        ("acme/old is no longer at its host", "gone", ""),
    ]
    token, damage, forced, deleted, blocked, network = found[:6]
    assert token.why == "336 repositories have not been saved since"
    assert token.since == NOW - timedelta(hours=1)
    assert len(token.repos) == 12 and token.everything == f"/acme?cause=token%3A{KIM.id}"
    assert token.acts[0].label == "Sign in again" and token.settle is None
    assert damage.why == "The fault of acme/c. Found" and damage.settle is None
    assert [(one.label, one.to) for one in forced.acts] == [
        ("Bring back main", "/acme/acme/api/-/restore?at=%233&ref=refs%2Fheads%2Fmain"),
        ("See what was lost", "/acme/acme/api/-/lost?ref=refs%2Fheads%2Fmain"),
        ("All that kim pushed", "/acme/-/incident?actor=kim&since=7d+ago"),
    ]
    assert forced.why.startswith("The vault holds what it was before. There were 2 force-pushes this week.")
    assert deleted.settle and deleted.settle.to == "/acme/-/notices/7/seen"
    assert blocked.why == "1 of them never were. 2 repositories have not been saved since"
    assert network.why == "The fault of acme/infra. 1 repository has not been saved since"


FORCED = Forced(
    API, "acme/api", RefName(b"refs/heads/main"), 4, "kim", NOW - timedelta(hours=3), True, 2, before="#3"
)


@pytest.mark.parametrize(
    ("unsaved", "names", "title", "chip"),
    [
        (0, 1, "acme/0 is late", "late"),
        (1, 1, "acme/0 is not saved yet", "not saved yet"),
        (0, 3, "3 repositories are late", "late"),
        (3, 3, "3 repositories are not saved yet", "not saved yet"),
        (2, 3, "1 repository is late, and 2 not saved yet", "late"),
    ],
)
def test_what_waits_for_a_worker_is_called_as_in_the_sentence(
    unsaved: int, names: int, title: str, chip: str
) -> None:
    waiting = trouble("late", "", *(f"acme/{n}" for n in range(names)), unsaved=unsaved)
    (need,) = needs("acme", NOW, Told(troubles=[waiting]))
    assert (need.title, need.chip) == (title, chip)


def test_a_host_whose_name_is_not_known_is_called_so_within_a_sentence() -> None:
    gone = trouble("gone", "", "acme/a", "acme/b", unsaved=2)
    blocked = trouble("blocked", "", "acme/c")
    assert [one.title for one in needs("acme", NOW, Told(troubles=[gone, blocked]))] == [
        "2 repositories are gone or have moved, or their host hides them from us",
        "Its host blocks access to acme/c",
    ]


async def test_a_first_backup_that_waits_too_long_is_not_called_on_its_way(site: Site) -> None:
    team, browser = await _visitor(site)
    db, clock = site.mirror.services.db, site.mirror.clock
    repo = await repos.add(db, team.id, "acme/new", "https://x.example/new", clock.now)
    await repos.request_sync(db, repo.id, clock.now)
    page = (await browser.get("/acme")).text
    assert "<h1>1 repository, not saved yet</h1>" in page and "first backups are on their way" in page
    clock.now += timedelta(minutes=11)
    page = (await browser.get("/acme")).text
    assert "<h1>1 repository, not saved yet</h1>" in page and "acme/new is not saved yet" in page
    assert "Its first backup waits for a worker" in page and "on their way" not in page


async def test_a_page_that_stays_open_learns_that_a_repo_became_late(
    site: Site, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but time passes: no push and no run changes a row."""
    looks: list[Look] = []

    async def followed(context: RequestContext, look: Look) -> Response:
        looks.append(look)
        return Response()

    team, browser = await _visitor(site)
    kept = await _kept(site, team, work, "acme/api")
    await repos.request_sync(site.mirror.services.db, kept.id, site.mirror.clock.now)
    for module, path in ((home_page, "/acme/-/live"), (repo_page, "/acme/acme/api/-/live")):
        monkeypatch.setattr(module, "follow", followed)
        assert (await browser.get(path)).status_code == 200
    before = [await look() for look in looks]
    site.mirror.clock.now += timedelta(minutes=11)
    after = [await look() for look in looks]
    assert len(before) == 2 and [now[0] == then[0] for now, then in zip(after, before, strict=True)] == [
        False,
        False,
    ]


def test_an_audit_log_that_was_changed_needs_somebody() -> None:
    notice = Notice(8, None, None, "audit", "entry 3 of the audit log was changed or removed", NOW, None)
    (one,) = needs("acme", NOW, Told(notices=[notice]))
    assert notice.kind in TOLD
    assert (one.title, one.chip, one.tone, one.link) == ("acme", "audit", "lost", "/acme/-/settings/audit")


def test_a_token_that_nothing_can_be_asked_for_is_replaced() -> None:
    pasted = replace(KIM, by_token=True)
    [one] = needs("acme", NOW, Told([trouble("token", str(KIM.id), "acme/a", refused=pasted)]))
    assert (one.acts[0].label, one.acts[0].to) == ("Replace the token", f"/acme/-/connect/{KIM.id}/again")
    assert one.acts[0].fields == {"next": "/acme"}
    [one] = needs("acme", NOW, Told([trouble("credentials", "x.example", "acme/a", unsaved=1)]))
    assert (one.acts[0].label, one.acts[0].to) == ("Replace its token", "/acme/acme/a/-/settings")
    assert one.why == "The fault of acme/a. 1 repository has never been saved; this started"
    assert "safe" not in one.why


def test_a_force_push_of_a_side_branch_needs_nobody() -> None:
    assert needs("acme", NOW, Told(forced=[replace(FORCED, is_default=False)])) == []


def test_what_was_settled_says_by_whom_and_how() -> None:
    name = RefName(b"refs/heads/restored/main-1118")
    lines = done(
        "acme",
        [
            Settled("restored", "acme/api", 3, "", "Kim", NOW, name),
            Settled("forced", "acme/api", 4, "main was force-pushed by lena", None, NOW, None),
        ],
    )
    assert [(one.what, one.how) for one in lines] == [
        ("", "restored as restored/main-1118 by Kim"),
        ("main was force-pushed by lena", "settled"),
    ]


def test_webhooks_that_wait_are_said_with_how_many_and_until_when() -> None:
    assert on_their_way(0, NOW) is None
    assert on_their_way(1, NOW) == (
        "1 webhook is being registered (within 5 min); until then pushes are found on a schedule."
    )
    assert "1,201 webhooks are being registered (within 65 min)" in (on_their_way(1201, NOW) or "")


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
    return re.findall(
        r'<th scope="row"><a class="strong" href="[^"]+" title="[^"]+"(?: autofocus)?>([^<]+)</a>', text
    )


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
    assert "Somebody force-pushed main of api" in page
    assert 'href="/acme/api/-/restore?at=%231&amp;ref=refs%2Fheads%2Fmain"' in page
    assert 'href="/acme/api/-/lost?ref=refs%2Fheads%2Fmain"' in page
    assert _listed((await browser.get("/acme", state="forced")).text) == ["api"]
    later = site.mirror.clock.now + timedelta(days=8)
    assert await causes.forced_lately(site.mirror.services.db, team.id, later - timedelta(days=7)) == []


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
    assert "force-pushed main" not in (await browser.get("/acme")).text
    asked = {"undo": str(job.id)}
    await jobs.attend(site.mirror.services.db, repo.id, "restore", asked, site.mirror.clock.now)
    work.set("main", old)
    await _kept_again(site, team, "api")
    assert "force-pushed main" not in (await browser.get("/acme")).text


async def test_who_force_pushes_again_what_a_restore_put_back_alarms_as_before(
    site: Site, work: Work
) -> None:
    """The same force-push once more counted as the restore's own undoing, and home said nothing of it."""
    team, browser = await _visitor(site)
    old = work.commit(message="first")
    work.head("main")
    await _kept(site, team, work, "api")
    new = work.commit(None, message="instead", parents=[])
    work.set("main", new)
    await _kept_again(site, team, "api")
    assert "force-pushed main" in (await browser.get("/acme")).text
    db, clock = site.mirror.services.db, site.mirror.clock
    repo = await repos.by_name(db, team.id, "api")
    assert repo is not None
    clock.now += timedelta(hours=1)
    job = await jobs.attend(db, repo.id, "restore", {}, clock.now)
    await restores.will_write(db, Cause(job.id), [Wrote(RefName(b"refs/heads/main"), new, old)])
    work.set("main", old)
    await _kept_again(site, team, "api")
    target = {"kept": str(repo.id)}
    done = Restore(1, "api", {"updated": 1}, True, clock(), Cause(job.id, target=target))
    await restores.add(db, repo.id, done)
    assert "force-pushed main" not in (await browser.get("/acme")).text
    for again in (new, old):  # and what the restore did, done once more by somebody else
        clock.now += timedelta(hours=1)
        work.set("main", again)
        await _kept_again(site, team, "api")
        page = (await browser.get("/acme")).text
        assert "Somebody force-pushed main of api" in page


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
    assert _listed((await browser.get("/acme", state="no-such", sort="x", page="-1")).text) == [
        "c-failing",  # what matters comes first
        "a-small",
        "b-large",
        "d-new",
    ]
    assert _listed((await browser.get("/acme", sort="name")).text)[0] == "a-small"
    page = (await browser.get("/acme")).text
    assert "example.org does not answer. 1 repository has not been saved since" in page
    assert "<h1>4 repositories: 2 protected, 1 failing, 1 not saved yet</h1>" in page
    assert "1 thing needs attention" in page  # what only waits for its first backup needs nobody
    assert _listed((await browser.get("/acme", cause="network:")).text) == ["c-failing"]


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
    page = (await browser.get("/acme")).text
    assert "need attention" not in page and "needs attention" not in page
    assert "1 settled this week" in page and "12 of 14 refs are gone. Settled by Acme." in page


async def test_a_drill_that_failed_shows_in_the_list(site: Site, work: Work) -> None:
    team, browser = await _visitor(site)
    work.commit()
    work.head("main")
    repo = await _kept(site, team, work, "api")
    assert "not drilled yet" in (await browser.get("/acme")).text
    db, at = site.mirror.services.db, site.mirror.clock()
    await drills.add(db, repo.id, drills.Drill(1, 1, 10, 0.5, (), at))
    page = (await browser.get("/acme")).text
    assert "not drilled yet" not in page and "drill failed" not in page
    said = r'<td class="drilled small"><span class="soft"><time [^>]+>[^<]+</time></span></td>'
    assert re.search(said, page)
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
    assert "<h1>2 repositories: 1 protected, 1 damaged</h1>" in page
    assert "Part of the backup of acme/api is damaged" in page and "A part is gone. Found" in page
    assert re.search(r'href="[^"]*state=damaged"><svg[^>]+>.*?</svg>1 damaged</a>', page)
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
    assert "safe" not in (await browser.get("/acme")).text


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


async def _connected(site: Site, team: Team) -> ConnectionId:
    """A connection of kim's at GitHub."""
    db, services = site.mirror.services.db, site.mirror.services
    assert services.keyring is not None
    made = ConnectionId(uuid4())
    wanted = NewConnection(team.id, None, "github", "github.com", "1", "kim", "oauth", (), None)
    sealed = connections.seal(services.keyring, made, "secret", None)
    assert await connections.keep(db, made, wanted, sealed, services.clock())
    return made


async def _filled(site: Site, team: Team, many: int, connection: ConnectionId | None = None) -> None:
    """So many repositories that are protected as of now."""
    await site.mirror.services.db.execute(
        """
        insert into repo (id, team_id, name, url, created_at, protected_as_of, connection_id, host, forge)
        select gen_random_uuid(), $1, 'acme/app-' || lpad(n::text, 4, '0'), 'https://github.com/acme/' || n,
          $2, $2, $4, 'github.com', 'github'
        from generate_series(1, $3) n
        """,
        team.id,
        site.mirror.clock.now,
        many,
        connection,
    )


async def test_a_token_that_is_refused_is_one_cause_and_nothing_that_it_fetches_is_called_protected(
    site: Site,
) -> None:
    team, browser = await _visitor(site)
    services, db = site.mirror.services, site.mirror.services.db
    kim = await _connected(site, team)
    await _filled(site, team, 336, kim)
    url = await repos.add(db, team.id, "acme/url", "https://x.example/a", site.mirror.clock.now)
    paused = await repos.add(db, team.id, "acme/paused", "https://x.example/b", site.mirror.clock.now)
    for one in (url, paused):
        await repos.touch_protected(db, one.id, site.mirror.clock.now)
    await db.execute("update repo set paused_at = $2 where id = $1", paused.id, site.mirror.clock.now)
    page = (await browser.get("/acme")).text
    assert "<h1>338 repositories: 337 protected, 1 paused</h1>" in page and "attention" not in page

    assert await connections.stop(db, kim, 1, "github.com refuses the token of kim", services.clock())
    page = (await browser.get("/acme")).text
    assert "<h1>338 repositories: 1 protected, 336 failing, 1 paused</h1>" in page
    assert "1 thing needs attention" in page and page.count("GitHub refuses kim&#39;s token</a>") == 1
    assert "336 repositories have not been saved since" in page
    assert f'action="/acme/-/connect/{kim}/again"' in page and 'name="next" value="/acme"' in page
    assert page.count('<li><a class="anywhere" href="/acme/acme/app-') == 12  # names to unfold
    cause = f"token:{kim}"
    assert "<h2" in page and len(_listed((await browser.get("/acme", cause=cause)).text)) == 50
    # The same everywhere.
    (row,), failing = await home.page(db, team.id, home.Wanted(state="failing"), limit=1)
    assert failing == 336 and row.failure and row.failure.kind == "credentials"
    assert {one.state for one in await repos.overview(db, team.id)} == {"failing", "paused", "protected"}
    measured = await measures.measures(db, site.mirror.clock.now)
    assert dict(measured.repos) == {"failing": 336, "paused": 1, "protected": 1}
    assert measured.failing == {"credentials": 336}

    # Signed in again, nothing is red, and every repo is looked at anew.
    assert await connections.checked(db, kim, 1, "kim", (), None, services.clock())
    page = (await browser.get("/acme")).text
    assert "<h1>338 repositories: 337 protected, 1 paused</h1>" in page
    assert await db.fetchval("select count(*) from repo where look_at is null") == 338


async def test_repos_that_nobody_checks_any_more_are_late_wherever_they_are_counted(site: Site) -> None:
    """Each was pushed to long ago, so that it is checked twice a day: 19 hours are too long."""
    team, browser = await _visitor(site)
    db, clock = site.mirror.services.db, site.mirror.clock
    await _filled(site, team, 13, await _connected(site, team))

    async def last_checked(ago: timedelta) -> None:
        await db.execute(
            "update repo set changed_at = $1, protected_as_of = $2, look_at = $2",
            clock.now - timedelta(days=60),
            clock.now - ago,
        )

    await last_checked(timedelta(hours=18, minutes=50))
    assert "<h1>13 repositories, all protected</h1>" in (await browser.get("/acme")).text
    await last_checked(timedelta(days=29))
    await db.execute("update repo set protected_as_of = $1 where name > 'acme/app-0012'", clock.now)
    page = (await browser.get("/acme")).text
    assert "<h1>13 repositories: 1 protected, 12 late</h1>" in page
    assert "1 thing needs attention" in page and "12 repositories are no longer being checked" in page
    assert len(_listed((await browser.get("/acme", state="late")).text)) == 12
    assert len(_listed((await browser.get("/acme", cause="unchecked")).text)) == 12
    assert _listed((await browser.get("/acme", state="protected")).text) == ["acme/app-0013"]
    (row,), late = await home.page(db, team.id, home.Wanted(state="late"), limit=1, now=clock.now)
    assert (late, row.state, Shown.of(row).behind_since) == (12, "late", row.protected_as_of)
    for one in await repos.overview(db, team.id, clock.now):
        assert one.state == ("protected" if one.name == "acme/app-0013" else "late")
        assert one.behind_since == (None if one.state == "protected" else one.protected_as_of)
    assert dict((await measures.measures(db, clock.now)).repos) == {"late": 12, "protected": 1}
    assert dict((await measures.of_teams(db, clock.now))["acme"].repos) == {"late": 12, "protected": 1}
    report = (await browser.get("/acme/-/report")).text
    assert "13 of 13 repositories are protected; 12 of them are late, at worst by 29 d" in report
    repo_page = (await browser.get("/acme/acme/app-0001")).text
    assert "Not checked since <time" in repo_page and ">not checked</a>" in repo_page

    # Who paused it, or waits for its turn, is told so instead; a check ends it.
    await db.execute("update repo set paused_at = $1 where name = 'acme/app-0001'", clock.now)
    (waiting,) = await db.fetch("select id from repo where name = 'acme/app-0002'")
    await repos.request_sync(db, waiting["id"], clock.now)
    await db.execute("update repo set protected_as_of = $1 where name > 'acme/app-0003'", clock.now)
    page = (await browser.get("/acme")).text
    assert "<h1>13 repositories: 10 protected, 1 being saved, 1 late, 1 paused</h1>" in page
    assert "acme/app-0003 is no longer being checked" in page


@pytest.mark.parametrize(
    ("schedule", "quiet", "late_after"),
    [
        (None, timedelta(), timedelta(minutes=67.5)),
        *((None, 24 * step, 1.5 * step + timedelta(hours=1)) for step in STEPS),
        (None, 24 * STEPS[3] - timedelta(seconds=1), 1.5 * STEPS[2] + timedelta(hours=1)),
        ("15m", timedelta(days=90), timedelta(minutes=82.5)),
        ("2d", timedelta(), timedelta(days=3, hours=1)),
        ("30 2 * * 1-5", timedelta(), timedelta(days=3, hours=1)),
        ("0 0 1 1 *", timedelta(), timedelta(days=366, hours=1)),
    ],
)
async def test_a_check_is_overdue_after_one_and_a_half_periods_and_an_hour(
    site: Site, schedule: str | None, quiet: timedelta, late_after: timedelta
) -> None:
    team, _ = await _visitor(site)
    db, now = site.mirror.services.db, site.mirror.clock.now
    repo = await repos.add(db, team.id, "acme/url", "https://x.example/a", now - quiet)
    await repos.touch_protected(db, repo.id, now)
    await schedules.set_schedule(db, repo.id, schedule, now)
    late_after = min(late_after, timedelta(hours=19))  # three quarters of its objective, and an hour
    for at, state in ((now + late_after, "protected"), (now + late_after + timedelta(seconds=1), "late")):
        assert (await repos.overview_of(db, repo.id, now=at)).state == state


async def test_a_force_push_is_settled_by_who_says_so_until_the_next_one(site: Site, work: Work) -> None:
    team, browser = await _visitor(site)
    work.commit(message="first")
    work.head("main")
    await _kept(site, team, work, "api")
    work.set("main", work.commit(None, message="instead", parents=[]))
    await _kept_again(site, team, "api")
    assert "force-pushed main of api" in (await browser.get("/acme")).text
    viewer = await site.signed_in(await site.member(team, "viewer", Role.VIEWER))
    page = (await viewer.get("/acme")).text
    assert "See what was lost" in page and "Bring back" not in page and "Settle" not in page
    assert (await viewer.post("/acme/-/settle", repo="api", snapshot="2")).status_code == 403
    await browser.get("/acme")
    for wrong in ({"repo": "api", "snapshot": "1"}, {"repo": "none", "snapshot": "9"}, {"cause": "x"}):
        assert (await browser.post("/acme/-/settle", **wrong)).status_code == 303
        assert "force-pushed main of api" in (await browser.get("/acme")).text
    assert (await browser.post("/acme/-/settle", repo="api", snapshot="2")).status_code == 303
    page = (await browser.get("/acme")).text
    assert "force-pushed main of api" not in page
    assert "Main was force-pushed by somebody. Settled by Acme." in page
    log = (await browser.get("/acme/-/settings/audit")).text
    assert "need.settle" in log
    work.set("main", work.commit(None, message="again", parents=[]))
    await _kept_again(site, team, "api")
    assert "force-pushed main of api" in (await browser.get("/acme")).text


async def test_a_force_push_needs_nobody_once_it_was_brought_back(site: Site, work: Work) -> None:
    team, browser = await _visitor(site)
    db, clock = site.mirror.services.db, site.mirror.clock
    old = work.commit(message="first")
    work.head("main")
    repo = await _kept(site, team, work, "api")
    work.set("main", work.commit(None, message="instead", parents=[]))
    await _kept_again(site, team, "api")

    async def restored(
        to: dict[str, str], verified: bool, name: str = "main-1118", new: Target = old
    ) -> JobId:
        job = await jobs.attend(db, repo.id, "restore", {}, clock.now)
        cause = Cause(job.id, target=to)
        written = RefName(f"refs/heads/restored/{name}".encode())
        await restores.will_write(db, cause, [Wrote(written, None, new)])
        await restores.add(db, repo.id, Restore(1, "api", {"created": 1}, verified, clock(), cause))
        return job.id

    await restored({"to": "https://elsewhere.example/x"}, True)
    await restored({"kept": str(repo.id)}, False)
    for other in ("main-next-1118-0910", "main-1118-1118-0910", "maintenance-1118-0910"):  # of other branches
        await restored({"kept": str(repo.id)}, True, other, Target(b"e" * 40))
    assert "force-pushed main of api" in (await browser.get("/acme")).text
    done = await restored({"kept": str(repo.id)}, True)
    page = (await browser.get("/acme")).text
    assert "force-pushed main of api" not in page
    assert "1 settled this week" in page and "Restored as restored/main-1118." in page
    # Undone, it is as it was.
    job = await jobs.attend(db, repo.id, "restore", {}, clock.now)
    undone = Restore(1, "api", {"deleted": 1}, True, clock(), Cause(job.id, undo_of=done))
    await restores.add(db, repo.id, undone)
    assert "force-pushed main of api" in (await browser.get("/acme")).text


async def test_a_default_branch_that_was_deleted_leads_to_its_rescue(site: Site, work: Work) -> None:
    team, browser = await _visitor(site)
    work.commit(message="first")
    work.set("other", work.tip())
    work.head("main")
    await _kept(site, team, work, "api")
    work.delete("main")
    await _kept_again(site, team, "api")
    page = (await browser.get("/acme")).text
    assert "Somebody deleted main of api" in page
    assert 'href="/acme/api/-/restore?at=%231&amp;ref=refs%2Fheads%2Fmain"' in page


async def test_with_a_search_the_results_come_first_and_refs_and_commits_are_found(
    site: Site, work: Work
) -> None:
    team, browser = await _visitor(site)
    first = work.commit(message="first")
    work.head("main")
    work.set("feature/export-v2", work.tip())
    await _kept(site, team, work, "api")
    work.delete("feature/export-v2")
    tip = work.commit(None, message="instead", parents=[])
    work.set("main", tip)
    await _kept_again(site, team, "api")
    await repos.add(site.mirror.services.db, team.id, "exports", "https://x.example/e", site.mirror.clock.now)
    page = (await browser.get("/acme", q="export")).text
    assert _listed(page) == ["exports"]
    assert "1 thing needs attention</a>" in page and "Bring back main" not in page
    assert page.index('href="/acme">1 thing') < page.index("exports") < page.index("feature/export-v2")
    assert 'href="/acme/api/-/restore?at=%231&amp;ref=refs%2Fheads%2Ffeature%2Fexport-v2"' in page
    assert 'href="/acme/api/-/commits?at=%231&amp;ref=refs%2Fheads%2Ffeature%2Fexport-v2"' in page
    for words in ("refs/heads/feature/exp", "EXPORT V2", "v2"):
        assert "Bring back feature/export-v2 in api" in (await browser.get("/acme", q=words)).text
    assert "Nothing matches" in (await browser.get("/acme", q="port-v2")).text  # words from their beginning
    # A commit that no ref has any more, by seven digits, and one that a ref has.
    page = (await browser.get("/acme", q=first.decode()[:7])).text
    assert f'href="/acme/api/-/commit/{first.decode()}?at=%231"' in page and "where once" in page
    assert (
        f'href="/acme/api/-/commit/{tip.decode()}?at=%232"'
        in (await browser.get("/acme", q=tip.decode().upper())).text
    )
    page = (await browser.get("/acme", q="0123456789")).text
    assert "No branch or tag of these repositories ever pointed at 0123456789." in page
    other = await site.signed_in(await site.person("other"))
    theirs = await teams.by_name(site.mirror.services.db, "other")
    assert theirs
    await repos.add(site.mirror.services.db, theirs.id, "x", "https://x.example", NOW)
    for words in ("export", first.decode()):
        page = (await other.get("/other", q=words)).text
        assert "/api/-/" not in page and "Nothing matches" in page or "ever pointed at" in page
    # What nothing else is meant by is opened at once, where somebody pressed Enter.
    assert (await browser.get("/acme", q="exports", go="1")).headers["location"] == "/acme/exports"
    assert (await browser.get("/acme", q="export", go="1")).status_code == 200


async def test_a_search_for_a_word_of_any_length_finds_nothing(db: asyncpg.Pool) -> None:
    """PostgreSQL takes words of 2,046 bytes; 200 emoji are more, as names have them: the page failed."""
    person = await people.add(db, "Ann", NOW, team_name="ann")
    team = await teams.home(db, person.id)
    assert team is not None
    for text in ("\U0001f600" * 200, "x" * 5000, "\\" * 5000):
        assert await found.refs(db, team.id, text, 10) == []


def test_words_of_a_search_are_the_words_of_names() -> None:
    assert found.words("refs/heads/Feature/export-v2") == "'feature':* & 'export':* & 'v2':*"
    assert found.words("m\u00fcll a'b \\") == "'m\\\\303\\\\274ll':* & 'a':* & 'b':* & '\\\\\\\\':*"
    assert found.words("/ -") is None
    assert found.commit_id("DEADBEE") == "deadbee" and found.commit_id("deadbe") is None


async def test_whoever_is_in_several_teams_sees_how_each_stands(site: Site) -> None:
    ann = await site.person("ann")
    team, other = await site.team(ann), await site.team(await site.person("other"))
    browser = await site.signed_in(ann)
    assert (await browser.get("/")).headers["location"] == "/ann"
    db = site.mirror.services.db
    await teams.add(db, other.id, ann.id, Role.VIEWER, site.mirror.clock.now)
    await _filled(site, team, 3)
    await _filled(site, other, 2)
    await db.execute(
        "update repo set archived_at = $2 where team_id = $1 and name = 'acme/app-0001'",
        other.id,
        site.mirror.clock.now,
    )
    page = await browser.get("/")
    assert page.status_code == 200
    assert "3 repositories, all protected" in page.text and "2 repositories: 1 protected, 1 gone" in page.text
    assert "acme/app-0001 is no longer at its host" in page.text
    assert 'href="/other?state=archived"' in page.text


async def test_what_is_gone_and_what_has_no_webhook_is_settled(site: Site) -> None:
    team, browser = await _visitor(site)
    db, now = site.mirror.services.db, site.mirror.clock.now
    await _filled(site, team, 5)
    await db.execute("update repo set archived_at = $1 where name < 'acme/app-0003'", now)
    await db.execute(
        """
        insert into hook (id, repo_id, forge, sealed, created_at, state, why)
        select gen_random_uuid()::text, id, 'github', '', created_at, 'refused', 'no right'
        from repo where name > 'acme/app-0003'
        """
    )
    last = await db.fetchval("select id from repo where name = 'acme/app-0005'")
    page = (await browser.get("/acme")).text
    assert "2 repositories are no longer at their hosts" in page
    assert "github.com sends no pushes of 2 repositories" in page
    for cause in ("archived", "hook:github.com"):
        assert (await browser.post("/acme/-/settle", cause=cause)).status_code == 303
    page = (await browser.get("/acme")).text
    assert "things need attention" not in page
    assert "2 repositories no longer at their hosts. Settled by Acme." in page
    # One that works again and breaks again is told anew; one that is refused again by each check is not.
    for hook in await db.fetch("select id, repo_id from hook order by repo_id"):
        for state in ("refused", "registered", "refused")[: 3 if hook["repo_id"] == last else 1]:
            await db.execute(
                "update hook set state = $2, checked_at = $3 where id = $1",
                hook["id"],
                state,
                site.mirror.clock(),
            )
    assert "github.com sends no pushes of acme/app-0005" in (await browser.get("/acme")).text


async def test_home_is_quick_with_many_repositories_and_refs(site: Site) -> None:
    team, browser = await _visitor(site)
    db = site.mirror.services.db
    await _filled(site, team, 1000)
    await db.execute(
        """
        with big as (select id from repo order by name limit 1), refs as (
          insert into ref (repo_id, name)
          select big.id, convert_to('refs/heads/team-' || n % 50 || '/topic-' || n, 'UTF8')
          from big, generate_series(1, 100000) n
          returning id
        )
        insert into ref_stay (ref_id, first_snapshot, last_snapshot, target)
        select id, 1, case when id % 3 = 0 then 1 end,
          convert_to(encode(sha224(id::text::bytea), 'hex'), 'UTF8')
        from refs
        """
    )
    await db.execute("analyze")
    target = bytes(await db.fetchval("select target from ref_stay limit 1")).decode()
    for asked in ({}, {"q": "topic-777"}, {"q": "topic"}, {"q": target[:8]}, {"state": "failing"}):
        await browser.get("/acme", **asked)
        began = time.perf_counter()
        page = await browser.get("/acme", **asked)
        print(asked, round(1000 * (time.perf_counter() - began)), "ms")
        assert page.status_code == 200
    for statement, values in (
        (query("found_refs"), (team.id, found.words("topic-777"), found.READ, 20)),
        (query("found_commits"), (team.id, target[:8].encode(), target[:8].encode() + b"g", 20)),
    ):
        plan = "\n".join(row[0] for row in await db.fetch(f"explain {statement}", *values))
        assert "Seq Scan on ref" not in plan and "ref_by" in plan or "ref_stay_by_target" in plan, plan
