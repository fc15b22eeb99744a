"""The repositories that a connection can see at its forge, chosen or not, as of its last listing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from mirror.core.model import RepoId
from mirror.store.database import Db, query, storable, translating
from mirror.store.discovery.connections import ConnectionId


class FollowedRepository(Protocol):
    """What identifies a repository at its forge, and where it is: enough to follow it."""

    @property
    def repository_id(self) -> str: ...
    @property
    def full_name(self) -> str: ...
    @property
    def clone_url(self) -> str: ...
    @property
    def private(self) -> bool: ...


class ListedRepository(FollowedRepository, Protocol):
    """A repository as the forge describes it in a listing."""

    @property
    def web_url(self) -> str: ...
    @property
    def archived(self) -> bool: ...
    @property
    def fork(self) -> bool: ...
    @property
    def admin(self) -> bool: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def pushed_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class DiscoveredRepository:
    """A discovered repository."""

    repository_id: str  # the forge's number
    full_name: str
    clone_url: str
    web_url: str
    private: bool
    archived: bool
    fork: bool
    admin: bool  # hooks can be registered
    bytes: int | None  # as the forge says; None: it does not
    pushed_at: datetime | None
    gone_at: datetime | None  # since when listings lack it; None: it is there
    repo_id: RepoId | None  # the team's repo that keeps it; None: it was never chosen
    repo_name: str | None
    chosen: bool  # it is kept, and not paused
    disconnected: bool  # it is paused because its connection ended


@dataclass(frozen=True, slots=True)
class Counts:
    """How many repositories a connection can see."""

    all: int
    private: int
    archived: int
    forks: int
    chosen: int


@translating
async def see(db: Db, connection_id: ConnectionId, there: Sequence[ListedRepository], at: datetime) -> None:
    """Record that these exist now; one that was gone is back."""
    one_each = list(
        {one.repository_id: one for one in there}.values()
    )  # a page can repeat what moved meanwhile
    await db.execute(
        query("see"),
        connection_id,
        at,
        [storable(one.repository_id) for one in one_each],
        [storable(one.full_name) for one in one_each],
        [storable(one.clone_url) for one in one_each],
        [storable(one.web_url) for one in one_each],
        [one.private for one in one_each],
        [one.archived for one in one_each],
        [one.fork for one in one_each],
        [one.admin for one in one_each],
        [one.bytes for one in one_each],
        [one.pushed_at for one in one_each],
    )


@translating
async def still_there(db: Db, connection_id: ConnectionId, ids: Sequence[str], at: datetime) -> int:
    """Record that these exist unchanged; returns how many of them are known."""
    done = await db.execute(
        """
        update listed set seen_at = $3, gone_at = null
        where connection_id = $1 and repository_id = any($2::text[])
        """,
        connection_id,
        list(ids),
        at,
    )
    return int(done.removeprefix("UPDATE "))


@translating
async def vanish(db: Db, connection_id: ConnectionId, at: datetime) -> None:
    """Mark as gone what a complete listing, started at this moment, did not show. Safe to run twice."""
    await db.execute(
        "update listed set gone_at = $2 where connection_id = $1 and seen_at < $2 and gone_at is null",
        connection_id,
        at,
    )


@translating
async def page(
    db: Db,
    connection_id: ConnectionId,
    *,
    search: str = "",
    private: bool | None = None,
    archived: bool | None = None,
    fork: bool | None = None,
    chosen: bool | None = None,
    after: tuple[str, str] | None = None,
    limit: int = 100,
) -> list[DiscoveredRepository]:
    """What is there, by name: those with `search` in it and of the given kinds; None takes both kinds.

    `after` is the full name and the repository id of the last one of the page before.
    """
    rows = await db.fetch(
        query("listed"),
        connection_id,
        storable(search),
        private,
        archived,
        fork,
        chosen,
        None if after is None else storable(after[0]),
        None if after is None else storable(after[1]),
        limit,
    )
    return [_seen(row) for row in rows]


@translating
async def matching(
    db: Db,
    connection_id: ConnectionId,
    search: str = "",
    *,
    private: bool | None = None,
    archived: bool | None = None,
    fork: bool | None = None,
    limit: int,
) -> list[tuple[str, str]]:
    """Number and name of what `page` finds and nobody backs up yet, by name."""
    rows = await db.fetch(
        query("listed_matches"), connection_id, storable(search), private, archived, fork, limit
    )
    return [(row["repository_id"], row["full_name"]) for row in rows]


@translating
async def of(db: Db, connection_id: ConnectionId, ids: Sequence[str]) -> list[DiscoveredRepository]:
    """Those of these repositories that the connection can see, or once could; by name."""
    rows = await db.fetch(query("listed_of"), connection_id, [storable(one) for one in ids])
    return [_seen(row) for row in rows]


@translating
async def all(db: Db, connection_id: ConnectionId) -> list[DiscoveredRepository]:
    """Whatever the connection can see, or once could; by name."""
    return [_seen(row) for row in await db.fetch(query("listed_of"), connection_id, None)]


@translating
async def counts(db: Db, connection_id: ConnectionId) -> Counts:
    """How many there are now, and how many of them are chosen."""
    row = await db.fetchrow(query("listed_counts"), connection_id)
    return Counts(row["all"], row["private"], row["archived"], row["forks"], row["chosen"])


def _seen(row: Any) -> DiscoveredRepository:
    repo_id = row["repo_id"]
    return DiscoveredRepository(
        row["repository_id"],
        row["full_name"],
        row["clone_url"],
        row["web_url"],
        row["private"],
        row["archived"],
        row["fork"],
        row["admin"],
        row["bytes"],
        row["pushed_at"],
        row["gone_at"],
        None if repo_id is None else RepoId(UUID(bytes=repo_id.bytes)),
        row["repo_name"],
        row["chosen"],
        row["disconnected"],
    )
