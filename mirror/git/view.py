"""Bare repositories made without git: a snapshot as git sees it, and scratch space for new objects.

Everything here is laid out as gitrepository-layout(5) says, so any git tool
reads it. Making one costs a few small files instead of a `git init`.
"""

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from mirror.core.errors import Corrupt, Refused
from mirror.core.model import HEAD, ObjectFormat, Refs, Target
from mirror.core.refs import check_name, is_symbolic, symbolic_target
from mirror.git.disk import disk_error, finish, sync_path

UNBORN: Final = Target(b"ref: refs/heads/main")  # HEAD where the remote did not tell

_PACKED_REFS_HEADER: Final = b"# pack-refs with: sorted \n"  # not "peeled": git peels tags when it is asked
_CONFIG: Final[Mapping[ObjectFormat, str]] = {
    "sha1": "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n",
    "sha256": "[core]\n\trepositoryformatversion = 1\n\tfilemode = true\n\tbare = true\n"
    "[extensions]\n\tobjectformat = sha256\n",
}


@dataclass(frozen=True, slots=True)
class View:
    """A bare repository of ours, for as long as it is needed."""

    path: Path
    object_format: ObjectFormat

    @property
    def objects(self) -> Path:
        return self.path / "objects"


class BareRepository(Protocol):
    """What a view sees the objects of: a pool."""

    @property
    def path(self) -> Path: ...

    @property
    def object_format(self) -> ObjectFormat: ...


@asynccontextmanager
async def scratch_view(
    pool: BareRepository | None, room: Path, *, object_format: ObjectFormat | None = None
) -> AsyncIterator[View]:
    """A temporary bare repository under `room` that sees the pool's objects and keeps its own apart.

    Without a pool, `object_format` says which ids it holds. It is gone with all
    that is in it when the block ends, however that ends.
    """
    chosen = pool.object_format if pool else object_format
    assert chosen is not None, "a view without a pool needs an object format"
    path = room / f"view-{secrets.token_hex(8)}"

    def make() -> None:
        path.mkdir(mode=0o700, parents=True)
        lay_out(path, chosen, alternate=pool.path / "objects" if pool else None)

    try:
        try:
            await finish(make)
        except OSError as error:
            raise disk_error(room, error) from None
        yield View(path, chosen)
    finally:
        await finish(lambda: shutil.rmtree(path, ignore_errors=True))


async def create(path: Path, object_format: ObjectFormat) -> None:
    """A new empty bare repository at `path`, safe on disk, to be kept."""

    def make() -> None:
        path.mkdir(mode=0o755)
        lay_out(path, object_format)
        for file in (path / "config", path / "HEAD", path / "objects", path / "refs", path):
            sync_path(file)

    try:
        await finish(make)
    except OSError as error:
        raise disk_error(path, error) from None


def lay_out(path: Path, object_format: ObjectFormat, alternate: Path | None = None) -> None:
    """Make an empty bare repository in this directory, which also sees the objects of `alternate`."""
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    if alternate is not None:
        line = os.fsencode(alternate.absolute())
        if b"\n" in line:
            raise Refused(f"the directory {str(alternate)!r} has a line feed in its name; choose another one")
        (path / "objects/info/alternates").write_bytes(line + b"\n")
    (path / "config").write_text(_CONFIG[object_format])
    (path / "HEAD").write_bytes(UNBORN + b"\n")


def config_text(object_format: ObjectFormat) -> str:
    """The whole configuration of every repository that we make."""
    return _CONFIG[object_format]


def object_folders(path: Path) -> list[Path]:
    """The objects folders that a repository reads: its own, and those of its alternates."""
    folders = [path / "objects"]
    for folder in folders:
        with suppress(FileNotFoundError):
            for line in (folder / "info/alternates").read_bytes().split(b"\n")[:-1]:
                alternate = Path(os.fsdecode(line))
                if alternate not in folders:
                    folders.append(alternate)
    return folders


async def write_refs(path: Path, refs: Refs, *, durable: bool = True) -> None:
    """Make these the refs of a repository of ours that has none: one packed-refs file, symbolic ones loose.

    HEAD becomes what the map says, symbolic, detached or unborn. Objects are
    not looked at. `durable` has it all safe on disk before this returns.
    Raises Corrupt on a name that git does not accept.
    """
    try:
        await finish(lambda: _write_refs(path, refs, durable))
    except OSError as error:
        raise disk_error(path, error) from None


def _write_refs(path: Path, refs: Refs, durable: bool) -> None:
    written = {path, path / "refs"}
    symbolic = {name: target for name, target in refs.items() if name != HEAD and is_symbolic(target)}
    written.add(_put(path / "packed-refs", packed_refs(refs)))
    for name, target in symbolic.items():
        check_name(name)
        check_name(symbolic_target(target))
        file = path / os.fsdecode(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        written |= {_put(file, target + b"\n"), *(up for up in file.parents if up.is_relative_to(path))}
    head = refs.get(HEAD, UNBORN)
    if is_symbolic(head):
        check_name(symbolic_target(head))
    written.add(_put(path / "HEAD", head + b"\n"))
    if durable:
        for item in written:
            sync_path(item)


def packed_refs(refs: Refs) -> bytes:
    """The packed-refs file of the refs that hold an object id, HEAD left out."""
    lines = [
        b"%b %b\n" % (target, name)
        for name, target in sorted(refs.items())
        if name != HEAD and not is_symbolic(target)
    ]
    body = b"".join(lines)
    if body.count(b"\n") != len(lines):
        raise Corrupt("a ref name contains a line feed, which git does not accept")
    return _PACKED_REFS_HEADER + body


def _put(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file
