"""Refs that are gone: found by part of a name, newest deletion first, with where they stood at last."""

import re
from datetime import timedelta
from html import unescape

import asyncpg

from bench.statements import counted
from mirror.backup import sync
from mirror.core.model import HEAD, Kind, RefChange, RefName, Target
from mirror.store.browse import gone_refs, refs_shown
from tests.parts.chain import begin, oid
from tests.parts.repos import Work
from tests.parts.web import Site
from tests.test_pages_repo import _kept, _text

TO_MAIN = Target(b"ref: refs/heads/main")
MAIN, SIDE, BACK = RefName(b"refs/heads/main"), RefName(b"refs/heads/side"), RefName(b"refs/heads/back_1")
HERE = "/acme/acme/api/-/refs"


async def test_a_ref_is_gone_from_its_deletion_until_it_is_back(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1), SIDE: oid(2), BACK: oid(3)})
    await chain.take(
        {HEAD: TO_MAIN, MAIN: oid(1), SIDE: oid(2)}, [RefChange(BACK, oid(3), None, Kind.DELETED, "lena")]
    )
    await chain.take({HEAD: TO_MAIN, MAIN: oid(4)})
    await chain.take({HEAD: TO_MAIN, MAIN: oid(4), BACK: oid(3)})

    async def names(upto: int, glob: str | None = None) -> list[tuple[bytes, str, str | None, bool]]:
        found = await gone_refs.gone(db, chain.repo.id, upto, glob=glob)
        return [(one.name, one.label, one.by, one.stood) for one in found]

    side, back = (SIDE, "#2", None, True), (BACK, "#1", "lena", True)
    assert await names(1) == []
    assert await names(2) == [back]
    assert await names(3) == [side, back]
    assert await names(4) == [side]
    assert await names(3, "*back_*") == [back] and await names(3, "*back*2") == []
    first = await gone_refs.gone(db, chain.repo.id, 3, limit=1)
    rest = await gone_refs.gone(db, chain.repo.id, 3, before=first[-1].place)
    assert [one.name for one in (*first, *rest)] == [SIDE, BACK]
    assert first[0].target == oid(2)


async def test_every_name_there_ever_was_says_whether_it_is_there(db: asyncpg.Pool) -> None:
    chain = await begin(db)
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1), SIDE: oid(2)})
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1)})
    await chain.take({HEAD: TO_MAIN, MAIN: oid(1), BACK: oid(3)})
    found = await gone_refs.ever(db, chain.repo.id, 3)
    assert [(one.name, one.last) for one in found] == [(HEAD, None), (BACK, None), (MAIN, None), (SIDE, 1)]
    assert [one.name for one in await gone_refs.ever(db, chain.repo.id, 2)] == [HEAD, MAIN, SIDE]
    after = await gone_refs.ever(db, chain.repo.id, 3, after=MAIN)
    assert [one.name for one in after] == [SIDE]
    assert [one.name for one in await gone_refs.ever(db, chain.repo.id, 3, glob="*id*", limit=1)] == [SIDE]


async def test_a_glob_that_means_nothing_costs_a_few_statements_however_many_refs_there_are(
    db: asyncpg.Pool,
) -> None:
    """A class in brackets is read as `anything`, a few refs at a time: 20,000 of them took minutes."""
    chain = await begin(db)
    many = {RefName(b"refs/heads/bot/%04d" % number): oid(2) for number in range(3000)}
    await chain.take({MAIN: oid(1), **many})
    await chain.take({MAIN: oid(1)})
    with counted() as asked:
        assert await refs_shown.refs_page(db, chain.repo.id, 1, globs=["*[z]*"], limit=1) == []
        assert await gone_refs.gone(db, chain.repo.id, 2, glob="*[z]*", limit=4) == []
        assert await gone_refs.ever(db, chain.repo.id, 2, glob="*[z]*", limit=4) == []
    assert len(asked) <= 25


async def test_the_page_finds_what_is_gone_by_part_of_its_name(site: Site, work: Work) -> None:
    first = work.commit(message="Base")
    work.head("main")
    work.commit("feature/export-v2", message="Export as CSV", parents=[first])
    work.set("topic", first)
    _, repo, browser = await _kept(site, work)
    for name in ("feature/export-v2", "topic"):
        work.delete(name)
        site.mirror.clock.now += timedelta(minutes=1)
        await sync.sync(site.mirror.services, repo.id)
    page = unescape(await _text(browser, HERE, q="export"))
    assert "No ref of this moment matches" in page and "1 is gone:" in page
    (found,) = re.findall(r'href="([^"]+)">feature/export-v2</a>', page)
    gone = unescape(await _text(browser, found))
    assert "topic" not in gone.partition("<main")[2]
    assert 'href="/acme/acme/api/-/restore?at=%231&ref=refs%2Fheads%2Ffeature%2Fexport-v2"' in gone
    both = await _text(browser, HERE, state="gone")
    assert both.index(">topic</a>") < both.index(">feature/export-v2</a>")
    part = await _text(browser, HERE, state="gone", part="1")
    assert "1 commit held only in the vault" in part and "its commits are on other refs" in part
    assert "<html" not in part
    ever = await _text(browser, HERE, state="ever")
    assert "feature/export-v2" in ever and "gone</span> after #1" in ever
    assert "No ref that is gone matches" in await _text(browser, HERE, state="gone", q="nothing")
    assert "None that is gone does either" in await _text(browser, HERE, q="nothing")
    assert "No ref was ever deleted" in await _text(browser, HERE, state="gone", at="#1")


async def test_lost_commits_are_those_of_one_ref_and_grouped_by_push(site: Site, work: Work) -> None:
    first = work.commit(message="Base")
    work.head("main")
    for name in ("one", "two"):
        work.commit(name, message=f"Only on {name}", parents=[first])
    _, repo, browser = await _kept(site, work)
    for name in ("one", "two"):
        work.delete(name)
    await sync.sync(site.mirror.services, repo.id)
    page = await _text(browser, "/acme/acme/api/-/lost")
    assert page.count('class="lostpush"') == 1 and page.count('class="lostmove"') == 2
    one = await _text(browser, "/acme/acme/api/-/lost", ref="one")
    assert "Only on one" in one and "Only on two" not in one


async def test_a_forced_ref_whose_commits_are_all_elsewhere_is_still_one_press_from_its_rescue(
    site: Site, work: Work
) -> None:
    first = work.commit(message="Base")
    work.head("main")
    old = work.commit(message="Balances", parents=[first])
    work.set("feature", old)
    work.commit("gone", message="Only here", parents=[first])
    _, repo, browser = await _kept(site, work)
    work.commit(message="Say it otherwise", parents=[first])
    work.delete("gone")
    await sync.sync(site.mirror.services, repo.id)
    page = await _text(browser, "/acme/acme/api/-/lost", ref="refs/heads/main")
    assert "every commit that this ref had is still on another ref" in page
    assert "no longer on any ref" not in page  # those of the whole repository are not this one's
    assert "/-/restore?at=%231&amp;ref=refs%2Fheads%2Fmain" in page
    assert 'aria-label="Bring main back as it was before push #2"' in page
    assert "In the whole repository, 1 commit is" in await _text(browser, "/acme/acme/api/-/lost", ref="gone")
