"""Letting go of all backups of a repo: nothing of it is left anywhere, and nothing else is touched."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from mirror.core.errors import Busy, Held, Locked
from mirror.core.formats import layout
from mirror.core.model import Repo
from mirror.core.rules.keeping.pending import Kind
from mirror.core.rules.roles import Role
from mirror.jobs import pending as jobs
from mirror.people import api_tokens, members
from mirror.people import pending as flow
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.open import Services, open_services
from mirror.store import repos
from mirror.store.people import audit, notices, people, teams
from mirror.store.people import pending as rows
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team
from mirror.store.upkeep import erased, keeping, vaults
from mirror.upkeep import checkpoints, state
from mirror.upkeep.erasure import erase_team, forget
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.pending import days_pass
from tests.parts.repos import Work

DAY = timedelta(days=1)


async def agreed(mirror: Mirror, repo: Repo) -> Pending:
    """The repo's backups are asked to go by an owner and confirmed by an admin; its time has come."""
    db, before = mirror.services.db, mirror.clock.now - 90 * DAY
    team = Team(await teams.default(db), teams.DEFAULT)
    ann, bob = [await people.add(db, name, before, team_name=name.lower()) for name in ("Ann", "Bob")]
    await teams.add(db, team.id, ann.id, Role.OWNER, before)
    await teams.add(db, team.id, bob.id, Role.ADMIN, before)
    asked = await flow.ask(
        mirror.services, By(ann, mirror.clock.now), team, Kind.FORGET_REPO, {}, repo, why="the customer left"
    )
    done = await flow.confirm(mirror.services, By(bob, mirror.clock.now), asked.id)
    await days_pass(mirror, 7 * DAY)
    return done


async def left(mirror: Mirror, repo: Repo) -> dict[str, int]:
    """Rows about the repo, by table, and its objects in the vault."""
    found = dict[str, int]()
    for table in await erased.tables(mirror.services.db):
        number = await mirror.services.db.fetchval(
            f"select count(*) from {table} where repo_id = $1", repo.id
        )
        if number:
            found[table] = number
    objects = [key for key in await mirror.keys() if key.startswith(layout.repo_prefix(repo.id))]
    return found | ({"vault": len(objects)} if objects else {})


@asynccontextmanager
async def after_the_loss(mirror: Mirror, database: str) -> AsyncIterator[Services]:
    settings = replace(mirror.services.settings, database_url=database)
    async with open_services(settings, clock=mirror.clock) as services:
        yield services


async def test_a_repo_that_is_let_go_is_gone_everywhere_and_stays_gone(
    mirror: Mirror, work: Work, make_work: Callable[..., Work], empty_database: str
) -> None:
    services, db = mirror.services, mirror.services.db
    other = make_work("other")
    work.commit()
    other.commit()
    gone, stays = (await mirror.backup(work)).repo, (await mirror.backup(other)).repo
    work.commit()
    await mirror.backup(work)
    await checkpoints.take(services)
    one = await agreed(mirror, gone)
    size = await erased.size(db, gone.id)
    assert await left(mirror, gone)
    await jobs.due(services)
    await jobs.due(services)  # safe to run twice
    assert await left(mirror, gone) == {}
    assert await repos.find(db, gone.id) is None
    assert not services.disk.pool(gone.id).exists()
    known = await erased.find(db, gone.id)
    assert known is not None and (known.name, known.snapshots, known.bytes) == (gone.name, 2, size.bytes)
    assert known.gone_at is not None
    done = await rows.find(db, one.id)
    assert done is not None and done.state(mirror.clock.now) == "done" and done.why == "the customer left"
    assert (await checkpoints.check(services)).problems == ()  # it went on purpose
    assert await mirror.refs(stays, 1) == other.refs()
    # What a run that hung stores later goes as well, and a rebuild brings nothing of it back.
    await services.vault.put(layout.repo_file(gone.id), b"{}")
    assert await vaults.unknown_of(db, [gone.id]) == []
    await state.export(services)
    async with after_the_loss(mirror, empty_database) as again:
        assert [one.repo.id for one in (await rebuild.rebuild(again)).repos] == [stays.id]
        assert (await erased.find(again.db, gone.id)) is not None
        mirror.clock.now += 2 * forget.LOOK
        await forget.due(again)
        assert await left(mirror, gone) == {}
    # Backed up again, it starts anew.
    new = await mirror.backup(work)
    assert (new.repo.id != gone.id, new.repo.name) == (True, gone.name)
    assert await mirror.refs(new.repo, 1) == work.refs()


async def test_a_run_that_is_killed_at_any_step_is_finished_by_the_next(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException): ...

    work.commit()
    one: Pending | None = None
    for step in (*failpoints.PENDING, *failpoints.FORGET):
        repo = (await mirror.backup(work)).repo
        if one is None:
            one = await agreed(mirror, repo)
        else:
            team = Team(await teams.default(mirror.services.db), teams.DEFAULT)
            one = await flow.ask(mirror.services, None, team, Kind.FORGET_REPO, {}, repo)
            now = mirror.clock.now
            await rows.confirm(mirror.services.db, one.id, None, "Bob", now, now)
            await rows.announce(mirror.services.db, one.id, now - DAY, now)
        with monkeypatch.context() as patched, pytest.raises(Killed):

            def killed(reached: str, step: str = step) -> None:
                if reached == step:
                    raise Killed

            patched.setattr(failpoints, "reached", killed)
            await jobs.due(mirror.services)
        await jobs.due(mirror.services)
        assert await left(mirror, repo) == {}, step
        found = await rows.find(mirror.services.db, one.id)
        assert found is not None and found.state(mirror.clock.now) == "done", step


async def test_what_the_store_keeps_locked_goes_when_the_lock_ends(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    await agreed(mirror, repo)
    until = mirror.clock.now + 30 * DAY
    delete = type(services.vault).delete

    async def locked(vault: object, key: str) -> None:
        if key.endswith(".bundle") and mirror.clock.now < until:
            raise Locked(f"{key} is locked", until)
        await delete(services.vault, key)

    monkeypatch.setattr(type(services.vault), "delete", locked)
    await jobs.due(services)
    assert await left(mirror, repo) == {"vault": 1}
    known = await erased.find(services.db, repo.id)
    assert known is not None and (known.objects_left, known.locked_until, known.gone_at) == (1, until, None)
    mirror.clock.now = until + DAY
    await forget.due(services)
    assert await left(mirror, repo) == {}
    said = [one.message for one in await notices.page(services.db, await teams.default(services.db))]
    assert said[0] == f"The vault has nothing of {repo.name} any more: the last of its objects was deleted"


async def test_it_waits_for_a_restore_that_is_under_way_and_never_touches_what_is_on_hold(
    mirror: Mirror, work: Work
) -> None:
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    await services.db.execute(
        """
        insert into job (repo_id, team_id, kind, state, queued_at, started_at)
        select id, team_id, 'bundle', 'running', $2, $2 from repo where id = $1
        """,
        repo.id,
        mirror.clock.now,
    )
    with pytest.raises(Busy, match="something reads"):
        await forget.forget(services, repo.id, None)
    await services.db.execute("delete from job")
    await keeping.set_hold(services.db, repo.id, "a lawsuit", "Ann", mirror.clock.now)
    with pytest.raises(Held):
        await forget.forget(services, repo.id, None)
    with pytest.raises(Held):
        await forget.ask(services, None, Team(await teams.default(services.db), teams.DEFAULT), repo)
    assert await repos.find(services.db, repo.id) is not None


async def test_a_team_is_erased_with_everything_that_it_set_up(mirror: Mirror, work: Work) -> None:
    services, db = mirror.services, mirror.services.db
    before = mirror.clock.now - 90 * DAY
    ann, bob = [await people.add(db, name, before, team_name=name.lower()) for name in ("Ann", "Bob")]
    team = await members.new_team(db, By(ann, before), "customer")
    await teams.add(db, team.id, bob.id, Role.ADMIN, before)
    work.commit()
    repo = (await mirror.backup(work)).repo
    await db.execute("update repo set team_id = $1", team.id)
    await api_tokens.make_token(db, By(ann, mirror.clock.now), team, "ci", ["read"])
    await state.export(services)
    await keeping.set_hold(db, repo.id, "a lawsuit", "Ann", mirror.clock.now)
    with pytest.raises(Held):
        await erase_team.ask(services, By(ann, mirror.clock.now), team)
    await keeping.lift_hold(db, repo.id, "Ann", mirror.clock.now)
    one = await erase_team.ask(services, By(ann, mirror.clock.now), team, "they left")
    assert one.subject == "the team customer, with 1 repository"
    await flow.confirm(services, By(bob, mirror.clock.now), one.id)
    await days_pass(mirror, 7 * DAY)
    await jobs.due(services)
    await jobs.due(services)  # safe to run twice
    done = await rows.find(db, one.id)
    assert done is not None and done.state(mirror.clock.now) == "done", done
    assert await left(mirror, repo) == {}
    assert await teams.by_name(db, "customer") is None
    assert await teams.membership(db, ann.id, "customer") is None
    stays = {"pending_action", "erased_repo", "former_admin", "audit", "notice", "event"}
    for table in await erased.tables(db, "team_id"):
        number = await db.fetchval(f"select count(*) from {table} where team_id = $1", team.id)
        assert number == 0 or table in stays, table
    assert await audit.check(db, team.id) is None
    actors = {entry.entry.actor for entry in await audit.page(db, team.id)}
    assert actors == {"a former member", "Everref"}
    assert len([key for key in await mirror.keys() if key.startswith("state/")]) == 2
    assert (await people.find(db, ann.id)) is not None
