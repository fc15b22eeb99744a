"""Repositories that somebody brings in as files: bundles, folders and archives, good and hostile ones."""

import copy
import io
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from mirror.backup import bring_in
from mirror.backup.sync import Synced
from mirror.core.errors import EverrefError, Refused
from mirror.core.model import HEAD
from mirror.discovery import create
from mirror.discovery.choose import EVERREF
from mirror.people import operator
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.discovery import remotes
from tests.parts.everref import Mirror
from tests.parts.repos import MAIN, Work, fsck, objects_of, refs_of, run_git
from tests.test_cli import Everref, everref

__all__ = ["everref"]


@pytest.fixture
def repository(tmp_path: Path) -> Work:
    """A bare repository with loose and packed objects, packed and loose refs, a tag object and odd names."""
    work = Work(tmp_path / "source.git")
    work.commit()
    work.tag("v1", message="signed off")
    work.set("refs/odd/one", work.tip())
    work.git("repack", "-a", "-d", "-q")
    work.git("pack-refs", "--all")
    work.commit()
    work.set("refs/heads/r\u00e9sum\u00e9".encode(), work.tip())
    return work


def copied(work: Work, to: Path) -> Work:
    """The same repository once more, to be damaged."""
    twin = copy.copy(work)
    twin.path = twin.git_dir = Path(shutil.copytree(work.path, to))
    return twin


def tar(source: Path, to: Path, mode: str = "w:gz", inside: str = "work/api.git") -> Path:
    with tarfile.open(to, mode) as archive:  # type: ignore[call-overload]  # of the kind that its caller says
        archive.add(source, inside)
    return to


def zipped(source: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(source.rglob("*")):
            archive.write(path, f"api.git/{path.relative_to(source)}")
    return to


def bundled(work: Work, to: Path, *what: str) -> Path:
    work.git("bundle", "create", "-q", to, *(what or ("--all", "HEAD")))
    return to


WAYS: Final[dict[str, Callable[[Work, Path], Path]]] = {
    "folder": lambda work, place: work.path,
    "tar": lambda work, place: tar(work.path, place / "api.tar", "w"),
    "tar.gz": lambda work, place: tar(work.path, place / "api.tgz"),
    "tar of its content": lambda work, place: tar(work.path, place / "api.tgz", inside="."),
    "zip": lambda work, place: zipped(work.path, place / "api.zip"),
    "bundle": lambda work, place: bundled(work, place / "api.bundle"),
}


async def brought(mirror: Mirror, source: Path, name: str = "api") -> Synced:
    """What the command does: prove it, make the repo, take the snapshot."""
    team = await operator.team_named(mirror.services, None)
    known = await repos.by_name(mirror.services.db, team.id, name)
    async with bring_in.proved(mirror.services, source, known) as found:
        repo = known or await create.create(mirror.services, team.id, EVERREF, name)
        return (await bring_in.bring_in(mirror.services, repo, found, by="Alice")).synced


def left(mirror: Mirror) -> list[Path]:
    incoming = mirror.services.disk.root / "incoming"
    return list(incoming.iterdir()) if incoming.exists() else []


async def test_what_is_brought_in_is_restored_as_git_has_it(
    mirror: Mirror, repository: Work, tmp_path: Path
) -> None:
    for way, make in WAYS.items():
        done = await brought(mirror, make(repository, tmp_path), way.replace(" ", "-"))
        restored = await mirror.restored(done.repo, 1)
        assert refs_of(restored) == refs_of(repository.path), way
        assert objects_of(restored) == objects_of(repository.path), way
        fsck(restored)
    assert left(mirror) == []


def members(place: Path, *named: tuple[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    """A tar of such members: a name and a content, or a header as it is."""
    with tarfile.open(place / "made.tar", mode) as archive:  # type: ignore[call-overload]  # likewise
        for name, content in named:
            if isinstance(content, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                content.name = name
                archive.addfile(content)
    return place / "made.tar"


def header(kind: bytes, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, to
    return info


def written(place: Path, content: bytes) -> Path:
    (place / "made").write_bytes(content)
    return place / "made"


def changed(work: Work, place: Path, name: str, content: bytes) -> Path:
    """A tar of the repository with one more file, or another one."""
    path = work.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return tar(work.path, place / "api.tgz")


def flipped(path: Path) -> None:
    """One byte in the middle of a file is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.chmod(0o644)
    path.write_bytes(data)


def an_empty_repository(work: Work, place: Path) -> Path:
    run_git("init", "-q", "--bare", place / "empty.git")
    return place / "empty.git"


def a_flipped_pack(work: Work, place: Path) -> Path:
    flipped(next(work.path.glob("objects/pack/*.pack")))
    return tar(work.path, place / "api.tgz")


def loose_blob(work: Work) -> Path:
    """The file of an object that only the last commit has."""
    name = work.git("diff", "--name-only", "main~1", "main").split()[0].decode()
    blob = work.git("rev-parse", f"main:{name}").strip().decode()
    return work.path / "objects" / blob[:2] / blob[2:]


def a_flipped_loose_object(work: Work, place: Path) -> Path:
    """Its bytes are sound, and of another object: only its name tells."""
    path = loose_blob(work)
    path.chmod(0o644)
    path.write_bytes(zlib.compress(b"blob 5\0other"))
    return tar(work.path, place / "api.tgz")


def a_missing_object(work: Work, place: Path) -> Path:
    loose_blob(work).unlink()
    return tar(work.path, place / "api.tgz")


def cut(path: Path, by: int) -> Path:
    os.truncate(path, path.stat().st_size - by)
    return path


def a_shallow_clone(work: Work, place: Path) -> Path:
    run_git("clone", "-q", "--bare", "--depth=1", f"file://{work.path}", place / "shallow.git")
    return place / "shallow.git"


def an_index_that_lies(work: Work, place: Path) -> Path:
    """The objects are sound, the index names others: it is not believed, and nothing is wrong."""
    idx = next(work.path.glob("objects/pack/*.idx"))
    idx.chmod(0o644)
    idx.write_bytes(os.urandom(idx.stat().st_size))
    return tar(work.path, place / "api.tgz")


def a_pax_bomb(place: Path) -> Path:
    """A header that claims to have 7 GiB, which tarfile would read at once."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 7 << 30
    return written(place, info.tobuf() + bytes(1 << 20))


def a_header_that_leads_back(place: Path) -> Path:
    """https://github.com/python/cpython/issues/130577"""
    info = tarfile.TarInfo("x")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 10 + struct.pack(">h", -1024)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return written(place, bytes(head) * 4)


def encrypted(work: Work, place: Path) -> Path:
    data = bytearray(zipped(work.path, place / "api.zip").read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(magic)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(magic, at + 4)
    return written(place, bytes(data))


Make = Callable[[Work, Path], Path]
REFUSED: Final[dict[str, tuple[Make, str]]] = {
    "empty": (lambda work, place: written(place, b""), "it is empty"),
    "noise": (lambda work, place: written(place, b"\0" * 600), "no file of git"),
    "pack": (lambda work, place: next(work.path.glob("objects/pack/*.pack")), "has no refs"),
    "xz": (lambda work, place: tar(work.path, place / "a", "w:xz"), "packed with xz"),
    "no repository": (lambda work, place: members(place, ("x/README", b"hello")), "no git repository in it"),
    "two": (
        lambda work, place: members(
            place,
            *(
                (f"{name}/{file}", b"ref: refs/heads/main\n")
                for name in "ab"
                for file in ("HEAD", "objects/x")
            ),
        ),
        r"more than one repository in it \(a/, b/\)",
    ),
    "folder without": (lambda work, place: place, "nor a git repository"),
    "no refs": (
        an_empty_repository,
        "no refs",
    ),
    "linked pack": (
        lambda work, place: members(
            place, ("HEAD", b"x"), ("objects/pack/a.pack", header(tarfile.SYMTYPE, "/etc/passwd"))
        ),
        "is a link",
    ),
    "hard link": (
        lambda work, place: members(
            place, ("objects/x", b""), ("secret", b"x"), ("HEAD", header(tarfile.LNKTYPE, "secret"))
        ),
        "is a link",
    ),
    "device": (
        lambda work, place: members(place, ("objects/x", b""), ("HEAD", header(tarfile.CHRTYPE))),
        "no plain file",
    ),
    "shallow": (a_shallow_clone, "shallow clone.*--unshallow"),
    "partial": (
        lambda work, place: changed(work, place, "objects/pack/pack-1.promisor", b""),
        "partial clone",
    ),
    "borrows": (
        lambda work, place: changed(work, place, "objects/info/alternates", b"/etc\n"),
        "borrows objects.*git repack -a -d",
    ),
    "reftable": (lambda work, place: changed(work, place, "reftable/tables.list", b"0x1.ref\n"), "reftable"),
    "broken ref": (
        lambda work, place: changed(work, place, "refs/heads/x", b"\0" * 41),
        "refs/heads/x is a broken ref",
    ),
    "two formats": (
        lambda work, place: changed(work, place, "refs/heads/x", b"a" * 64),
        "two object formats",
    ),
    "ref to nothing": (
        lambda work, place: changed(work, place, "refs/heads/x", b"a" * 40),
        f"bad object {'a' * 40}",
    ),
    "large ref": (lambda work, place: changed(work, place, "refs/heads/x", b"a" * 5000), "more than 4,096"),
    "flipped pack": (a_flipped_pack, "not a complete pack: .*"),
    "flipped loose object": (a_flipped_loose_object, "missing blob"),
    "missing object": (a_missing_object, "missing blob"),
    "cut tar.gz": (lambda work, place: cut(tar(work.path, place / "a.tgz"), 200), "cannot be read"),
    "cut zip": (lambda work, place: cut(zipped(work.path, place / "a.zip"), 200), "cannot be read"),
    "cut bundle": (lambda work, place: cut(bundled(work, place / "a"), 30), "not a complete pack"),
    "half a header": (
        lambda work, place: written(place, b"# v2 git bundle\n" + b"a" * 40),
        "within its header",
    ),
    "bundle of v9": (lambda work, place: written(place, b"# v9 git bundle\n\n"), "not a git bundle"),
    "filtered": (
        lambda work, place: bundled(work, place / "a", "--filter=blob:none", "--all"),
        "left out of this bundle.*without --filter",
    ),
    "thin": (
        lambda work, place: bundled(work, place / "a", "main~1..main"),
        "builds on commits that it does not have.*git bundle create FILE --all",
    ),
    "encrypted": (encrypted, "encrypted"),
    "pax bomb": (lambda work, place: a_pax_bomb(place), "headers is too long"),
    "leads back": (lambda work, place: a_header_that_leads_back(place), "cannot be read"),
}


async def test_what_is_no_sound_git_is_refused_with_the_reason_and_leaves_nothing(
    mirror: Mirror, repository: Work, tmp_path: Path
) -> None:
    said = {}
    for number, (case, (make, why)) in enumerate(REFUSED.items()):
        place, work = tmp_path / str(number), copied(repository, tmp_path / f"{number}.git")
        place.mkdir()
        try:
            await brought(mirror, make(work, place))
        except EverrefError as refused:
            said[case] = str(refused)
        assert re.search(why, said.get(case, "")), (case, said.get(case))
        assert left(mirror) == [], case
    assert not any(str(mirror.services.disk.root) in text for text in said.values())
    assert await repos.all(mirror.services.db) == []
    assert [key for key in await mirror.keys() if "/" in key] == []


async def test_later_bundles_become_later_snapshots_and_build_only_on_what_is_there(
    mirror: Mirror, repository: Work, tmp_path: Path
) -> None:
    first = await brought(mirror, bundled(repository, tmp_path / "1"))
    before = repository.tip()
    repository.commit()
    thin = bundled(repository, tmp_path / "2", "refs/heads/main", f"^{before.decode()}")
    other = Work(tmp_path / "other.git")
    other.commit(message="nothing in common")
    unknown = other.commit()
    other.commit()
    with pytest.raises(EverrefError, match=f"lacks these prerequisite commits.*{unknown.decode()}"):
        await brought(mirror, bundled(other, tmp_path / "3", "refs/heads/main", f"^{unknown.decode()}"))
    second = await brought(mirror, thin)
    assert second.new and second.snapshot.number == 2
    assert await mirror.refs(first.repo, 2) == refs_of(repository.path)
    again = await brought(mirror, thin)
    assert not again.new and again.snapshot.number == 2
    third = await brought(mirror, bundled(repository, tmp_path / "4", "refs/heads/main"))
    assert set(await mirror.refs(third.repo, 3)) == {HEAD, MAIN}
    assert left(mirror) == []


async def test_a_sha256_repository_comes_in_and_not_into_a_sha1_one(mirror: Mirror, tmp_path: Path) -> None:
    work = Work(tmp_path / "source.git", "sha256")
    work.commit()
    done = await brought(mirror, tar(work.path, tmp_path / "a.tgz"), "new")
    assert await mirror.refs(done.repo, 1) == refs_of(work.path)
    assert done.snapshot.object_format == "sha256"
    old = Work(tmp_path / "old.git")
    old.commit()
    with pytest.raises(EverrefError, match="new is a sha256 repository, and this is a sha1 one"):
        await brought(mirror, bundled(old, tmp_path / "old.bundle"), "new")


async def test_nothing_of_it_is_run_believed_or_written_elsewhere(
    mirror: Mirror, repository: Work, tmp_path: Path
) -> None:
    """Its configuration, hooks and attributes say to run something; its archive has names that lead out."""
    mark = tmp_path / "it-ran"
    run = f"touch {mark}"
    refs = refs_of(repository.path)
    (repository.path / "config").write_text(
        f"[core]\n\tfsmonitor = {run}\n\tsshCommand = {run}\n\thooksPath = {repository.path}/hooks\n"
        f"\talternateRefsCommand = {run}\n[include]\n\tpath = /dev/zero\n"
        f"[uploadpack]\n\tpackObjectsHook = {run}\n"
    )
    for hook in ("reference-transaction", "post-index-change", "pre-receive"):
        path = repository.path / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{run}\n")
        path.chmod(0o755)
    (repository.path / "info").mkdir(exist_ok=True)
    (repository.path / "info/grafts").write_bytes(repository.tip() + b"\n")
    whole = tar(repository.path, tmp_path / "a.tar", "w", "x")
    names = (f"{tmp_path}/out", "x/../../../out", "x/objects/../../out", "../x/HEAD", "x/refs/../HEAD")
    with tarfile.open(whole, "a") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
        link = header(tarfile.SYMTYPE, str(tmp_path))
        link.name = "x/hooks/link"
        archive.addfile(link)
    done = await brought(mirror, whole)
    assert await mirror.refs(done.repo, 1) == refs
    assert not mark.exists() and not any("out" in names for _, _, names in os.walk(tmp_path))


async def test_what_unpacks_to_more_than_may_come_ends_early(mirror: Mirror, tmp_path: Path) -> None:
    """Zeros pack a thousand to one: what is written is bounded, and so is what is kept."""
    zeros = tarfile.TarInfo("objects/pack/a.pack")
    zeros.size = 64 << 20
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("HEAD"))
        archive.addfile(zeros, io.BytesIO(bytes(zeros.size)))
    settings = replace(mirror.services.settings, fetch_bytes=1 << 20)
    services = replace(mirror.services, settings=settings)
    with pytest.raises(EverrefError, match="more than may be fetched at once.*EVERREF_FETCH_BYTES"):
        async with bring_in.proved(services, tmp_path / "bomb.tgz"):
            pass
    assert left(mirror) == []


def test_one_command_takes_files_folders_and_exports(
    everref: Everref, repository: Work, tmp_path: Path
) -> None:
    """Each becomes a repo by the name of its file; tests/test_moving has exports."""
    one = everref.json("import", str(tar(repository.path, tmp_path / "api.tar.gz"))).one
    assert (one["name"], one["snapshot"], one["new"], one["refs"]) == ("api", 1, True, 4)
    assert (one["commits"], one["head"]) == (2, "refs/heads/main")
    assert not everref.json("import", str(repository.path), "--name", "api").one["new"]
    refused = everref("import", str(tmp_path / "other.bundle"), code=2)
    assert "there is no file or directory" in refused.err
    refused = everref.json("import", str(written(tmp_path, b"hello")), code=1)
    assert "it is no file of git that Everref knows" in refused.error["message"]


async def test_a_repo_that_is_paused_takes_no_file(mirror: Mirror, repository: Work) -> None:
    """It became a snapshot, though nothing new was to be saved."""
    repo = (await brought(mirror, repository.path)).repo
    await remotes.pause(mirror.services.db, repo.id, mirror.services.clock())
    assert not (await brought(mirror, repository.path)).new  # as after a run that was killed
    repository.commit()
    why = "api is paused: nothing new is saved until an admin resumes it in its settings"
    with pytest.raises(Refused, match=why):
        await brought(mirror, repository.path)
    newest = await snapshots.latest(mirror.services.db, repo.id)
    assert newest and newest.number == 1
    await remotes.resume(mirror.services.db, repo.id)
    assert (await brought(mirror, repository.path)).snapshot.number == 2


async def test_a_repo_that_has_a_remote_takes_no_file(mirror: Mirror, repository: Work) -> None:
    fetched = (await mirror.backup(repository)).repo
    with pytest.raises(EverrefError, match="is backed up from a remote, so it cannot"):
        await brought(mirror, repository.path, fetched.name)
