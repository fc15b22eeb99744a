"""Hooks looked after: gone, switched off, paused, changed by hand, silent; and deliveries that failed."""

from datetime import timedelta

import pytest

from mirror.core.errors import NotFound, Refused
from mirror.discovery import choose, connections, discover, webhooks
from mirror.discovery.choose import By
from mirror.discovery.webhooks import Outcome
from mirror.store.browse import causes, home
from mirror.store.discovery import hooks
from mirror.store.discovery.hooks import Hook
from tests.parts.connected import Beside, Connected
from tests.parts.forges import GitHub, GitLab, Person, Repository

ME = By(None, "the test")
A_DAY = timedelta(hours=25)
AN_HOUR = timedelta(minutes=61)


@pytest.fixture
def alice(alongside: Connected) -> Person:
    return alongside.host.add_person("alice")


@pytest.fixture
def garden(alongside: Connected, alice: Person) -> Repository:
    return alongside.host.add_repository("alice/garden")


async def hooked(connected: Connected, account: Person, repository: Repository) -> Hook:
    connection = await connected.connect(account)
    (chosen,) = await choose.choose(connected.services, connection.id, ME, [str(repository.id)])
    assert chosen.hook == "registered"
    await connected.host.deliver()
    return await ours(connected, repository)


async def ours(connected: Connected, repository: Repository) -> Hook:
    found = await hooks.of(connected.services.db, (await connected.kept(repository)).repo.id)
    assert found
    return found


async def is_told(connected: Connected, repository: Repository) -> bool:
    """Whether a push arrives and is taken."""
    await connected.host.deliver()
    before = len(connected.host.deliveries(repository))
    repository.commit()
    await connected.host.deliver()
    sent = connected.host.deliveries(repository)[before:]
    return [one.status for one in sent] == [202]


async def test_a_hook_that_is_well_is_looked_at_hourly_and_left_alone(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    before = await hooked(alongside, alice, garden)
    asked = len(alongside.host.requests)
    await webhooks.due(alongside.services)
    assert len(alongside.host.requests) == asked
    alongside.later(AN_HOUR)
    await webhooks.due(alongside.services)
    now = await ours(alongside, garden)
    assert before.checked_at and now.checked_at and now.checked_at > before.checked_at
    assert (now.state, now.why, now.id) == ("registered", None, before.id)
    assert alongside.host.count("PATCH") + alongside.host.count("PUT") == 0


async def test_a_hook_that_somebody_removed_is_made_again(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    before = await hooked(alongside, alice, garden)
    garden.hooks.clear()
    alongside.later(AN_HOUR)
    await webhooks.due(alongside.services)
    now = await ours(alongside, garden)
    assert (now.id, now.state) == (before.id, "registered") and now.forge_hook_id != before.forge_hook_id
    assert await is_told(alongside, garden)


async def test_a_hook_that_was_switched_off_is_on_again(github: GitHub, beside: Beside) -> None:
    connected = await beside(github)
    alice = github.add_person("alice")
    garden = github.add_repository("alice/garden")
    await hooked(connected, alice, garden)
    garden.hooks[0].active = False
    connected.later(A_DAY)
    await webhooks.due(connected.services)
    assert garden.hooks[0].active and await is_told(connected, garden)


@pytest.mark.parametrize("for_good", [False, True], ids=["paused", "disabled"])
async def test_a_hook_that_gitlab_gave_up_works_again(gitlab: GitLab, beside: Beside, for_good: bool) -> None:
    connected = await beside(gitlab)
    alice = gitlab.add_person("alice")
    garden = gitlab.add_repository("alice/garden")
    await hooked(connected, alice, garden)
    gitlab.disable_hook(garden.hooks[0], for_good=for_good)
    connected.later(A_DAY)
    await webhooks.due(connected.services)
    await gitlab.deliver()
    assert await is_told(connected, garden)


async def test_an_address_and_a_secret_that_were_changed_are_put_right(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    hook = await hooked(alongside, alice, garden)
    right = garden.hooks[0].url
    garden.hooks[0].url = right.replace(hook.id, "x" * 32)
    alongside.later(A_DAY)
    await webhooks.due(alongside.services)
    assert [one.url for one in garden.hooks] == [right]
    assert await is_told(alongside, garden)


async def test_doubled_hooks_become_one(gitlab: GitLab, beside: Beside) -> None:
    connected = await beside(gitlab)
    alice = gitlab.add_person("alice")
    garden = gitlab.add_repository("alice/garden")
    await hooked(connected, alice, garden)
    origin = await connected.kept(garden)
    assert origin.connection_id and origin.repository_id
    url = garden.hooks[0].url
    forge, token = await connections.forge_of(connected.services, origin.connection_id)
    await forge.add_hook(token, origin.repository_id, url, "whsec_" + "A" * 43 + "=")
    connected.later(A_DAY)
    await webhooks.due(connected.services)
    assert len(garden.hooks) == 1 and await is_told(connected, garden)


async def test_rights_that_were_taken_away_show_and_come_back(alongside: Connected, alice: Person) -> None:
    alongside.host.add_person("bob")
    shed = alongside.host.add_repository("bob/shed", access={alice: 50})
    await hooked(alongside, alice, shed)
    shed.access[alice.id] = 30
    alongside.later(A_DAY)
    await webhooks.due(alongside.services)
    hook = await ours(alongside, shed)
    assert hook.state == "refused" and hook.why
    shed.access[alice.id] = 50
    alongside.later(A_DAY)
    await webhooks.due(alongside.services)
    assert (await ours(alongside, shed)).state == "registered"


async def test_a_forge_is_not_asked_for_what_its_listing_says_it_refuses(
    alongside: Connected, alice: Person
) -> None:
    alongside.host.add_person("bob")
    sheds = [alongside.host.add_repository(f"bob/shed{n}", access={alice: 30}) for n in range(3)]
    connection = await alongside.connect(alice)
    chosen = await choose.choose(alongside.services, connection.id, ME, [str(one.id) for one in sheds])
    assert [one.hook for one in chosen] == ["refused"] * 3
    assert all(one.why and "admins may" in one.why for one in chosen)
    assert alongside.host.count("/hooks") == 0
    sheds[0].access[alice.id] = 50
    await discover.relist(alongside.services, connection.id)
    alongside.later(A_DAY)
    await webhooks.due(alongside.services)
    assert [(await ours(alongside, one)).state for one in sheds] == ["registered", "refused", "refused"]


async def test_who_asks_now_is_told_that_a_hook_was_gone(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await hooked(alongside, alice, garden)
    repo = (await alongside.kept(garden)).repo.id
    assert (await webhooks.check_now(alongside.services, repo)).outcome is Outcome.REUSED
    garden.hooks.clear()
    assert (await webhooks.check_now(alongside.services, repo)).outcome is Outcome.REGISTERED
    assert len(garden.hooks) == 1 and await is_told(alongside, garden)
    await alongside.services.db.execute("update repo set connection_id = null")
    with pytest.raises(Refused, match="no connection reads alice/garden"):
        await webhooks.check_now(alongside.services, repo)
    await hooks.remove(alongside.services.db, repo)
    with pytest.raises(NotFound, match="has no webhook"):
        await webhooks.check_now(alongside.services, repo)


async def test_hooks_that_wait_are_on_their_way_and_no_trouble(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await hooked(alongside, alice, garden)
    db, team, now = alongside.services.db, alongside.team, alongside.clock()
    assert (await home.summary(db, team, now)).hooks_waiting == 0
    await alongside.services.db.execute("update hook set state = 'missing', forge_hook_id = null")
    assert (await home.summary(db, team, now)).hooks_waiting == 1
    assert await causes.troubles(db, team, now, 9) == []
    now = alongside.clock()
    assert [webhooks.registered_by(n, now) - now for n in (1, 100, 101)] == [
        timedelta(minutes=5),
        timedelta(minutes=5),
        timedelta(minutes=10),
    ]


async def test_a_silent_hook_is_looked_at_when_the_repo_moved(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await hooked(alongside, alice, garden)
    garden.hooks.clear()
    alongside.later(timedelta(hours=2))
    await alongside.services.db.execute("update repo set changed_at = $1", alongside.clock())  # by a sweep
    await webhooks.due(alongside.services)
    assert len(garden.hooks) == 1
    asked = len(alongside.host.requests)
    await webhooks.due(alongside.services)
    assert len(alongside.host.requests) == asked


async def test_deliveries_that_failed_are_asked_for_once_more(github: GitHub, beside: Beside) -> None:
    connected = await beside(github)
    alice = github.add_person("alice")
    garden = github.add_repository("alice/garden")
    hook = await hooked(connected, alice, garden)
    base = garden.hooks[0].url
    garden.hooks[0].url = "http://127.0.0.1:9/"  # we are down
    garden.commit()
    await github.deliver()
    garden.hooks[0].url = base
    assert github.deliveries(garden)[-1].status is None
    await connected.services.db.execute("update hook set checked_at = created_at - interval '25 hours'")
    await webhooks.due(connected.services)
    await github.deliver()
    assert [one.status for one in github.deliveries(garden)][-1] == 202 and hook.forge_hook_id
    sent = len(github.deliveries(garden))
    connected.later(A_DAY)
    await webhooks.due(connected.services)
    await github.deliver()
    assert len(github.deliveries(garden)) == sent


def test_which_addresses_reach_this_machine_without_base_url() -> None:
    assert webhooks.is_loopback("http://127.0.0.1:1") and webhooks.is_loopback("http://localhost:1")
    assert not webhooks.is_loopback("https://github.com") and not webhooks.is_loopback("https://10.0.0.1")


async def test_one_hook_that_cannot_be_looked_at_stops_no_other(alongside: Connected, alice: Person) -> None:
    several = [alongside.host.add_repository(f"alice/r{number}") for number in range(3)]
    for one in several:
        await hooked(alongside, alice, one)
        one.hooks.clear()
    number = several[0].id
    alongside.host.fail(502, times=100, piece=f"/{number}/hooks")
    alongside.later(A_DAY)
    await webhooks.due(alongside.services)
    assert [len(one.hooks) for one in several] == [0, 1, 1]
    hook = await ours(alongside, several[0])
    assert hook.why and hook.why.startswith("could not be checked: ")
    alongside.host.heal()
    await webhooks.due(alongside.services)
    assert (await ours(alongside, several[0])).why is None and len(several[0].hooks) == 1
