"""A drill of every repo of a team: with progress, stopped and gone on with, and what came of it."""

import re
from collections.abc import Callable

import pytest_asyncio

from mirror.core.model import Repo
from mirror.core.rules.roles import Role
from mirror.jobs import team_drills as flow
from mirror.jobs.runner import Runner
from mirror.store.backup import parts
from mirror.store.people import notices, teams
from mirror.store.restore import team_drills
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.parts.web import Browser, Site
from tests.test_verify import flip, stored


async def some(mirror: Mirror, make_work: Callable[..., Work], number: int = 3) -> list[Repo]:
    found = []
    for one in range(number):
        work = make_work(f"repo-{one}.git")
        work.commit()
        found.append((await mirror.backup(work)).repo)
    return found


async def test_every_repo_is_drilled_one_after_the_other_and_the_team_is_told_once(
    mirror: Mirror, make_work: Callable[..., Work]
) -> None:
    await some(mirror, make_work)
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    whole = await team_drills.begin(db, team, mirror.clock())
    assert (await team_drills.begin(db, team, mirror.clock())).id == whole.id  # one at a time
    await flow.go_on(mirror.services)
    begun = [line.is_begun for line in await team_drills.lines(db, whole.id)]
    assert sorted(begun) == [False, False, True]
    await Runner(mirror.services).work_off()
    await flow.go_on(mirror.services)
    done = await team_drills.get(db, team, whole.id)
    assert done is not None and done.finished_at is not None
    assert (done.repos, done.passed, done.ended) == (3, 3, 3)
    assert re.fullmatch(r"3 repositories, [0-9.]+ m?s, nothing missing", done.sentence)
    assert all(line.snapshot == "#1" for line in await team_drills.lines(db, whole.id))
    (told,) = await notices.open_of(db, team)
    assert told.kind == "drill" and done.sentence in told.message


async def test_a_repo_that_does_not_come_back_is_first_and_one_that_cannot_be_drilled_is_told_apart(
    mirror: Mirror, make_work: Callable[..., Work]
) -> None:
    _, bad, gone = await some(mirror, make_work)
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    flip(stored(mirror, (await parts.live(db, bad.id))[0].key))
    whole = await team_drills.begin(db, team, mirror.clock())
    for _ in range(2):
        await flow.go_on(mirror.services)
        await Runner(mirror.services).work_off()
    await db.execute(
        """
        update team_drill_repo set result = null, ended_at = null, job_id = (
          select id from job where repo_id = $1 and kind = 'drill' limit 1
        ) where repo_id = $1
        """,
        gone.id,
    )
    await db.execute(
        "update job set state = 'failed', failure_class = 'network', failure_message = 'the vault hung'"
        " where repo_id = $1 and kind = 'drill'",
        gone.id,
    )
    await db.execute("update team_drill set finished_at = null where id = $1", whole.id)
    await flow.go_on(mirror.services)
    lines = await team_drills.lines(db, whole.id)
    assert [line.result for line in lines] == ["failed", "undone", "passed"]
    assert "no snapshot can be restored without it" in str(lines[0].problem)
    assert lines[1].problem == "the vault hung"
    done = await team_drills.get(db, team, whole.id)
    assert done is not None and done.sentence.startswith("1 of 3 repositories restored")
    assert done.sentence.endswith("1 failed, 1 could not be drilled")


@pytest_asyncio.fixture
async def browser(site: Site, make_work: Callable[..., Work]) -> Browser:
    """Ann, whose team has two repos."""
    ann = await site.person("ann")
    team = await site.team(ann)
    for repo in await some(site.mirror, make_work, 2):
        await site.mirror.services.db.execute("update repo set team_id = $2 where id = $1", repo.id, team.id)
    viewer = await site.signed_in(await site.member(team, "victor", Role.VIEWER))
    assert (await viewer.post("/ann/-/drills/all")).status_code == 403
    return await site.signed_in(ann)


async def test_it_is_begun_stopped_and_gone_on_with_on_its_page(site: Site, browser: Browser) -> None:
    assert "Drill all repositories" in (await browser.get("/ann/-/drills")).text
    answer = await browser.post("/ann/-/drills/all")
    page = await browser.follow(answer)
    assert "0 of 2 repositories drilled" in page.text and ">Stop<" in page.text and "under way" in page.text
    address = answer.headers["location"]
    page = await browser.follow(await browser.post(f"{address}/stop"))
    assert "The drill is stopped." in page.text and ">Go on<" in page.text
    await Runner(site.mirror.services).work_off()
    assert "0 of 2 repositories" in (await browser.get("/ann/-/drills")).text  # nothing went on
    await browser.post("/ann/-/drills/all")
    await Runner(site.mirror.services).work_off()
    await flow.go_on(site.mirror.services)
    await Runner(site.mirror.services).work_off()
    page = await browser.get(address)
    assert "2 repositories, " in page.text and "nothing missing" in page.text and "data-print" in page.text
    stranger = await site.signed_in(await site.person("mallory"))
    assert (await stranger.get(address)).status_code == 404
    assert (await browser.get("/ann/-/drills/nothing")).status_code == 404
