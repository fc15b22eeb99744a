"""Choosing what is kept: rows, wishes and hooks, also twice, at once, refused and after a crash."""

import asyncio
from dataclasses import replace

import pytest

from mirror.backup import sync as syncing
from mirror.core.errors import NotFound
from mirror.discovery import choose, discover, webhooks
from mirror.discovery.choose import By
from mirror.discovery.webhooks import Outcome
from mirror.services import failpoints
from mirror.store import repos
from mirror.store.discovery import discovered, hooks, remotes
from mirror.store.people import audit, teams
from mirror.store.people.teams import TeamId
from tests.parts.connected import Beside, Connected
from tests.parts.forges import GitLab, Person, Repository


@pytest.fixture
def alice(alongside: Connected) -> Person:
    return alongside.host.add_person("alice")


@pytest.fixture
def garden(alongside: Connected, alice: Person) -> Repository:
    return alongside.host.add_repository("alice/garden", private=True)


def by(connected: Connected) -> By:
    return By(connected.person, "Alice")


async def keep(connected: Connected, account: Person, *repositories: Repository) -> list[choose.Chosen]:
    connection = await connected.connect(account)
    ids = [str(one.id) for one in repositories]
    return await choose.choose(connected.services, connection.id, by(connected), ids, hint=connected.hint)


async def test_a_chosen_repository_is_kept_hooked_and_wished_for(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    (chosen,) = await keep(alongside, alice, garden)
    assert (chosen.repo.name, chosen.hook, chosen.why) == ("alice/garden", Outcome.REGISTERED, None)
    origin = await alongside.kept(garden)
    assert (origin.repo.url, origin.host, origin.private) == (garden.url, alongside.app.host, True)
    (hook,) = garden.hooks
    assert hook.url.startswith(f"{alongside.services.settings.base_url}/hooks/{alongside.app.forge}/")
    assert alongside.hinted == [chosen.repo.id]
    assert await repos.sync_request(alongside.services.db, chosen.repo.id) is not None
    (entry,) = await audit.page(alongside.services.db, alongside.team)
    assert (entry.entry.action, entry.entry.actor, entry.entry.subject) == (
        "repo.add",
        "Alice",
        "alice/garden",
    )


async def test_a_push_to_it_is_taken_by_the_hook(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    (chosen,) = await keep(alongside, alice, garden)
    garden.commit()
    await alongside.host.deliver()
    assert [one.status for one in alongside.host.deliveries(garden)] in ([202, 202], [202])
    found = await hooks.of(alongside.services.db, chosen.repo.id)
    assert (
        found and found.state == "registered" and found.delivered_at and found.repository_id == str(garden.id)
    )


async def test_choosing_again_changes_nothing(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await keep(alongside, alice, garden)
    before = garden.hooks[0].url
    (again,) = await keep(alongside, alice, garden)
    assert again.hook is Outcome.REUSED
    assert [hook.url for hook in garden.hooks] == [before]
    assert len(await repos.all(alongside.services.db)) == 1
    assert len(await audit.page(alongside.services.db, alongside.team)) == 1


async def test_two_runs_at_once_make_one_repo_and_one_hook(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    connection = await alongside.connect(alice)
    ways = [
        choose.choose(alongside.services, connection.id, by(alongside), [str(garden.id)]) for _ in range(4)
    ]
    outcomes = [one.hook for (one,) in await asyncio.gather(*ways)]
    assert sorted(outcomes) == ["registered", "reused", "reused", "reused"]
    assert len(garden.hooks) == 1 and len(await repos.all(alongside.services.db)) == 1


class Crash(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("step", [*failpoints.CHOOSE, "hook: row stored", "hook: at the forge"])
async def test_after_a_crash_anywhere_the_next_run_ends_with_one_hook(
    alongside: Connected, alice: Person, garden: Repository, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(reached: str) -> None:
        if reached == step:
            raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(failpoints, "reached", crash)
        await keep(alongside, alice, garden)
    (chosen,) = await keep(alongside, alice, garden)
    assert chosen.hook is not Outcome.REFUSED
    (hook,) = garden.hooks
    found = await hooks.of(alongside.services.db, chosen.repo.id)
    assert found and (found.state, found.forge_hook_id) == ("registered", str(hook.id))
    garden.commit()
    await alongside.host.deliver()
    assert alongside.host.deliveries(garden)[-1].status == 202  # the secret at the forge is the one we know


async def test_hooks_left_of_an_earlier_everref_are_taken_over(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    (chosen,) = await keep(alongside, alice, garden)
    await hooks.remove(alongside.services.db, chosen.repo.id)  # as when the database was lost
    number = garden.hooks[0].id
    (chosen,) = await keep(alongside, alice, garden)
    assert chosen.hook is Outcome.REUSED
    assert [hook.id for hook in garden.hooks] == [number]
    garden.commit()
    await alongside.host.deliver()
    assert alongside.host.deliveries(garden)[-1].status == 202


async def test_another_teams_hook_is_left_alone(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    await keep(alongside, alice, garden)
    other = replace(alongside, team=await _team(alongside))
    await keep(other, alice, garden)
    assert len(garden.hooks) == 2 and len({hook.url for hook in garden.hooks}) == 2


async def _team(connected: Connected) -> TeamId:
    return await teams.default(connected.services.db)


async def test_who_may_not_register_hooks_keeps_the_backups(alongside: Connected, alice: Person) -> None:
    bob = alongside.host.add_person("bob")
    tools = alongside.host.add_repository("bob/tools", access={alice: 30})
    (chosen,) = await keep(alongside, alice, tools)
    assert chosen.hook is Outcome.REFUSED and chosen.why
    assert tools.hooks == [] and bob
    found = await hooks.of(alongside.services.db, chosen.repo.id)
    assert found and (found.state, found.why) == ("refused", chosen.why)
    assert await repos.sync_request(alongside.services.db, chosen.repo.id) is not None


async def test_a_missing_scope_is_named(gitlab: GitLab, beside: Beside) -> None:
    connected = await beside(gitlab)
    alice = gitlab.add_person("alice")
    garden = gitlab.add_repository("alice/garden")
    connection = await connected.connect(alice, ("read_user", "read_api", "read_repository"))
    (chosen,) = await choose.choose(connected.services, connection.id, by(connected), [str(garden.id)])
    assert chosen.hook is Outcome.REFUSED
    assert chosen.why and "lacks api" in chosen.why


async def test_a_forge_that_fails_now_is_asked_again_by_the_sweep(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    alongside.host.fail(502, times=20, piece="/hooks")
    (chosen,) = await keep(alongside, alice, garden)
    assert chosen.hook is Outcome.WAITING and garden.hooks == []
    alongside.host.heal()
    await webhooks.due(alongside.services)
    assert len(garden.hooks) == 1


async def test_beyond_the_first_hooks_the_sweep_registers_them(alongside: Connected, alice: Person) -> None:
    several = [alongside.host.add_repository(f"alice/r{number}") for number in range(3)]
    connection = await alongside.connect(alice)
    ids = [str(one.id) for one in several]
    chosen = await choose.choose(alongside.services, connection.id, by(alongside), ids, at_once=1)
    assert [one.hook for one in chosen] == ["registered", "waiting", "waiting"]
    await webhooks.due(alongside.services)
    assert [len(one.hooks) for one in several] == [1, 1, 1]


async def test_a_repository_that_is_not_listed_is_not_chosen(alongside: Connected, alice: Person) -> None:
    connection = await alongside.connect(alice)
    with pytest.raises(NotFound, match="lists no repository 4711"):
        await choose.choose(alongside.services, connection.id, by(alongside), ["4711"])


async def test_a_name_that_is_taken_gets_the_host(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    url = "https://elsewhere.example/alice/garden"
    await choose.add_url(alongside.services, alongside.team, by(alongside), url, hint=alongside.hint)
    (chosen,) = await keep(alongside, alice, garden)
    assert chosen.repo.name == f"alice/garden-{alongside.app.host.replace(':', '-')}"


async def test_a_url_that_was_added_before_becomes_the_repository(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    added = await choose.add_url(alongside.services, alongside.team, by(alongside), garden.url, name="mine")
    (chosen,) = await keep(alongside, alice, garden)
    assert (chosen.repo.id, chosen.repo.name) == (added.id, "mine")


async def test_patterns_choose_now_and_later(alongside: Connected, alice: Person, garden: Repository) -> None:
    shed = alongside.host.add_repository("alice/shed")
    connection = await alongside.connect(alice)
    chosen = await choose.choose_pattern(alongside.services, connection.id, by(alongside), ["*/s*"])
    assert [one.repo.name for one in chosen] == ["alice/shed"]
    sofa = alongside.host.add_repository("alice/sofa")
    done = await discover.relist(alongside.services, connection.id)
    assert [one.repo.name for one in done.chosen] == ["alice/sofa"]
    assert len(sofa.hooks) == 1 and len(shed.hooks) == 1 and garden.hooks == []


async def test_everything_leaves_out_what_somebody_let_go(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    shed = alongside.host.add_repository("alice/shed")
    connection = await alongside.connect(alice)
    await choose.choose_everything(alongside.services, connection.id, by(alongside), True)
    kept = await alongside.kept(shed)
    assert await choose.let_go(alongside.services, kept.repo.id, by(alongside)) is None
    assert shed.hooks == []
    done = await discover.relist(alongside.services, connection.id)
    assert done.chosen == []
    page = await discovered.page(alongside.services.db, connection.id)
    assert [(one.full_name, one.chosen) for one in page] == [("alice/garden", True), ("alice/shed", False)]
    (again,) = await keep(alongside, alice, shed)  # a person still can
    assert again.repo.id == kept.repo.id and len(shed.hooks) == 1


async def test_a_hook_that_the_forge_keeps_is_told_of(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    (chosen,) = await keep(alongside, alice, garden)
    alongside.host.fail(502, times=20, piece="/hooks")
    left = await choose.let_go(alongside.services, chosen.repo.id, by(alongside))
    assert left and "remove it there" in left
    assert await hooks.of(alongside.services.db, chosen.repo.id) is None


async def test_disconnecting_removes_hooks_and_keeps_backups(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    (chosen,) = await keep(alongside, alice, garden)
    synced = await alongside.sync(garden)
    origin = await alongside.kept(garden)
    assert origin.connection_id
    assert await choose.disconnect(alongside.services, origin.connection_id, by(alongside)) == []
    assert garden.hooks == []
    origin = await alongside.kept(garden)
    assert origin.connection_id is None and origin.paused_at is not None
    (row,) = await repos.overview(alongside.services.db)
    assert row.snapshots == 1 and synced.repo.id == chosen.repo.id


@pytest.mark.parametrize("known", [True, False], ids=["now", "before it was known who let go"])
async def test_after_connecting_again_a_rule_takes_up_what_the_disconnection_let_go(
    alongside: Connected, alice: Person, garden: Repository, known: bool
) -> None:
    """What was let go before that was written down may have been by a person: it waits for one."""
    shed = alongside.host.add_repository("alice/shed")
    connection = await alongside.connect(alice)
    await choose.choose_everything(alongside.services, connection.id, by(alongside), True)
    await choose.let_go(alongside.services, (await alongside.kept(shed)).repo.id, by(alongside))
    await choose.disconnect(alongside.services, connection.id, by(alongside))
    if not known:
        await alongside.services.db.execute("update repo set disconnected = false")
    connection = await alongside.connect(alice)
    done = await choose.choose_everything(alongside.services, connection.id, by(alongside), True)
    again = await discover.relist(alongside.services, connection.id)
    assert [one.repo.name for one in done + again.chosen] == (["alice/garden"] if known else [])
    assert (len(garden.hooks), len(shed.hooks)) == (int(known), 0)
    assert await choose.passed_over(alongside.services, connection.id) == (1 if known else 2)
    origin = await alongside.kept(garden)
    assert (origin.paused_at is None, origin.disconnected) == (known, False)


async def test_another_connection_of_the_team_takes_over(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    bob = alongside.host.add_person("bob")
    garden.access[bob.id] = 50
    await keep(alongside, alice, garden)
    origin = await alongside.kept(garden)
    other = await alongside.connect(bob)
    assert origin.connection_id
    await choose.disconnect(alongside.services, origin.connection_id, by(alongside))
    origin = await alongside.kept(garden)
    assert (origin.connection_id, origin.paused_at) == (other.id, None)
    assert len(garden.hooks) == 1


async def test_pausing_and_going_on_is_written_down(
    alongside: Connected, alice: Person, garden: Repository
) -> None:
    (chosen,) = await keep(alongside, alice, garden)
    for _ in range(2):
        await choose.pause(alongside.services, chosen.repo.id, by(alongside))
    assert len(garden.hooks) == 1
    for _ in range(2):
        await choose.resume(alongside.services, chosen.repo.id, by(alongside))
    actions = [one.entry.action for one in await audit.page(alongside.services.db, alongside.team)]
    assert actions == ["repo.resume", "repo.pause", "repo.add"]


async def test_after_a_crash_the_sweep_registers_what_was_not_begun(
    alongside: Connected, alice: Person, garden: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(reached: str) -> None:
        if reached == "choose: wished":
            raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(failpoints, "reached", crash)
        await keep(alongside, alice, garden)
    await webhooks.due(alongside.services)
    assert len(garden.hooks) == 1
    assert len(await audit.page(alongside.services.db, alongside.team)) == 1


async def test_any_url_is_kept_once_for_the_team(alongside: Connected, alice: Person) -> None:
    garden = alongside.host.add_repository("alice/open")
    added = [
        await choose.add_url(
            alongside.services, alongside.team, by(alongside), garden.url, hint=alongside.hint
        )
        for _ in range(2)
    ]
    assert added[0].id == added[1].id and alongside.hinted == [added[0].id] * 2
    origin = await remotes.get(alongside.services.db, added[0].id)
    assert (origin.team_id, origin.host) == (alongside.team, alongside.app.host)
    assert len(await audit.page(alongside.services.db, alongside.team)) == 1
    await syncing.sync(alongside.services, added[0].id)
    (row,) = await repos.overview(alongside.services.db)
    assert (row.team, row.snapshots) == ("alice", 1)
