"""What forges and people do to a repository that is kept: tokens end, names change, hooks are given up."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
import pytest_asyncio

from mirror.store.discovery import hooks, remotes
from mirror.store.people import notices
from tests.parts.forges import GitHub, GitLab, Repository
from tests.parts.repos import run_git
from tests.parts.whole import LATER, Begin, Host, Whole, until

# arq closes its connections by the old name of that method.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

A_DAY = timedelta(hours=25)


@pytest_asyncio.fixture
async def whole(either: Host, begin: Begin) -> Whole:
    """Everref beside each of the forges in turn."""
    return await begin(either)


async def told(whole: Whole, kind: str) -> int:
    """How often the team was told of something."""
    return sum(one.kind == kind for one in await notices.open_of(whole.services.db, whole.team))


async def stopped(whole: Whole, repository: Repository) -> bool:
    """Whether its failures are known to need somebody."""
    shown = await whole.overview(repository)
    return shown.failure is not None


# Tokens


@pytest.mark.parametrize("late", range(3))
async def test_a_token_that_expires_in_the_midst_of_a_fetch_is_renewed(
    gitlab: GitLab, begin: Begin, late: int
) -> None:
    whole = await begin(gitlab, oauth=True)
    garden, shed = await whole.protected("garden", "shed", private=True)
    expired = []

    def expire() -> None:
        for token in gitlab.tokens:
            if token.expires_at:
                expired.append(token)
                gitlab.expire(token.value)

    if late:
        gitlab.when("garden.git/git-upload-pack", lambda: None, times=late)
    gitlab.when("garden.git/", expire)
    async with whole.working():
        garden.commit(parents=[])
        shed.commit()
        await gitlab.deliver()
        await whole.at_rest()
    await whole.holds()
    assert expired and gitlab.count("POST /oauth/token") == 2
    assert await told(whole, "connection") == 0


async def test_of_two_workers_whose_token_is_due_one_renews_it(gitlab: GitLab, begin: Begin) -> None:
    whole = await begin(gitlab, oauth=True)
    made = await whole.protected(*(f"garden-{number}" for number in range(6)), private=True)
    whole.later(timedelta(minutes=115))
    for repository in made:
        repository.commit()
    await gitlab.deliver()
    async with whole.elsewhere() as elsewhere, whole.working(), whole.working(elsewhere):
        await whole.at_rest()
    await whole.holds()
    assert gitlab.count("POST /oauth/token") == 2


async def test_a_token_that_was_revoked_is_told_of_once_and_stops_no_other(whole: Whole) -> None:
    host = whole.host
    (garden,) = await whole.protected("garden", private=True)
    bob = host.add_person("bob")
    shed = host.add_repository("bob/shed", private=True)
    async with whole.working():
        await whole.keep(shed, connection=await whole.connect(bob))
        await whole.at_rest()
        for token in host.tokens:
            token.revoked |= token.person is whole.alice
        garden.commit(parents=[])
        shed.commit()
        await host.deliver()
        await until(lambda: stopped(whole, garden))
        asked = host.count("alice/garden")
        garden.commit(parents=[])
        shed.commit()
        await host.deliver()
        await whole.at_rest(garden)
        whole.later(A_DAY)
        await whole.sweep()
        await whole.at_rest(garden)
    assert await told(whole, "connection") == 1 and host.count("alice/garden") == asked
    await whole.holds(bad={garden: "credentials"})
    async with whole.working():
        await whole.connect(whole.alice)
        await whole.at_rest()
    await whole.holds()


async def test_a_forge_whose_api_is_away_holds_up_no_backup(whole: Whole) -> None:
    (garden,) = await whole.protected("garden")
    async with whole.working():
        whole.host.drop(1)
        whole.host.fail(503, 1000, "/api/")
        garden.commit()
        await whole.host.deliver()
        whole.later(A_DAY)
        await whole.sweep()
        await whole.at_rest()
    whole.host.heal()
    await whole.holds()


# What becomes of repositories


async def renamed(whole: Whole, garden: Repository) -> None:
    whole.host.rename(garden, "yard")


async def transferred(whole: Whole, garden: Repository) -> None:
    whole.host.transfer(garden, whole.host.add_org("acme", owners=[whole.alice]))


async def made_private(whole: Whole, garden: Repository) -> None:
    whole.host.make_private(garden)


@pytest.mark.parametrize("event", [renamed, transferred, made_private])
@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
async def test_a_repository_is_followed_to_what_it_is_now(
    whole: Whole, event: Callable[[Whole, Repository], Awaitable[None]], heard: bool
) -> None:
    garden, shed = await whole.protected("garden", "shed")
    async with whole.working():
        whole.host.drop(0 if heard else 1)
        await event(whole, garden)
        await whole.host.deliver()
        garden.commit(parents=[])
        shed.commit()
        await whole.host.deliver()
        whole.later(A_DAY)
        await whole.sweep()
        await whole.at_rest()
        garden.commit()
        await whole.host.deliver()
        await whole.at_rest()
    await whole.holds()
    origin = await remotes.get(whole.services.db, whole.kept[garden])
    assert (origin.repo.name, origin.repo.url) == (garden.full_name, garden.url)
    assert origin.private is garden.private
    assert whole.host.deliveries(garden)[-1].status == 202


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
async def test_a_repository_that_was_deleted_is_archived_with_all_that_it_had(
    whole: Whole, heard: bool
) -> None:
    garden, shed = await whole.protected("garden", "shed")
    async with whole.working():
        garden.commit(parents=[])
        await whole.host.deliver()
        await whole.at_rest()
        whole.host.drop(0 if heard else 1)
        whole.host.delete(garden)
        shed.commit()
        await whole.host.deliver()
        whole.later(A_DAY)
        await whole.sweep()
        await whole.at_rest(garden)
    await whole.holds(bad={garden: "archived"})
    assert await told(whole, "archived") == 1


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
@pytest.mark.parametrize("first", ["look", "list"])
@pytest.mark.parametrize("is_fork", [True, False], ids=["fork", "other"])
async def test_what_another_repository_of_its_name_holds_never_enters(
    whole: Whole, heard: bool, first: str, is_fork: bool
) -> None:
    garden, shed = await whole.protected("garden", "shed")
    async with whole.working():
        whole.host.drop(0 if heard else 1)
        other = whole.host.replace(garden)
        if is_fork:  # its history begins with what is kept
            run_git("-C", other.path, "fetch", "-q", garden.path, "+refs/heads/main:refs/heads/main")
        other.commit("side")
        shed.commit()
        await whole.host.deliver()
        whole.later(LATER if first == "look" else A_DAY)
        await whole.sweep()
        await whole.at_rest(garden)
        whole.later(A_DAY)
        await whole.sweep()
        await whole.at_rest(garden)
    await whole.holds(bad={garden: "archived"})


async def test_a_repository_that_is_taken_down_is_shown_as_that_and_goes_on_when_it_is_back(
    whole: Whole,
) -> None:
    garden, shed = await whole.protected("garden", "shed")
    whole.host.block(garden)
    async with whole.working():
        shed.commit()
        await whole.host.deliver()
        whole.later(LATER)
        await whole.sweep()
        await until(lambda: stopped(whole, garden))
        await whole.at_rest(garden)
    await whole.holds(bad={garden: "blocked"})
    whole.host.block(garden, False)
    garden.commit(parents=[])
    whole.host.drop()
    async with whole.working():
        whole.later(A_DAY)
        await whole.at_rest()
    await whole.holds()


# Hooks


async def test_a_hook_that_the_forge_has_given_up_tells_again_after_a_day(whole: Whole) -> None:
    garden, shed = await whole.protected("garden", "shed")
    (hook,) = garden.hooks
    if isinstance(whole.host, GitHub):
        whole.host.disable_hook(hook)
    else:
        whole.host.disable_hook(hook, for_good=True)
    sent = len(hook.deliveries)
    async with whole.working():
        garden.commit(parents=[])
        shed.commit()
        await whole.host.deliver()
        assert len(hook.deliveries) == sent
        whole.later(A_DAY)
        await whole.sweep()
        await whole.at_rest()
        garden.commit(parents=[])
        await whole.host.deliver()
        assert hook.deliveries[-1].status == 202
        await whole.at_rest()
    await whole.holds()
    found = await hooks.of(whole.services.db, whole.kept[garden])
    assert found and found.state == "registered"
