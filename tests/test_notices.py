"""What a team is told of its repos' failures: once each, and when they are over."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest_asyncio

from mirror.core.model import Repo
from mirror.store import repos
from mirror.store.discovery import remotes
from mirror.store.people import notices, teams
from mirror.store.people.teams import TeamId
from tests.parts.everref import Clock
from tests.parts.whole import until

HOUR = timedelta(hours=1)


class Failing:
    """A repo that fails when it is told to."""

    def __init__(self, db: asyncpg.Pool, team: TeamId, repo: Repo, clock: Clock) -> None:
        self.db, self.team, self.repo, self.clock = db, team, repo, clock

    async def fails(self, kind: str, after: timedelta = timedelta()) -> None:
        self.clock.now += after
        await repos.set_failure(self.db, self.repo.id, kind, "the line", self.clock.now)

    async def works(self) -> None:
        await repos.touch_protected(self.db, self.repo.id, self.clock())

    async def is_waiting(self) -> bool:
        """Whether somebody waits for somebody else's row."""
        found: bool = await self.db.fetchval("select exists (select from pg_locks where not granted)")
        return found

    async def told(self) -> list[str]:
        found = await notices.open_of(self.db, self.team)
        return sorted(one.kind for one in found)


@pytest_asyncio.fixture
async def failing(db: asyncpg.Pool) -> Failing:
    clock = Clock()
    team = await teams.default(db)
    return Failing(db, team, await repos.add(db, team, "acme/api", "https://x.example/a", clock.now), clock)


async def test_what_only_somebody_can_mend_is_told_at_once_and_once(failing: Failing) -> None:
    await failing.fails("credentials")
    await failing.fails("credentials", HOUR)
    assert await failing.told() == ["failing"]


async def test_what_may_pass_by_itself_is_told_after_an_hour(failing: Failing) -> None:
    await failing.fails("network")
    await failing.fails("network", HOUR / 2)
    assert await failing.told() == []
    await failing.fails("network", HOUR / 2)
    assert await failing.told() == ["failing"]


async def test_another_reason_is_told_as_well(failing: Failing) -> None:
    await failing.fails("blocked")
    await failing.fails("credentials")
    assert await failing.told() == ["failing", "failing"]


async def test_the_end_of_what_was_told_is_told(failing: Failing) -> None:
    await failing.fails("credentials")
    await failing.works()
    await failing.works()
    assert await failing.told() == ["failing", "recovered"]


async def test_the_end_of_what_nobody_was_told_is_not(failing: Failing) -> None:
    await failing.fails("network")
    await failing.works()
    assert await failing.told() == []


async def test_a_remote_that_stays_gone_is_told_to_be_archived(failing: Failing) -> None:
    await failing.fails("gone")
    await failing.fails("gone", 25 * HOUR)
    await failing.fails("gone", HOUR)
    assert await failing.told() == ["archived", "failing"]


async def test_what_a_listing_archives_while_its_sync_fails_is_told_once(failing: Failing) -> None:
    """The team was told twice where both came at the same moment."""
    await failing.fails("gone")
    async with failing.db.acquire() as listing:
        async with listing.transaction():
            assert await remotes.archive(listing, failing.repo.id, failing.clock.now)
            sync = asyncio.create_task(failing.fails("gone", 25 * HOUR))
            await until(failing.is_waiting)
        await sync
    assert await failing.told() == ["failing"]
