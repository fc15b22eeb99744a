"""Whether anything of an object is left in files: in packs, loose, or as its very bytes.

Who calls: upkeep/erasure/proof. Reads files of others while they come and go, and changes nothing.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from mirror.core.errors import Corrupt
from mirror.core.model import Target
from mirror.git.disk import finish
from mirror.git.pack import IdxFile
from mirror.git.run import CHUNK

_PACKED: Final = (b"PACK", b"# v2 git bundle", b"# v3 git bundle")  # how files begin that hold many objects
_UNFINISHED: Final = "tmp_"  # how git calls what it still writes


async def under(paths: Collection[Path], wanted: Collection[Target]) -> list[str]:
    """Where under these paths something of the objects is, or may be: each in a line, in order."""
    return await finish(lambda: sorted(set(_under(paths, wanted))))


async def named_in(files: Collection[Path], wanted: Collection[Target]) -> list[Path]:
    """Those of these files that have one of the ids in their text; a file that is gone has none."""

    def look() -> list[Path]:
        return [file for file in files if _names(file, [bytes(oid) for oid in wanted])]

    return await finish(look)


def _under(paths: Collection[Path], wanted: Collection[Target]) -> Iterator[str]:
    for top in paths:
        if top.is_dir():
            for folder, _, names in os.walk(top):
                for name in names:
                    yield from _look(Path(folder, name), wanted)
        else:
            yield from _look(top, wanted)


def _look(file: Path, wanted: Collection[Target]) -> Iterator[str]:
    try:
        if file.is_symlink() or not file.is_file():
            return
        loose = Target(os.fsencode(file.parent.name + file.name))
        if loose in wanted:
            yield f"{file} is {loose.decode()}"
        elif file.suffix == ".idx" and not file.name.startswith(_UNFINISHED):
            with IdxFile(file) as idx:
                for oid in wanted:
                    if bytes.fromhex(oid.decode()) in idx:
                        yield f"the pack of {file} has {oid.decode()}"
        elif file.suffix == ".pack" and file.with_suffix(".idx").exists():
            return
        elif file.name.startswith(_UNFINISHED) or _begins(file, _PACKED):
            yield f"{file} is unfinished or has no index, and may have it"
        else:
            for oid in _bytes_of(file, wanted):
                yield f"{file} has the bytes of {oid.decode()}"
    except FileNotFoundError:  # it went meanwhile
        return
    except (Corrupt, OSError):
        yield f"{file} cannot be read, and may have it"


def _begins(file: Path, words: Collection[bytes]) -> bool:
    with file.open("rb") as opened:
        start = opened.read(max(map(len, words)))
    return any(start.startswith(word) for word in words)


def _bytes_of(file: Path, wanted: Collection[Target]) -> Iterator[Target]:
    """Which of these the file is, byte by byte, as git would name it."""
    algorithms = {"sha1" if len(oid) == 40 else "sha256" for oid in wanted}
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        hashes = [
            hashlib.new(one, b"%b %d\0" % (kind, size), usedforsecurity=False)
            for one in algorithms
            for kind in (b"blob", b"commit", b"tag", b"tree")
        ]
        while chunk := opened.read(CHUNK):
            for one in hashes:
                one.update(chunk)
    found = {one.hexdigest().encode() for one in hashes}
    yield from (oid for oid in wanted if oid in found)


def _names(file: Path, ids: Collection[bytes]) -> bool:
    longest, before = max(map(len, ids), default=0), b""
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                text = before + chunk
                if any(oid in text for oid in ids):
                    return True
                before = text[-longest:]
    except (FileNotFoundError, IsADirectoryError):
        return False
    return False
