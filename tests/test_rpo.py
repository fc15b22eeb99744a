"""Recovery point objectives: which repos are outside of theirs, and under which cause people hear of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from mirror.core.model import RepoId
from mirror.store import repos
from mirror.store.browse import causes
from mirror.store.jobs import schedules
from mirror.store.people import teams

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


async def _outside(db: asyncpg.Pool, repo_id: RepoId) -> bool:
    found: bool = await db.fetchval("select is_outside_rpo(repo, $2) from repo where id = $1", repo_id, NOW)
    return found


@pytest.mark.parametrize(
    ("columns", "outside", "cause"),
    [
        ({"protected_as_of": NOW - 59 * MINUTE}, False, None),
        ({"protected_as_of": NOW - 61 * MINUTE}, True, "unchecked"),
        ({"protected_as_of": NOW - DAY, "paused_at": NOW}, False, None),
        ({"protected_as_of": NOW - DAY, "archived_at": NOW}, False, "archived"),
        ({"protected_as_of": NOW, "damaged_at": NOW, "damage": "a part is missing"}, True, "damage"),
        ({"protected_as_of": NOW + DAY}, True, "behind"),
        ({"created_at": NOW - 59 * MINUTE}, False, None),
        ({"created_at": NOW - 61 * MINUTE}, True, "behind"),
        (
            {
                "protected_as_of": NOW - MINUTE,
                "wanted_at": NOW - MINUTE,
                "behind_since": NOW - 61 * MINUTE,
            },
            True,
            "late",
        ),
        (
            {
                **dict.fromkeys(("failed_at", "failing_since"), NOW - 2 * HOUR),
                "protected_as_of": NOW - 2 * HOUR,
                "failure_class": "network",
                "failure_message": "it is silent",
            },
            True,
            "network:x.example",
        ),
    ],
    ids=[
        "inside",
        "stale",
        "paused",
        "archived",
        "damaged",
        "a clock that was ahead",
        "new",
        "never",
        "waiting",
        "failing",
    ],
)
async def test_a_repo_is_outside_its_objective_and_has_one_cause_for_it(
    db: asyncpg.Pool, columns: dict[str, Any], outside: bool, cause: str | None
) -> None:
    team = await teams.default(db)
    repo = await repos.add(db, team, "acme/api", "https://x.example/a", NOW - 2 * HOUR)
    given = {"rpo": HOUR, "host": "x.example", "wanted_at": None, "behind_since": None} | columns
    told = ", ".join(f"{name} = ${place}" for place, name in enumerate(given, 2))
    await db.execute(f"update repo set {told} where id = $1", repo.id, *given.values())
    assert await _outside(db, repo.id) is outside
    found = await causes.troubles(db, team, NOW, 5)
    assert [one.key for one in found] == ([cause] if cause else [])
    if cause == "behind":
        assert found[0].repos == [("acme/api", "its recovery point objective is 1 hour")]
        since = given.get("protected_as_of", given.get("created_at"))
        assert found[0].since == since and await causes.of_cause(db, team, NOW, "behind")


async def test_a_repo_has_its_teams_objective_until_it_has_its_own(db: asyncpg.Pool) -> None:
    team = await teams.default(db)
    one = await repos.add(db, team, "acme/api", "https://x.example/a", NOW)
    other = await repos.add(db, team, "acme/web", "https://x.example/b", NOW)

    async def objectives() -> list[timedelta]:
        return [(await schedules.of(db, repo.id)).rpo for repo in (one, other)]

    assert await objectives() == [DAY, DAY]
    await db.execute("update repo set rpo = $2 where id = $1", one.id, 15 * MINUTE)
    await db.execute("update team set rpo = $2 where id = $1", team, 7 * DAY)
    assert await objectives() == [15 * MINUTE, 7 * DAY]
    await db.execute("update repo set rpo = null where id = $1", one.id)
    assert await objectives() == [7 * DAY, 7 * DAY]
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("update team set rpo = $2 where id = $1", team, MINUTE)
