"""A team whose backups are sealed: all that is done with a vault is done with sealed objects as well."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from mirror.backup import describe, guide, notes
from mirror.core import identities
from mirror.core.errors import KeyMissing
from mirror.core.formats import layout
from mirror.core.identities import Identity
from mirror.core.model import Repo
from mirror.jobs import run as jobbing
from mirror.people import keys as flow
from mirror.restore import drill, export
from mirror.services import failpoints
from mirror.services.open import open_services
from mirror.store.backup import parts
from mirror.store.people import keys, teams
from mirror.store.restore.restores import Cause
from mirror.upkeep import compact, epoch, heal, prune, rotation, state, verify
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work, fsck, refs_of
from tests.test_rebuild import after_the_loss

NAME = "very-secret-branch"


async def seal(mirror: Mirror) -> Identity:
    """Have the command line's team seal what it stores from now on; its identity."""
    services = mirror.services
    assert services.keyring
    team, own = await teams.default(services.db), identities.made()
    if not await keys.add_identity(services.db, services.keyring, team, own, mirror.clock()):
        own = (await keys.identities(services.db, services.keyring, team))[0]
    await services.db.execute("update team set sealed_since = $1 where id = $2", mirror.clock(), team)
    return own


async def stored(mirror: Mirror) -> dict[str, bytes]:
    return {key: await mirror.services.stored.get(key) for key in await mirror.keys()}


async def sealed_history(mirror: Mirror, work: Work, count: int) -> tuple[Repo, list[object]]:
    moments: list[object] = []
    for number in range(count):
        if number == 1:
            work.set(NAME, work.tip())
        if number % 3 == 2:
            work.commit("main", {"forced": b"%d" % number}, parents=[])
        else:
            work.commit("main", {"pushed": os.urandom(3000)})
        repo = (await mirror.backup(work)).repo
        moments.append(work.refs())
    return repo, moments


async def all_back(mirror: Mirror, repo: Repo, moments: list[object]) -> None:
    for number, expected in enumerate(moments, 1):
        path = await mirror.restored(repo, number)
        assert refs_of(path) == expected
    fsck(path)


def by_script(
    mirror: Mirror, repo: Repo, identity: Path | None, *rest: str
) -> subprocess.CompletedProcess[str]:
    """restore.sh of the vault, in an environment with nothing but what it needs."""
    vault = Path(mirror.services.settings.data) / "vault"
    script = max(vault.glob("restore*.sh"), key=lambda path: len(path.name))
    tools = mirror.place / "bin"
    if not tools.exists():
        tools.mkdir()
        for name in "age git sh awk sed sort ls cat tail base64 sha256sum rm cut expr".split():
            where = shutil.which(name)
            assert where, name
            (tools / name).symlink_to(where)
    env = {"PATH": str(tools), **({"AGE_IDENTITY": str(identity)} if identity else {})}
    call = [shutil.which("dash") or "sh", str(script), str(vault / str(repo.id)), *rest]
    return subprocess.run(call, env=env, capture_output=True, text=True)


async def test_a_team_that_seals_from_its_second_snapshot_on_loses_nothing_and_shows_nothing(
    mirror: Mirror, work: Work, empty_database: str, tmp_path: Path
) -> None:
    work.zoo()
    repo = (await mirror.backup(work)).repo
    first = work.refs()
    before = set(await mirror.keys())
    own = await seal(mirror)
    repo, later = await sealed_history(mirror, work, 9)
    moments = [first, *later]
    await mirror.services.db.execute("update repo set name = 'renamed' where id = $1", repo.id)
    await describe.due(mirror.services)
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 3))
    await notes.store_waiting(mirror.services)
    new = {key: body for key, body in (await stored(mirror)).items() if key not in before}
    of_repo = {key: body for key, body in new.items() if layout.repo_of(key)}
    assert {key.rpartition(".")[0].rpartition(".")[2] for key in of_repo} == {"bundle", "json"}
    assert all(
        key.endswith(".age") and body.startswith(b"age-encryption.org/v1\n") for key, body in of_repo.items()
    )
    assert not [key for key, body in new.items() if NAME.encode() in body or NAME in key]
    await all_back(mirror, repo, moments)
    assert (await verify.verify(mirror.services, repo)).problems == ()

    merged = await compact.compact(mirror.services, repo)  # plain and sealed ones into sealed ones
    assert merged.merged and all(
        layout.is_sealed(one.key)
        for one in await parts.live(mirror.services.db, repo.id)
        if one.key not in before
    )
    mirror.clock.now += timedelta(days=2)
    assert (await prune.prune(mirror.services, timedelta(0))).deleted
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())
    await all_back(mirror, repo, moments)

    (tmp_path / "identity").write_text(own.text + "\n")
    for number in (1, 2, len(moments)):
        out = tmp_path / f"by-script-{number}"
        done = await asyncio.to_thread(by_script, mirror, repo, tmp_path / "identity", str(out), str(number))
        assert done.returncode == 0, done.stderr
        assert refs_of(out) == moments[number - 1]
    done = await asyncio.to_thread(by_script, mirror, repo, None, str(tmp_path / "none"))
    assert done.returncode == 1 and "AGE_IDENTITY" in done.stderr and not (tmp_path / "none").exists()

    await state.export(mirror.services)
    async with after_the_loss(mirror, empty_database) as again:
        back = await rebuild.rebuild(again.services)
        assert [(one.repo.name, one.snapshots, one.missing) for one in back.repos] == [("renamed", 10, None)]
        await all_back(again, repo, moments)
        assert (await verify.verify(again.services, repo)).problems == ()
        same = "select * from {} where repo_id = $1 order by 1, 2, 3"
        for table in ("snapshot", "note"):
            one, other = [
                [
                    {k: v for k, v in row.items() if "sealed" in k or "sha256" in k}
                    for row in await db.fetch(same.format(table), repo.id)
                ]
                for db in (mirror.services.db, again.services.db)
            ]
            assert one == other
        live = await parts.live(mirror.services.db, repo.id)
        assert live == await parts.live(again.services.db, repo.id)
        work.commit("main")
        assert (await again.backup(work)).snapshot


async def test_stock_tools_restore_sha256_by_an_ssh_key_and_find_the_newest_script(
    mirror: Mirror, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    services = mirror.services
    await services.stored.put(layout.RESTORE, b"echo of an older version")
    work = make_work(object_format="sha256")
    work.zoo()
    ssh = tmp_path / "id_ed25519"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ann", "-f", str(ssh)]
    await asyncio.to_thread(subprocess.run, make, check=True)
    own = await seal(mirror)
    await services.db.execute(
        """
        insert into recovery_key (team_id, recipient, kind, name, added_at, proved_at)
        select id, $1, 'ssh', 'Ann', $2, $2 from team
        """,
        " ".join(ssh.with_suffix(".pub").read_text().split()[:2]),
        services.clock(),
    )
    repo, moments = await sealed_history(mirror, work, 2)
    await guide.due(services)
    before = await mirror.keys()
    await guide.due(services)
    assert await mirror.keys() == before and "restore-2.sh" in before and "README.txt" in before
    stranger = tmp_path / "stranger"
    stranger.write_text(identities.made().text + "\n")
    (tmp_path / "own").write_text(own.text + "\n")
    for identity, code in ((ssh, 0), (tmp_path / "own", 0), (stranger, 1)):
        out = tmp_path / f"by-{identity.name}"
        done = await asyncio.to_thread(by_script, mirror, repo, identity, "2", str(out))  # the older order
        assert done.returncode == code, done.stderr
        assert refs_of(out) == moments[1] if code == 0 else "is sealed" in done.stderr and not out.exists()


async def test_a_key_that_was_proved_later_restores_every_kept_moment_of_several_sha256_epochs(
    mirror: Mirror, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    services, work = mirror.services, make_work(object_format="sha256")
    assert services.keyring
    await seal(mirror)
    repo, moments = await sealed_history(mirror, work, 5)
    why = epoch.Why("Ann", "too old")
    await epoch.new_epoch(services, repo, drop={1, 2}, why=why)
    team = await teams.default(services.db)
    rotated = identities.made()
    await keys.add_identity(services.db, services.keyring, team, rotated, mirror.clock())
    _, more = await sealed_history(mirror, work, 4)
    moments += more
    await epoch.new_epoch(services, repo, drop={6}, why=why)
    _, more = await sealed_history(mirror, work, 1)
    moments += more
    mirror.clock.now += timedelta(days=2)
    await prune.prune(services, timedelta(0))
    ann = identities.made()
    await services.db.execute(
        """
        insert into recovery_key (team_id, recipient, kind, name, added_at, proved_at)
        values ($1, $2, 'age', 'Ann', $3, $3)
        """,
        *(team, ann.recipient, services.clock()),
    )
    await services.db.execute("update team set recipients_at = sealed_since where id = $1", team)
    identity = tmp_path / "ann"
    identity.write_text(ann.text + "\n")
    done = await asyncio.to_thread(by_script, mirror, repo, identity, str(tmp_path / "before"))
    assert done.returncode == 1 and "is sealed" in done.stderr and not (tmp_path / "before").exists()
    await flow.store_key_files(services)
    for number, expected in enumerate(moments, 1):
        if number in (1, 2, 6):
            continue
        out = tmp_path / f"by-script-{number}"
        done = await asyncio.to_thread(by_script, mirror, repo, identity, str(out), str(number))
        assert done.returncode == 0, done.stderr
        assert refs_of(out) == expected
        fsck(out)


async def test_a_lost_identity_is_told_as_such_and_every_byte_still_verifies(
    mirror: Mirror, work: Work
) -> None:
    work.zoo()
    own = await seal(mirror)
    repo, _ = await sealed_history(mirror, work, 3)
    settings = replace(mirror.services.settings, secret_keys=("x" * 40,))
    async with open_services(settings, clock=mirror.clock) as blind:
        lost = Mirror(blind, mirror.clock, mirror.place)
        mirror.clock.now += timedelta(days=200)
        read = await rotation.turn(blind, at_once=True)
        assert read.problems == () and read.objects >= 3
        with pytest.raises(KeyMissing, match="every stored byte .* is as it was stored.*SECRET_KEYS"):
            await verify.verify(blind, repo)
        with pytest.raises(KeyMissing, match="nothing of it is damaged"):
            await lost.restored(repo, 2)
        assert await blind.db.fetchval("select damaged_at from repo where id = $1", repo.id) is None
        part = (await parts.live(blind.db, repo.id))[0]
        path = Path(settings.data) / "vault" / part.key
        whole = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert part.key in (await verify.verify(blind, repo)).problems[0]  # without the key as well
        path.write_bytes(whole)
        blind.keys.given.append(own)  # as a person brings it
        await lost.restored(repo, 3)


async def test_a_sealed_bundle_to_download_is_never_handed_over_by_the_store(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.zoo()
    await seal(mirror)
    repo = (await mirror.backup(work)).repo
    job = await jobbing.ask(mirror.services, repo.id, "bundle", {})
    _, made = await export.make(mirror.services, repo, await mirror.snapshot(repo, 1), Cause(job.id))
    assert layout.is_sealed(made.key) and await export.link(mirror.services, made, "x.bundle") is None
    assert await export.is_there(mirror.services, made)
    chunks = [chunk async for chunk in export.read(mirror.services, made, 0, made.bytes)]
    (tmp_path / "x.bundle").write_bytes(b"".join(chunks))
    assert (tmp_path / "x.bundle").stat().st_size == made.bytes
    out = await asyncio.to_thread(
        subprocess.run,
        ["git", "bundle", "verify", "-q", str(tmp_path / "x.bundle")],
        capture_output=True,
        cwd=work.path,
    )
    assert out.returncode == 0, out.stderr


async def test_what_is_damaged_or_missing_of_sealed_objects_is_healed(mirror: Mirror, work: Work) -> None:
    work.zoo()
    await seal(mirror)
    repo, moments = await sealed_history(mirror, work, 2)
    await mirror.restored(repo, 2)
    vault = Path(mirror.services.settings.data) / "vault"
    first = (await parts.live(mirror.services.db, repo.id))[0]
    for key in (layout.index_key(first.key), layout.manifest_key(repo.id, 2, True)):
        (vault / key).unlink()
    assert [one.how is not None for one in await heal.heal(mirror.services, repo)] == [True, True]
    assert (await verify.verify(mirror.services, repo)).problems == ()
    await all_back(mirror, repo, moments)


class Killed(BaseException):
    """As a process that ends here."""


async def killed(step: str, work: Callable[[], Awaitable[object]], patched: pytest.MonkeyPatch) -> None:
    """Do this until the step; where it is not on the way, to its end."""

    def reached(name: str) -> None:
        if name == step:
            raise Killed

    with patched.context() as patch, suppress(Killed):
        patch.setattr(failpoints, "reached", reached)
        await work()


async def test_a_sealing_team_loses_nothing_by_a_crash_at_any_step(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.zoo()
    await seal(mirror)
    moments: list[object] = []
    for number, step in enumerate(failpoints.SYNC):
        work.commit("main", {"pushed": b"%d" % number})
        moments.append(work.refs())
        await killed(step, partial(mirror.backup, work), monkeypatch)
        repo = (await mirror.backup(work)).repo
    before = len(await parts.live(mirror.services.db, repo.id))
    for step in failpoints.COMPACT:
        await killed(step, partial(compact.compact, mirror.services, repo), monkeypatch)
    await compact.compact(mirror.services, repo)
    assert len(await parts.live(mirror.services.db, repo.id)) < before
    await prune.prune(mirror.services, timedelta(0))
    found = await verify.verify(mirror.services, repo)
    assert (found.snapshots, found.problems, found.strays) == (len(moments), (), ())
    assert not [key for key in await mirror.keys() if layout.repo_of(key) and not layout.is_sealed(key)]
    await all_back(mirror, repo, moments)


@pytest.mark.parametrize("step", ["sync: bundle stored", "sync: index stored", "sync: manifest stored"])
async def test_sealing_that_is_switched_on_after_a_crash_forks_no_history(
    mirror: Mirror, work: Work, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.zoo()

    await killed(step, partial(mirror.backup, work), monkeypatch)
    await seal(mirror)
    first = work.refs()
    work.commit("main")
    done = await mirror.backup(work)
    total = 2 if step == "sync: manifest stored" else 1
    assert done.snapshot and done.snapshot.number == total
    numbers = [found.number for key in await mirror.keys() if (found := layout.parse_manifest_key(key))]
    assert numbers == list(range(1, total + 1))
    verified = await verify.verify(mirror.services, done.repo)
    assert (verified.problems, verified.strays) == ((), ())
    assert await mirror.refs(done.repo, total) == work.refs() and (
        total == 1 or await mirror.refs(done.repo, 1) == first
    )
