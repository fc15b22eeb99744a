"""The vault in several stores: the copies follow, answer where the first does not, and are never believed."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import recover
from mirror.core import config
from mirror.core.config import Place, Settings
from mirror.core.errors import Damaged, EverrefError, NetworkError, Origin, UsageError
from mirror.core.formats import layout
from mirror.core.model import Repo
from mirror.core.progress import Silent
from mirror.jobs import run as jobbing
from mirror.jobs.runner import Runner
from mirror.notify import look
from mirror.restore import restore
from mirror.services import copies as services_copies
from mirror.services import failpoints
from mirror.services.copies import NAME
from mirror.services.lease import leased
from mirror.services.open import Services, open_services
from mirror.store.backup import history, parts
from mirror.store.jobs import jobs
from mirror.store.upkeep import copies as rows
from mirror.upkeep import copies, doctor, heal, outages, verify
from mirror.upkeep.moving import rebuild, replicate, switch
from mirror.upkeep.moving.rebuild import Incomplete
from mirror.vault.open import open_vault
from mirror.web import metrics
from tests.parts import faultproxy as faults
from tests.parts.everref import Clock, Mirror
from tests.parts.faultproxy import fault_proxy
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.s3 import S3Server


@asynccontextmanager
async def copied(
    tmp_path: Path, database: str, *places: Place, vault_url: str | None = None
) -> AsyncIterator[Mirror]:
    """Everref whose vault has copies: in one directory, unless said."""
    clock = Clock()
    settings = Settings(
        data=str(tmp_path / "data"),
        database_url=database,
        allow_private_remotes=True,
        secret_keys=("k" * 40,),
        vault_url=vault_url,
        vault_copies=places or (Place("offsite", f"file://{tmp_path}/offsite"),),
    )
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    async with open_services(settings, clock=clock) as services:
        yield Mirror(services, clock, place)


def files(root: Path) -> dict[str, bytes]:
    """Every object of a vault in a directory."""
    found = (Path(where) / name for where, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)): path.read_bytes() for path in found if path.name != NAME}


class Killed(BaseException):
    """What ends a process at once."""


async def standing(mirror: Mirror, name: str = "offsite") -> rows.Copy:
    (found,) = await rows.standing(mirror.services.db, [name])
    return found


async def kept(mirror: Mirror, work: Work, pushes: int = 2) -> Repo:
    work.zoo()
    for _ in range(pushes):
        done = await mirror.backup(work)
        work.commit()
    return done.repo


@pytest.mark.parametrize(
    "text, first, found",
    [
        (None, None, []),
        ("file:///mnt/usb", None, ["usb"]),
        ("offsite=s3://bucket/a/b?profile=eu, file:///B", None, ["offsite", "b"]),
        ("file:///mnt/vault", "main=file:///vault", ["vault"]),
        ("file:///a", "file:///a", "already"),
        ("file:///x/a,file:///y/a", None, "two stores are called a"),
        ("/mnt/usb", None, "must begin with file:// or s3://"),
    ],
)
def test_copies_are_named_by_the_setting_or_by_their_address(
    text: str | None, first: str | None, found: list[str] | str
) -> None:
    if isinstance(found, str):
        with pytest.raises(UsageError, match=found):
            config.copies_of(text, config.place(first, "VAULT_URL"))
    else:
        assert [one.name for one in config.copies_of(text, config.place(first, "VAULT_URL"))] == found


async def test_a_copy_gets_what_was_stored_before_it_and_all_that_comes_after(
    tmp_path: Path, database: str, work: Work, mirror: Mirror
) -> None:
    repo = await kept(mirror, work)
    async with copied(tmp_path, database) as here:
        await copies.due(here.services)
        first, copy = tmp_path / "data" / "vault", tmp_path / "offsite"
        assert files(copy) == files(first)
        await here.backup(work)
        assert files(copy) != files(first)
        behind = await standing(here)
        assert behind.waiting == 2 and behind.lag(here.clock.now) < timedelta(hours=1)  # bundle, manifest
        await copies.due(here.services)
        assert files(copy) == files(first)
        now = await standing(here)
        assert (now.waiting, now.oldest, now.damaged, now.away_since) == (0, None, 0, None)
        await here.services.vault.delete(f"{repo.id}/repo.json")
        await copies.due(here.services)
        assert files(copy) == files(first)
        assert [one.name for one in services_copies.all(here.services)] == ["vault", "offsite"]


async def test_a_store_with_a_profile_uses_its_credentials_and_names_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_credentials: None, weak_s3_server: S3Server
) -> None:
    keys = tmp_path / "credentials"
    lines = [
        f"{name.lower()} = {os.environ[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    keys.write_text("\n".join(["[offsite]", *lines]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with open_vault(f"{weak_s3_server.url()}&profile=offsite", "unused") as vault:
        await vault.put("a/b", b"bytes")
        assert await vault.get("a/b") == b"bytes"
    with pytest.raises(UsageError, match="the AWS files have no profile other"):
        async with open_vault(f"{weak_s3_server.url()}&profile=other", "unused"):
            pass


async def test_what_the_first_lost_or_damaged_is_read_from_the_copy_told_and_healed(
    tmp_path: Path, database: str, work: Work
) -> None:
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work, pushes=3)
        wanted = await here.refs(repo, 3)
        await copies.due(here.services)
        live = await parts.live(here.services.db, repo.id)
        first, vault = tmp_path / "data" / "vault", here.services.vault
        (first / live[0].key).write_bytes(b"x" * live[0].bytes)  # the pool is there: a restore empties it
        (first / live[1].key).unlink()
        (first / f"{repo.id}/snapshots/0000000002.json").unlink()
        shutil.rmtree(here.services.disk.root / "pools")
        assert await here.refs(repo, 3) == wanted
        assert len(await vault.get(f"{repo.id}/snapshots/0000000002.json")) > 100
        told = await standing(here)
        assert told.reads >= 3 and told.read_from is not None
        found = await verify.verify(here.services, repo)  # of the first alone
        assert len(found.problems) >= 2
        outcomes = await heal.heal(here.services, repo)
        assert {one.how for one in outcomes} == {"the copy offsite of the vault"} and len(outcomes) == 3
        assert (await verify.verify(here.services, repo)).problems == ()
        await copies.due(here.services)
        names = {name: data for name, data in files(first).items() if name != live[0].key}
        assert {name: data for name, data in files(tmp_path / "offsite").items() if name in names} == names


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_a_first_vault_that_does_not_answer_is_passed_over_and_remembered(
    how: str, tmp_path: Path, database: str, work: Work, s3_server: S3Server, s3_credentials: None
) -> None:
    async with fault_proxy(s3_server.endpoint) as proxy:
        url = s3_server.url(endpoint=proxy.endpoint)
        async with copied(tmp_path, database, vault_url=url) as here:
            repo = await kept(here, work)
            await copies.due(here.services)
            wanted = await here.refs(repo, 2)
            shutil.rmtree(here.services.disk.root / "pools")
            proxy.fail(faults.anything, faults.hang if how == "hangs" else faults.reset)
            asked = len(proxy.requests)
            assert await here.refs(repo, 2) == wanted
            assert len(proxy.requests) - asked < 10  # and not the wait for an answer for each object
            assert (await standing(here)).reads > 1
            proxy.heal()


async def test_a_copy_that_lies_is_not_believed_and_is_healed_from_the_first(
    tmp_path: Path, database: str, work: Work
) -> None:
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work)
        await copies.due(here.services)
        copy, first = tmp_path / "offsite", tmp_path / "data" / "vault"
        (part, *_) = await parts.live(here.services.db, repo.id)
        right = (copy / part.key).read_bytes()
        (copy / part.key).write_bytes(bytes([right[0] ^ 1]) + right[1:])
        forged = f"{repo.id}/snapshots/0000000003.json"
        (copy / forged).write_bytes((copy / f"{repo.id}/snapshots/0000000002.json").read_bytes())
        assert (await recover_only(here, repo)) == 2  # the manifest that only the copy has was not believed
        place = here.services.copies.copies[0]
        found = await copies.read_prefix(here.services, place, f"{repo.id}/")
        assert [part.key in one for one in found.problems] == [True]
        assert (await standing(here)).damaged == 1
        assert (await verify.verify(here.services, repo)).problems == ()  # the first is whole
        await copies.due(here.services)
        assert (copy / part.key).read_bytes() == right and (await standing(here)).damaged == 0
        compared = await copies.compare(here.services, place)
        assert (compared.missing, compared.extra, compared.returned) == (0, 1, ())
        (first / part.key).write_bytes(b"short")
        (copy / part.key).write_bytes(b"shorter still")
        await copies.compare(here.services, place)
        await copies.due(here.services)
        assert (copy / part.key).read_bytes() == b"shorter still"  # nothing proves either


async def test_a_copy_that_lies_while_it_is_read_restores_nothing_and_the_first_is_read_when_it_is_back(
    tmp_path: Path, database: str, work: Work
) -> None:
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work)
        await copies.due(here.services)
        wanted = await here.refs(repo, 2)
        shutil.rmtree(here.services.disk.root / "pools")
        first, copy, out = tmp_path / "data" / "vault", tmp_path / "offsite", tmp_path / "out"
        for part in await parts.live(here.services.db, repo.id):
            right = (copy / part.key).read_bytes()
            (copy / part.key).write_bytes(right[:-30] + bytes([right[-30] ^ 1]) + right[-29:])
        first.rename(tmp_path / "unmounted")
        last = await here.snapshot(repo, 2)
        with pytest.raises(EverrefError):
            await restore.to_directory(here.services, repo, last, out)
        assert not out.exists()
        (tmp_path / "unmounted").rename(first)
        await restore.to_directory(here.services, repo, last, out)
        assert refs_of(out) == wanted
        assert await here.services.db.fetchval("select count(*) from part where damaged_at is not null") == 0


async def test_a_bundle_of_what_the_first_damaged_is_made_from_the_copy(
    tmp_path: Path, database: str, work: Work
) -> None:
    work.commit()
    async with copied(tmp_path, database) as here:
        repo = (await here.backup(work)).repo
        await copies.due(here.services)
        (part,) = await parts.live(here.services.db, repo.id)
        places = [tmp_path / "data" / "vault" / part.key, tmp_path / "offsite" / part.key]
        right = places[0].read_bytes()
        places[0].write_bytes(right[:-30] + bytes([right[-30] ^ 1]) + right[-29:])
        last, out = await here.snapshot(repo, 1), tmp_path / "out.bundle"
        await restore.to_bundle(here.services, repo, last, out)
        assert run_git("bundle", "list-heads", str(out)) and (await standing(here)).reads > 0
        places[1].write_bytes(places[0].read_bytes())
        with pytest.raises(Damaged, match=part.key):
            await restore.to_bundle(here.services, repo, last, tmp_path / "other.bundle")
        places[0].write_bytes(right)  # healed, while the copy still lies
        await restore.to_bundle(here.services, repo, last, tmp_path / "other.bundle")


async def recover_only(here: Mirror, repo: Repo) -> int:
    """The number of the latest snapshot, after a run looked for those that were not recorded."""
    async with leased(here.services, repo) as lease:
        last = (await recover.recover(here.services, repo, lease)).last
    assert last is not None
    return last.number


@pytest.mark.parametrize(
    "there, says",
    [
        ({"vault.json": b'{"format":1,"vault":"7f000000-0000-4000-8000-000000000000"}'}, "is vault 7f000000"),
        ({"a.txt": b"mine"}, "has objects (a.txt) and no vault.json"),
        ({"vault.json": None, "copy.json": b'{"copy":"other"}'}, "is the copy other of this vault"),
    ],
    ids=["another-vault", "something-else", "another-copy"],
)
async def test_a_place_that_is_not_this_copy_is_never_written_to(
    there: dict[str, bytes | None], says: str, tmp_path: Path, database: str, work: Work, mirror: Mirror
) -> None:
    await kept(mirror, work)
    copy = tmp_path / "offsite"
    copy.mkdir()
    for name, data in there.items():
        (copy / name).write_bytes(data or (tmp_path / "data" / "vault" / name).read_bytes())
    before = files(copy)
    async with copied(tmp_path, database) as here:
        await copies.due(here.services)
        found = await standing(here)
        assert found.away is not None and says in found.away
        assert files(copy) == before
        await here.backup(work)  # which nothing delays


async def test_the_first_vault_named_again_as_its_copy_is_no_copy(
    tmp_path: Path, database: str, work: Work, mirror: Mirror
) -> None:
    await kept(mirror, work)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "vault")
    async with copied(tmp_path, database, Place("link", f"file://{tmp_path}/link")) as here:
        await copies.due(here.services)
        found = await standing(here, "link")
        assert found.away is not None and "same place as the first vault" in found.away


@pytest.mark.parametrize("step", failpoints.COPIES[:2])
async def test_a_copy_follows_whatever_was_killed_at_any_step(
    step: str, tmp_path: Path, database: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work)
        await copies.due(here.services)
        await here.backup(work)
        key = f"{repo.id}/notes/20260302T090000.000000Z-{'0' * 16}.json"
        await here.services.copies.put(key, b"{}")
        await copies.due(here.services)
        await here.services.copies.delete(key)
        await here.services.copies.put(key.replace("0" * 16, "1" * 16), b"{}")

        def reached(at: str) -> None:
            if at == step:
                raise Killed

        monkeypatch.setattr(failpoints, "reached", reached)
        with pytest.raises(Killed):
            await copies.follow(here.services, here.services.copies.copies[0])
        monkeypatch.undo()
        here.clock.now += timedelta(hours=1)  # what the killed one had claimed may be taken
        await copies.due(here.services)
        assert files(tmp_path / "offsite") == files(tmp_path / "data" / "vault")
        assert (await standing(here)).waiting == 0


async def test_a_write_that_nobody_said_was_done_is_copied_all_the_same(
    tmp_path: Path, database: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copied(tmp_path, database) as here:
        await kept(here, work)
        await copies.due(here.services)

        async def killed(*_: object) -> None:
            raise Killed

        monkeypatch.setattr(rows, "stored", killed)
        with pytest.raises(Killed):
            await here.services.copies.put("state/late.json", b"{}")
        monkeypatch.undo()
        here.clock.now += rows.BEGUN
        await copies.due(here.services)
        assert (tmp_path / "offsite" / "state" / "late.json").read_bytes() == b"{}"


async def test_the_first_vault_and_a_copy_change_places_under_pushes(
    tmp_path: Path, database: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copied(tmp_path, database) as here, copied(tmp_path, database) as other:
        repo = await kept(here, work)
        at = list[str]()
        monkeypatch.setattr(failpoints, "reached", at.append)
        level = switch._level

        async def pushing(*given: Any) -> None:  # another process syncs at every step
            work.commit()
            await other.backup(work)
            await level(*given)
            work.commit()
            await other.backup(work)

        monkeypatch.setattr(switch, "_level", pushing)
        assert await switch.switch(here.services, "offsite")
        assert not await switch.switch(here.services, "offsite")
        monkeypatch.undo()
        assert [one for one in at if one in failpoints.SWITCH] == list(failpoints.SWITCH)
        work.commit()
        last = await other.backup(work)  # its process learns of it as it writes
        assert last.snapshot is not None and last.snapshot.number == 7
        assert other.services.copies.places[0].name == "offsite"
        assert (tmp_path / "offsite" / f"{repo.id}/snapshots/0000000007.json").exists()
        await copies.due(here.services)
        assert files(tmp_path / "offsite") == files(tmp_path / "data" / "vault")
        assert (await verify.verify(here.services, repo)).problems == ()
    async with copied(tmp_path, database) as again:  # with the same settings as before
        assert again.services.copies.places[0].name == "offsite"
        assert await again.refs(repo, 7) == refs_of(work.path)
    settled = Place("vault", f"file://{tmp_path}/data/vault")
    with pytest.raises(UsageError, match="made offsite the first vault, which the settings do not name"):
        async with copied(tmp_path, database, settled, vault_url=f"file://{tmp_path}/elsewhere"):
            pass


@pytest.mark.parametrize("step", failpoints.SWITCH)
async def test_a_switch_that_is_killed_leaves_one_first_vault_and_can_be_done_again(
    step: str, tmp_path: Path, database: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work)

        def reached(at: str) -> None:
            if at == step:
                raise Killed

        async def nothing(*_: object) -> None:
            """What a killed process does to end its switch."""

        monkeypatch.setattr(failpoints, "reached", reached)
        monkeypatch.setattr(rows, "cancel_switch", nothing)
        with pytest.raises(Killed):
            await switch.switch(here.services, "offsite")
        monkeypatch.undo()
        work.commit()
        await here.backup(work)
        assert await switch.switch(here.services, "offsite") is (step != "switch: done")
        await copies.due(here.services)
        assert files(tmp_path / "offsite") == files(tmp_path / "data" / "vault")
        assert (await verify.verify(here.services, repo)).problems == ()


async def test_a_replica_is_fetched_without_a_database_and_refuses_a_rewritten_history(
    tmp_path: Path, mirror: Mirror, work: Work
) -> None:
    repo = await kept(mirror, work)
    source, target = f"file://{tmp_path}/data/vault", f"file://{tmp_path}/replica"
    first, replica = tmp_path / "data" / "vault", tmp_path / "replica"

    async def fetched() -> replicate.Replicated:
        async with open_vault(source, "unused", make=False) as there, open_vault(target, "unused") as here:
            return await replicate.replicate(there, here, Silent())

    done = await fetched()
    assert (done.repos, done.snapshots, done.problems) == (1, 2, []) and done.as_of is not None
    assert files(replica) == files(first)
    again = await fetched()
    assert (again.objects, again.snapshots) == (0, 2)
    await mirror.backup(work)
    (part, *_) = (one for one in files(first).keys() - files(replica).keys() if one.endswith(".bundle"))
    whole = (first / part).read_bytes()
    (first / part).chmod(0o600)
    (first / part).write_bytes(whole[:-1] + b"?")
    assert [part in one for one in (await fetched()).problems] == [True]
    (first / part).write_bytes(whole)
    assert (await fetched()).problems == [] and files(replica) == files(first)
    name = f"{repo.id}/snapshots/0000000003.json"
    (first / name).write_bytes((first / name).read_bytes().replace(b'"manual"', b'"sweep" '))
    before = files(replica)
    (problem,) = (await fetched()).problems
    assert "was rewritten" in problem and files(replica) == before
    shutil.rmtree(first / str(repo.id))
    assert (await fetched()).problems and files(replica) == before  # nothing is deleted


async def told_of_offsite(services: Services) -> list[str]:
    """Look what people should hear of, and say what they have heard of the copy."""
    await look.look(services)
    titles = [one["title"] for one in await services.db.fetch("select title from alarm where told_on")]
    return [one for one in titles if "offsite" in one]


async def test_what_is_wrong_with_a_copy_is_said_by_doctor_messages_and_metrics(
    tmp_path: Path, database: str, work: Work
) -> None:
    async with copied(tmp_path, database) as here:
        await kept(here, work)
        services = here.services
        await copies.due(services)
        assert [one.ok for one in await doctor.doctor(services) if one.what == "copy offsite"] == [True]
        (tmp_path / "offsite").rename(tmp_path / "gone")
        here.clock.now += timedelta(hours=2)
        work.commit()
        await here.backup(work)  # which nothing delays
        await copies.due(services)
        here.clock.now += timedelta(hours=1)
        assert await told_of_offsite(services) == ["The copy offsite of the vault is away"]
        (found,) = [one for one in await doctor.doctor(services) if one.what == "copy offsite"]
        assert not found.ok and "away for 1" in found.value
        assert 'everref_copy_away{copy="offsite"} 1.0' in (await metrics.told(services)).decode()
        (tmp_path / "gone").rename(tmp_path / "offsite")
        await copies.due(services)
        assert 'everref_copy_away{copy="offsite"} 0.0' in (await metrics.told(services)).decode()
        here.clock.now += timedelta(hours=1)  # what could not be copied is tried again
        await copies.due(services)
        assert files(tmp_path / "offsite") == files(tmp_path / "data" / "vault")


async def test_a_copy_that_nobody_brings_up_to_date_is_said_to_be_behind(
    tmp_path: Path, database: str, work: Work
) -> None:
    async with copied(tmp_path, database) as here:
        await kept(here, work)
        services = here.services
        await copies.due(services)
        assert (await standing(here)).state(here.clock.now) == ("has everything", True)
        await here.backup(work)
        assert "behind" in (await standing(here)).state(here.clock.now)[0]
        here.clock.now += timedelta(hours=1)
        assert await told_of_offsite(services) == ["The copy offsite of the vault is behind"]
        (found,) = [one for one in await doctor.doctor(services) if one.what == "copy offsite"]
        assert not found.ok and "behind" in found.value
        await copies.due(services)
        assert (await standing(here)).state(here.clock.now) == ("has everything", True)


async def test_every_byte_of_a_copy_is_read_back_within_the_period_and_no_faster(
    tmp_path: Path, database: str, work: Work
) -> None:
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work)
        await copies.due(here.services)
        for _ in range(4):
            await copies.read_again(here.services)
            here.clock.now += timedelta(hours=1)
        found = await here.services.db.fetch("select prefix, objects from copy_reading order by 1")
        assert {one["prefix"] for one in found} == {f"{repo.id}/", "evidence/", "state/"}
        assert max(one["objects"] for one in found) == len(files(tmp_path / "offsite" / str(repo.id)))
        first = (await standing(here)).read_at
        assert first is not None
        here.clock.now += timedelta(days=10)
        await copies.read_again(here.services)
        assert (await standing(here)).read_at == first  # it rests for half of the period
        here.clock.now += timedelta(days=10)
        for _ in range(3):
            await copies.read_again(here.services)
            here.clock.now += timedelta(hours=1)
        again = (await standing(here)).read_at
        assert again is not None and again - first > timedelta(days=19)


async def test_while_the_first_vault_is_away_a_restore_is_done_and_all_else_waits(
    tmp_path: Path, database: str
) -> None:
    async with copied(tmp_path, database) as mirror:
        services, work = mirror.services, Work(tmp_path / "work")
        work.commit()
        repo = (await mirror.backup(work)).repo
        await copies.due(services)
        target = tmp_path / "target.git"
        work.git("init", "--quiet", "--bare", str(target))
        (tmp_path / "data" / "vault").rename(tmp_path / "unmounted")
        shutil.rmtree(services.disk.pool(repo.id))
        assert await outages.met(services, NetworkError("it is away", origin=Origin.VAULT))
        waiting = await jobbing.ask(services, repo.id, "verify", {})
        asked = await jobbing.ask(services, repo.id, "restore", {"to": str(target), "snapshot": 1})
        runner = Runner(services)
        await runner.work_off()
        done, left = await jobs.by_id(services.db, asked.id), await jobs.by_id(services.db, waiting.id)
        assert done and left and (done.state, done.failure, left.state) == ("done", None, "queued")
        kept = await history.refs_at(services.db, repo.id, 1)
        assert {name: refs_of(target).get(name) for name in kept} == kept

        (tmp_path / "offsite").rename(tmp_path / "unmounted-too")
        with pytest.raises(EverrefError):
            await services.vault.get(layout.MARKER)
        again = await jobbing.ask(services, repo.id, "restore", {"to": str(target), "snapshot": 1})
        await runner.work_off()
        found = await jobs.by_id(services.db, again.id)
        assert found and found.state == "queued"


async def test_a_first_vault_that_came_back_older_forks_no_history_after_the_database_was_lost(
    tmp_path: Path, database: str, empty_database: str, work: Work
) -> None:
    first = tmp_path / "data" / "vault"
    async with copied(tmp_path, database) as here:
        repo = await kept(here, work)
        shutil.copytree(first, tmp_path / "older")
        await here.backup(work)  # 3
        wanted = work.refs()
        await copies.due(here.services)
    shutil.rmtree(first)
    (tmp_path / "older").rename(first)
    shutil.rmtree(tmp_path / "data" / "pools")
    work.commit()
    async with copied(tmp_path, empty_database) as again:
        with pytest.raises(Incomplete, match="the vault is older than its copy; .*everref replicate"):
            await rebuild.rebuild(again.services)
        with pytest.raises(Damaged, match="the copy offsite has .*/0000000003.json, and the vault has not"):
            await again.backup(work)
        places = [f"file://{tmp_path}/offsite", f"file://{first}"]
        async with open_vault(places[0], "unused") as there, open_vault(places[1], "unused") as here:
            assert (await replicate.replicate(there, here, Silent())).problems == []
        assert (await rebuild.rebuild(again.services)).repos[0].snapshots == 3
        assert (await again.backup(work)).snapshot.number == 4
        assert await again.refs(repo, 3) == wanted
