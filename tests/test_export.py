"""Bundles to download: in the vault for a day, whole or not at all, under names that nobody guesses."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from mirror.core.errors import Locked, NetworkError, OverLimit
from mirror.core.formats import layout
from mirror.core.model import Repo, Snapshot
from mirror.jobs import run as jobbing
from mirror.restore import export, restore
from mirror.store.discovery import remotes
from mirror.store.people import quotas
from mirror.store.restore.restores import Cause
from mirror.upkeep import prune, verify
from mirror.upkeep.moving import rebuild
from mirror.vault import open_vault
from mirror.vault.directory import DirectoryVault
from mirror.web.pages.repos.download import part_of
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of, run_git
from tests.parts.s3 import S3Server


async def exports(mirror: Mirror) -> list[str]:
    return [stat.key async for stat in mirror.services.vault.list(layout.EXPORTS)]


async def backed_up(mirror: Mirror, work: Work) -> tuple[Repo, Snapshot]:
    work.commit()
    done = await mirror.backup(work)
    return done.repo, done.snapshot


async def made(mirror: Mirror, repo: Repo, snapshot: Snapshot, *globs: str) -> export.Export:
    cause = Cause((await jobbing.ask(mirror.services, repo.id, "bundle", {})).id)
    done, found = await export.make(mirror.services, repo, snapshot, cause, restore.What(globs))
    assert done.verified
    return found


@pytest.mark.parametrize("globs", [(), ("refs/heads/*",)], ids=["spliced", "packed"])
async def test_an_interrupted_export_leaves_nothing_to_read(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch, globs: tuple[str, ...]
) -> None:
    repo, snapshot = await backed_up(mirror, work)
    honest = restore._bundle

    async def broken(*parts: object) -> AsyncIterator[bytes]:
        async for chunk in honest(*parts):  # type: ignore[arg-type]
            yield chunk
        raise NetworkError("the line broke")

    with monkeypatch.context() as patched:
        patched.setattr(restore, "_bundle", broken)
        with pytest.raises(NetworkError):
            await made(mirror, repo, snapshot, *globs)
    assert await exports(mirror) == []
    assert await mirror.services.vault.unfinished(layout.EXPORTS) == []
    found = await made(mirror, repo, snapshot, *globs)
    assert await exports(mirror) == [found.key]


async def test_a_store_hands_a_bundle_over_by_itself(
    mirror: Mirror, work: Work, s3_server: S3Server, s3_credentials: None, tmp_path: Path
) -> None:
    async with open_vault(f"{s3_server.url()}&presign=on", "unused") as vault:
        mirror.services = replace(mirror.services, vault=vault)
        found = await made(mirror, *await backed_up(mirror, work))
        link = await export.link(mirror.services, found, "acme-api-1.bundle")
        assert link
        async with aiohttp.ClientSession() as browser, browser.get(link) as answer:
            (tmp_path / "x.bundle").write_bytes(await answer.read())
            assert 'filename="acme-api-1.bundle"' in answer.headers["Content-Disposition"]
    assert (tmp_path / "x.bundle").stat().st_size == found.bytes
    run_git("clone", "-q", "--mirror", tmp_path / "x.bundle", tmp_path / "x.git")
    assert refs_of(tmp_path / "x.git") == work.refs()


async def test_an_export_is_deleted_after_its_day_and_so_is_what_a_killed_run_left(
    mirror: Mirror, work: Work
) -> None:
    found = await made(mirror, *await backed_up(mirror, work))
    folder = mirror.services.disk.root / "vault"
    begun = mirror.clock().timestamp()
    killed = folder / "exports" / f".{'0' * 64}.bundle.{'0' * 16}.tmp"
    killed.touch()
    for file in (killed, folder / found.key):
        os.utime(file, (begun, begun))
    mirror.clock.now += export.KEPT
    await export.forget(mirror.services)
    assert await exports(mirror) == [found.key]  # a download that began in time goes on
    mirror.clock.now += export.LINK_LASTS
    await export.forget(mirror.services)
    assert not (folder / "exports").exists()
    assert any(layout.parse_manifest_key(key) for key in await mirror.keys())


async def test_exports_that_object_lock_keeps_are_said_once_and_go_when_they_may(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repo, snapshot = await backed_up(mirror, work)
    kept, free = [await made(mirror, repo, snapshot) for _ in range(2)]
    for one in (kept, free):
        begun = mirror.clock().timestamp()
        os.utime(mirror.services.disk.root / "vault" / one.key, (begun, begun))
    mirror.clock.now += timedelta(days=2)
    until = mirror.clock.now + timedelta(days=5)
    real, asked = DirectoryVault.delete, list[str]()

    async def delete(self: DirectoryVault, key: str) -> None:
        asked.append(key)
        if key == kept.key and mirror.clock.now < until:
            raise Locked("the vault keeps it", until)
        await real(self, key)

    monkeypatch.setattr(DirectoryVault, "delete", delete)
    for _ in range(3):
        await export.forget(mirror.services)
        assert await exports(mirror) == [kept.key]
    assert sorted(asked) == sorted([kept.key, free.key])
    (said,) = [one.message for one in caplog.records if one.name == "mirror.export"]
    assert f"{until:%Y-%m-%d %H:%M} UTC" in said and kept.key not in said
    mirror.clock.now = until
    await export.forget(mirror.services)
    assert await exports(mirror) == []


async def test_a_teams_bundles_take_as_many_bytes_as_it_may_store_and_no_more(
    mirror: Mirror, work: Work
) -> None:
    repo, snapshot = await backed_up(mirror, work)
    first = await made(mirror, repo, snapshot)
    team = (await remotes.get(mirror.services.db, repo.id)).team_id
    await quotas.set(mirror.services.db, team, "stored-bytes", 2 * first.bytes + 10, mirror.clock())
    second = await made(mirror, repo, snapshot)
    with pytest.raises(OverLimit, match="bundles of .* wait to be downloaded"):
        await made(mirror, repo, snapshot)
    assert sorted(await exports(mirror)) == sorted([first.key, second.key])
    counted = await mirror.services.db.fetchval("select sum(bytes) from export")
    assert counted == 2 * first.bytes
    mirror.clock.now += export.KEPT + export.LINK_LASTS + timedelta(minutes=1)
    await export.forget(mirror.services)
    assert (await made(mirror, repo, snapshot)).bytes == first.bytes


async def test_who_asks_for_a_bundle_that_is_there_gets_that_one(mirror: Mirror, work: Work) -> None:
    repo, snapshot = await backed_up(mirror, work)
    asked = {"globs": ["main"], **snapshot.numbers}
    first = await jobbing.ask(mirror.services, repo.id, "bundle", asked)
    assert (await jobbing.ask(mirror.services, repo.id, "bundle", asked)).id == first.id
    other = await jobbing.ask(mirror.services, repo.id, "bundle", asked | {"globs": ["ma*"]})
    assert other.id != first.id
    _, found = await export.make(mirror.services, repo, snapshot, Cause(first.id), restore.What(["main"]))
    await mirror.services.db.execute(
        "update job set state = 'done', started_at = $3, finished_at = $3, result = $2 where id = $1",
        first.id,
        json.dumps(found.told()),
        mirror.clock(),
    )
    assert (await jobbing.ask(mirror.services, repo.id, "bundle", asked)).id == first.id
    await mirror.services.vault.delete(found.key)
    assert (await jobbing.ask(mirror.services, repo.id, "bundle", asked)).id != first.id


async def test_exports_are_nobodys_strays_and_no_history(mirror: Mirror, work: Work) -> None:
    repo, snapshot = await backed_up(mirror, work)
    found = await made(mirror, repo, snapshot)
    assert (await verify.verify(mirror.services, repo)).strays == ()
    assert (await prune.prune(mirror.services, timedelta(0))).deleted == ()
    assert [(one.repo.id, one.added) for one in (await rebuild.rebuild(mirror.services)).repos] == [
        (repo.id, 0)
    ]
    assert await exports(mirror) == [found.key]


def test_keys_of_exports_are_long_and_never_the_same() -> None:
    keys = {layout.export_key() for _ in range(100)}
    assert len(keys) == 100 and {len(key) for key in keys} == {len(layout.EXPORTS) + 64 + len(".bundle")}


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        (None, (0, 100)),
        ("bytes=0-99", (0, 100)),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-99", (99, 100)),
        ("bytes=100-", None),
        ("bytes=-0", None),
        ("bytes=20-10", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("bytes=-", (0, 100)),
        ("lines=0-1", (0, 100)),
        ("bytes=\u0661-2", (0, 100)),
        (f"bytes={'9' * 40}-", (0, 100)),
    ],
)
def test_a_range_is_read_as_the_rfc_says(asked: str | None, part: tuple[int, int] | None) -> None:
    assert part_of(asked, 100) == part
