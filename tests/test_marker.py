"""The vault has an identity: what is in its place while it is away is never taken for it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from mirror.core.errors import Corrupt, EverrefError, NetworkError, Origin, Refused
from mirror.core.formats import layout, marker
from mirror.core.model import Refs, Repo
from mirror.jobs.runner import Runner
from mirror.services.open import Services, open_services
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.upkeep import outages as rows
from mirror.store.upkeep import vaults
from mirror.upkeep import doctor, outages, verify
from mirror.upkeep.moving import rebuild
from mirror.vault.directory import DirectoryVault
from mirror.vault.s3 import S3Vault
from tests.parts.everref import Mirror
from tests.parts.repos import Work
from tests.parts.s3 import S3Server

OTHER = UUID("0e820194-0000-4000-8000-000000000000")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether something is back asks it."""
    monkeypatch.setattr(outages, "LOOK_SECONDS", 0)


@pytest.fixture
def root(mirror: Mirror) -> Path:
    """The vault's directory."""
    return Path(mirror.services.settings.data, "vault")


@asynccontextmanager
async def started_anew(mirror: Mirror, database: str | None = None) -> AsyncIterator[Services]:
    """Another process of the same installation, or one with this database."""
    settings = mirror.services.settings
    if database:
        settings = replace(settings, database_url=database)
    async with open_services(settings, clock=mirror.clock) as services:
        yield services


async def moments(mirror: Mirror, repo: Repo) -> list[Refs]:
    """The refs of every snapshot, each restored out of the vault."""
    latest = await snapshots.latest(mirror.services.db, repo.id)
    assert latest
    return [await mirror.refs(repo, number) for number in range(1, latest.number + 1)]


def put_nothing(root: Path) -> None:
    """The directory is renamed, or its disk is gone with its mount point."""


def put_an_empty_directory(root: Path) -> None:
    """The disk is not mounted: this is its mount point."""
    root.mkdir()


def put_another_vault(root: Path) -> None:
    """Another disk is mounted there."""
    root.mkdir()
    (root / layout.MARKER).write_bytes(marker.encode(OTHER))


IN_ITS_PLACE = pytest.mark.parametrize(
    ("put", "words"),
    [
        (put_nothing, "no longer exists; mount it"),
        (put_an_empty_directory, "check that its disk is mounted"),
        (put_another_vault, f"is vault {OTHER}, but the database belongs to vault"),
    ],
    ids=["renamed", "mount point", "another"],
)


def found_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*")) if root.is_dir() else []


@pytest.fixture(params=[False, True], ids=["at work", "started anew"])
def restarts(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the worker is started anew while the vault is away."""
    yield request.param


@IN_ITS_PLACE
async def test_what_is_in_the_place_of_a_vault_that_is_away_is_left_alone_and_pushes_wait_until_it_is_back(
    mirror: Mirror, work: Work, root: Path, put: Callable[[Path], None], words: str, restarts: bool
) -> None:
    services = mirror.services
    work.commit()
    repo = (await mirror.backup(work)).repo
    shutil.move(root, mirror.place / "away")
    put(root)
    left = found_in(root)
    work.commit()
    await repos.request_sync(services.db, repo.id, mirror.clock())

    if restarts:
        async with started_anew(mirror) as anew:
            await Runner(anew).work_off()
    else:
        await Runner(services).work_off()
    assert found_in(root) == left
    (outage,) = await rows.now(services.db)
    assert outage.origin is Origin.VAULT and words in outage.message
    row = await repos.overview_of(services.db, repo.id)
    assert (row.state, row.failure, row.snapshots) == ("behind", None, 1)
    assert not await outages.look(services)

    shutil.rmtree(root, ignore_errors=True)
    shutil.move(mirror.place / "away", root)
    assert await outages.look(services)
    await Runner(services).work_off()
    assert (await repos.overview_of(services.db, repo.id)).state == "protected"
    assert (await verify.verify(services, repo)).problems == ()
    before, after = await moments(mirror, repo)
    assert before != after == work.refs()


@IN_ITS_PLACE
async def test_while_it_is_away_any_command_starts_reads_the_database_and_makes_nothing(
    mirror: Mirror, work: Work, root: Path, put: Callable[[Path], None], words: str
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    shutil.move(root, mirror.place / "away")
    put(root)
    left = found_in(root)
    async with started_anew(mirror) as anew:
        assert [row.repo.id for row in await repos.overview(anew.db)] == [repo.id]
        findings = await doctor.doctor(anew)
        assert [one.ok for one in findings if one.what == "vault"] == [False]
        assert any(words in one.value for one in findings if one.what == "vault")
        for ask in (
            anew.vault.put("a/b", b""),
            anew.vault.get(layout.README),
            anew.vault.delete("a"),
            anew.vault.probe(),
        ):
            with pytest.raises((NetworkError, Refused), match=words.replace("?", r"\?")) as raised:
                await ask
            assert raised.value.origin is Origin.VAULT
    assert found_in(root) == left


async def test_a_disk_that_goes_between_two_looks_gets_no_object_and_nothing_is_called_missing(
    tmp_path: Path,
) -> None:
    root, identity = tmp_path / "vault", uuid4()
    vault = await DirectoryVault.open(root)
    await vault.put(layout.MARKER, marker.encode(identity))
    await vault.put("a/b", b"kept")
    vault.expect(identity)
    await vault.put("a/c", b"kept")
    shutil.move(root, tmp_path / "away")
    root.mkdir()
    for ask in (
        vault.put("a/d", b""),
        vault.get("a/b"),
        vault.stat("a/b"),
        vault.delete("a/b"),
        vault.unfinished(),
        vault.probe(),
    ):
        with pytest.raises(NetworkError, match="Nothing is written there"):
            await ask
    with pytest.raises(NetworkError):
        _ = [stat async for stat in vault.list()]
    with pytest.raises(NetworkError):
        async with vault.create("a/d") as writer:
            await writer.commit()
    assert found_in(root) == []


async def test_an_upload_that_was_begun_before_the_disk_went_is_not_committed_elsewhere(
    tmp_path: Path,
) -> None:
    root, identity = tmp_path / "vault", uuid4()
    vault = await DirectoryVault.open(root)
    await vault.put(layout.MARKER, marker.encode(identity))
    vault.expect(identity)
    with pytest.raises(NetworkError):
        async with vault.create("a/b") as writer:
            await writer.write(b"bytes")
            shutil.move(root, tmp_path / "away")
            root.mkdir()
            await writer.commit()
    assert found_in(root) == []


async def test_a_worker_notices_at_its_start_that_the_vault_is_away(
    mirror: Mirror, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mirror.services.vault.probe()
    shutil.move(root, mirror.place / "away")
    put_an_empty_directory(root)
    looked = asyncio.Event()
    real = outages.look

    async def look(services: Services) -> bool:
        try:
            return await real(services)
        finally:
            looked.set()

    monkeypatch.setattr(outages, "look", look)
    watching = asyncio.create_task(outages.watch(mirror.services, lambda: None))
    await looked.wait()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert [one.origin for one in await rows.now(mirror.services.db)] == [Origin.VAULT]


async def forget_identity(mirror: Mirror, root: Path) -> None:
    """As an installation is that was begun before vaults had one."""
    await mirror.services.db.execute("delete from vault_identity")
    (root / layout.MARKER).unlink()


async def test_an_older_installation_gives_its_vault_an_identity_once(
    mirror: Mirror, work: Work, root: Path
) -> None:
    work.commit()
    await mirror.backup(work)
    await forget_identity(mirror, root)
    async with started_anew(mirror) as anew:
        await anew.vault.probe()
        known = await vaults.known(anew.db)
        assert known and (root / layout.MARKER).read_bytes() == marker.encode(known)
        await anew.vault.probe()
        assert await vaults.known(anew.db) == known


@IN_ITS_PLACE
async def test_an_older_installation_recognises_no_vault_without_its_snapshots(
    mirror: Mirror, work: Work, root: Path, put: Callable[[Path], None], words: str
) -> None:
    work.commit()
    await mirror.backup(work)
    await forget_identity(mirror, root)
    shutil.move(root, mirror.place / "away")
    put(root)
    left = found_in(root)
    async with started_anew(mirror) as anew:
        with pytest.raises((NetworkError, Refused), match="none of the snapshots|no longer exists"):
            await anew.vault.put("a/b", b"")
        assert await vaults.known(anew.db) is None
    assert found_in(root) == left


async def test_two_that_begin_at_once_agree_on_one_identity(mirror: Mirror, root: Path) -> None:
    async with started_anew(mirror) as one, started_anew(mirror) as other:
        await asyncio.gather(
            *(services.vault.put(f"a/{n}", b"") for n, services in enumerate((one, other) * 3))
        )
        known = await vaults.known(one.db)
    assert known and (root / layout.MARKER).read_bytes() == marker.encode(known)


async def test_two_databases_that_begin_a_vault_at_once_take_the_one_that_won(
    mirror: Mirror, root: Path, empty_database: str
) -> None:
    async with started_anew(mirror, empty_database) as other:
        await asyncio.gather(mirror.services.vault.probe(), other.vault.probe())
        assert await vaults.known(mirror.services.db) == await vaults.known(other.db) is not None


async def test_a_run_that_was_killed_before_the_marker_was_written_is_gone_on_with(
    mirror: Mirror, root: Path
) -> None:
    proposed = await vaults.propose(mirror.services.db, uuid4())
    await mirror.services.vault.probe()
    assert await vaults.known(mirror.services.db) == proposed
    assert marker.decode((root / layout.MARKER).read_bytes()) == proposed


async def test_a_rebuild_into_an_empty_database_takes_over_the_vaults_identity(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    await mirror.backup(work)
    async with started_anew(mirror, empty_database) as anew:
        assert [one.snapshots for one in (await rebuild.rebuild(anew)).repos] == [1]
        assert await vaults.known(anew.db) == await vaults.known(mirror.services.db) is not None


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{}", b'{"vault":"x"}', b'{"vault":1}', b"\xff"], ids=repr)
def test_a_marker_that_cannot_be_read_is_damaged(damaged: bytes) -> None:
    with pytest.raises(Corrupt, match="restore it from a copy"):
        marker.decode(damaged)


async def test_a_bucket_that_was_emptied_is_a_vault_that_is_away(
    mirror: Mirror, s3_server: S3Server, s3_credentials: None, empty_database: str
) -> None:
    url = s3_server.url()
    settings = replace(mirror.services.settings, vault_url=url, database_url=empty_database)
    async with open_services(settings, clock=mirror.clock) as services:
        await services.vault.put("a/b", b"")
        bare = await S3Vault.open(urlsplit(url))
        try:
            await bare.delete("a/b")
            kept = await bare.get(layout.MARKER)
            await bare.delete(layout.MARKER)
            assert await outages.met(services, EverrefError("away", origin=Origin.VAULT))
            (outage,) = await rows.now(services.db)
            assert "has no vault.json" in outage.message
            async with open_services(settings, clock=mirror.clock) as anew:
                for at_work in (services, anew):
                    with pytest.raises(NetworkError, match="has no vault.json"):
                        await at_work.vault.put("a/c", b"")
            assert [stat.key async for stat in bare.list()] == []
            await bare.put(layout.MARKER, kept)
            assert await outages.look(services)
        finally:
            await bare.aclose()
