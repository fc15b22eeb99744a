"""Repos with their histories, read from a directory that another installation exported.

Who calls: the command `everref import DIR`. upkeep/moving/export_repos writes such a directory. What is there
is compared with its list before anything is stored; then objects are put into the vault, and recorded as a
rebuild records them.
"""

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mirror.backup import describe, guide
from mirror.backup.part import part_of, read_index
from mirror.core import words
from mirror.core.errors import AlreadyExists, Corrupt, NoSuchObject, OverLimit, Refused, UsageError
from mirror.core.formats import exported, layout, manifest
from mirror.core.formats.exported import Exported, ExportedRepo
from mirror.core.formats.manifest import Manifest
from mirror.core.model import Part, Repo, RepoId, Sealed
from mirror.people import operator
from mirror.services import failpoints, sealing
from mirror.services.lease import leased
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import descriptions, parts, snapshots
from mirror.store.database import transaction
from mirror.store.people import quotas
from mirror.store.people.teams import Team
from mirror.store.upkeep import imports
from mirror.upkeep.erasure import forget
from mirror.upkeep.moving.rebuild import rebuild_repo
from mirror.vault import streams
from mirror.vault.copies import only_the_first
from mirror.vault.directory import DirectoryVault

_UNIQUE: Final = 16  # hex digits of the name that a part gets when it is sealed here


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one repo."""

    repo: Repo
    snapshots: int  # that it has now
    added: int  # by this run
    was: str  # its name where it came from
    held: str | None  # why it was on legal hold there, which is not taken over


@dataclass(frozen=True, slots=True)
class _Read:
    """A repo in the directory, whose manifests are a chain."""

    about: ExportedRepo
    manifests: Mapping[int, Manifest]
    sums: Mapping[int, str]  # SHA-256 of each
    parts: Mapping[str, Part]  # by their keys

    def after(self, latest: int) -> list[Part]:
        """The parts with objects of later snapshots than this one."""
        return [part for part in self.parts.values() if part.last > latest]


async def import_all(services: Services, team: Team, source: Path) -> list[Imported]:
    """Import every repo of an export into a team: its snapshots, what was dropped of it, and its notes.

    1. The whole directory is read and compared with its list, and each chain of manifests is checked.
    2. Each repo is compared with what is here: a history that is here already is continued, or left where
       nothing is new; another history of the same repo is refused, and nothing of the export is imported.
    3. A new repo gets its row in the team, archived: no forge is asked about it until somebody connects it.
    4. Its objects are created in the vault under its own id, sealed if the team seals; manifests last.
    5. What the vault then has is recorded as a rebuild does it.

    Safe to run twice, and after a run that was killed anywhere: what is stored is compared and left. Raises
    UsageError where the directory is not whole, Corrupt where it was changed, Refused, OverLimit.
    """
    if not await asyncio.to_thread(source.is_dir):
        raise UsageError(f"{source} is no directory; name the one that everref export --to wrote")
    directory = await DirectoryVault.open(source, make=False)
    listed = await _listed(directory, source)
    await _compare(services, directory, listed, source)
    found = [await _read(directory, listed, about) for about in listed.repos]
    gone = await forget.gone(services)
    for one in found:
        await _check(services, team, one, gone)
    await _check_room(services, team, listed)
    done = list[Imported]()
    with only_the_first():
        await guide.store(services)
        for one in found:
            done.append(await _import(services, team, directory, listed, one))
    return done


async def _listed(directory: DirectoryVault, source: Path) -> Exported:
    try:
        return exported.decode(await directory.get(exported.NAME, exported.LIMIT))
    except NoSuchObject:
        raise UsageError(
            f"{source} has no {exported.NAME}, so it is not a whole export; run everref export again, which"
            " goes on, or copy the directory again"
        ) from None


async def _compare(services: Services, directory: DirectoryVault, listed: Exported, source: Path) -> None:
    """Read everything in the list. Raises Corrupt for the first object that is not as it says."""
    services.progress.phase("reading the export", listed.bytes, "bytes")
    for key, wanted in listed.objects.items():
        try:
            found: Sealed | None = await streams.sum_of(directory.read(key))
        except NoSuchObject:
            found = None
        if found != wanted:
            why = "is missing" if found is None else "was changed"
            raise Corrupt(f"{source}/{key} {why} since it was exported; copy the export again")
        services.progress.advance(wanted.bytes)


async def _read(directory: DirectoryVault, listed: Exported, about: ExportedRepo) -> _Read:
    """The manifests of a repo, in their order. Raises Corrupt where they are not one chain."""
    found, sums, previous = dict[int, Manifest](), dict[int, str](), None
    for number in range(1, about.snapshots + 1):
        key = layout.manifest_key(about.id, number)
        if key not in listed.objects:
            raise Corrupt(f"the export has no {key}")
        one = manifest.decode(await directory.get(key, manifest.LIMIT))
        if (one.repo, one.number, one.previous) != (about.id, number, previous):
            raise Corrupt(f"{key} does not follow the manifest before it")
        previous = sums[number] = listed.objects[key].sha256
        found[number] = replace(one, changes=(), refs=None)  # which are not needed here
    if previous != about.sha256:
        raise Corrupt(f"the manifests of {about.name} do not end as {exported.NAME} says")
    bundles = dict[str, Part]()
    for key in listed.objects:
        named = None if layout.is_index(key) else layout.parse_bundle_key(key)
        if named and named.repo_id == about.id:
            bundles[key] = await _part(directory, listed, key, found)
    holes = [
        number
        for number, one in found.items()
        if one.bundle
        and not any(
            part.epoch == about.epoch and part.first <= number <= part.last for part in bundles.values()
        )
    ]
    if holes:
        raise Corrupt(f"the export has no part with snapshot #{holes[0]} of {about.name}")
    return _Read(about, found, sums, bundles)


async def _part(
    directory: DirectoryVault, listed: Exported, key: str, manifests: Mapping[int, Manifest]
) -> Part:
    """A part as its index describes it, or the manifest that it was born with. Raises Corrupt."""
    part = None
    if layout.index_key(key) in listed.objects:
        part = await part_of(directory, directory, key)
    for one in manifests.values() if part is None else ():
        if one.bundle and one.bundle.key == key:
            part = replace(one.bundle, index_bytes=0, index_sha256="")
    if part is None:
        raise Corrupt(f"no manifest in the export names {key}, and it has no index")
    if Sealed(part.bytes, part.sha256) != listed.objects[key] or part.sealed is not None:
        raise Corrupt(f"{key} is not as its manifest or its index says")
    return part


async def _check(services: Services, team: Team, one: _Read, gone: Collection[RepoId]) -> None:
    """Raise Refused where this history cannot be imported."""
    about, db = one.about, services.db
    if about.id in gone:
        raise Refused(
            f"the backups of {about.name} were deleted here on purpose; they are not imported again"
        )
    known = await repos.find_in(db, team.id, about.id)
    if known is None:
        if await repos.find(db, about.id) is not None:
            raise Refused(f"{about.name} is here already, in another team; say which one: --team TEAM")
        return
    latest = await snapshots.latest(db, about.id)
    if latest is None:
        return
    number = min(latest.number, about.snapshots)
    here = await snapshots.get(db, about.id, number)
    if here is None or here.manifest_sha256 != one.sums[number]:
        raise Refused(
            f"{known.name} has another history here: its snapshot #{number} is not the one in the export;"
            " nothing is imported"
        )
    if await imports.is_under_way(db, about.id) or latest.number >= about.snapshots:
        return
    if latest.epoch != about.epoch:
        raise Refused(
            f"{known.name} was packed anew since it was imported, here or where it comes from, as snapshots"
            " were dropped or something was erased: its later snapshots cannot be added to the ones here"
        )
    for wanted in one.after(latest.number):
        for part in await parts.live(db, about.id):
            inside = wanted.first <= part.first and part.last <= wanted.last
            if part.last >= wanted.first and not inside:
                raise Refused(
                    f"the parts of {known.name} were merged differently here and where it comes from; run"
                    f" everref compact there and export it again"
                )


async def _check_room(services: Services, team: Team, listed: Exported) -> None:
    """Raise OverLimit where the team has no room for the repos and bytes that are new."""
    new, size = 0, 0
    for about in listed.repos:
        if await repos.find(services.db, about.id) is None:
            new += 1
            size += sum(
                stored.bytes
                for key, stored in listed.objects.items()
                if layout.repo_of(key) == about.id and key.endswith(".bundle")
            )
    names = ("repos", "stored-bytes")
    for use in await quotas.uses(services.db, team.id, services.settings.limits, services.clock(), names):
        more = new if use.limit.name == "repos" else size
        if use.most is not None and more and use.used + more > use.most:
            told = words.size(more) if use.limit.in_bytes else words.count(more, "repo")
            raise OverLimit(
                f"the import adds {told}, and {team.name} has {use.said} {use.limit.label}; the person who"
                f" runs Everref can raise the limit: everref limits {team.name} {use.limit.name}=NUMBER",
                use.limit.name,
            )


async def _import(
    services: Services, team: Team, directory: DirectoryVault, listed: Exported, one: _Read
) -> Imported:
    """Steps 3 to 5 for one repo."""
    about, db = one.about, services.db
    repo = await repos.find_in(db, team.id, about.id)
    latest = await snapshots.latest(db, about.id) if repo else None
    under_way = repo is None or await imports.is_under_way(db, about.id)
    before = latest.number if latest else 0
    if repo is not None and not under_way and before >= about.snapshots:
        return Imported(repo, before, 0, about.name, about.held)
    if repo is None:
        repo = await _row(services, team, directory, one)
    failpoints.reached("import: row made")
    async with leased(services, repo):
        await describe.introduce(services, repo.id)
        writing = _Writing(services, directory, listed, one, await sealing.of(services, repo.id))
        size = sum(listed.objects[key].bytes for key in one.parts)
        services.progress.phase(f"importing {repo.name}", size, "bytes")
        for key, part in one.parts.items():
            if under_way or part.last > before:
                await writing.part(key)
        failpoints.reached("import: parts stored")
        for key in listed.objects:
            if layout.repo_of(key) == repo.id and (layout.parse_note_key(key) or layout.parse_epoch_key(key)):
                await writing.small(key)
        for number in one.manifests:
            await writing.small(layout.manifest_key(repo.id, number))
            failpoints.reached("import: manifest stored")
    rebuilt = await rebuild_repo(services, repo, one.manifests.keys())
    if rebuilt.missing:
        raise rebuilt.missing
    failpoints.reached("import: recorded")
    told = {"snapshots": rebuilt.snapshots, "added": rebuilt.snapshots - before, "from": listed.team}
    async with transaction(db) as connection:
        if under_way or rebuilt.snapshots > before:
            await operator.did(connection, team.id, "repo.import", repo.name, told, services.clock(), repo.id)
        await imports.end(connection, repo.id, services.clock())
    return Imported(repo, rebuilt.snapshots, rebuilt.snapshots - before, about.name, about.held)


async def _row(services: Services, team: Team, directory: DirectoryVault, one: _Read) -> Repo:
    """The repo in its new team, under a free name and address, archived; and that its import begins."""
    key, now = layout.repo_file(one.about.id), services.clock()
    try:
        about = manifest.decode_repo(await directory.get(key))
    except NoSuchObject:
        raise Corrupt(f"the export has no {key}") from None
    if about.repo != one.about.id:
        raise Corrupt(f"{key} describes another repo")
    about = replace(
        about,
        team=team.id,
        team_name=team.name,
        forge="generic",
        host=None,
        repository_id=None,
        paused_at=None,
        archived_at=now,
        object_format=one.manifests[one.about.snapshots].object_format,
    )
    async with quotas.within(services.db, team.id, services.settings.limits, now, "repos") as connection:
        repo = await descriptions.recover(connection, about, now)
        await imports.begin(connection, repo.id, now)
    return repo


@dataclass(frozen=True, slots=True)
class _Writing:
    """Putting the objects of one repo into the vault, under its lease."""

    services: Services
    directory: DirectoryVault
    listed: Exported
    one: _Read
    is_sealed: bool

    async def small(self, key: str) -> None:
        """Store a manifest, a note or a record, unless it is there. Raises Refused for another one."""
        plain = await self.directory.get(key, manifest.LIMIT)
        if hashlib.sha256(plain).hexdigest() != self.listed.objects[key].sha256:
            raise Corrupt(f"{key} was changed while it was imported; nothing that it says is recorded")
        try:
            there = (await sealing.got(self.services, key, manifest.LIMIT)).plain
        except NoSuchObject:
            try:
                await self.services.vault.put(layout.sealed(key, self.is_sealed), plain)
                return
            except AlreadyExists:
                there = (await sealing.got(self.services, key, manifest.LIMIT)).plain
        if there != plain:
            raise Refused(f"the vault has another {key}; nothing more of {self.one.about.name} is imported")

    async def part(self, key: str) -> None:
        """Store a part and its index, unless they are there.

        Where the team seals, it gets a name of its own, always the same one, and an index, which says what
        is stored: its manifest tells of it as it was where it comes from.
        """
        part, wanted, vault = self.one.parts[key], self.listed.objects[key], self.services.vault
        if not self.is_sealed:
            await self._copy(key, key, wanted)
            if part.index_bytes:
                idx = layout.index_key(key)
                await self._copy(idx, idx, self.listed.objects[idx])
            return
        new = _renamed(key)
        sealed = await self._copy(key, new, wanted)
        failpoints.reached("import: part stored")
        idx = layout.index_key(new)
        if await vault.stat(idx) is None:
            async with vault.create(idx) as writer:
                await writer.write(manifest.encode_index(replace(part, key=new, sealed=sealed)))
                if part.index_bytes:
                    async with aclosing(read_index(self.directory, part)) as chunks:  # type: ignore[type-var]
                        async for chunk in chunks:
                            await writer.write(chunk)
                await writer.commit()

    async def _copy(self, key: str, to: str, wanted: Sealed) -> Sealed | None:
        """Copy an object into the vault, and return what is stored where it is sealed on the way."""
        services = self.services
        if await services.vault.stat(to) is not None:
            if await streams.sum_of(services.vault.read(to)) != wanted:
                raise Refused(f"the vault has another {to}; nothing more of it is imported")
            return await streams.sum_of(services.stored.read(to)) if layout.is_sealed(to) else None
        async with services.vault.create(to) as writer:
            found = await streams.write(writer, self.directory.read(key), services.progress.advance)
            if found != wanted:
                raise Corrupt(f"{key} was changed while it was imported; it is not stored")
            return await writer.commit()


def _renamed(key: str) -> str:
    """The key of a part that is sealed here: the same for each run, and not one that a manifest names."""
    named = layout.parse_bundle_key(key)
    assert named is not None  # a key in an export
    unique = hashlib.sha256(f"imported {key}".encode()).hexdigest()[:_UNIQUE]
    return layout.bundle_key(named.repo_id, named.epoch, named.first, named.last, unique, is_sealed=True)
