"""The `.idx` object beside a part: where its bytes are cut, its sums, and git's own index of a complete pack.

One line of JSON (see mirror/core/formats/manifest.py, `PartIndex`), a newline, and for a complete
part git's pack index, version 2 (https://git-scm.com/docs/gitformat-pack).
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from mirror.core.errors import Corrupt
from mirror.core.formats import layout, manifest
from mirror.core.model import Part
from mirror.git import pack
from mirror.vault.contract import Vault

_LINE = 1 << 24  # bytes; no first line is longer


async def write(vault: Vault, part: Part, idx: Path | None) -> Part:
    """Store the index of this part and return the part as it is now known."""
    digest = hashlib.sha256()
    size = 0
    async with vault.create(layout.index_key(part.key)) as writer:
        async for chunk in _content(part, idx):
            digest.update(chunk)
            size += len(chunk)
            await writer.write(chunk)
        await writer.commit()
    return replace(part, index_bytes=size, index_sha256=digest.hexdigest())


async def _content(part: Part, idx: Path | None) -> AsyncIterator[bytes]:
    yield manifest.encode_index(part)
    if idx is not None:
        async for chunk in pack.file_chunks(idx):
            yield chunk


async def read(vault: Vault, part: Part) -> AsyncIterator[bytes]:
    """Git's pack index of a complete part as it streams by. Raises Corrupt, at its end, if its sum is off."""
    key = layout.index_key(part.key)
    digest = hashlib.sha256()
    line: bytes | None = b""  # None: the first line has passed
    async for chunk in vault.read(key):
        digest.update(chunk)
        if line is not None:
            line += chunk
            end = line.find(b"\n")
            if end < 0 and len(line) > _LINE:
                raise Corrupt(f"{key}: its first line does not end")
            if end < 0:
                continue
            chunk, line = line[end + 1 :], None
        yield chunk
    if digest.hexdigest() != part.index_sha256:
        raise Corrupt(f"{key}: expected sha256 {part.index_sha256}, found {digest.hexdigest()}")


async def described(vault: Vault, bundle_key: str) -> Part | None:
    """The part that an `.idx` object in the vault describes, or None where there is no such object."""
    key = layout.index_key(bundle_key)
    if await vault.stat(key) is None:
        return None
    digest = hashlib.sha256()
    start, size = b"", 0
    async for chunk in vault.read(key):
        digest.update(chunk)
        size += len(chunk)
        if b"\n" not in start and len(start) <= _LINE:
            start += chunk
    line, end, _ = start.partition(b"\n")
    if not end:
        raise Corrupt(f"{key}: its first line does not end")
    part = manifest.decode_index(bundle_key, line + end)
    return replace(part, index_bytes=size, index_sha256=digest.hexdigest())
