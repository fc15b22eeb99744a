"""What a snapshot that is about to be committed makes an end of: for whoever records it if its run dies."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.core.model import RefName, RepoId, Target
from mirror.core.rules.pushes import Answered, Lost
from mirror.store.database import Db, storable, translating
from mirror.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Ending:
    """What is recorded with a snapshot and is not in its manifest."""

    sync_request: datetime | None = None  # the one that it serves
    answered: Answered = Answered()
    suspicion: str | None = None  # why its changes look like an attack
    seen: bool = True  # False: it is as a push was, not as the remote is


@translating
async def announce(db: Db, lease: Lease, manifest_sha256: str, ending: Ending) -> bool:
    """Set down how the snapshot of this manifest ends, with a heartbeat. False: this run lost its turn."""
    done = await db.execute(
        """
        update lease set beat_at = clock_timestamp(), pending = $4
        where repo_id = $1 and owner = $2 and fence = $3
        """,
        lease.repo_id,
        lease.owner,
        lease.fence,
        json.dumps({"manifest": manifest_sha256, **_row(ending)}),
    )
    return done == "UPDATE 1"


@translating
async def of(db: Db, repo_id: RepoId, manifest_sha256: str) -> Ending:
    """How the snapshot of this manifest ends; nothing is known where another one was announced since."""
    found = await db.fetchval(
        "select pending from lease where repo_id = $1 and pending ->> 'manifest' = $2",
        repo_id,
        manifest_sha256,
    )
    return Ending() if found is None else _ending(json.loads(found))


def _row(one: Ending) -> dict[str, Any]:
    return {
        "wish": one.sync_request and one.sync_request.isoformat(),
        "seen": one.seen,
        "suspicion": one.suspicion and storable(one.suspicion),
        "claims": [list(update) for update in one.answered.updates],
        "lost": [
            [
                lost.name.hex(),
                lost.old and lost.old.hex(),
                lost.new.hex(),
                lost.by and storable(lost.by),
                lost.at.isoformat(),
                storable(lost.why),
            ]
            for lost in one.answered.lost
        ],
    }


def _ending(row: Mapping[str, Any]) -> Ending:
    sync_request = row["wish"]
    updates = [(int(delivery), int(position)) for delivery, position in row["claims"]]
    return Ending(
        None if sync_request is None else datetime.fromisoformat(sync_request),
        Answered(updates, [_lost(one) for one in row["lost"]]),
        row["suspicion"],
        row["seen"],
    )


def _lost(row: Sequence[Any]) -> Lost:
    name, old, new, by, at, why = row
    return Lost(
        RefName(bytes.fromhex(name)),
        None if old is None else Target(bytes.fromhex(old)),
        Target(bytes.fromhex(new)),
        by,
        datetime.fromisoformat(at),
        why,
    )
