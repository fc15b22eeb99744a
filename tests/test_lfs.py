"""Large files that Git LFS keeps outside git: said to be not saved, wherever the repo is shown."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from mirror.backup import sync as syncing
from mirror.core.words import unsaved
from mirror.git import lfs
from mirror.git.lfs import LargeFiles
from mirror.restore import drill
from mirror.store import repos
from mirror.store.browse import home
from mirror.store.people import teams
from tests.parts.everref import Mirror
from tests.parts.repos import Work

ATTRIBUTES = b"*.psd filter=lfs diff=lfs merge=lfs -text\n"


def pointer(number: int, size: int = 1000) -> bytes:
    oid = f"{number:064x}"
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


async def known(mirror: Mirror, done: syncing.Synced) -> int:
    return (await repos.overview_of(mirror.services.db, done.repo.id)).large_files


async def test_a_repo_with_pointers_says_how_many_large_files_are_not_saved(
    mirror: Mirror, work: Work
) -> None:
    work.commit(files={".gitattributes": ATTRIBUTES, "a.psd": pointer(1), "b.psd": pointer(2, 5)})
    done = await mirror.backup(work)
    assert await known(mirror, done) == 2
    team = await teams.default(mirror.services.db)
    [row], _ = await home.page(mirror.services.db, team)
    assert (row.large_files, row.large_bytes) == (2, 1005)
    mirror.clock.now += timedelta(hours=2)
    work.commit(files={"c.psd": pointer(3), "copy.psd": pointer(1)})
    await syncing.sync(mirror.services, done.repo.id)
    assert await known(mirror, done) == 3  # each once


async def test_a_repo_without_says_nothing(mirror: Mirror, work: Work) -> None:
    work.commit(
        files={".gitattributes": b"*.txt text\n", "a.txt": b"version https://git-lfs.github.com\n" * 4}
    )
    done = await mirror.backup(work)
    assert await known(mirror, done) == 0
    assert (await drill.drill(mirror.services, done.repo, done.snapshot)).large_files == LargeFiles(0, 0)


async def test_a_drill_counts_what_no_top_folder_speaks_of(mirror: Mirror, work: Work) -> None:
    work.commit(files={"art/.gitattributes": ATTRIBUTES, "art/a.psd": pointer(7, 2_000_000)})
    done = await mirror.backup(work)
    assert await known(mirror, done) == 0
    found = await drill.drill(mirror.services, done.repo, done.snapshot)
    assert found.large_files == LargeFiles(1, 2_000_000)
    assert await known(mirror, done) == 1


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
async def test_many_small_files_are_told_from_pointers(
    mirror: Mirror, make_work: Callable[..., Work], object_format: str
) -> None:
    work = make_work("w.git", object_format=object_format)
    files = {f"f{n}": b"x" * (80 + n) for n in range(300)} | {f"p{n}": pointer(n) for n in range(200)}
    work.commit(files=files | {".gitattributes": ATTRIBUTES})
    done = await mirror.backup(work)
    assert await known(mirror, done) == 200
    assert await lfs.large_files(mirror.services.git, work.path) == LargeFiles(200, 200_000)


async def test_pointers_that_claim_more_than_there_is_break_nothing(mirror: Mirror, work: Work) -> None:
    huge = {f"{n}.psd": pointer(n, 10**18 - 1) for n in range(11)}
    work.commit(files={".gitattributes": ATTRIBUTES} | huge)
    done = await mirror.backup(work)
    assert await known(mirror, done) == 11
    assert (await drill.drill(mirror.services, done.repo, done.snapshot)).large_files.bytes == (1 << 63) - 1


def test_what_is_not_saved_is_said_in_words() -> None:
    assert unsaved(1) == "1 large file of Git LFS is not saved"
    assert unsaved(14, 2_500_000) == "14 large files (2.5 MB) of Git LFS are not saved"
