"""Looking at every repo in turn: what a lost webhook or a missed push left behind is found here."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mirror.errors import EverrefError
from mirror.flows import compact, prune
from mirror.flows import sync as syncing
from mirror.flows.edges import Edges
from mirror.flows.sync import Synced
from mirror.model import Reason, Repo
from mirror.store import hooks, parts, repos

PATIENCE: Final = 60.0  # seconds; who is at work on a repo now does for it what a sweep would

DELIVERIES_KEPT: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one repo."""

    repo: Repo
    synced: Synced | None  # None: it failed
    error: EverrefError | None


async def sweep(edges: Edges) -> list[Swept]:
    """Sync every repo and keep its place in the vault small; one that fails never stops another.

    Old deliveries are forgotten: what they claimed is in the history by then.

    Safe to run twice, as `sync`, `compact` and `prune` are.
    """
    swept = [await _sweep(edges, repo) for repo in await repos.all(edges.db)]
    await hooks.forget_before(edges.db, edges.clock() - DELIVERIES_KEPT)
    return swept


async def _sweep(edges: Edges, repo: Repo) -> Swept:
    try:
        synced = await syncing.sync(edges, repo.id, Reason.SWEEP, PATIENCE)
        await compact.compact(edges, repo, PATIENCE)
        if await parts.tombstones(edges.db, repo.id):
            await prune.prune(edges, prune.GRACE, repo, PATIENCE)
    except EverrefError as error:
        return Swept(repo, None, error)
    return Swept(repo, synced, None)
