"""What goes wrong outside: one clear line each, the right class, and everything as it was."""

import resource
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from mirror.backup import sync as syncing
from mirror.core.errors import (
    BadCredentials,
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    NotFound,
    Refused,
    RemoteGone,
    UsageError,
)
from mirror.core.formats import layout
from mirror.core.model import Remote, Secret
from mirror.discovery import add
from mirror.restore import moment, restore
from mirror.store import repos
from mirror.store.backup import history, parts
from mirror.upkeep import verify
from mirror.vault.bucket import Patience
from mirror.vault.s3 import S3Vault
from tests.parts.everref import Mirror
from tests.parts.faultproxy import FaultProxy, anything, deaf, fault_proxy, putting, says
from tests.parts.githttp import Fault, GitServer, serving
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.s3 import S3Server

CANARY = "canary-7f3b-secret-token"


async def fails(mirror: Mirror, address: str) -> EverrefError:
    """The failure of a backup, which is one line and tells no secret."""
    with pytest.raises(EverrefError) as caught:
        await mirror.backup(address)
    text = str(caught.value)
    assert "\n" not in text and CANARY not in text
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=404), RemoteGone),
        (Fault(status=500), NetworkError),
        (Fault(status=200, body=b"<html>hello</html>", headers={"Content-Type": "text/html"}), Refused),
        (Fault(status=301, headers={"Location": "https://elsewhere.example/x/info/refs"}), Refused),
        (Fault(cut_after=30), NetworkError),
    ],
    ids=["gone", "trouble", "a web page", "moved", "cut"],
)
async def test_a_remote_that_stops_being_there_changes_nothing_that_is_kept(
    mirror: Mirror, work: Work, git_server: GitServer, fault: Fault, kind: type[EverrefError]
) -> None:
    work.zoo()
    url = f"{git_server.url}/remote.git"
    done = await mirror.backup(url)
    keys, lines = (
        await mirror.keys(),
        [one async for one in history.changes(mirror.services.db, done.repo.id)],
    )
    git_server.faults["info/refs"] = fault
    assert isinstance(await fails(mirror, url), kind)
    assert await mirror.keys() == keys
    assert [one async for one in history.changes(mirror.services.db, done.repo.id)] == lines
    (row,) = await repos.overview(mirror.services.db)
    assert (row.state, row.snapshots) == ("failing", 1)
    git_server.faults.clear()
    work.commit()
    assert (await mirror.backup(url)).snapshot.number == 2
    assert (await repos.overview(mirror.services.db))[0].state == "protected"


async def test_a_pack_that_breaks_off_leaves_nothing(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.many_commits(200, size=1000)
    url = f"{git_server.url}/remote.git"
    git_server.faults["git-upload-pack"] = Fault(cut_after=60_000)
    assert isinstance(await fails(mirror, url), NetworkError)
    repo = await mirror.repo(url)
    assert not [key for key in await mirror.keys() if "bundles" in key or "snapshots" in key]
    assert await mirror.services.vault.unfinished() == []
    assert await parts.intents(mirror.services.db, repo.id) == []
    git_server.faults.clear()
    assert refs_of(await mirror.restored((await mirror.backup(url)).repo, 1)) == work.refs()


async def test_wrong_credentials_are_told_and_kept_out_of_every_message(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.commit()
    async with serving(tmp_path, credentials=("alice", CANARY)) as server:
        url = f"{server.url}/remote.git"
        host = urlsplit(url).netloc
        assert isinstance(await fails(mirror, url), BadCredentials)
        assert isinstance(await fails(mirror, f"http://alice:wrong@{host}/remote.git"), BadCredentials)
        done = await mirror.backup(f"http://alice:{CANARY}@{host}/remote.git")
        assert CANARY not in done.repo.url
        work.commit()
        assert (await mirror.backup(url)).snapshot.number == 2  # they were kept, sealed
        for key in await mirror.keys():
            assert CANARY.encode() not in await mirror.services.vault.get(key)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("http://127.0.0.1:9/nobody/home.git", NetworkError),
        ("https://does-not-exist.invalid/a/b", NetworkError),
        ("ssh://git:secret@example.org/a/b", UsageError),
        ("ssh://git@example.org", UsageError),
        ("ftp://example.org/a/b", UsageError),
        ("https://", UsageError),
        ("https:///a/b", UsageError),
        ("", UsageError),
        ("--upload-pack=touch PWN", EverrefError),
        ("/etc/hostname", EverrefError),
        ("/", EverrefError),
    ],
)
async def test_an_address_that_leads_nowhere_is_one_line(
    mirror: Mirror, address: str, kind: type[EverrefError]
) -> None:
    assert isinstance(await fails(mirror, address), kind)
    assert set(await mirror.keys()) <= {layout.MARKER}


async def test_private_addresses_are_refused_where_they_are_not_allowed(
    mirror: Mirror, work: Work, git_server: GitServer
) -> None:
    work.commit()
    guarded = replace(
        mirror.services, settings=replace(mirror.services.settings, allow_private_remotes=False)
    )
    port = urlsplit(git_server.url).port
    for address in (
        git_server.url + "/remote.git",
        str(work.path),
        f"https://127.0.0.1:{port}/remote.git",
        f"https://localhost:{port}/remote.git",
        f"https://[::1]:{port}/remote.git",
        f"https://[::ffff:127.0.0.1]:{port}/remote.git",
        f"https://2130706433:{port}/remote.git",
        f"https://0x7f.1:{port}/remote.git",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/a/b",
        "https://100.64.0.1/a/b",
        "https://[fd00::1]/a/b",
        "https://[64:ff9b::7f00:1]/a/b",
        "https://[2002:7f00:1::]/a/b",
    ):
        with pytest.raises((UsageError, NetworkError)):
            repo = await add.repo_for(guarded, address, None)
            await syncing.sync(guarded, repo.id)
    assert git_server.requests == []


async def test_a_shallow_upstream_is_refused_as_incomplete(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    work.commit()
    work.commit()
    shallow = tmp_path / "shallow.git"
    run_git("clone", "-q", "--bare", "--depth=1", f"file://{work.path}", shallow)
    failed = await fails(mirror, str(shallow))
    assert isinstance(failed, Corrupt) and "shallow" in str(failed)
    async with serving(tmp_path) as server:
        with pytest.raises(Corrupt, match="shallow"):
            await mirror.backup(f"{server.url}/shallow.git", "served")
    assert not [key for key in await mirror.keys() if "snapshots" in key]


async def test_a_full_disk_is_one_line_and_the_next_run_goes_well(mirror: Mirror, work: Work) -> None:
    work.commit()
    done = await mirror.backup(work)
    work.many_commits(60, size=40_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(LimitReached):
            await mirror.backup(work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = await mirror.backup(work)
    assert again.snapshot.number == 2
    found = await verify.verify(mirror.services, done.repo)
    assert (found.problems, found.strays) == ((), ())


async def test_what_is_not_there_is_told_with_what_is(mirror: Mirror, work: Work) -> None:
    work.commit()
    done = await mirror.backup(work)
    with pytest.raises(NotFound, match="everref repos"):
        await moment.repo_named(mirror.services, "nobody")
    with pytest.raises(NotFound, match="the first is #1"):
        await moment.snapshot_at(mirror.services, done.repo, done.snapshot.taken_at.replace(year=2001))
    with pytest.raises(NotFound, match="it has #1 to #1"):
        await moment.snapshot_at(mirror.services, done.repo, 7)


async def test_a_target_that_may_not_be_written_is_told(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    work.commit()
    done = await mirror.backup(work)
    Work(tmp_path / "target.git")
    async with serving(tmp_path, push=True, credentials=("bob", "right-password")) as server:
        target = Remote(f"{server.url}/target.git", Secret("bob", CANARY))
        with pytest.raises(BadCredentials) as caught:
            await restore.to_remote(mirror.services, done.repo, done.snapshot, target)
        assert CANARY not in str(caught.value)
        gone = Remote(f"{server.url}/nothing.git", Secret("bob", "right-password"))
        with pytest.raises(RemoteGone):
            await restore.to_remote(mirror.services, done.repo, done.snapshot, gone)
        good = Remote(f"{server.url}/target.git", Secret("bob", "right-password"))
        result = await restore.to_remote(mirror.services, done.repo, done.snapshot, good)
    assert result.verified and {ref.result for ref in result.refs} == {"created"}


@pytest_asyncio.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultProxy]:
    """The S3 server with somebody in between."""
    async with fault_proxy(s3_server.endpoint) as standing:
        yield standing


@pytest_asyncio.fixture
async def on_s3(
    mirror: Mirror, s3_server: S3Server, proxy: FaultProxy, s3_credentials: None
) -> AsyncIterator[Mirror]:
    """Everref with its vault in S3, behind the proxy, and little patience."""
    patience = Patience(connect=5, read=4, attempts=2, pause=0.01, enough=12)
    vault = await S3Vault.open(urlsplit(s3_server.url(endpoint=proxy.endpoint)), patience)
    try:
        yield Mirror(replace(mirror.services, vault=vault), mirror.clock, mirror.place)
    finally:
        await vault.aclose()


async def test_every_moment_comes_back_from_s3(on_s3: Mirror, work: Work) -> None:
    work.zoo()
    moments = [work.refs()]
    await on_s3.backup(work)
    work.commit("main", parents=[])
    moments.append(work.refs())
    done = await on_s3.backup(work)
    shutil.rmtree(on_s3.services.disk.pool(done.repo.id))
    for number, expected in enumerate(moments, 1):
        assert refs_of(await on_s3.restored(done.repo, number)) == expected
    found = await verify.verify(on_s3.services, done.repo)
    assert (found.problems, found.strays) == ((), ())


@pytest.mark.parametrize("fault", ["500", "silence"])
async def test_a_vault_that_fails_is_one_line_and_the_next_run_goes_well(
    on_s3: Mirror, work: Work, proxy: FaultProxy, fault: str
) -> None:
    work.commit()
    done = await on_s3.backup(work)
    keys = await on_s3.keys()
    expected = work.refs()
    work.commit()
    proxy.fail(
        putting if fault == "500" else anything, says(500, "InternalError") if fault == "500" else deaf
    )
    with pytest.raises(NetworkError):
        await on_s3.backup(work)
    proxy.heal()
    assert await on_s3.keys() == keys
    assert refs_of(await on_s3.restored(done.repo, 1)) == expected
    assert (await on_s3.backup(work)).snapshot.number == 2
    found = await verify.verify(on_s3.services, done.repo)
    assert (found.problems, found.strays) == ((), ())
    assert await parts.intents(on_s3.services.db, done.repo.id) == []
