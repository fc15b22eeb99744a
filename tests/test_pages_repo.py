"""The pages of a repo: the timeline, and at any moment its refs, commits, files, differences and losses."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import quote

import pytest

from mirror.backup import sync
from mirror.core.model import RefName, Repo
from mirror.core.rules.roles import Role
from mirror.store import repos
from mirror.store.discovery import hooks
from mirror.store.jobs import jobs
from mirror.store.people.teams import Team
from mirror.web import templating as pages
from mirror.web.live import event
from mirror.web.pages.repos.browse import raw_headers
from mirror.web.pages.repos.repo import window
from tests.parts.repos import Work, full
from tests.parts.web import Browser, Site

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


async def _kept(site: Site, work: Work, name: str = "acme/api") -> tuple[Team, Repo, Browser]:
    person = await site.person("acme")
    team = await site.team(person)
    repo = await repos.add(site.mirror.services.db, team.id, name, str(work.path), site.mirror.clock())
    await sync.sync(site.mirror.services, repo.id)
    return team, repo, await site.signed_in(person)


async def _text(browser: Browser, path: str, **query: str) -> str:
    page = await browser.get(path, **query)
    assert page.status_code == 200, page.text
    return page.text


def _link(text: str, words: str) -> str:
    """Where the link with these words leads."""
    found = re.search(rf'<a[^>]* href="([^"]+)"[^>]*>(?:<[^>]+>)*{re.escape(words)}', text)
    assert found, text
    return unescape(found[1])


@pytest.mark.parametrize(
    ("asked", "first", "chosen", "shown"),
    [
        ("all", NOW - timedelta(days=10), NOW, ("all", NOW - timedelta(days=10.2), NOW)),
        ("day", NOW - timedelta(days=90), NOW, ("day", NOW - timedelta(days=1), NOW)),
        (
            "day",
            NOW - timedelta(days=90),
            NOW - timedelta(days=40),
            ("day", NOW - timedelta(days=40.5), NOW - timedelta(days=39.5)),
        ),
        ("all", NOW, NOW, ("all", NOW - timedelta(seconds=1.2), NOW)),
    ],
    ids=["all", "day", "around-a-moment", "new"],
)
def test_the_chosen_moment_is_in_the_picture(
    asked: str, first: datetime, chosen: datetime, shown: tuple[str, datetime, datetime]
) -> None:
    assert window(asked, first, chosen, NOW) == shown


def test_an_event_carries_lines_as_they_are() -> None:
    assert event("part", "<p>\n</p>") == "event: part\ndata: <p>\ndata: </p>\n\n"
    assert event("end", "") == "event: end\ndata: \n\n"


@pytest.mark.parametrize(
    ("path", "beginning", "kind", "how"),
    [
        (b"a/page.html", b"<script>", "text/plain; charset=utf-8", "inline; filename*=UTF-8''page.html"),
        (b"x.svg", b"<svg>", "text/plain; charset=utf-8", "inline; filename*=UTF-8''x.svg"),
        (b"x.bin", b"\0", "application/octet-stream", "attachment; filename*=UTF-8''x.bin"),
        (b"x.PNG", b"\x89PNG\0", "image/png", "inline; filename*=UTF-8''x.PNG"),
        (b'a"\r\n;\xff', b"x", "text/plain; charset=utf-8", "inline; filename*=UTF-8''a%22%0D%0A%3B%FF"),
    ],
    ids=["html", "svg", "binary", "picture", "odd-name"],
)
def test_a_raw_file_runs_nothing(path: bytes, beginning: bytes, kind: str, how: str) -> None:
    headers = raw_headers(path, beginning)
    assert (headers["content-type"], headers["content-disposition"]) == (kind, how)
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_repo_without_a_backup_says_so(site: Site) -> None:
    person = await site.person("acme")
    team = await site.team(person)
    await repos.add(site.mirror.services.db, team.id, "new", "https://example.org/new", site.mirror.clock())
    browser = await site.signed_in(person)
    page = await _text(browser, "/acme/new")
    assert "Nothing is saved yet" in page
    assert "waiting for a worker" in page
    assert (await browser.get("/acme/new/-/files")).status_code == 404


async def test_the_timeline_shows_refs_pushes_and_the_moment(site: Site, work: Work) -> None:
    work.commit(message="First steps")
    work.head("main")
    _, repo, browser = await _kept(site, work)
    work.commit(message="Second steps")
    work.tag("v1")
    await sync.sync(site.mirror.services, repo.id)
    page = await _text(browser, "/acme/acme/api")
    assert "<h1>acme/api</h1>" in page
    assert 'class="strata"' in page
    assert "Protected </span>as of" in page  # a phone says no more than when
    assert "It has no webhook" in page
    assert re.search(r'<input id="moment-at" type="text" name="at" value=""', page)
    assert 'href="/acme/acme/api?at=%231"' in page
    assert _link(page, "Restore…") == "/acme/acme/api/-/restore?at=%232"
    part = await _text(browser, "/acme/acme/api/-/pushes", part="1")
    assert "+1 commit" in part
    assert "Second steps" in part
    assert "<html" not in part


async def test_the_whole_page_is_put_at_any_moment(site: Site, work: Work) -> None:
    work.commit(files={"a": b"1\n"})
    work.head("main")
    _, repo, browser = await _kept(site, work)
    work.commit(files={"b": b"2\n"})
    await sync.sync(site.mirror.services, repo.id)
    for path in ("/acme/acme/api?at=%231", "/acme/acme/api@%231"):
        page = await _text(browser, path)
        assert "snapshot #1" in page
        assert _link(page, "Files") == "/acme/acme/api/-/files?at=%231"
    assert ">b</a>" in await _text(browser, "/acme/acme/api/-/files")
    then = await _text(browser, "/acme/acme/api/-/files", at="#1")
    assert ">a</a>" in then
    assert ">b</a>" not in then
    assert (await browser.get("/acme/acme/api", at="yesterday-ish")).status_code == 422
    assert (await browser.get("/acme/acme/api", at="#9")).status_code == 422
    assert (await browser.get("/acme/acme/api@2001-01-01")).status_code == 422


async def test_the_picture_shows_no_longer_than_can_be_told_apart(site: Site, work: Work) -> None:
    work.commit()
    work.head("main")
    _, repo, browser = await _kept(site, work)
    chosen = re.compile(r'window=(\w+)" aria-current="true"')
    assert not chosen.search(await _text(browser, "/acme/acme/api"))
    db = site.mirror.services.db
    await db.execute(
        """
        insert into snapshot
        select (jsonb_populate_record(one, jsonb_build_object('number', n))).*
        from snapshot one, generate_series(2, 3000) n where repo_id = $1 and number = 1
        """,
        repo.id,
    )
    await db.execute(
        "update snapshot set taken_at = taken_at - (3000 - number) * interval '40 min' where repo_id = $1",
        repo.id,
    )
    found = chosen.search(await _text(browser, "/acme/acme/api"))
    assert found and found[1] == "week"
    found = chosen.search(await _text(browser, "/acme/acme/api", window="month"))
    assert found and found[1] == "month"


async def test_another_teams_repo_is_not_there(site: Site, work: Work) -> None:
    work.commit()
    work.head("main")
    await _kept(site, work)
    stranger = await site.signed_in(await site.person("other"))
    for page in ("", "/-/refs", "/-/files", "/-/lost", "/-/progress", "/-/raw/file-1"):
        assert (await stranger.get(f"/acme/acme/api{page}")).status_code == 404
        assert (await stranger.get(f"/other/acme/api{page}")).status_code == 404


async def test_a_force_push_is_red_and_leads_to_what_was_lost_and_back(site: Site, work: Work) -> None:
    first = work.commit(message="Base")
    work.commit(message="Precious work")
    work.head("main")
    _, repo, browser = await _kept(site, work)
    work.set("main", work.commit(None, message="Instead", parents=[first]))
    await sync.sync(site.mirror.services, repo.id)
    page = await _text(browser, "/acme/acme/api/-/pushes", kind="taken")
    assert "1 commit replaced by 1" in page
    lost = await _text(browser, _link(page, "lost commits?"))
    assert "Precious work" in lost
    assert "1 commit is on no ref" in lost
    back = _link(lost, "Bring back as a branch")
    assert back.startswith(
        "/acme/acme/api/-/restore?at=%231&ref=refs%2Fheads%2Fmain&as=refs%2Fheads%2Frestored"
    )
    before = await _text(browser, "/acme/acme/api", at="#1")
    assert "just before somebody replaced main" in before
    assert "Nothing was lost" in await _text(browser, "/acme/acme/api/-/lost", at="#1")


async def test_refs_of_any_name_come_a_page_at_a_time(site: Site, work: Work) -> None:
    work.commit()
    work.head("main")
    work.odd_names()
    work.many_refs(150)
    _, _, browser = await _kept(site, work)
    page = await _text(browser, "/acme/acme/api/-/refs")
    assert page.count("<tr data-row>") == 100
    following = await _text(browser, _link(page, "Next"))
    assert following.count("<tr data-row>") > 50
    found = await _text(browser, "/acme/acme/api/-/refs", q="script")
    assert "refs/heads/a&#34;b&lt;script&gt;" in found
    assert found.count("<tr data-row>") == 1
    odd = await _text(browser, "/acme/acme/api/-/refs", q="not-utf8*")
    files = re.search(r'href="([^"]*/-/files\?ref=[^"]*%FF%FE)"', odd)
    assert files
    assert "file-1" in await _text(browser, unescape(files[1]))


async def test_commits_lead_to_their_changes(site: Site, work: Work) -> None:
    work.commit(files={"a.py": b"one = 1\n"}, message="One")
    tip = work.commit(files={"a.py": b"one = 2\n", "b<i>": b"x\n"}, message="Two <b>\n\nBecause.")
    work.head("main")
    _, _, browser = await _kept(site, work)
    page = await _text(browser, "/acme/acme/api/-/commits")
    assert page.index("Two &lt;b&gt;") < page.index(">One<")
    only = await _text(browser, "/acme/acme/api/-/commits?path=b%3Ci%3E")
    assert ">One<" not in only
    shown = await _text(browser, f"/acme/acme/api/-/commit/{tip.decode()}")
    assert "Because." in shown
    assert "2 files changed" in shown
    assert re.search(r'class="del">.*one = 1', shown)
    assert re.search(r'class="add">.*one = 2', shown)
    assert "b&lt;i&gt;" in shown
    assert (await browser.get(f"/acme/acme/api/-/commit/{'1' * 40}")).status_code == 404


async def test_files_are_highlighted_and_readmes_are_safe(site: Site, work: Work) -> None:
    odd = "\u00e9t\u00e9 #?.txt"
    work.commit(
        files={
            "README.md": b"# Hello\n\n<script>alert(1)</script>\n\n[src](src/a.py)\n",
            "src/a.py": b"def f() -> None: ...\n",
            odd: b"odd\n",
            "logo.bin": b"\0\1",
        }
    )
    work.head("main")
    _, _, browser = await _kept(site, work)
    page = await _text(browser, "/acme/acme/api/-/files")
    assert "<h1" in page
    assert "alert(1)</script>" not in page
    assert "/acme/acme/api/-/files/src/a.py" in page
    source = await _text(browser, "/acme/acme/api/-/files/src/a.py")
    assert '<span class="k">def</span>' in source
    assert 'id="L1"' in source
    assert "odd" in await _text(browser, _link(page, odd))
    assert "A binary file" in await _text(browser, "/acme/acme/api/-/files/logo.bin")
    assert (await browser.get("/acme/acme/api/-/files/none")).status_code == 404
    raw = await browser.get("/acme/acme/api/-/raw/README.md")
    assert raw.content.startswith(b"# Hello")
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert raw.headers["content-length"] == str(len(raw.content))
    assert (await browser.get("/acme/acme/api/-/raw/none")).status_code == 404
    assert (await browser.get("/acme/acme/api/-/raw/src")).status_code == 404


async def test_a_path_of_any_bytes_is_found_by_its_own_link(site: Site, work: Work) -> None:
    path = b"d/\xff%2f"
    work.commit(entries={path: (b"100644", work.blob(b"here\n"))})
    work.head("main")
    _, _, browser = await _kept(site, work)
    page = await _text(browser, "/acme/acme/api/-/files/d")
    link = re.search(r'href="(/acme/acme/api/-/files/d/%FF[^"]+)"', page)
    assert link
    assert link[1].endswith(quote(b"\xff%2f", safe=""))
    assert "here" in await _text(browser, link[1])


async def test_going_to_another_moment_stays_on_the_page(site: Site, work: Work) -> None:
    work.commit("topic", {"d/a": b"1\n"})
    work.head("topic")
    _, repo, browser = await _kept(site, work)
    work.commit("topic", {"d/a": b"2\n"})
    await sync.sync(site.mirror.services, repo.id)
    page = await _text(browser, "/acme/acme/api/-/files/d/a", at="#1", ref="topic")
    assert 'href="/acme/acme/api/-/files/d/a?ref=topic&amp;at=%232"' in page
    assert 'action="/acme/acme/api/-/files/d/a"' in page
    assert '<input type="hidden" name="ref" value="topic">' in page
    overview = await _text(browser, "/acme/acme/api@%231")
    assert '<form method="get" action="/acme/acme/api"' in overview


async def test_a_push_that_nobody_can_bring_back_is_marked(site: Site, work: Work) -> None:
    work.commit()
    work.head("main")
    _, repo, browser = await _kept(site, work)
    await site.mirror.services.db.execute(
        """
        insert into lost_push (repo_id, snapshot, name, new, pushed_by, pushed_at, noticed_at, why)
        values ($1, 1, 'refs/heads/main', $2, 'kim', $3, $3, 'the remote had dropped it <already>')
        """,
        repo.id,
        b"1" * 40,
        site.mirror.clock(),
    )
    for page in ("/acme/acme/api", "/acme/acme/api/-/pushes"):
        text = await _text(browser, page)
        assert "not saved" in text
        assert "The remote had dropped it &lt;already&gt;." in text


async def test_two_moments_differ_in_refs_and_files(site: Site, work: Work) -> None:
    work.commit(files={"a": b"1\n"})
    work.head("main")
    _, repo, browser = await _kept(site, work)
    work.commit(files={"a": b"2\n"})
    work.commit("topic", {"t": b"1\n"})
    await sync.sync(site.mirror.services, repo.id)
    page = await _text(browser, "/acme/acme/api/-/difference", **{"from": "#1"})
    assert "From #1 to #2" in page
    assert "refs/heads/topic" in page
    assert re.search(r'class="add">.*2', page)
    topic = await _text(browser, "/acme/acme/api/-/difference", **{"from": "#1", "ref": "refs/heads/topic"})
    assert "Files of topic" in topic
    assert "No ref changed" in await _text(browser, "/acme/acme/api/-/difference", at="#1")


async def test_back_up_now_is_for_operators_and_asks_for_one_backup(site: Site, work: Work) -> None:
    work.commit()
    work.head("main")
    team, repo, browser = await _kept(site, work)
    db = site.mirror.services.db
    viewer = await site.signed_in(await site.member(team, "viewer", Role.VIEWER))
    assert "Back up now" not in await _text(viewer, "/acme/acme/api")
    assert (await viewer.post("/acme/acme/api/-/backup")).status_code == 403
    page = await _text(browser, "/acme/acme/api")
    assert "Back up now" in page
    for _ in range(2):
        answer = await browser.post("/acme/acme/api/-/backup")
        assert answer.status_code == 303
    assert len(await jobs.open_of(db, repo.id)) == 1
    assert await repos.sync_request(db, repo.id) is not None
    after = (await browser.follow(answer)).text
    assert 'data-live="/acme/acme/api/-/progress"' in after
    assert "waiting for a worker" in after


async def test_progress_is_sent_until_nothing_is_under_way(site: Site, work: Work) -> None:
    work.commit()
    work.head("main")
    _, _, browser = await _kept(site, work)
    answer = await browser.get("/acme/acme/api/-/progress")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith("event: part\ndata: ")
    assert "Protected as of" in answer.text
    assert answer.text.endswith("event: end\ndata: \n\n")


async def test_a_failing_repo_says_since_when_and_why_and_that_nothing_is_lost(
    site: Site, work: Work
) -> None:
    work.commit()
    work.head("main")
    _, repo, browser = await _kept(site, work)
    await repos.set_failure(
        site.mirror.services.db, repo.id, "credentials", "the forge refuses the token", site.mirror.clock()
    )
    page = await _text(browser, "/acme/acme/api")
    assert "Backups started to fail" in page
    assert "What was saved is safe." in page
    assert "The forge refuses the token." in page
    assert "Everref does not try again until its token is replaced." in page
    assert "/acme/acme/api/-/settings" in page


@pytest.mark.parametrize("page", ["", "files", "commits", "refs", "pushes", "lost", "difference"])
async def test_a_repo_with_one_of_everything_has_every_page(
    site: Site, make_work: Callable[..., Work], page: str
) -> None:
    work = make_work("zoo", object_format="sha256" if page in ("refs", "commits") else "sha1")
    work.zoo()
    work.head("main")
    _, _, browser = await _kept(site, work, "odd names/zo\u00f6")
    text = await _text(browser, pages.repo_url("acme", "odd names/zo\u00f6", page))
    assert "odd names/zo\u00f6" in text


async def test_a_moment_that_was_passed_over_is_listed_and_shown_like_any_other(
    site: Site, work: Work
) -> None:
    work.commit()
    team, repo, browser = await _kept(site, work)
    services = site.mirror.services
    assert services.keyring
    await hooks.add(
        services.db, repo.id, "github", hooks.lock(services.keyring, "h" * 32, "x"), services.clock()
    )
    first = work.tip()
    middle = work.commit(files={"middle.txt": b"passed over\n"})
    last = work.commit(files={"middle.txt": None})
    number = (await sync.sync(services, repo.id)).snapshot.number
    name = RefName(b"refs/heads/main")
    updates = [hooks.NewUpdate(name, *ends, "alice", None) for ends in ((first, middle), (middle, last))]
    delivery = hooks.Delivery("late", "push", "7", updates, None, b"{}")
    assert await hooks.deliver(services.db, "h" * 32, delivery, services.clock())
    await sync.sync(services, repo.id)
    here, label = pages.repo_url(team.name, repo.name), f"#{number}.1"
    assert label in await _text(browser, here)
    for below in ("", "/-/refs", "/-/difference", "/-/lost", "/-/restore"):
        assert label in await _text(browser, here + below, at=label), below
    assert "middle.txt" in await _text(browser, f"{here}/-/files", at=label)
    assert "middle.txt" not in await _text(browser, f"{here}/-/files", at=f"#{number}")


@pytest.mark.parametrize("taken_away", ["forced", "deleted"])
async def test_every_page_opens_at_the_moment_before_something_was_taken_away(
    site: Site, work: Work, taken_away: str
) -> None:
    work.commit(files={"a.txt": b"a\n"})
    work.commit("topic")
    work.head("main")
    _, repo, browser = await _kept(site, work)
    if taken_away == "forced":
        work.commit(parents=[])
    else:
        work.update({full("topic"): None})
    await sync.sync(site.mirror.services, repo.id)
    pages = ("", "/-/files", "/-/commits", "/-/refs", "/-/pushes", "/-/lost", "/-/difference", "/-/restore")
    for page in (*pages, "/-/raw/a.txt"):
        assert (await browser.get(f"/acme/acme/api{page}?at=%231")).status_code == 200, page
