"""Reading the history back from the vault: for the day on which the database is lost."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from mirror import layout, manifest
from mirror.errors import Corrupt, EverrefError, UsageError
from mirror.flows import notes, partindex, prune, settle
from mirror.flows.edges import Edges
from mirror.flows.turn import PATIENCE, turn
from mirror.model import Part, Repo, RepoId
from mirror.store import parts, repos, snapshots, teams
from mirror.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was read back of one repo."""

    repo: Repo
    snapshots: int
    added: int  # snapshots that the database did not know


async def rebuild(edges: Edges, patience: float = PATIENCE) -> list[Rebuilt]:
    """Record every repo, snapshot and part that the vault holds and the database does not.

    Credentials were never in the vault and must be given again. Safe to run
    twice: what is known already is left as it is. Raises Corrupt where the vault
    and the database tell different histories, or a manifest is missing between
    others; nothing is overwritten then, and every other repo is done first.
    """
    done = []
    problem: EverrefError | None = None
    for repo_id, numbers in (await _repos_in(edges)).items():
        try:
            await _check(edges, repo_id, numbers)
            done.append(await _rebuild(edges, await _repo(edges, repo_id), patience))
        except (Corrupt, UsageError) as error:
            edges.progress.note(f"{repo_id}: {error}")
            problem = problem or error
    if problem:
        raise problem
    return done


async def _check(edges: Edges, repo_id: RepoId, numbers: Collection[int]) -> None:
    """Raise Corrupt where a manifest is missing: what follows it would be taken for nobody's."""
    known = await snapshots.latest(edges.db, repo_id)
    for number in range(known.number + 1 if known else 1, max(numbers, default=0)):
        if number not in numbers and not await edges.vault.stat(layout.manifest_key(repo_id, number)):
            raise prune.missing_manifest(repo_id, number)


async def _rebuild(edges: Edges, repo: Repo, patience: float) -> Rebuilt:
    async with turn(edges, repo, patience) as lease:
        before = await snapshots.latest(edges.db, repo.id)
        last = await settle.replay(edges, repo, lease, before)
        await _parts(edges, repo, lease)
        await notes.replay(edges, repo)
    total = last.number if last else 0
    return Rebuilt(repo, total, total - (before.number if before else 0))


async def _repos_in(edges: Edges) -> dict[RepoId, set[int]]:
    """The repos of which the vault has a `repo.json`, and the numbers of their manifests."""
    found: dict[RepoId, set[int]] = {}
    numbers: dict[RepoId, set[int]] = {}
    edges.progress.phase("listing the vault", None, "objects")
    async for stat in edges.vault.list():
        edges.progress.advance(1)
        prefix, _, rest = stat.key.partition("/")
        if rest == "repo.json":
            with suppress(ValueError):  # somebody else's object
                repo_id = RepoId(UUID(prefix))
                found[repo_id] = numbers.setdefault(repo_id, set())
        if manifest := layout.parse_manifest_key(stat.key):
            numbers.setdefault(manifest.repo_id, set()).add(manifest.number)
    return found


async def _repo(edges: Edges, repo_id: RepoId) -> Repo:
    """The repo's row, made from its `repo.json` where there is none."""
    about = manifest.decode_repo(await edges.vault.get(layout.repo_file(repo_id)))
    if about.repo != repo_id:
        raise Corrupt(f"{layout.repo_file(repo_id)} describes another repo")
    known = await repos.find(edges.db, repo_id)
    if known:
        return known
    team = await teams.default(edges.db)
    repo = await repos.add(edges.db, team, about.name, about.url, edges.clock(), repo_id)
    if about.object_format:
        await repos.set_object_format(edges.db, repo_id, about.object_format)
    return repo


async def _parts(edges: Edges, repo: Repo, lease: Lease) -> None:
    """Make those parts live that the vault says are: one with an index covers the ones it was made of."""
    born = {part.key: part for part in await parts.live(edges.db, repo.id)}
    merged = []
    async for stat in edges.vault.list(layout.bundles_prefix(repo.id)):
        if (
            stat.key.endswith(".bundle")
            and stat.key not in born
            and not await parts.is_known(edges.db, repo.id, stat.key)
        ):
            part = await partindex.described(edges.vault, stat.key)
            if part is not None:
                merged.append(part)
    for part in _widest(merged):
        covered = [
            one
            for one in await parts.live(edges.db, repo.id)
            if part.first <= one.first and one.last <= part.last
        ]
        await parts.replace(edges.db, lease, repo.id, covered, part, edges.clock())


def _widest(merged: Sequence[Part]) -> list[Part]:
    """Those that lie in no other; of those with the same range, which two runs made, one."""
    ranges = {(part.first, part.last): part for part in merged}
    return [
        part
        for (first, last), part in ranges.items()
        if not any(other != (first, last) and other[0] <= first and last <= other[1] for other in ranges)
    ]
