"""Erasing a leaked secret out of all history: every moment that reaches it goes, and nothing else does."""

from datetime import timedelta

import pytest

from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.model import Target
from mirror.core.rules.roles import Role
from mirror.jobs import pending as jobs
from mirror.people import pending as flow
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.store.backup import snapshots
from mirror.store.people import pending as rows
from mirror.store.people import people, teams
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team
from mirror.store.upkeep import keeping
from mirror.upkeep import verify
from mirror.upkeep.erasure import erase, forget
from tests.parts.everref import Mirror
from tests.parts.repos import Work

DAY = timedelta(days=1)
SECRET = b"AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI"


class Killed(BaseException): ...


async def bob_of(mirror: Mirror) -> tuple[Team, By]:
    """The command line's team, and an admin of it who can confirm what whoever runs Everref asks."""
    db, before = mirror.services.db, mirror.clock.now - 90 * DAY
    team = Team(await teams.default(db), teams.DEFAULT)
    bob = await people.add(db, "Bob", before, team_name="bob")
    await teams.add(db, team.id, bob.id, Role.ADMIN, before)
    return team, By(bob, mirror.clock.now)


async def left_out(mirror: Mirror, one: Pending, bob: By) -> Pending:
    await flow.confirm(mirror.services, bob, one.id)
    mirror.clock.now += 8 * DAY
    await jobs.due(mirror.services)
    found = await rows.find(mirror.services.db, one.id)
    assert found is not None
    return found


async def test_a_leaked_secret_is_erased_with_the_moments_that_reach_it(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, db = mirror.services, mirror.services.db
    clean = work.commit()
    repo = (await mirror.backup(work)).repo  # 1: without it
    leaked = work.commit(files={".env": SECRET})
    await mirror.backup(work)  # 2: with it
    blob = Target(work.git("rev-parse", f"{leaked.decode()}:.env").strip())
    work.commit(files={".env": b""})
    await mirror.backup(work)  # 3: its file is empty, and its history has it
    team, bob = await bob_of(mirror)
    with pytest.raises(
        Refused, match="the newest snapshot of .*, #3, still reaches it through refs/heads/main"
    ):
        await erase.ask(services, None, team, repo, [blob])
    work.set("main", clean)
    work.commit(files={"README.md": b"clean"})
    await mirror.backup(work)  # 4: rewritten
    after = work.refs()
    with pytest.raises(NotFound, match="none of these objects"):
        await erase.ask(services, None, team, repo, [Target(b"ab" * 20)])
    with pytest.raises(UsageError, match="by its whole id, 40 digits"):
        erase.objects_of(repo, [blob.decode()[:12]])
    await keeping.pin(db, repo.id, 2, "for the auditor", "Ann", mirror.clock.now)
    with pytest.raises(Refused, match="somebody keeps that snapshot"):
        await erase.ask(services, None, team, repo, [blob])
    await keeping.unpin(db, repo.id, 2)
    asked, found = await erase.ask(services, None, team, repo, [blob], "leaked to a public page")
    assert (found.snapshots, found.refs, found.newest) == ((2, 3), (b"refs/heads/main",), ())
    before = await erase.proved_objects(services, repo, [blob])
    assert f"vault: the pack log has {blob.decode()}" in before.left
    with monkeypatch.context() as patched, pytest.raises(Killed):

        def killed(step: str) -> None:
            if step == "erase: packed anew":
                raise Killed

        patched.setattr(failpoints, "reached", killed)
        await left_out(mirror, asked, bob)
    await jobs.due(services)
    done = await rows.find(db, asked.id)
    assert done is not None and done.state(mirror.clock.now) == "done", done
    proof = await erase.proved_objects(services, repo, [blob])
    assert (proof.left, len(proof.looked_at) >= 4) == ((), True)
    assert SECRET not in b"".join([await services.vault.get(key) for key in await mirror.keys()])
    two = await snapshots.get(db, repo.id, 2)
    assert two is not None and two.dropped_why is not None and "leaked to a public page" in two.dropped_why
    assert await mirror.refs(repo, 4) == after
    assert (await mirror.refs(repo, 1))[next(iter(after))]
    assert (await verify.verify(services, repo)).problems == ()
    # A push that brings it back is a new state, and is saved as one.
    work.set("main", leaked)
    await mirror.backup(work)
    assert await mirror.refs(repo, 5) == work.refs()


async def test_what_reaches_it_since_it_was_asked_for_stops_it(mirror: Mirror, work: Work) -> None:
    services = mirror.services
    clean = work.commit()
    leaked = work.commit(files={".env": SECRET})
    repo = (await mirror.backup(work)).repo
    work.set("main", clean)
    work.commit(files={"README.md": b"clean"})
    await mirror.backup(work)
    team, bob = await bob_of(mirror)
    asked, _ = await erase.ask(services, None, team, repo, [leaked])
    work.set("again", leaked)
    await mirror.backup(work)
    failed = await left_out(mirror, asked, bob)
    assert failed.state(mirror.clock.now) == "failed"
    assert "still reaches it through refs/heads/again" in (failed.failed or "")
    assert await mirror.refs(repo, 1)


async def test_a_repo_that_is_gone_is_proved_to_be_gone(mirror: Mirror, work: Work) -> None:
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    with pytest.raises(NotFound, match="was erased here"):
        await erase.proved(services, repo.id)
    await forget.forget(services, repo.id, None)
    assert (await erase.proved(services, repo.id)).left == ()
    await services.vault.put(f"{repo.id}/repo.json", b"{}")
    services.disk.pool(repo.id).mkdir(parents=True)
    left = (await erase.proved(services, repo.id)).left
    assert [one.split(":")[0] for one in left] == ["vault", "this machine's disk"]
