"""A pull-only copy: whoever holds it fetches it, with credentials that can only read, and without a database.

Who calls: the command `everref replicate FROM TO`, by a timer at another place. Whoever takes over the
installation cannot touch what was fetched: nothing here is ever deleted or replaced, and a history that does
not continue the one that is here is refused.
"""

import hashlib
import json
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from mirror.core.errors import AlreadyExists, Corrupt, NoSuchObject, Refused
from mirror.core.formats import layout, manifest
from mirror.core.model import RepoId, Sealed
from mirror.core.progress import Progress
from mirror.services.copies import NAME, pair
from mirror.vault import streams
from mirror.vault.contract import Vault

_LINE: Final = 4 << 20  # bytes of the first line of an `.idx`, at the most


@dataclass(slots=True)
class Replicated:
    """What a run fetched, and what it refused."""

    objects: int = 0  # fetched now
    bytes: int = 0
    repos: int = 0  # in the source
    snapshots: int = 0  # that the replica has of them
    as_of: datetime | None = None  # when the newest snapshot was taken that it has; None: it can read none
    problems: list[str] = field(default_factory=list)


async def replicate(source: Vault, target: Vault, progress: Progress) -> Replicated:
    """Fetch what `target` lacks. Safe to run twice, and to kill: a manifest comes after its parts.

    1. Both are the same vault by their markers; an empty target becomes it. 2. Each repo: parts first, each
    compared with the sum that its manifest or its index says; then manifests in their order, each of which
    must name the one before it. 3. Everything else. What is there already stays as it is. Raises Refused for
    another vault. What does not fit is in `problems`, and everything else is fetched.
    """
    await pair(source, target)
    done = Replicated()
    here = dict[str, int]()
    async with aclosing(target.list()) as found:
        async for stat in found:
            here[stat.key] = stat.bytes
    there = dict[str, int]()
    progress.phase("listing", None, "objects")
    async with aclosing(source.list()) as found:
        async for stat in found:
            if stat.key != NAME and not stat.key.startswith(layout.EXPORTS):
                there[stat.key] = stat.bytes
                progress.advance(1)
    repos = sorted({repo_id for key in there if (repo_id := layout.repo_of(key))}, key=str)
    done.repos = len(repos)
    progress.phase("fetching", sum(size for key, size in there.items() if key not in here), "bytes")
    for key in (layout.README, layout.RESTORE):
        if key in there and key not in here:
            await _fetch(source, target, key, None, done, progress)
    for repo_id in repos:
        await _repo(source, target, repo_id, there, here, done, progress)
    for key, size in there.items():
        if layout.repo_of(key) is None:
            await _other(source, target, key, size, here, done, progress)
    for key in here.keys() - there.keys() - {NAME}:
        if layout.is_kept_for_ever(key):
            done.problems.append(f"{key} is here, and is missing from the source")
    return done


async def _repo(
    source: Vault,
    target: Vault,
    repo_id: RepoId,
    there: dict[str, int],
    here: dict[str, int],
    done: Replicated,
    progress: Progress,
) -> None:
    mine = [key for key in there if key.startswith(layout.repo_prefix(repo_id))]
    manifests = sorted(key for key in mine if layout.parse_manifest_key(key))
    try:
        last = await _continues(source, target, manifests, here)
    except Corrupt as error:
        done.problems.append(str(error))
        return
    sums = dict[str, Sealed]()
    new = list[tuple[str, bytes]]()
    for key in manifests:
        if key in here:
            done.snapshots += 1
            continue
        stored = await source.get(key, limit=manifest.LIMIT)
        if not layout.is_sealed(key):
            found = manifest.decode(stored)
            number = layout.parse_manifest_key(key)
            if number is None or found.repo != repo_id or found.number != number.number:
                done.problems.append(f"{key} is the manifest of another snapshot")
                break
            if found.previous != last:
                done.problems.append(f"{key} does not follow the manifest before it; it is not fetched")
                break
            last = hashlib.sha256(stored).hexdigest()
            if found.bundle:
                sums[found.bundle.key] = Sealed(found.bundle.bytes, found.bundle.sha256)
        new.append((key, stored))
    for key in sorted(mine):
        if key not in here and not layout.parse_manifest_key(key) and not layout.is_index(key):
            await _part(source, target, key, sums.get(key), there, done, progress)
    for key in sorted(mine):
        if key in here:
            if here[key] != there[key] and layout.is_kept_for_ever(key):
                done.problems.append(f"{key} was changed in the source; the one that is here stays")
        elif layout.is_index(key):
            await _fetch(source, target, key, None, done, progress)
    for key, stored in new:
        await _put(target, key, stored)
        done.objects, done.bytes = done.objects + 1, done.bytes + len(stored)
        done.snapshots += 1
        progress.advance(len(stored))
    await _as_of(target, manifests, done)


async def _continues(source: Vault, target: Vault, manifests: list[str], here: dict[str, int]) -> str | None:
    """The sum of the newest manifest that both have, which covers those before it. None: there is none.

    Raises Corrupt if the source has another one there: its history was rewritten.
    """
    known = [key for key in manifests if key in here]
    if not known:
        return None
    mine = await streams.sum_of(target.read(known[-1]))
    if mine != await streams.sum_of(source.read(known[-1])):
        raise Corrupt(
            f"{known[-1]} is not what it was when it was fetched: the history in the source was rewritten; "
            "nothing of this repo is fetched any more"
        )
    return mine.sha256


async def _part(
    source: Vault,
    target: Vault,
    key: str,
    sum_: Sealed | None,
    there: dict[str, int],
    done: Replicated,
    progress: Progress,
) -> None:
    """Fetch a part, or another object of a repo; one that compaction made has its sum in its index."""
    idx = layout.index_key(key)
    if sum_ is None and layout.parse_bundle_key(key) and idx in there and not layout.is_sealed(idx):
        sum_ = await _in_index(source, idx)
    await _fetch(source, target, key, sum_, done, progress)


async def _in_index(source: Vault, idx: str) -> Sealed | None:
    start = b"".join([chunk async for chunk in source.read(idx, 0, _LINE)])
    try:
        about = json.loads(start.partition(b"\n")[0])
        return Sealed(int(about["bytes"]), str(about["sha256"]))
    except (ValueError, KeyError, TypeError):
        return None  # the bundle is compared with it when it is read


async def _other(
    source: Vault,
    target: Vault,
    key: str,
    size: int,
    here: dict[str, int],
    done: Replicated,
    progress: Progress,
) -> None:
    if key not in here:
        await _fetch(source, target, key, None, done, progress)
    elif here[key] != size and key not in (layout.README, layout.RESTORE, layout.MARKER):
        done.problems.append(f"{key} was changed in the source; the one that is here stays")


async def _fetch(
    source: Vault, target: Vault, key: str, sum_: Sealed | None, done: Replicated, progress: Progress
) -> None:
    try:
        async with target.create(key) as writer:
            found = await streams.write(writer, source.read(key), progress.advance)
            if sum_ is not None and found != sum_:
                raise Corrupt(f"{key} is not as its manifest says; it is not fetched")
            await writer.commit()
    except AlreadyExists:
        return  # another run fetched it
    except (Corrupt, NoSuchObject) as error:  # what went meanwhile was replaced: the next run gets that
        done.problems.append(str(error))
        return
    done.objects, done.bytes = done.objects + 1, done.bytes + found.bytes


async def _put(target: Vault, key: str, data: bytes) -> None:
    try:
        await target.put(key, data)
    except AlreadyExists:
        if await target.get(key) != data:
            raise Refused(f"another run fetched another {key} at the same moment") from None


async def _as_of(target: Vault, manifests: list[str], done: Replicated) -> None:
    newest = next((key for key in reversed(manifests) if not layout.is_sealed(key)), None)
    if newest is None:
        return
    try:
        taken = manifest.decode(await target.get(newest, limit=manifest.LIMIT)).taken_at
    except NoSuchObject:
        return
    done.as_of = max(done.as_of or taken, taken)
