"""What keeps snapshots from going: legal holds, snapshots that people keep, and who reads the vault."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from mirror.core.errors import Held, UsageError
from mirror.core.model import RepoId
from mirror.store import leases
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import TeamId

LONGEST: Final = 1000  # characters of a reason or a note
SILENT: Final = timedelta(minutes=5)  # without a heartbeat, after which a reader on another machine is dead


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold that stands."""

    repo_id: RepoId
    reason: str
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Pin:
    """A snapshot that somebody keeps, whatever a policy says."""

    snapshot: int
    note: str
    by: str
    at: datetime


def checked(text: str, what: str) -> str:
    """A reason or a note as it is stored. Raises UsageError where it is empty or too long."""
    text = " ".join(text.split())
    if not text:
        raise UsageError(f"say {what} in a few words")
    if len(text) > LONGEST:
        raise UsageError(f"say {what} in at most {LONGEST} characters")
    return storable(text)


@translating
async def hold(db: Db, repo_id: RepoId) -> Hold | None:
    """The legal hold of this repo. None: it is not on hold."""
    row = await db.fetchrow(
        "select reason, set_by, set_at from repo_hold where repo_id = $1 and lifted_at is null", repo_id
    )
    return None if row is None else Hold(repo_id, row["reason"], row["set_by"], row["set_at"])


@translating
async def held(db: Db, team_id: TeamId | None = None) -> list[Hold]:
    """Every legal hold that stands, of a team's repos or of all, the oldest first."""
    rows = await db.fetch(
        """
        select repo_id, reason, set_by, set_at from repo_hold join repo on repo.id = repo_hold.repo_id
        where lifted_at is null and ($1::uuid is null or team_id = $1) order by set_at, repo_id
        """,
        team_id,
    )
    return [
        Hold(RepoId(UUID(bytes=row["repo_id"].bytes)), row["reason"], row["set_by"], row["set_at"])
        for row in rows
    ]


@translating
async def check_not_held(db: Db, repo_id: RepoId) -> None:
    """Raises Held where the repo is on legal hold: then nothing of it may be dropped, deleted or erased."""
    found = await hold(db, repo_id)
    if found is not None:
        name = await db.fetchval("select name from repo where id = $1", repo_id)
        raise Held(
            f"{name} has been on legal hold since {found.set_at:%Y-%m-%d} ({found.reason}; set by"
            f" {found.set_by}): nothing of it may go before the hold is lifted"
        )


@translating
async def set_hold(db: Db, repo_id: RepoId, reason: str, by: str, at: datetime) -> bool:
    """Put a repo on legal hold. False: it is on hold already, and that one stands. Safe to run twice."""
    done = await db.execute(
        """
        insert into repo_hold (repo_id, reason, set_by, set_at) values ($1, $2, $3, $4)
        on conflict (repo_id) where lifted_at is null do nothing
        """,
        *(repo_id, checked(reason, "why the repo is on hold"), storable(by), at),
    )
    return done == "INSERT 0 1"


@translating
async def lift_hold(db: Db, repo_id: RepoId, by: str, at: datetime) -> bool:
    """End a repo's legal hold. False: there is none. Safe to run twice."""
    done = await db.execute(
        "update repo_hold set lifted_by = $2, lifted_at = $3 where repo_id = $1 and lifted_at is null",
        *(repo_id, storable(by), at),
    )
    return done == "UPDATE 1"


@translating
async def pin(db: Db, repo_id: RepoId, snapshot: int, note: str, by: str, at: datetime) -> None:
    """Keep this snapshot, whatever a policy says. A second pin of it says the note anew.

    Raises UsageError where the snapshot was dropped, or there is none of this number.
    """
    done = await db.execute(
        """
        insert into snapshot_pin (repo_id, snapshot, note, pinned_by, pinned_at)
        select repo_id, number, $3, $4, $5 from snapshot
        where repo_id = $1 and number = $2::bigint and dropped_at is null for share
        on conflict (repo_id, snapshot) do update set note = $3, pinned_by = $4, pinned_at = $5
        """,
        *(repo_id, snapshot, checked(note, "why it is kept"), storable(by), at),
    )
    if done != "INSERT 0 1":
        raise UsageError(f"#{snapshot} cannot be kept: it was dropped, or there is no such snapshot")


@translating
async def unpin(db: Db, repo_id: RepoId, snapshot: int) -> bool:
    """Leave this snapshot to the policy again. False: it was not pinned. Safe to run twice."""
    done = await db.execute(
        "delete from snapshot_pin where repo_id = $1 and snapshot = $2::bigint", repo_id, snapshot
    )
    return done == "DELETE 1"


@translating
async def pins(db: Db, repo_id: RepoId) -> list[Pin]:
    """The snapshots of a repo that people keep, in order."""
    rows = await db.fetch("select * from snapshot_pin where repo_id = $1 order by snapshot", repo_id)
    return [Pin(row["snapshot"], row["note"], row["pinned_by"], row["pinned_at"]) for row in rows]


@translating
async def begin_reading(db: Db, repo_id: RepoId, owner: str, since: datetime) -> UUID:
    """Register a run that begins to read a repo's parts from the vault; returns its id."""
    found = await db.fetchval(
        "insert into vault_reader (repo_id, owner, since) values ($1, $2, $3) returning id",
        *(repo_id, owner, since),
    )
    return UUID(bytes=found.bytes)


@translating
async def beat(db: Db, ids: Sequence[UUID]) -> None:
    """Record that these readers are alive."""
    await db.execute("update vault_reader set beat_at = clock_timestamp() where id = any($1)", list(ids))


@translating
async def end_reading(db: Db, reader: UUID) -> None:
    """This reader has ended. Safe to run twice."""
    await db.execute("delete from vault_reader where id = $1", reader)


@translating
async def reading_since(db: Db, repo_id: RepoId) -> datetime | None:
    """Since when the oldest run that is alive has read parts of this repo. None: nobody reads them.

    Forgets those of this machine whose process is gone, and others that have been silent for too long.
    """
    await db.execute(
        "delete from vault_reader where repo_id = $1 and beat_at < clock_timestamp() - $2::interval",
        *(repo_id, SILENT),
    )
    rows = await db.fetch("select id, owner, since from vault_reader where repo_id = $1", repo_id)
    gone = [row["id"] for row in rows if leases.is_over(row["owner"])]
    if gone:
        await db.execute("delete from vault_reader where id = any($1)", gone)
    return min((row["since"] for row in rows if row["id"] not in gone), default=None)
