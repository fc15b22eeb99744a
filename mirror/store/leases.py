"""Leases on repos: one run at a time, and a run that lost its lease can record nothing."""

import os
import re
import secrets
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg

from mirror.core.errors import Busy, NotFound
from mirror.core.model import RepoId
from mirror.store.database import Db, query, translating

TTL: Final = timedelta(seconds=30)  # without a heartbeat until an owner on another machine counts as dead
_turns: Final[set[str]] = set()  # the owners of this process whose runs are not over
_OWNER: Final = re.compile(r"([^/]*/[^/]+)/([0-9]+)/([0-9]+)/([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease on one repo, until it is released or taken over."""

    repo_id: RepoId
    owner: str = field(repr=False)
    fence: int  # grows with every lease on any repo


@dataclass(frozen=True, slots=True)
class Kind:
    """A table of leases: how one of its keys is taken if it is free, who has it, and how it is taken over."""

    acquire: str  # a file of sql/queries
    owner: str
    take_over: str


_TURN: Final = Kind(
    "acquire",
    "select owner from lease where repo_id = $1",
    """
    update lease set owner = $2, beat_at = clock_timestamp(), fence = nextval('lease_fence')
    where repo_id = $1 and owner = $3 returning fence
    """,
)


@translating
async def acquire(db: Db, repo_id: RepoId, ttl: timedelta = TTL) -> Lease | None:
    """Take the lease on this repo; None while another run has it.

    A run on this machine whose process is gone is dead at once, any other after
    `ttl` without heartbeat, by the database's clock. Raises NotFound.
    """
    try:
        taken = await take(db, _TURN, repo_id, ttl)
    except asyncpg.ForeignKeyViolationError:
        raise NotFound(f"no repo has the id {repo_id}") from None
    return None if taken is None else Lease(repo_id, *taken)


async def take(db: Db, kind: Kind, key: object, ttl: timedelta) -> tuple[str, int] | None:
    """Take what has this key, for a new owner: its name and fence; None while another run has it."""
    owner = enter()
    fence = None
    try:
        fence = await _fence(db, kind, key, owner, ttl)
    finally:
        if fence is None:
            leave(owner)
    return None if fence is None else (owner, fence)


async def _fence(db: Db, kind: Kind, key: object, owner: str, ttl: timedelta) -> int | None:
    fence: int | None = await db.fetchval(query(kind.acquire), key, owner, ttl)
    if fence is not None:
        return fence
    other = await db.fetchval(kind.owner, key)
    if other is None or not is_over(other):
        return None
    fence = await db.fetchval(kind.take_over, key, owner, other)
    return fence


@translating
async def beat(db: Db, lease: Lease) -> bool:
    """Record that this run is alive. False: it lost its lease, and must stop."""
    done = await db.execute(
        "update lease set beat_at = clock_timestamp() where repo_id = $1 and owner = $2 and fence = $3",
        lease.repo_id,
        lease.owner,
        lease.fence,
    )
    return done == "UPDATE 1"


@translating
async def release(db: Db, lease: Lease) -> None:
    """Release the lease; does nothing if it was lost. Safe to run twice.

    If the database is away, the run has still ended: `release_over` releases the lease later.
    """
    leave(lease.owner)
    await db.execute(
        "update lease set owner = null where repo_id = $1 and owner = $2 and fence = $3",
        lease.repo_id,
        lease.owner,
        lease.fence,
    )


@translating
async def release_over(db: Db) -> None:
    """Release the leases of this process's runs that ended while the database was away. Safe to run twice."""
    mine = myself().rpartition("/")[0]
    await db.execute(
        """
        update lease set owner = null
        where owner is not null and starts_with(owner, $1) and not owner = any($2::text[])
        """,
        f"{mine}/",
        list(_turns),
    )


@translating
async def release_of(db: Db, workers: Collection[str]) -> None:
    """Release the leases of these workers, whose processes are gone. Safe to run twice.

    Waits for nobody: a lease whose row another transaction holds is released the next time.
    """
    await db.execute(
        """
        update lease set owner = null where repo_id in (
          select repo_id from lease
          where owner is not null and regexp_replace(owner, '/[^/]*$', '') = any($1::text[])
          for update skip locked
        )
        """,
        [one.rpartition("/")[0] for one in workers],
    )


async def fenced(connection: Db, lease: Lease, repo_id: RepoId) -> None:
    """Keep the lease from being taken over during this transaction. Raises Busy if it already was."""
    held = await connection.fetchval(
        "select true from lease where repo_id = $1 and owner = $2 and fence = $3 for update",
        repo_id,
        lease.owner,
        lease.fence,
    )
    if not held:
        raise taken_over()


def taken_over() -> Busy:
    """The error for a run that lost its lease."""
    return Busy("another run took over this repo because this one stopped responding; nothing was recorded")


def enter() -> str:
    """A name for a new run of this process, registered before others can see it."""
    owner = myself()
    _turns.add(owner)
    return owner


def leave(owner: str) -> None:
    """Record that the run of this name has ended, whatever the database says. Safe to run twice."""
    _turns.discard(owner)


def is_over(owner: str) -> bool:
    """Whether the run that owns a lease or an intent has ended: in a process that is gone, or in this one."""
    if owner.rpartition("/")[0] == myself().rpartition("/")[0]:
        return owner not in _turns
    return is_dead(owner)


def is_dead(owner: str) -> bool:
    """Whether the owner of a lease, or a worker, was a process of this machine that is gone.

    False for one that may be alive, or that only its machine can judge.
    """
    match = _OWNER.fullmatch(owner)
    if not match or match[1] != _machine():
        return False
    pid, started = int(match[2]), match[3]
    seen = _process(pid)
    if seen is not None:
        state, start = seen
        return state in ("Z", "X") or start != started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False  # alive, but hidden from us (hidepid)


def myself() -> str:
    """A name for this run or worker: machine, process, when the process started, a word of its own."""
    seen = _process(os.getpid())
    return f"{_machine()}/{os.getpid()}/{seen[1] if seen else 0}/{secrets.token_hex(8)}"


def _machine() -> str:
    """This machine since its boot, or this container: the scope in which process ids are unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = re.sub("[^0-9]", "", os.readlink("/proc/self/ns/pid"))
    except OSError:  # no Linux, or /proc is closed: nobody can be judged from here
        boot, space = secrets.token_hex(8), "0"
    return f"{socket.gethostname().replace('/', '_')}/{boot}.{space}"


def _process(pid: int) -> tuple[str, str] | None:
    """State and start time of a process, fields 3 and 22 of /proc/PID/stat (proc(5)); None: not seen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    return fields[0].decode(), fields[19].decode()
