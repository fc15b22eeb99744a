"""What will soon fail: foreseen from histories, told with the evidence, and right often enough to be read."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bench import prediction as replayed
from mirror.core.rules.health import prediction
from mirror.core.rules.health.prediction import Credential, Hooked, Outcome
from mirror.store import repos
from mirror.store.browse import predictions
from mirror.store.people import notices
from mirror.upkeep import predict
from tests.parts.web import Site

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
KIM: dict[str, Any] = {"login": "kim", "host": "github.com", "renewed": False, "owned": True, "repos": 3}


@pytest.mark.parametrize(
    ("known", "titles"),
    [
        ({"expires_at": NOW + 5 * DAY}, ["The token of kim at github.com expires in 5 days"]),
        ({"expires_at": NOW + HOUR}, ["The token of kim at github.com expires in 1 day"]),
        ({"expires_at": NOW + 15 * DAY}, []),
        ({"expires_at": NOW - HOUR}, []),
        ({"expires_at": None}, []),
        ({"expires_at": NOW + HOUR, "renewed": True}, []),
        (
            {"expires_at": None, "owned": False},
            ["The account kim at github.com belongs to nobody in the team"],
        ),
        ({"expires_at": None, "owned": False, "repos": 0}, []),
    ],
)
def test_a_token_that_ends_is_foreseen(known: dict[str, Any], titles: list[str]) -> None:
    found = prediction.of_credential(Credential(**(KIM | known)), NOW)
    assert [one.title for one in found] == titles


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([], False),
        ([NOW - 3 * DAY, NOW - 2 * DAY], False),
        ([NOW - 3 * DAY, NOW - 2 * DAY, NOW - DAY], True),
        ([NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - HOUR], False),
        ([NOW - 9 * DAY, NOW - 8 * DAY, NOW - 7 * DAY, NOW - DAY], False),
    ],
    ids=["none", "two", "three", "within hours", "before the last delivery"],
)
def test_a_webhook_is_silent_once_three_pushes_over_a_day_came_without_it(
    found: list[datetime], told: bool
) -> None:
    assert bool(prediction.of_hook(Hooked("acme/api", NOW - 5 * DAY, found), NOW)) is told


def test_a_trend_reaches_its_limit_where_it_would_and_a_burst_or_a_saw_does_not() -> None:
    days = range(-19, 1)
    line = [(NOW + day * DAY, 80.0 + day) for day in days]
    at = prediction.reaches(line, 90, NOW)
    assert at is not None and abs(at - (NOW + 10 * DAY)) < HOUR
    assert prediction.reaches(line, 120, NOW) is None  # in 40 days
    assert prediction.reaches(line[-7:], 90, NOW) is None  # too little is known
    assert prediction.reaches([(at, 50.0 + (40 if at == NOW else 0)) for at, _ in line], 91, NOW) is None
    assert prediction.reaches([(NOW + day * DAY, 60.0 + 5 * (day % 5)) for day in days], 90, NOW) is None


@pytest.mark.parametrize(
    ("failed", "told"),
    [(lambda n: n % 3 == 0, True), (lambda n: n % 50 == 0, False), (lambda n: n > 100, False)],
    ids=["flaky", "healthy", "down now"],
)
def test_a_host_that_fails_again_and_again_is_told_with_how_often(failed: Any, told: bool) -> None:
    runs = [Outcome(NOW - 6.9 * DAY + n * timedelta(hours=1.1), failed(n)) for n in range(150)]
    found = prediction.of_host("git.example.org", runs, NOW)
    assert bool(found) is told
    if told:
        assert found[0].why.startswith("50 of 150 backups there failed within a week, on 8 days")


def test_predictions_over_replayed_histories_come_true_four_times_in_five() -> None:
    for kind, score in replayed.measured(seed=7, histories=300).items():
        assert score.true + score.false >= 20, kind
        assert score.precision >= 0.8, (kind, score)
        assert score.recall >= 0.5, (kind, score)


async def test_what_was_foreseen_is_shown_told_once_and_gone_when_it_is_no_longer_so(site: Site) -> None:
    kim = await site.person("Kim")
    team, browser = await site.team(kim), await site.signed_in(kim)
    services, clock = site.mirror.services, site.mirror.clock
    db, clock.step = services.db, timedelta()
    await db.execute(
        """
        insert into connection (
          id, team_id, person_id, forge, host, account_id, login, grant_kind, scopes,
          expires_at, sealed_access, created_at
        ) values (gen_random_uuid(), $1, $2, 'github', 'github.com', '1', 'kim', 'token', '{}', $3, '', $4)
        """,
        team.id,
        kim.id,
        clock.now + 5 * DAY,
        clock.now,
    )
    repo = await repos.add(db, team.id, "kim/api", "https://git.example.org/a", clock.now)
    await repos.touch_protected(db, repo.id, clock.now)
    for day in range(20):
        ended = clock.now - (19 - day) * DAY
        await db.execute(
            """
            insert into job (repo_id, team_id, kind, state, queued_at, started_at, finished_at)
            values ($1, $2, 'sync', 'done', $3, $3, $4)
            """,
            repo.id,
            team.id,
            ended - (4 + day) * HOUR,
            ended,
        )
    for _ in range(2):
        await predict.due(services)
        found = await predictions.of_team(db, team.id)
        assert [one.prediction.kind for one in found] == ["duration", "credential"]
    assert await predictions.of_team(db, team.id, repo.id) == found[:1]
    told = [one.message for one in await notices.open_of(db, team.id) if one.kind == "credential"]
    assert len(told) == 1 and "expires in 5 days" in told[0]
    page = (await browser.get("/kim")).text
    assert "2 things may fail soon" in page and "They took 4 h 0 min at first and take 23 h 0 min now" in page
    page = (await browser.get("/kim/kim/api")).text
    assert "1 thing may fail soon" in page and "Its newest backup may be 24 hours old at most" in page
    program = await site.browser()
    program.client.headers["authorization"] = f"Bearer {await site.token(kim, team)}"
    answer = (await program.client.get("/api/v1/teams/kim/soon")).json()
    assert [one["repo"] for one in answer["items"]] == [str(repo.id), None]
    await db.execute("update connection set expires_at = null")
    await db.execute("delete from job")
    await predict.due(services)
    assert await predictions.of_team(db, team.id) == []
    assert "may fail soon" not in (await browser.get("/kim")).text
