"""Repos with their histories, written into a directory that another installation imports.

Who calls: the command `everref export --to DIR`. The directory is laid out as a vault is (docs/vault.md),
with everything opened: restore.sh works on it, and so do stock tools. upkeep/moving/import_repos reads it.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from mirror.backup import describe, notes
from mirror.backup.part import read_index
from mirror.core.errors import AlreadyExists, Busy, Corrupt, DiskFull, Refused, UsageError
from mirror.core.formats import exported, layout, manifest
from mirror.core.formats.epochs import LIMIT as EPOCH_LIMIT
from mirror.core.formats.exported import Exported, ExportedRepo
from mirror.core.formats.notes import LIMIT as NOTE_LIMIT
from mirror.core.model import Part, Repo, Sealed, Snapshot
from mirror.people import operator
from mirror.services import failpoints, sealing
from mirror.services.open import Services
from mirror.services.reading import reading
from mirror.store.backup import epochs, parts, snapshots
from mirror.store.backup import notes as note_rows
from mirror.store.people.teams import Team
from mirror.store.upkeep import keeping
from mirror.vault import streams
from mirror.vault.directory import DirectoryVault

_TRIES: Final = 3  # to read of one moment how a repo is stored


@dataclass(frozen=True, slots=True)
class Written:
    """What an export wrote."""

    listed: Exported
    objects: int  # written now; the others were there
    bytes: int  # of these


async def export(services: Services, team: Team, chosen: Sequence[Repo], to: Path) -> Written:
    """Write these repos of a team into the directory `to`: every snapshot, part, note and record of them.

    1. Take the list of an earlier run away: until the end, the directory is not whole.
    2. Write each object, opened, and compared with its recorded sum on the way; what is there already with
       the same bytes stays.
    3. Remove what earlier runs wrote of these repos and is no longer part of them.
    4. Write the list (core/formats/exported).

    Safe to run twice, and after a run that was killed: it goes on. Files can be read by their owner only.
    Raises Corrupt where something stored is damaged; UsageError for a directory that holds something else.
    """
    if not chosen:
        raise UsageError(f"the team {team.name} has no repo that was backed up; there is nothing to export")
    if not await asyncio.to_thread(lambda: to.resolve().parent.is_dir()):
        raise UsageError(f"{to.parent} is no directory; make it, or name another one to export to")
    if await asyncio.to_thread(lambda: to.exists() and not to.is_dir()):
        raise UsageError(f"{to} is a file; name a directory to export to")
    directory = await DirectoryVault.open(to)
    await _check(directory, to, chosen)
    try:
        return await _export(services, team, chosen, to, directory)
    except DiskFull:
        raise DiskFull(
            f"the disk of {to} is full; free some space there and run it again, which goes on", str(to)
        ) from None


async def _export(
    services: Services, team: Team, chosen: Sequence[Repo], to: Path, directory: DirectoryVault
) -> Written:
    """All steps of `export`."""
    await directory.delete(exported.NAME)
    for unfinished in await directory.unfinished():  # of a run that was killed
        await directory.give_up(unfinished.key)
    run = _Run(services, directory, to)
    guide = resources.files("mirror.vault.readme")
    for name in (layout.README, layout.RESTORE):
        await run.put(name, (guide / name).read_bytes(), anew=True)
    done = list[ExportedRepo]()
    for repo in chosen:
        async with reading(services, repo.id):
            done.append(await run.repo(repo))
    listed = Exported(services.clock(), team.name, tuple(done), run.listed)
    for repo in chosen:
        gone = [stat.key async for stat in directory.list(layout.repo_prefix(repo.id))]
        for key in gone:
            if key not in run.listed:
                await directory.delete(key)
    failpoints.reached("export: all written")
    await directory.put(exported.NAME, exported.encode(listed))
    for repo, one in zip(chosen, done, strict=True):
        await operator.did_to(services, repo, "repo.export", {"snapshots": one.snapshots})
    return Written(listed, run.objects, run.bytes)


async def _check(directory: DirectoryVault, to: Path, chosen: Sequence[Repo]) -> None:
    """Raise UsageError where the directory holds something that is no earlier run of the same."""
    if await directory.stat(layout.MARKER) is not None:
        raise UsageError(f"{to} is a vault; name another directory to export to")
    ids = {repo.id for repo in chosen}
    async with aclosing(directory.list()) as found:
        async for stat in found:
            if stat.key in (exported.NAME, layout.README, layout.RESTORE):
                continue
            if layout.repo_of(stat.key) not in ids:
                raise UsageError(f"{to} holds something else ({stat.key}); name an empty directory")


class _Run:
    """One run, and what it has listed so far."""

    def __init__(self, services: Services, directory: DirectoryVault, to: Path) -> None:
        self._services, self._directory, self._to = services, directory, to
        self.listed: dict[str, Sealed] = {}
        self.objects = self.bytes = 0

    async def repo(self, repo: Repo) -> ExportedRepo:
        """Write one repo: parts and indexes first, then what describes them, manifests last."""
        services = self._services
        await notes.store_waiting(services, repo.id)
        held = await keeping.hold(services.db, repo.id)
        found, live = await _stored(services, repo)
        services.progress.phase(f"exporting {repo.name}", sum(part.bytes for part in live), "bytes")
        for part in live:
            await self._part(part)
        await self.put(layout.repo_file(repo.id), await describe.current(services, repo.id), anew=True)
        for number, sha256 in (await epochs.records(services.db, repo.id)).items():
            await self._small(layout.epoch_key(repo.id, number), EPOCH_LIMIT, sha256)
        for key, sha256 in (await note_rows.sums(services.db, repo.id)).items():
            got = await sealing.got(services, key, NOTE_LIMIT)
            stored = got.sealed.sha256 if got.sealed else hashlib.sha256(got.plain).hexdigest()
            if stored != sha256:
                raise Corrupt(f"{key}: expected sha256 {sha256}, found {stored}")
            await self.put(layout.plain(key), got.plain)
        async for stat in services.vault.list(layout.evidence_prefix(repo.id)):
            if layout.is_evidence(stat.key):
                await self.put(layout.plain(stat.key), await services.vault.get(stat.key))
        services.progress.phase(f"exporting {repo.name}", len(found), "snapshots")
        for snapshot in found:
            key = layout.manifest_key(repo.id, snapshot.number)
            await self._small(key, manifest.LIMIT, snapshot.manifest_sha256)
            services.progress.advance(1)
        last = found[-1]
        why = held.reason if held else None
        return ExportedRepo(repo.id, repo.name, last.number, last.manifest_sha256, last.epoch, why)

    async def _small(self, key: str, limit: int, sha256: str) -> None:
        plain = (await sealing.got(self._services, key, limit)).plain
        if hashlib.sha256(plain).hexdigest() != sha256:
            raise Corrupt(f"{key}: it is not as it was recorded; everref verify tells more")
        await self.put(key, plain)

    async def _part(self, part: Part) -> None:
        """Write a part, opened; one that is sealed gets an index that says what it is now."""
        key = layout.plain(part.key)
        wanted = Sealed(part.bytes, part.sha256)
        await self._stream(key, self._services.vault.read(part.key), wanted)
        if part.index_bytes:
            recorded = None if part.sealed else Sealed(part.index_bytes, part.index_sha256)
            await self._stream(layout.index_key(key), self._index(part), recorded)
        elif part.sealed:
            await self.put(layout.index_key(key), manifest.encode_index(replace(part, sealed=None)))

    async def _index(self, part: Part) -> AsyncGenerator[bytes, None]:
        if part.sealed is None:
            async with aclosing(self._services.vault.read(layout.index_key(part.key))) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        yield manifest.encode_index(replace(part, sealed=None))
        async for chunk in read_index(self._services.vault, part):
            yield chunk

    async def put(self, key: str, data: bytes, *, anew: bool = False) -> None:
        """Write a small object. `anew`: another one that is there may be replaced."""
        about = Sealed(len(data), hashlib.sha256(data).hexdigest())
        if anew and await self._directory.stat(key) and await self._sum(key) != about:
            await self._directory.delete(key)
        try:
            await self._directory.put(key, data)
            self.objects, self.bytes = self.objects + 1, self.bytes + len(data)
        except AlreadyExists:
            await self._compare(key, about)
        self.listed[key] = about
        failpoints.reached("export: object written")

    async def _stream(self, key: str, chunks: AsyncGenerator[bytes, None], wanted: Sealed | None) -> None:
        """Write an object of any size; `wanted`: what it must be. None: what is read was compared."""
        if wanted and await self._directory.stat(key) is not None:
            await chunks.aclose()
            await self._compare(key, wanted)
            self.listed[key] = wanted
            self._services.progress.advance(wanted.bytes)
            return
        try:
            async with self._directory.create(key) as writer:
                about = await streams.write(writer, chunks, self._services.progress.advance)
                if wanted and about != wanted:
                    raise Corrupt(f"{key}: it is not as it was recorded; everref verify tells more")
                await writer.commit()
            self.objects, self.bytes = self.objects + 1, self.bytes + about.bytes
        except AlreadyExists:
            await self._compare(key, about)
        self.listed[key] = about
        failpoints.reached("export: object written")

    async def _compare(self, key: str, wanted: Sealed) -> None:
        if await self._sum(key) != wanted:
            raise Refused(f"{self._to}/{key} was changed; delete it, or name an empty directory")

    async def _sum(self, key: str) -> Sealed:
        return await streams.sum_of(self._directory.read(key))


async def _stored(services: Services, repo: Repo) -> tuple[list[Snapshot], list[Part]]:
    """Every snapshot of a repo and the parts that hold their objects, of one moment. Raises Busy."""
    for _ in range(_TRIES):
        before = await parts.live(services.db, repo.id)
        found = [snapshot async for snapshot in snapshots.every(services.db, repo.id)]
        live = await parts.live(services.db, repo.id)
        if not found:
            raise UsageError(f"{repo.name} has no snapshot yet; everref backup takes one")
        if [part.key for part in live] == [part.key for part in before]:
            return found, live
    raise Busy(f"the parts of {repo.name} changed while they were listed; try again")
