"""Proving that an object, or a repo, is gone: what was looked at, what is left, and what may stay.

Who calls: the command line, `everref verify --erased`. Nothing is changed. Other machines' disks are not seen
from here.
"""

import asyncio
import re
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.backup import hydrate
from mirror.core import words
from mirror.core.errors import NotFound
from mirror.core.formats import layout
from mirror.core.model import Repo, RepoId, Snapshot, Target
from mirror.git import read, remains, view
from mirror.services.embedded.servers import DataFolder
from mirror.services.open import Services
from mirror.store.backup import parts, snapshots
from mirror.store.upkeep import erased, mentions
from mirror.vault import streams
from mirror.vault.copies import Place

# Where this machine's disk has objects of repos: their pools and scratch space, and rooms that all share.
ROOMS: Final = ("pools", "scratch", "restores", "reading", "serving", "incoming", "bundles")
_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UPLOAD: Final = "upload-"  # a file that somebody brings in, by its own id


@dataclass(frozen=True, slots=True)
class Proof:
    """What was looked at for what is gone, and where some of it still is."""

    looked_at: tuple[str, ...]  # each in a line
    left: tuple[str, ...]  # where something still is; empty: it is gone
    stays: tuple[str, ...] = ()  # where its id alone stays, and why that is no part of it


async def proved(services: Services, repo_id: RepoId) -> Proof:
    """Look everywhere for anything of a repo that is gone; changes nothing.

    Raises NotFound for a repo that is not gone.
    """
    known = await erased.find(services.db, repo_id)
    if known is None:
        raise NotFound(f"no repo with the id {repo_id} was erased here")
    looked, left = list[str](), list[str]()
    tables = await erased.rows(services.db, repo_id)
    looked.append(f"database: {words.count(len(tables), 'table')} with rows of repositories")
    left += [f"database: {words.count(number, 'row')} of {name}" for name, number in tables.items() if number]
    prefix = layout.repo_prefix(repo_id)
    for place in services.copies.places:
        here, where = await streams.every_key(place.vault, prefix), _where(services, place)
        until = f", which the store keeps locked until {known.locked_until}" if known.locked_until else ""
        looked.append(f"{where}: every object and hidden version under {prefix}")
        if here:
            left.append(f"{where}: {words.count(len(here), 'object')}, such as {here[0]}{until}")
    await _disk(services, repo_id, looked, left)
    exports = await _exports_before(services, known.erased_at.isoformat())
    looked.append("vault: exports of the state that were made before it was erased")
    left += [f"vault: {key} may have its name and address, encrypted" for key in exports]
    return Proof(tuple(looked), tuple(left))


async def proved_objects(services: Services, repo: Repo, wanted: Sequence[Target]) -> Proof:
    """Look everywhere for these objects of a repo: reads all that is stored of it; changes nothing.

    Raises NotFound for a repo without a snapshot; Corrupt, GapInChain where its parts cannot be read.
    """
    last = await snapshots.latest(services.db, repo.id)
    if last is None:
        raise NotFound(f"{repo.name} has no snapshot")
    looked, left = list[str](), list[str]()
    held = await _held(services, repo, last, wanted)
    live = await parts.live(services.db, repo.id)
    looked.append(f"vault: every byte of {words.count(len(live), 'part')}, unpacked by git")
    left += [f"vault: the pack log has {oid.decode()}" for oid in sorted(held)]
    keys = {part.key for part in live} | {layout.index_key(part.key) for part in live}
    for place in services.copies.places:
        where = _where(services, place)
        looked.append(f"{where}: which parts there are, also hidden versions")
        for key in await streams.every_key(place.vault, layout.bundles_prefix(repo.id)):
            if key.removesuffix(".age") not in keys and key not in keys:
                left.append(f"{where}: {key}, which was replaced and may have it")
    looked.append("bundles to download that were made of it")
    for key in await erased.export_keys(services.db, repo.id):
        if await services.vault.stat(key) is not None:
            left.append("vault: a bundle to download, which may have it")
    places = await asyncio.to_thread(_rooms, services.disk.root, repo.id)
    looked.append(f"this machine's disk: pools and scratch space under {services.disk.root}")
    left += [f"this machine's disk: {line}" for line in await remains.under(places, wanted)]
    coming = [path for path in places if path.name.startswith(_UPLOAD)]
    left += [f"this machine's disk: {path} is being brought in, and may have it" for path in coming]
    logs = await asyncio.to_thread(_logs, services.disk.root)
    looked.append(f"logs: {words.count(len(logs), 'file')} in {DataFolder(services.disk.root).run}")
    left += [f"logs: {file} names it" for file in await remains.named_in(logs, wanted)]
    found = await mentions.of_objects(services.db, repo.id, wanted)
    looked.append(f"database: {words.count(found.columns, 'column')} of text or bytes, in every table")
    stays = list[str]()
    for one in found.found:
        line = f"database: {words.count(one.rows, 'row')} of {one.column}"
        if one.allowed is None:
            left.append(f"{line}, which may hold more than its id")
        else:
            stays.append(f"{line}: {one.allowed}")
    return Proof(tuple(looked), tuple(left), tuple(stays))


async def _held(services: Services, repo: Repo, last: Snapshot, wanted: Collection[Target]) -> set[Target]:
    """Which of these a copy has that is made from the vault alone."""
    room = services.disk.root / "restores"
    async with view.scratch_view(None, room, object_format=last.object_format) as copy:
        await hydrate.fill(
            services, copy.path, last.object_format, await hydrate.steps_to(services, repo, last)
        )
        return set(wanted) - await read.missing(copy.path, wanted)


def _where(services: Services, place: Place) -> str:
    """A store in words: the vault itself, or one of its copies."""
    return "vault" if place is services.copies.places[0] else f"copy {place.name}"


async def _disk(services: Services, repo_id: RepoId, looked: list[str], left: list[str]) -> None:
    looked.append(f"this machine's disk: {services.disk.root}")
    for path in await asyncio.to_thread(_rooms, services.disk.root, repo_id):
        if str(repo_id) in path.name and path.is_dir():
            left.append(f"this machine's disk: {path}")


def _rooms(root: Path, repo_id: RepoId) -> list[Path]:
    """What is of this repo in the rooms of the disk, or of a repo that its name does not tell."""
    found = list[Path]()
    for room in (root / name for name in ROOMS):
        if room.is_dir():
            found += [path for path in sorted(room.iterdir()) if _may_be_of(path.name, repo_id)]
    return found


def _may_be_of(name: str, repo_id: RepoId) -> bool:
    """Whether what has this name is of the repo, or its name tells of no repo at all."""
    return str(repo_id) in name or name.startswith(_UPLOAD) or not _ID.search(name)


def _logs(root: Path) -> list[Path]:
    """The log files that Everref keeps itself."""
    return sorted(DataFolder(root).run.glob("*.log*"))


async def _exports_before(services: Services, at: str) -> list[str]:
    found = []
    async with aclosing(services.vault.list(layout.STATES)) as states:
        async for stat in states:
            taken = layout.parse_state_key(stat.key)
            if taken is not None and taken.isoformat() < at:
                found.append(stat.key)
    return found
