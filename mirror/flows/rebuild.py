"""Reading the history back from the vault: for the day on which the database is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from mirror import layout, manifest
from mirror.errors import Corrupt
from mirror.flows import partindex, settle
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
    and the database tell different histories; nothing is overwritten then.
    """
    done = []
    for repo_id in await _repos_in(edges):
        repo = await _repo(edges, repo_id)
        async with turn(edges, repo, patience) as lease:
            before = await snapshots.latest(edges.db, repo.id)
            last = await settle.replay(edges, repo, lease, before)
            await _parts(edges, repo, lease)
        total = last.number if last else 0
        done.append(Rebuilt(repo, total, total - (before.number if before else 0)))
    return done


async def _repos_in(edges: Edges) -> list[RepoId]:
    """The repos of which the vault has a `repo.json`."""
    found = []
    edges.progress.phase("listing the vault", None, "objects")
    async for stat in edges.vault.list():
        edges.progress.advance(1)
        prefix, _, rest = stat.key.partition("/")
        if rest == "repo.json":
            found.append(RepoId(UUID(prefix)))
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
    async for stat in edges.vault.list(layout.repo_prefix(repo.id) + "bundles/"):
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
    """Those that lie in no other."""
    return [
        one
        for one in merged
        if not any(
            other is not one and other.first <= one.first and one.last <= other.last for other in merged
        )
    ]
