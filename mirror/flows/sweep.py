"""Looking at every repo in turn: what a lost webhook or a missed push left behind is found here."""

from dataclasses import dataclass

from mirror.errors import EverrefError
from mirror.flows import sync as syncing
from mirror.flows.edges import Edges
from mirror.flows.sync import Synced
from mirror.model import Reason, Repo
from mirror.store import repos


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one repo."""

    repo: Repo
    synced: Synced | None  # None: it failed
    error: EverrefError | None


async def sweep(edges: Edges) -> list[Swept]:
    """Sync every repo; one that fails never stops another. Safe to run twice, as `sync` is."""
    done = []
    for repo in await repos.all(edges.db):
        try:
            done.append(Swept(repo, await syncing.sync(edges, repo.id, Reason.SWEEP), None))
        except EverrefError as error:
            done.append(Swept(repo, None, error))
    return done
