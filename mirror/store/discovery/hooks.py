"""Webhooks, their deliveries, and the ref updates that deliveries report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, cast
from uuid import UUID

import asyncpg

from mirror.core.errors import NotFound
from mirror.core.keyring import Keyring
from mirror.core.model import RefName, RepoId, Target
from mirror.store.database import Db, query, storable, translating
from mirror.store.forge_leases import ForgeLease

Forge = Literal["github", "gitlab", "gitea"]
State = Literal[
    "given",  # a person pastes it in, if it is used at all
    "registered",  # it is at the forge, and on
    "disabled",  # it is at the forge, which has switched it off
    "missing",  # it is not at the forge, or not yet
    "refused",  # the forge does not let us
]

BODY_KEPT: Final = 256 * 1024  # bytes of a delivery's body that are kept
A_MINUTE: Final = 1200  # deliveries by one hook that are taken: one push of 500 new branches is 1,000
BODIES_A_MINUTE: Final = 60  # of which the body is kept
BODIES_KEPT: Final = (
    64 << 20
)  # bytes of bodies that are kept of all hooks of a team; beyond, only the facts are
_NAME: Final = 300  # bytes of a person's name that are kept
_HELD: Final = "with held as (select from forge_lease where name = $1 and fence = $2 for share)"


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook of one repo."""

    id: str
    repo_id: RepoId
    forge: Forge
    repository_id: str | None  # what the forge calls the repository; None: nothing was delivered yet
    forge_hook_id: str | None = (
        None  # the forge's number for it; None: a person pasted it in, or it is not there yet
    )
    state: State = "given"
    why: str | None = None  # what is wrong with it, in a line
    checked_at: datetime | None = None  # when the forge was last asked about it; None: never
    delivered_at: datetime | None = None  # its last delivery; None: there was none


@dataclass(frozen=True, slots=True)
class Locks:
    """A hook's accepted secrets, sealed, newest first."""

    hook_id: str
    sealed: tuple[bytes, ...] = field(repr=False)

    def secrets(self, keyring: Keyring) -> list[str]:
        """The secrets themselves. Raises BadKey."""
        return [keyring.open(one, _context(self.hook_id)).decode() for one in self.sealed]


@dataclass(frozen=True, slots=True)
class NewUpdate:
    """A reported update: what a delivery says happened to one ref."""

    name: RefName
    before: Target | None
    after: Target | None  # None: deleted
    by: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One verified webhook request, parsed."""

    id: str  # the forge's
    kind: str
    repository_id: str | None  # None: it tells of none
    updates: Sequence[NewUpdate]
    why: str | None  # why it requests no sync; None: it does
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """The result of storing a delivery."""

    repo_id: RepoId
    within: bool  # the limit of deliveries a minute; beyond it a sync is requested and nothing else is stored
    ours: bool  # it is about the repository that this hook is bound to
    fresh: bool  # it was not known yet, and is kept
    sync_requested: bool  # a sync was requested


def lock(keyring: Keyring, hook_id: str, secret: str) -> Locks:
    """A secret sealed for this hook."""
    return Locks(hook_id, (keyring.seal(secret.encode(), _context(hook_id)),))


@translating
async def add(
    db: Db,
    repo_id: RepoId,
    forge: Forge,
    locks: Locks,
    at: datetime,
    repository_id: str | None = None,
    state: State = "given",
) -> Hook | None:
    """Add the repo's hook, bound to the repository from the start if that is known.

    None: it has one already. Raises NotFound.
    """
    try:
        row = await db.fetchrow(
            """
            insert into hook (id, repo_id, forge, sealed, created_at, repository_id, state)
            values ($1, $2, $3, $4, $5, $6, $7)
            on conflict (repo_id) do nothing returning *
            """,
            locks.hook_id,
            repo_id,
            forge,
            locks.sealed[0],
            at,
            repository_id,
            state,
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound(f"no repo has the id {repo_id}") from None
    return None if row is None else _hook(row)


@translating
async def of(db: Db, repo_id: RepoId) -> Hook | None:
    """The repo's hook."""
    row = await db.fetchrow("select * from hook where repo_id = $1", repo_id)
    return None if row is None else _hook(row)


@translating
async def change(db: Db, locks: Locks, until: datetime) -> bool:
    """Give the hook a new secret; the one before is accepted until then. False: there is no such hook."""
    done = await db.execute(
        "update hook set sealed = $2, old_sealed = sealed, old_until = $3 where id = $1",
        locks.hook_id,
        locks.sealed[0],
        until,
    )
    return done == "UPDATE 1"


@translating
async def remove(db: Db, repo_id: RepoId, lease: ForgeLease | None = None) -> bool:
    """Delete the repo's hook and its deliveries. False: it had none, or the lease was lost.

    Without a lease it is deleted here only, whether or not a run works on it at its forge.
    """
    done = await db.execute(
        f"{_HELD} delete from hook where repo_id = $3 and ($1::text is null or exists (select from held))",
        lease and lease.name,
        lease and lease.fence,
        repo_id,
    )
    return done == "DELETE 1"


@translating
async def locks(db: Db, forge: str, hook_id: str, now: datetime) -> Locks | None:
    """The secrets that this hook accepts now. None: this forge has no such hook."""
    row = await db.fetchrow(
        "select sealed, case when old_until > $3 then old_sealed end from hook where id = $1 and forge = $2",
        storable(hook_id),
        storable(forge),
        now,
    )
    return None if row is None else Locks(hook_id, tuple(one for one in row if one is not None))


@translating
async def deliver(db: Db, hook_id: str, delivery: Delivery, now: datetime) -> Received | None:
    """Store a verified delivery and its reported updates, and request a sync, in one statement.

    The first delivery that names a repository binds the hook to it. A delivery that
    is already known changes nothing. None: the hook is gone.
    """
    updates = delivery.updates
    row = await db.fetchrow(
        query("deliver"),
        hook_id,
        now,
        None if delivery.repository_id is None else storable(delivery.repository_id),
        A_MINUTE,
        storable(delivery.id),
        delivery.kind,
        None if delivery.why is None else storable(delivery.why),
        delivery.body[:BODY_KEPT],
        len(delivery.body),
        [update.name for update in updates],
        [update.before for update in updates],
        [update.after for update in updates],
        [None if update.by is None else storable(update.by)[:_NAME] for update in updates],
        [update.at for update in updates],
        BODIES_A_MINUTE,
        BODIES_KEPT,
    )
    if row is None:
        return None
    return Received(
        RepoId(UUID(bytes=row["repo_id"].bytes)), row["within"], row["ours"], row["fresh"], row["wished"]
    )


@translating
async def set_state(
    db: Db,
    lease: ForgeLease,
    hook_id: str,
    state: State,
    why: str | None,
    at: datetime,
    forge_hook_id: str | None = None,
) -> bool:
    """What the forge says of the hook now; `forge_hook_id` is its number there, None leaves the one known.

    False: the hook is gone here, or the lease was lost, and the new holder's findings count.
    """
    done = await db.execute(
        f"""
        {_HELD}
        update hook set state = $4, why = $5, checked_at = $6, forge_hook_id = coalesce($7, forge_hook_id)
        where id = $3 and exists (select from held)
        """,
        lease.name,
        lease.fence,
        hook_id,
        state,
        None if why is None else storable(why),
        at,
        forge_hook_id,
    )
    return done == "UPDATE 1"


@translating
async def known(db: Db, hook_ids: Sequence[str]) -> set[str]:
    """Those of these ids that belong to hooks here, of any repo."""
    rows = await db.fetch(
        "select id from hook where id = any($1::text[])", [storable(one) for one in hook_ids]
    )
    return {row["id"] for row in rows}


@translating
async def due(
    db: Db, before: datetime, refused_before: datetime, silent_before: datetime, limit: int
) -> list[Hook]:
    """The hooks to check: last checked before the first moment, or silent while their repo changed.

    A hook that the forge refused is checked if that was before the second moment.
    Silent is a hook whose last delivery and last check are older than the third
    moment although a look at the remote has found something since. Only hooks of
    repos that a connection reads and that are kept; those checked longest ago first.
    """
    rows = await db.fetch(query("hooks_due"), before, silent_before, limit, refused_before)
    return [_hook(row) for row in rows]


@translating
async def forget_before(db: Db, moment: datetime) -> None:
    """Delete the deliveries from before this moment, and their reported updates. Safe to run twice."""
    await db.execute("delete from delivery where received_at < $1", moment)
    await db.execute(
        """
        update hook set kept_bytes = found.bytes
        from (
          select hook.id, coalesce(sum(octet_length(body)), 0) as bytes
          from hook left join delivery on delivery.hook_id = hook.id where kept_bytes > 0 group by hook.id
        ) found
        where found.id = hook.id and found.bytes <> kept_bytes
        """
    )


def _hook(row: Any) -> Hook:
    return Hook(
        row["id"],
        RepoId(UUID(bytes=row["repo_id"].bytes)),
        cast(Forge, row["forge"]),
        row["repository_id"],
        row["forge_hook_id"],
        cast(State, row["state"]),
        row["why"],
        row["checked_at"],
        row["delivered_at"],
    )


def _context(hook_id: str) -> str:
    """The context of a sealed secret, which opens in no other row."""
    return f"hook/{hook_id}"
