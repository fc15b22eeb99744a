"""Whose failure it is: every edge says so, and only what the source said makes an end of a push."""

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from mirror.core.config import GITHUB
from mirror.core.errors import (
    Corrupt,
    EverrefError,
    LimitReached,
    NetworkError,
    NoSuchObject,
    Origin,
    Refused,
    whose,
)
from mirror.core.model import Remote
from mirror.forges import fields, oauth
from mirror.forges.http import Http
from mirror.git import pack, push, upstream, view
from mirror.git.disk import disk_error
from mirror.git.push import Destination
from mirror.git.run import Git, GitFailed, explain
from mirror.restore import restore
from mirror.store import database
from mirror.vault.contract import Writer
from mirror.vault.directory import DirectoryVault
from mirror.vault.edge import Edge
from tests.parts.everref import Mirror
from tests.parts.repos import MAIN, Work
from tests.test_rescue import Garden, garden

__all__ = ["garden"]
NOBODY = "https://127.0.0.1:9/team/app.git"  # discard: no git host answers there


# Every edge

Ask = Callable[[Mirror], Awaitable[object]]


async def ask_the_source(mirror: Mirror) -> object:
    async with upstream.connect(mirror.services.git, Remote(NOBODY), allow_private=True) as source:
        return await source.ls_refs()


async def ask_a_source_that_is_forbidden(mirror: Mirror) -> object:
    async with upstream.connect(mirror.services.git, Remote(NOBODY), allow_private=False) as source:
        return await source.ls_refs()


async def fetch_from_a_source_that_is_gone(mirror: Mirror) -> object:
    async with upstream.connect(
        mirror.services.git, Remote(str(mirror.place / "gone.git")), allow_private=True
    ) as source:
        return [chunk async for chunk in source.fetch([], [], mirror.services.progress)]


async def list_the_target(mirror: Mirror) -> object:
    return await restore.listed_at(mirror.services, Remote(NOBODY))


async def push_to_the_target(mirror: Mirror) -> object:
    async with view.scratch_view(None, mirror.place, object_format="sha1") as empty:
        listed = {MAIN: b"1" * 40}
        return await push.push(
            mirror.services.git,
            empty,
            Destination(Remote(NOBODY), ["127.0.0.1"], listed),  # type: ignore[arg-type]
            {},
            mirror.services.progress,
            [MAIN],
        )


async def ask_the_forge(mirror: Mirror) -> object:
    http = Http(GITHUB, "https://127.0.0.1:9", allow_private=True, patience=0, clock=mirror.clock)
    try:
        return await http.ask("POST", "/user")
    finally:
        await http.close()


async def read_a_forges_nonsense(_: Mirror) -> object:
    return fields.row("no table", "forge.example")


async def read_a_forges_tokens(_: Mirror) -> object:
    return oauth.tokens(GITHUB, 500, None, datetime.now(UTC))


async def read_what_the_vault_lacks(mirror: Mirror) -> object:
    return await mirror.services.vault.get("no/such")


async def stream_what_the_vault_lacks(mirror: Mirror) -> object:
    return [chunk async for chunk in mirror.services.vault.read("no/such")]


def take_the_vault_away(mirror: Mirror) -> None:
    os.rename(os.path.join(mirror.services.settings.data, "vault"), mirror.place / "elsewhere")


async def write_to_a_vault_that_is_gone(mirror: Mirror) -> object:
    take_the_vault_away(mirror)
    async with mirror.services.vault.create("a/key"):
        return None


async def list_a_vault_that_is_gone(mirror: Mirror) -> object:
    take_the_vault_away(mirror)
    return [stat async for stat in mirror.services.vault.list()]


async def connect_to_no_database(_: Mirror) -> object:
    return await database.connect("postgresql://nobody@127.0.0.1:9/none")


async def ask_a_database_that_is_full(_: Mirror) -> object:
    raise database.explained(asyncpg.DiskFullError("no room"))


async def ask_a_database_wrongly(_: Mirror) -> object:
    raise database.explained(asyncpg.PostgresSyntaxError("no statement"))


async def write_to_a_full_disk(_: Mirror) -> object:
    raise disk_error(Path("pool"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


async def run_git_on_a_full_disk(_: Mirror) -> object:
    raise explain(GitFailed("index-pack", 128, "fatal: write error: No space left on device"))


async def run_no_git(mirror: Mirror) -> object:
    return await Git("no-such-git", home=str(mirror.place)).run("version")


EDGES: Final[Mapping[Origin, Sequence[Ask]]] = {
    Origin.SOURCE: (ask_the_source, ask_a_source_that_is_forbidden, fetch_from_a_source_that_is_gone),
    Origin.TARGET: (list_the_target, push_to_the_target),
    Origin.FORGE: (ask_the_forge, read_a_forges_nonsense, read_a_forges_tokens),
    Origin.VAULT: (
        read_what_the_vault_lacks,
        stream_what_the_vault_lacks,
        write_to_a_vault_that_is_gone,
        list_a_vault_that_is_gone,
    ),
    Origin.DATABASE: (connect_to_no_database, ask_a_database_that_is_full),
    Origin.DISK: (write_to_a_full_disk, run_git_on_a_full_disk),
    Origin.OURS: (ask_a_database_wrongly, run_no_git),
}


@pytest.mark.parametrize(
    ("ask", "origin"),
    [
        pytest.param(ask, origin, id=getattr(ask, "__name__", "?"))
        for origin, asks in EDGES.items()
        for ask in asks
    ],
)
async def test_every_edge_says_whose_failure_it_met(mirror: Mirror, ask: Ask, origin: Origin) -> None:
    with pytest.raises(EverrefError) as failed:
        await ask(mirror)
    assert failed.value.origin is origin


async def test_an_upload_does_not_take_the_blame_for_what_fails_while_it_is_open(tmp_path: Path) -> None:
    vault = Edge(DirectoryVault(tmp_path))
    with pytest.raises(NetworkError) as failed:
        async with vault.create("a/key"):
            raise NetworkError("the remote stopped answering")
    failed.value.came_from(Origin.SOURCE)
    assert failed.value.origin is Origin.SOURCE
    with pytest.raises(NoSuchObject):
        await vault.get("a/key")


def test_who_was_nearer_to_a_failure_knows_better() -> None:
    with pytest.raises(Corrupt) as failed, whose(Origin.VAULT), whose(Origin.DISK):
        raise Corrupt("half a file")
    assert failed.value.origin is Origin.DISK
    with pytest.raises(Refused) as other, whose(Origin.VAULT, Corrupt):
        raise Refused("not this kind")
    assert other.value.origin is Origin.OURS


# Pushes that were overwritten


def at_the_vault(error: Callable[[], EverrefError]) -> Callable[[pytest.MonkeyPatch], None]:
    """The first upload fails."""

    def fail(patch: pytest.MonkeyPatch) -> None:
        real, failures = DirectoryVault.create, iter([error])

        @asynccontextmanager
        async def create(self: DirectoryVault, key: str) -> AsyncIterator[Writer]:
            for failure in failures:
                raise failure()
            async with real(self, key) as writer:
                yield writer

        patch.setattr(DirectoryVault, "create", create)

    return fail


def on_the_disk(patch: pytest.MonkeyPatch) -> None:
    """The first pack that comes finds no room."""
    real, failures = pack.index, iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])

    async def index(*args: object, **options: object) -> pack.Indexed:
        for failure in failures:
            raise disk_error(Path("scratch"), failure)
        return await real(*args, **options)  # type: ignore[arg-type]

    patch.setattr(pack, "index", index)


@pytest.mark.parametrize(
    "fail",
    [
        pytest.param(at_the_vault(lambda: NetworkError("the vault stopped answering")), id="vault away"),
        pytest.param(at_the_vault(lambda: LimitReached("the vault is full")), id="vault full"),
        pytest.param(at_the_vault(lambda: Corrupt("bytes change on their way (BadDigest)")), id="BadDigest"),
        pytest.param(at_the_vault(lambda: Refused("refused (KMS.ThrottlingException)")), id="KMS"),
        pytest.param(on_the_disk, id="disk full"),
    ],
)
async def test_a_failure_of_ours_gives_no_push_up(
    garden: Garden, monkeypatch: pytest.MonkeyPatch, fail: Callable[[pytest.MonkeyPatch], None]
) -> None:
    await garden.push()
    await garden.push(parents=[])
    garden.mirror.clock.now += timedelta(days=2)  # longer than a push that cannot be asked for is waited for
    fail(monkeypatch)
    with pytest.raises(EverrefError):
        await garden.sync()
    assert await garden.lost() == []
    assert (await garden.sync()).snapshot.number == 3
    assert await garden.maps() == garden.moments
    assert await garden.lost() == []


async def test_a_pool_that_this_disk_broke_gives_no_push_up(
    garden: Garden, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    await garden.push()
    await garden.push(parents=[])
    real, breaking = pack.make_thin, iter([True])
    pool = garden.mirror.services.disk.pool(garden.repo.id)

    async def make_thin(*args: object) -> AsyncIterator[bytes]:
        for _ in breaking:  # the disk loses a pack of the pool just now
            for file in pool.glob("objects/pack/*.pack"):
                file.chmod(0o644)
                file.write_bytes(file.read_bytes()[:-30])
            raise Corrupt("a history with missing or broken objects cannot be packed")
        async for chunk in real(*args):  # type: ignore[arg-type]
            yield chunk

    monkeypatch.setattr(pack, "make_thin", make_thin)
    assert (await garden.sync()).snapshot.number == 3
    assert await garden.maps() == garden.moments
    assert await garden.lost() == []
