"""Finding Git LFS pointers in a repository's objects: the files they stand for are not in git, and not saved.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.core.errors import TooLarge
from mirror.core.formats import objects
from mirror.core.model import ObjectFormat, Target
from mirror.git import read
from mirror.git.read import Objects
from mirror.git.run import Git
from mirror.git.tree import entries

_SMALLEST: Final = 80  # bytes of a pointer: a version, an id and a size
_LARGEST: Final = 1024
_FIRST_LINE: Final = 200  # bytes of a commit, the tree that it names among them
_SECONDS: Final = 20.0  # of this machine's time, after which nothing is likely
_ATTRIBUTES: Final = b".gitattributes"
_LONGEST: Final = 1 << 20  # bytes of a folder, and of its .gitattributes, that are looked at
MOST: Final = 100_000  # files that are counted: who has more knows it
_MOST_BYTES: Final = (1 << 63) - 1  # that PostgreSQL counts


@dataclass(frozen=True, slots=True)
class LargeFiles:
    """The files that the pointers stand for, each counted once."""

    files: int
    bytes: int  # as the pointers say


async def are_likely(path: Path, object_format: ObjectFormat, tips: Collection[Target]) -> bool:
    """Whether the top folder of one of these commits says that LFS stores some of its files.

    Objects that cost too much to read count as saying nothing. Raises LimitReached if all of them do.
    """
    return await asyncio.to_thread(_any_says, path, object_format, tips)


def _any_says(path: Path, object_format: ObjectFormat, tips: Collection[Target]) -> bool:
    with read.opened(path, read.Look(_SECONDS)) as there:
        trees = {_tree(there, tip) for tip in tips}
        return any(_says(there, object_format, tree) for tree in trees if tree is not None)


def _tree(there: Objects, tip: Target) -> Target | None:
    with suppress(TooLarge):
        commit = read.peeled(there, tip)
        return objects.tree_of(there.beginning(commit, _FIRST_LINE)) if commit else None
    return None


def _says(there: Objects, object_format: ObjectFormat, tree: Target) -> bool:
    with suppress(TooLarge):
        top = there.read(tree) if (there.size(tree) or 0) <= _LONGEST else None
        if top is None:
            return False
        for entry in entries(top[1], object_format):
            if entry.name == _ATTRIBUTES and (there.size(entry.oid) or 0) <= _LONGEST:
                content = there.read(entry.oid)
                return content is not None and b"filter=lfs" in content[1]
    return False


async def large_files(git: Git, path: Path) -> LargeFiles:
    """The large files that objects of this repository point at, also in its past; at most MOST of them."""
    sizes: dict[str, int] = {}
    async with git.process("cat-file", "--batch", "--buffer", git_dir=str(path)) as child:
        async with child.fed(_small_blobs(git, path)):
            rest = b""
            async for chunk in child.stdout:
                rest = _taken(rest + chunk, sizes)
    return LargeFiles(len(sizes), min(sum(sizes.values()), _MOST_BYTES))


async def _small_blobs(git: Git, path: Path) -> AsyncIterator[bytes]:
    """The ids, a line each, of the blobs that are as small as pointers are."""
    listing = ("cat-file", "--batch-all-objects", "--unordered", "--buffer", "--batch-check")
    async with git.process(*listing, stdin=False, git_dir=str(path)) as child:
        rest = b""
        async for chunk in child.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            chosen = [words for line in lines if _is_small(words := line.split(b" "))]
            if chosen:
                yield b"".join(oid + b"\n" for oid, _, _ in chosen)


def _is_small(words: list[bytes]) -> bool:
    return len(words) == 3 and words[1] == b"blob" and _SMALLEST <= int(words[2]) < _LARGEST


def _taken(data: bytes, sizes: dict[str, int]) -> bytes:
    """Read the complete objects at the start of `data`; returns the rest of it."""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        head = data[at:end].split(b" ")
        length = int(head[2]) if len(head) == 3 else 0
        if end + 1 + length + 1 > len(data):
            break
        pointer = objects.lfs_pointer(data[end + 1 : end + 1 + length])
        if pointer is not None and len(sizes) < MOST:
            sizes[pointer.sha256] = pointer.size
        at = end + 1 + length + 1
    return data[at:]
