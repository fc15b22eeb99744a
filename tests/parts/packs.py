"""Packs as a remote would send them, and what git edges need in order to run: for the tests of mirror/git."""

import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from mirror.core.model import Target
from mirror.git.pack import IdxFile
from mirror.git.run import Git
from tests.parts.repos import Work, run_git

FORMATS = pytest.mark.parametrize("object_format", ["sha1", "sha256"])


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """Git as the product runs it."""
    home = tmp_path / "home"
    home.mkdir()
    return Git("git", str(home))


def sent(work: Work, tips: Sequence[Target], known: Sequence[Target] = ()) -> bytes:
    """The thin pack that an upload-pack sends to somebody who knows some commits."""
    lines = b"".join(line + b"\n" for line in (*tips, b"--not", *known))
    return work.git("pack-objects", "--revs", "--thin", "--stdout", "-q", stdin=lines)


def pack_of(work: Work, ids: Sequence[Target]) -> bytes:
    """A pack of exactly these objects, however little sense they make together."""
    return work.git("pack-objects", "--stdout", "-q", stdin=b"".join(oid + b"\n" for oid in ids))


async def stream(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def gathered(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def packed_ids(path: Path) -> set[Target]:
    """What the packs of a repository hold, as git reads them."""
    held: set[Target] = set()
    for idx in (path / "objects/pack").glob("*.idx"):
        answer = run_git("--git-dir", path, "show-index", stdin=idx.read_bytes())
        held |= {Target(line.split()[1]) for line in answer.splitlines()}
    return held


def ids_of(idx: Path) -> set[Target]:
    with IdxFile(idx) as found:
        return {Target(oid.hex().encode()) for oid in found.ids()}


def made_idx(ids: Sequence[bytes], offsets: Sequence[int]) -> bytes:
    """An index of a pack that nobody made: gitformat-pack(5)."""
    entries = sorted(zip(ids, offsets, strict=True))
    large = [at for _, at in entries if at >= 1 << 31]
    short = [at if at < 1 << 31 else 1 << 31 | large.index(at) for _, at in entries]
    begin = Counter(oid[0] for oid in ids)
    body = b"\xfftOc\0\0\0\2"
    body += struct.pack(">256I", *(accumulate(begin[first] for first in range(256))))
    body += b"".join(oid for oid, _ in entries) + bytes(4 * len(ids))
    body += struct.pack(f">{len(ids)}I", *short) + struct.pack(f">{len(large)}Q", *large)
    body += bytes(len(ids[0]) if ids else 20)
    return body + hashlib.new("sha256" if ids and len(ids[0]) == 32 else "sha1", body).digest()


def bomb(size: int) -> bytes:
    """A pack of one commit of so many MiB of zeros: git unpacks blobs piece by piece, all else in memory."""
    left, head = size >> 4, bytearray([size & 0xF | 1 << 4])
    while left:
        head[-1] |= 0x80
        head.append(left & 0x7F)
        left >>= 7
    packer, step = zlib.compressobj(9), bytes(1 << 20)
    entry = b"".join(packer.compress(step) for _ in range(size >> 20)) + packer.flush()
    pack = b"PACK" + struct.pack(">II", 2, 1) + bytes(head) + entry
    return pack + hashlib.sha1(pack, usedforsecurity=False).digest()
