"""Erasing a leaked secret out of all history: every moment that reaches it goes, and nothing else does."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

import mirror as mirror_package
from mirror.core.errors import NotFound, Refused, UsageError
from mirror.core.model import Target
from mirror.core.rules.roles import Role
from mirror.git.run import CHUNK
from mirror.jobs import pending as jobs
from mirror.people import pending as flow
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.store.backup import snapshots
from mirror.store.discovery import hooks
from mirror.store.people import pending as rows
from mirror.store.people import people, teams
from mirror.store.people.pending import Pending
from mirror.store.people.teams import Team
from mirror.store.upkeep import keeping, mentions
from mirror.upkeep import verify
from mirror.upkeep.erasure import erase, forget, proof
from tests.parts.everref import Mirror
from tests.parts.pending import days_pass
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
    await days_pass(mirror, 8 * DAY)
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
    before = await proof.proved_objects(services, repo, [blob])
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
    gone = await proof.proved_objects(services, repo, [blob])
    assert (gone.left, len(gone.looked_at) >= 6) == ((), True)
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


def _laid(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


async def test_an_erased_object_is_looked_for_in_scratch_logs_and_the_database(
    mirror: Mirror, work: Work
) -> None:
    services, db, root = mirror.services, mirror.services.db, mirror.services.disk.root
    clean = work.commit()
    leaked = work.commit(files={".env": SECRET})
    repo = (await mirror.backup(work)).repo
    blob = Target(work.git("rev-parse", f"{leaked.decode()}:.env").strip())
    work.set("main", clean)
    work.commit(files={"README.md": b"clean"})
    await mirror.backup(work)
    assert services.keyring
    await hooks.add(db, repo.id, "github", hooks.lock(services.keyring, "h" * 32, "secret"), mirror.clock())
    body = b'{"commits": [{"id": "%b", "message": "add the key AKIA"}]}' % leaked
    delivery = hooks.Delivery("d-1", "push", "7", (), None, body)
    assert await hooks.deliver(db, "h" * 32, delivery, mirror.clock())
    before = await proof.proved_objects(services, repo, [leaked, blob])
    assert any("row of delivery.body, which may hold more than its id" in line for line in before.left)
    assert any(f"pools/{repo.id}.git" in line and blob.decode() in line for line in before.left)
    team, bob = await bob_of(mirror)
    asked, _ = await erase.ask(services, None, team, repo, [leaked, blob])
    done = await left_out(mirror, asked, bob)
    assert done.state(mirror.clock.now) == "done", done

    after = await proof.proved_objects(services, repo, [leaked, blob])
    assert after.left == ()
    assert any(
        "pending_action.wanted: the record of who asked for it, who confirmed it and why" in line
        for line in after.stays
    )
    assert any("ref_stay.target: the id alone, where a ref was" in line for line in after.stays)

    # One remnant in each place; every one is found, by its own line.
    name = blob.decode()
    work.set("leaked", leaked)
    work.git("repack", "-q", "-a", "-d")
    (pack,) = work.path.glob("objects/pack/*.pack")
    index = pack.with_suffix(".idx").read_bytes()
    other = "0" * 8 + "-0000-4000-8000-" + "0" * 12
    planted = {
        _laid(root / f"scratch/{repo.id}/view-1/objects/{name[:2]}/{name[2:]}", b"x"): f"is {name}",
        _laid(root / "restores/view-2/objects/pack/pack-a.idx", index): f"has {name}",
        _laid(root / "restores/view-2/objects/pack/pack-b.idx", b"cut"): "cannot be read, and may have it",
        _laid(root / "serving/view-3/objects/pack/tmp_pack_x", b"PACK"): "is unfinished or has no index",
        _laid(root / "reading/view-4/.env", SECRET): f"has the bytes of {name}",
        _laid(root / "bundles/old.bundle", b"# v2 git bundle\n"): "is unfinished or has no index",
        _laid(root / f"incoming/upload-{other}", b"zip"): "is being brought in",
        _laid(root / "run/keeper.log", b"a line about " + blob): "names it",
        _laid(root / "run/postgres.log.old", b"x" * (CHUNK - 20) + blob): "names it",
    }
    unrelated = [
        _laid(root / f"scratch/{other}/view-1/objects/{name[:2]}/{name[2:]}", b"x"),  # another repo's
        _laid(root / "restores/view-2/objects/pack/pack-a.pack", b"PACK"),  # which its index tells of
        _laid(root / "restores/view-2/packed-refs", blob + b" refs/heads/main\n"),
        _laid(root / "run/redis.log", b"ready"),
    ]
    await db.execute("insert into chore (name, begun_at) values ($1, now())", f"about {name}")
    await db.execute("update hook set why = $1", name)
    left = (await proof.proved_objects(services, repo, [blob])).left
    for file, said in planted.items():
        short = str(file.relative_to(root))
        assert any(short in line and said in line for line in left), (short, left)
    for file in unrelated:
        assert not any(str(file) in line for line in left), file
    columns = ("chore.name", "hook.why")
    for column in columns:
        assert f"database: 1 row of {column}, which may hold more than its id" in left
    assert len(left) == len(planted) + len(columns)
    # A row of another repo may have the same object, and is not meant.
    another = await mirror.repo(str(Work(mirror.place / "another.git").path), "another")
    await db.execute("update hook set repo_id = $1", another.id)
    left = (await proof.proved_objects(services, repo, [blob])).left
    assert not any("hook.why" in line for line in left)


async def test_every_column_that_may_name_an_object_is_there(mirror: Mirror) -> None:
    rows = await mirror.services.db.fetch(
        "select table_name, column_name from information_schema.columns where table_schema = 'public'"
    )
    assert mentions.NAMED_IN.keys() <= {".".join(row) for row in rows}


def test_every_room_on_the_disk_is_looked_at() -> None:
    code = "".join(path.read_text() for path in Path(mirror_package.__file__).parent.rglob("*.py"))
    rooms = set(re.findall(r'\b(?:disk|self)\.root / "(\w+)"', code))
    assert {"pools", "restores", "reading"} <= rooms <= set(proof.ROOMS), (
        "add it to ROOMS of upkeep/erasure/proof"
    )


async def test_a_repo_that_is_gone_is_proved_to_be_gone(mirror: Mirror, work: Work) -> None:
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    with pytest.raises(NotFound, match="was erased here"):
        await proof.proved(services, repo.id)
    await forget.forget(services, repo.id, None)
    assert (await proof.proved(services, repo.id)).left == ()
    await services.vault.put(f"{repo.id}/repo.json", b"{}")
    services.disk.pool(repo.id).mkdir(parents=True)
    left = (await proof.proved(services, repo.id)).left
    assert [one.split(":")[0] for one in left] == ["vault", "this machine's disk"]
