"""From a push at a forge to a restore out of the vault alone, with everything between them real."""

from datetime import timedelta

import pytest

from mirror.backup.sync import sync
from mirror.core.model import RefName
from tests.parts.forges import GitHub, Repository
from tests.parts.whole import LATER, Begin, Host, Whole, until

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")


async def test_every_push_is_in_the_vault_with_nobody_doing_anything(either: Host, begin: Begin) -> None:
    whole = await begin(either)
    garden = either.add_repository("alice/garden", private=True)
    shed = either.add_repository("alice/shed")
    async with whole.working():
        await whole.keep(garden, shed)
        await whole.at_rest()
        first = garden.commit()
        garden.push("side", first)
        garden.push("refs/tags/v1", first)
        await whole.at_rest()
        garden.commit(parents=[])
        garden.push("side", None)
        shed.commit()
        await whole.at_rest()
    await whole.holds()


@pytest.fixture
async def whole(github: GitHub, begin: Begin) -> Whole:
    """Everref beside a GitHub."""
    return await begin(github)


# Deliveries


async def test_a_delivery_that_got_lost_costs_time_and_no_push(either: Host, begin: Begin) -> None:
    whole = await begin(either)
    garden, shed = await whole.protected("garden", "shed")
    async with whole.working():
        either.drop()
        garden.commit()
        shed.commit()
        await either.deliver()
        await until(lambda: whole.is_protected(shed))
        shown = await whole.overview(garden)
        assert shown.protected_as_of and shown.protected_as_of < whole.states[garden][-1].at
        whole.later(LATER)
        await whole.sweep()
        await whole.at_rest()
    await whole.holds()


async def test_deliveries_that_come_twice_change_nothing(either: Host, begin: Begin) -> None:
    whole = await begin(either)
    (garden,) = await whole.protected("garden")
    async with whole.working():
        either.duplicate(2)
        garden.commit()
        garden.commit(parents=[])
        await either.deliver()
        await whole.at_rest()
        for old in either.deliveries(garden):
            await either.redeliver(old)
        await whole.at_rest()
    await whole.holds()
    assert await whole.snapshots(garden) == len(whole.states[garden])
    assert {one.status for one in either.deliveries(garden)} <= {200, 202}


async def test_deliveries_in_the_opposite_order_tell_the_same(either: Host, begin: Begin) -> None:
    whole = await begin(either)
    (garden,) = await whole.protected("garden")
    either.hold()
    for _ in range(3):
        garden.commit()
        garden.commit(parents=[])
    await either.release(reverse=True)
    async with whole.working():
        await whole.at_rest()
    await whole.holds()
    assert await whole.snapshots(garden) == len(whole.states[garden])


async def test_a_hundred_deliveries_at_once_are_a_few_looks_and_every_push(whole: Whole) -> None:
    github = whole.host
    garden, shed = await whole.protected("garden", "shed")
    asked = github.count("info/refs")
    github.hold()
    for number in range(50):
        garden.commit(parents=[] if number % 10 == 0 else None)
        shed.commit()
    async with whole.working():
        await github.release(at_once=True)
        await whole.at_rest()
    await whole.holds()
    assert github.count("info/refs") - asked <= 8


async def test_a_hundred_branches_whose_creation_is_told_before_their_pushes_have_their_pushers(
    whole: Whole,
) -> None:
    github = whole.host
    (garden,) = await whole.protected("garden")
    tip = garden.commit()
    async with whole.working():
        await github.deliver()
        await whole.at_rest()
        github.hold("push")
        names = [f"refs/heads/topic/{number}" for number in range(100)]
        garden.work.update({RefName(name.encode()): tip for name in names})
        garden.pushed()
        await github.deliver()
        await whole.at_rest()
        assert await unnamed(whole, garden) == 100
        taken = await whole.snapshots(garden)
        await github.release(at_once=True)
        await whole.at_rest()
    assert (await unnamed(whole, garden), await whole.snapshots(garden)) == (0, taken)
    await whole.holds()


async def test_deliveries_that_failed_and_are_sent_again_after_the_look_name_their_pushes(
    either: Host, begin: Begin
) -> None:
    whole = await begin(either)
    (garden,) = await whole.protected("garden")
    either.hold()
    for moment in range(3):
        whole.later(timedelta(seconds=2))
        garden.commit(parents=[] if moment == 1 else None)
    await sync(whole.services, whole.kept[garden])
    assert await unnamed(whole, garden) == 1
    async with whole.working():
        await either.release(reverse=True)
        await whole.at_rest()
    assert await unnamed(whole, garden) == 0
    await whole.holds()
    moments = await whole.services.db.fetchval("select count(*) from moment")
    assert moments == 2


async def unnamed(whole: Whole, repository: Repository) -> int:
    """How many moves after the first snapshot nobody is known to have made."""
    count: int = await whole.services.db.fetchval(
        "select count(*) from ref_change where repo_id = $1 and snapshot > 1 and pushed_by is null",
        whole.kept[repository],
    )
    return count


async def test_a_force_push_between_two_jobs_is_rescued(either: Host, begin: Begin) -> None:
    whole = await begin(either)
    (garden,) = await whole.protected("garden")
    for _ in range(3):
        garden.commit(parents=[])
        await either.deliver()
    async with whole.working():
        await whole.at_rest()
        garden.commit(parents=[])
        await whole.at_rest()
    await whole.holds()
    assert await whole.snapshots(garden) == len(whole.states[garden]) == 5


async def test_what_the_forge_has_no_more_when_it_is_asked_is_shown_as_lost(whole: Whole) -> None:
    (garden,) = await whole.protected("garden")
    garden.commit(parents=[])
    garden.commit(parents=[])
    await whole.host.deliver()
    garden.work.git("reflog", "expire", "--expire=now", "--all")
    garden.work.git("gc", "-q", "--prune=now")
    async with whole.working():
        await whole.at_rest()
    await whole.holds(lost={garden: 1})


# Many at once


async def test_fifty_repositories_that_are_pushed_to_at_once_are_protected_by_two_workers(
    whole: Whole,
) -> None:
    made = await whole.protected(*(f"garden-{number}" for number in range(50)))
    async with whole.elsewhere() as elsewhere, whole.working(), whole.working(elsewhere):
        for repository in made:
            repository.commit()
        await whole.at_rest()
        pools = [list((services.disk.root / "pools").iterdir()) for services in (whole.services, elsewhere)]
        assert all(pools)
    await whole.holds()
