"""What a sync must know of its repo when it has the lease, read by one statement instead of eight."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mirror.core.errors import NotFound
from mirror.core.model import Repo, RepoId, Snapshot
from mirror.store.backup import parts, snapshots
from mirror.store.backup.parts import Intent
from mirror.store.database import Db, query, translating
from mirror.store.discovery import connections, remotes
from mirror.store.discovery.connections import StoredConnection
from mirror.store.discovery.remotes import RemoteRepository


@dataclass(frozen=True, slots=True)
class Beginning:
    """A repo as it is when a sync has taken the lease."""

    origin: RemoteRepository
    sync_request: datetime | None  # the open one: one that comes later stays open
    excluded: tuple[str, ...]  # globs of refs that are kept no longer
    sealed: bytes | None = field(repr=False)  # its own credentials; None: it has none
    connection: StoredConnection | None  # through which it is read; None: through none
    latest: Snapshot | None  # None: it has none
    is_failing: bool  # since its last successful run
    team: str  # the name of its team
    has_limits: bool  # of bytes, set for its team alone
    is_sealed: bool  # whether its new objects are
    intents: Sequence[Intent]  # uploads that runs started and did not record, the oldest first
    asked_at: datetime  # when this was so, by the database's clock, as the times of the intents are

    @property
    def repo(self) -> Repo:
        return self.origin.repo


@translating
async def of(db: Db, repo_id: RepoId) -> Beginning:
    """The repo of this id, as it is now. Raises NotFound."""
    row = await db.fetchrow(query("beginning"), repo_id)
    if row is None:
        raise NotFound(f"no repo has the id {repo_id}; `everref repos` lists them")
    return Beginning(
        remotes.remote_repository(row),
        row["wanted_at"] if row["wanted_at"] != row["synced_at"] else None,
        tuple(row["excluded"] or ()),
        row["sealed"],
        None if row["connection"] is None else connections.kept_of(row["connection"]),
        None if row["latest"] is None else snapshots.snapshot({**(row["born"] or {}), **row["latest"]}),
        row["failing_since"] is not None,
        row["team"],
        row["has_limits"],
        row["is_sealed"],
        [parts.intent(one) for one in row["intents"]],
        row["asked_at"],
    )
