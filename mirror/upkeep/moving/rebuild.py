"""Reading the history back from the vault after the database was lost."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mirror.backup import damage, dropped, notes, recover
from mirror.backup import sync as syncing
from mirror.backup.part import part_of
from mirror.core.errors import Corrupt, Damaged, EverrefError, KeyMissing, NoSuchObject, UsageError
from mirror.core.formats import attestation, layout, manifest
from mirror.core.formats.manifest import RepoFile
from mirror.core.identities import Identity
from mirror.core.model import Part, Repo, RepoId
from mirror.people import keys
from mirror.services import sealing
from mirror.services.lease import PATIENCE, leased
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.backup import descriptions, parts, snapshots
from mirror.store.backup import sealing as of_teams
from mirror.store.discovery import remotes
from mirror.store.leases import Lease
from mirror.store.people.teams import TeamId
from mirror.upkeep import checkpoints, daily, evidence, state
from mirror.upkeep.erasure import forget
from mirror.upkeep.moving import unknown_repos
from mirror.upkeep.state import ImportedState
from mirror.vault.copies import only_the_first


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was read back of one repo."""

    repo: Repo
    snapshots: int
    added: int  # snapshots that the database did not know
    notes: int  # notes that the database did not know
    missing: Damaged | None = None  # why the history is incomplete
    was: str | None = None  # its earlier name, if another repo has that name or its address now


@dataclass(frozen=True, slots=True)
class Recovered:
    """What came back."""

    repos: Sequence[Rebuilt]
    state: ImportedState | None  # None: the vault has no state of an earlier database


class Incomplete(Corrupt):
    """Part of the history is missing or broken; everything else came back, and is in `recovered`."""

    exit_code = 4

    def __init__(self, problem: EverrefError, recovered: Recovered) -> None:
        super().__init__(str(problem), origin=problem.origin)
        self.recovered = recovered


@dataclass(slots=True)
class _Found:
    """What the vault has of one repo."""

    is_introduced: bool = False  # it has a `repo.json`
    descriptions: set[int] = field(default_factory=set)  # their numbers, like those of the manifests
    manifests: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Description:
    """A repo's description in the vault."""

    about: RepoFile
    is_attested: bool  # by one of the keys
    holds: bool  # a later run may treat it as the newest


async def rebuild(services: Services, patience: float = PATIENCE) -> Recovered:
    """Record everything that the vault holds and the database does not.

    1. The newest exported state, if the keys open it: teams, people, connections (upkeep/state).
    2. Every repo, as the vault's newest description has it; its snapshots, parts, notes and statements.
    3. The present state is exported to the vault, unless something is missing: a rebuild with
       other keys, or of a repaired vault, must still find the old state as the newest.

    Safe to run twice, and after a run that was killed: what is already known stays as it
    is. Raises Corrupt if the vault and the database have different histories, or if a
    manifest between others is missing; the snapshots before it still come back. Nothing is
    overwritten then, and every other repo is rebuilt first: Incomplete says what came back.
    """
    with only_the_first():
        return await _all(services, patience)


async def rebuild_with(services: Services, given: Identity, patience: float = PATIENCE) -> Recovered:
    """The same where SECRET_KEYS is lost, too: with a recovery key, or a sheet's, that opens what is sealed.

    What the key files in the vault have is kept, so that backups can be read from then on. Of the
    recovery key itself nothing is kept, unless no key file opens what it opens: a team's first one may
    not have been stored, or its newest have been lost. Safe to run twice.
    """
    found = await keys.from_key_files(services, given)
    services.keys.given += [given, *(one for known in found.values() for one in known)]
    try:
        return await rebuild(services, patience)
    finally:
        await keys.keep(services, found)
        if needing := await _closed_without(services, given):
            await keys.keep(services, {team_id: [given] for team_id in needing})


async def stored_plain(services: Services) -> Sequence[Repo]:
    """Repos that have sealed backups and whose new ones are not sealed, as after a loss of SECRET_KEYS."""
    return [
        repo
        for repo in await repos.all(services.db)
        if not await sealing.of(services, repo.id)
        and any(layout.is_sealed(part.key) for part in await parts.live(services.db, repo.id))
    ]


async def _closed_without(services: Services, given: Identity) -> set[TeamId]:
    """Teams with a repo of which the newest sealed part opens with this key, and with none that is kept."""
    found, others = set[TeamId](), services.keys.given
    for repo in await repos.all(services.db):
        team_id = await of_teams.team_of(services.db, repo.id)
        live = await parts.live(services.db, repo.id)
        for part in sorted(live, key=lambda one: one.last, reverse=True):
            if team_id is None or not layout.is_sealed(part.key):
                continue
            try:
                services.keys.given = []
                if await _opens(services, part.key):
                    break
                services.keys.given = [given]
                if await _opens(services, part.key):
                    found.add(team_id)
                break
            except (Corrupt, NoSuchObject):  # damaged: an older one tells as well
                continue
            finally:
                services.keys.given = others
    return found


async def _opens(services: Services, key: str) -> bool:
    """Whether what is known opens this object. Reads its beginning. Raises Corrupt, NoSuchObject."""
    try:
        async with aclosing(services.vault.read(key, 0, 1)) as chunks:
            async for _ in chunks:
                break
    except KeyMissing:
        return False
    return True


async def _all(services: Services, patience: float) -> Recovered:
    done = list[Rebuilt]()
    problems = dict[RepoId, EverrefError]()
    in_vault = await _repos_in(services)
    for repo_id in await forget.gone(services):  # what is left of it is deleted, not brought back
        in_vault.pop(repo_id, None)
    described = dict[RepoId, _Description]()
    closed = list[RepoId]()
    for repo_id, found in in_vault.items():
        try:
            if await repos.find(services.db, repo_id) is None:
                described[repo_id] = await _described(services, repo_id, found)
        except KeyMissing:
            closed.append(repo_id)  # the state may have its keys
        except (Corrupt, UsageError) as error:
            problems[repo_id] = error
    closed = await _open_by_state(services, in_vault, described, closed, problems)
    attested_ones = {repo_id: one.about for repo_id, one in described.items() if one.is_attested}
    taken = await state.import_newest(services, attested_ones)
    for repo_id in closed:
        try:
            if await repos.find(services.db, repo_id) is None:
                described[repo_id] = await _described(services, repo_id, in_vault[repo_id])
        except (Corrupt, KeyMissing, UsageError) as error:
            problems[repo_id] = error
    await forget.replay(services)
    await evidence.replay_keys(services)
    await checkpoints.replay(services)
    await daily.replay(services)
    for repo_id, found in in_vault.items():
        try:
            about = described[repo_id].about if repo_id in described else None
            repo = await _repo(services, repo_id, found, described.get(repo_id))
            if repo:
                one = await rebuild_repo(services, repo, found.manifests, patience)
                if about and repo.name == f"{about.name}-{str(repo_id)[:8]}":
                    one = replace(one, was=about.name)
                done.append(one)
                if one.missing:
                    problems.setdefault(repo_id, one.missing)
        except (Corrupt, KeyMissing, UsageError) as error:
            problems.setdefault(repo_id, error)
    await unknown_repos.look(services)
    if problems:
        first, *others = problems
        for repo_id in others:
            services.progress.note(f"{repo_id}: {problems[repo_id]}")
        if done:
            raise Incomplete(problems[first], Recovered(done, taken))
        raise problems[first]
    if taken is None or taken.taken_at:
        await _export(services)
    return Recovered(done, taken)


async def _open_by_state(
    services: Services,
    in_vault: Mapping[RepoId, _Found],
    described: dict[RepoId, _Description],
    closed: Sequence[RepoId],
    problems: dict[RepoId, EverrefError],
) -> list[RepoId]:
    """Read sealed descriptions by the keys in the newest state, before it is imported: they may be newer.

    Returns those that are still closed.
    """
    left = list[RepoId]()
    if closed:
        services.keys.given += await state.identities(services)
    for repo_id in closed:
        try:
            described[repo_id] = await _described(services, repo_id, in_vault[repo_id])
        except KeyMissing:
            left.append(repo_id)
        except (Corrupt, UsageError) as error:
            problems[repo_id] = error
    return left


async def _export(services: Services) -> None:
    if services.keyring is None:
        return
    try:
        await state.export(services)
    except EverrefError as error:  # the sweep does it
        services.progress.note(f"the state could not be exported yet: {error}")


async def rebuild_repo(
    services: Services, repo: Repo, manifests: Collection[int], patience: float = PATIENCE
) -> Rebuilt:
    """Rebuild one repo. If a manifest is missing, what precedes it comes back, and the repo fails until then:

    no run writes another in its place (backup/recover). Notes wait for it, as they may tell of
    what follows.
    """
    async with leased(services, repo, patience) as lease:
        archived_at = (await remotes.get(services.db, repo.id)).archived_at
        before = await snapshots.latest(services.db, repo.id)
        last = await recover.replay(services, repo, lease, before, any_epoch=True)
        total = last.number if last else 0
        later = [number for number in manifests if number > total]
        missing = damage.missing_manifest(repo.id, total, later) if later else None
        try:
            await recover.see_that_none_is_missing(services, repo.id, last)
            await recover.see_that_no_copy_goes_on(services, repo.id, last)
        except Damaged as error:  # a copy may have what the vault lacks
            missing = missing or error
        if missing:
            await syncing.record_failure(services, repo.id, missing)
        await _parts(services, repo, lease)
        noted = 0 if missing else await notes.replay(services, repo)
        await evidence.replay(services, repo)
        if archived_at:  # a snapshot shows the past, not whether the repository exists now
            await remotes.archive(services.db, repo.id, archived_at)
    return Rebuilt(repo, total, total - (before.number if before else 0), noted, missing)


async def _repos_in(services: Services) -> dict[RepoId, _Found]:
    """The repos that the vault describes, and the numbers of their descriptions and manifests."""
    found: dict[RepoId, _Found] = {}
    services.progress.phase("listing the vault", None, "objects")
    async for stat in services.vault.list():
        services.progress.advance(1)
        if repo_id := layout.parse_repo_file(stat.key):
            found.setdefault(repo_id, _Found()).is_introduced = True
        elif description := layout.parse_description_key(stat.key):
            found.setdefault(description.repo_id, _Found()).descriptions.add(description.number)
        elif manifest := layout.parse_manifest_key(stat.key):
            found.setdefault(manifest.repo_id, _Found()).manifests.add(manifest.number)
    return {repo_id: one for repo_id, one in found.items() if one.is_introduced or one.descriptions}


async def _repo(
    services: Services, repo_id: RepoId, found: _Found, description: _Description | None
) -> Repo | None:
    """The repo's row, made from its description if there is none. None: the description cannot be read."""
    known, number = await repos.find(services.db, repo_id), max(found.descriptions, default=0)
    if description is None:
        return known
    about = description.about
    made = known or await descriptions.recover(services.db, about, services.clock())
    await descriptions.compare(services.db, repo_id, about if description.holds else None, number)
    return made


async def _described(services: Services, repo_id: RepoId, found: _Found) -> _Description:
    """The newest description that one of the keys attests; else the newest one. Raises Corrupt.

    Anybody who can write to the vault can add one with a higher number. One that is not attested is
    used for a repo of which nothing else is known, and never overrides the state.
    """
    newest: RepoFile | Corrupt | None = None
    for number in (*sorted(found.descriptions, reverse=True), *([0] if found.is_introduced else [])):
        key = layout.description_key(repo_id, number) if number else layout.repo_file(repo_id)
        try:
            stored = (await sealing.got(services, key)).plain
        except Corrupt as error:  # sealed, and changed since
            newest = newest or error
            continue
        is_attested = attestation.is_attested(services.keyring, key, stored)
        if is_attested or newest is None:
            try:
                about = manifest.decode_repo(stored)
                if about.repo != repo_id:
                    raise Corrupt(f"{key} describes another repo")
            except Corrupt as error:
                newest = newest or error
                continue
            if is_attested or services.keyring is None:
                return _Description(about, is_attested, newest is None)
            newest = about
    assert newest is not None
    if isinstance(newest, Corrupt):
        raise newest
    return _Description(newest, is_attested=False, holds=False)


async def _parts(services: Services, repo: Repo, lease: Lease) -> None:
    """Make the vault's live parts live: a part with an index replaces the ones it was made of.

    Those of the newest epoch: what an earlier one had was packed anew, or dropped.
    """
    stored = [stat.key async for stat in services.vault.list(layout.bundles_prefix(repo.id))]
    keys = layout.counting(stored)
    await dropped.adopt(services, repo, lease, keys)
    latest = await snapshots.latest(services.db, repo.id)
    born = {part.key: part for part in await parts.live(services.db, repo.id)}
    merged = []
    for key in keys:
        named = layout.parse_bundle_key(key)
        if (
            named is not None
            and not layout.is_index(key)
            and key not in born
            and latest is not None
            and named.epoch == latest.epoch
            and not await parts.is_known(services.db, repo.id, key)
        ):
            part = await part_of(services.vault, services.stored, key)
            if part is not None:
                merged.append(part)
    for part in _widest(merged):
        covered = [
            one
            for one in await parts.live(services.db, repo.id)
            if part.first <= one.first and one.last <= part.last
        ]
        await parts.replace(services.db, lease, repo.id, covered, part, services.clock(), proved=False)


def _widest(merged: Sequence[Part]) -> list[Part]:
    """The parts that no other part contains; one of those with the same range, which two runs made."""
    ordered = sorted(merged, key=lambda part: layout.is_sealed(part.key))  # a sealed one is taken
    ranges = {(part.first, part.last): part for part in ordered}
    return [
        part
        for (first, last), part in ranges.items()
        if not any(other != (first, last) and other[0] <= first and last <= other[1] for other in ranges)
    ]
