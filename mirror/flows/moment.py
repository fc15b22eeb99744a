"""Which repo, and which of its snapshots, a person means."""

from datetime import datetime

from mirror.errors import NotFound
from mirror.flows.edges import Edges
from mirror.model import Repo, Snapshot
from mirror.store import repos, snapshots, teams


async def repo_named(edges: Edges, name: str) -> Repo:
    """The repo of this name."""
    repo = await repos.by_name(edges.db, await teams.default(edges.db), name)
    if repo is None:
        raise NotFound(f"no repo is called {name}; `everref repos` lists them")
    return repo


async def snapshot_at(edges: Edges, repo: Repo, when: int | datetime | None) -> Snapshot:
    """The snapshot of this number, or the last one at or before this time; None means the latest."""
    latest = await snapshots.latest(edges.db, repo.id)
    if latest is None:
        raise NotFound(f"{repo.name} has no snapshot yet; back it up first: everref backup {repo.url}")
    if when is None:
        return latest
    if isinstance(when, int):
        found = await snapshots.get(edges.db, repo.id, when)
        if found is None:
            raise NotFound(f"{repo.name} has no snapshot #{when}; it has #1 to #{latest.number}")
        return found
    found = await snapshots.at(edges.db, repo.id, when)
    if found is None:
        first = await snapshots.get(edges.db, repo.id, 1)
        assert first is not None  # there is a latest one, and numbers begin at 1
        raise NotFound(
            f"{repo.name} has no snapshot at or before {_shown(when)}; "
            f"the first is #1 of {_shown(first.taken_at)}"
        )
    return found


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"
