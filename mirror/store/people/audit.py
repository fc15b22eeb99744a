"""Who did what in a team: entries that are only ever added, each holding the SHA-256 of the one before it."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.teams import TeamId, lock

REDACT: Final = "audit.redact"  # the action of the entry that says which ones were redacted
_AT_ONCE: Final = 1000  # entries that are read together
_WORDS: Final = 1000  # characters of an entry's words that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An action of somebody. Its detail holds no secret."""

    person_id: PersonId | None  # None: Everref itself
    actor: str  # who, in words, as it was then
    action: str  # repo.add, restore.push, member.remove
    subject: str  # what it was done to, in words
    repo_id: RepoId | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)  # JSON
    address: str | None = None  # from where; None: not by the network
    result: str = "done"  # or refused, or failed


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry as it is stored."""

    number: int  # 1, 2, 3 per team
    at: datetime
    entry: Entry
    previous: str | None  # the SHA-256 of the entry before; None: the team's first
    sha256: str  # of this one's words and `previous`, as they were written
    redacted_at: datetime | None = None  # when a person was taken out of its words; None: they are as written


@translating
async def add(db: Db, team_id: TeamId, entry: Entry, at: datetime) -> int:
    """Add an entry and return its number, in the caller's transaction if there is one.

    Writers of one team take turns, so that numbers have no gap and each entry knows the one before it.
    """
    kept = replace(
        entry,
        actor=storable(entry.actor)[:_WORDS],
        subject=storable(entry.subject)[:_WORDS],
        detail=_storable(entry.detail),
        address=None if entry.address is None else storable(entry.address)[:_WORDS],
    )
    async with transaction(db) as connection:
        await lock(connection, team_id)
        last = await connection.fetchrow(
            "select number, sha256 from audit where team_id = $1 order by number desc limit 1", team_id
        )
        number, previous = (last["number"] + 1, last["sha256"]) if last else (1, None)
        await connection.execute(
            """
            insert into audit (
              team_id, number, at, person_id, actor, action, repo_id, subject, detail, address, result,
              previous, sha256
            ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
            """,
            team_id,
            number,
            at,
            kept.person_id,
            kept.actor,
            kept.action,
            kept.repo_id,
            kept.subject,
            json.dumps(kept.detail),
            kept.address,
            kept.result,
            previous,
            _sum(team_id, number, at, kept, previous),
        )
    return number


@translating
async def page(
    db: Db,
    team_id: TeamId,
    before: int | None = None,
    limit: int = 100,
    *,
    repo_id: RepoId | None = None,
    person_id: PersonId | None = None,
    action: str | None = None,
) -> Sequence[Recorded]:
    """The team's entries below this number, or the newest; newest first. `action`: or what begins with it."""
    rows = await db.fetch(
        """
        select * from audit
        where team_id = $1 and ($2::bigint is null or number < $2)
          and ($4::uuid is null or repo_id = $4) and ($5::uuid is null or person_id = $5)
          and ($6::text is null or action = $6 or starts_with(action, $6 || '.'))
        order by number desc limit $3
        """,
        team_id,
        before,
        limit,
        repo_id,
        person_id,
        None if action is None else storable(action),
    )
    return [_recorded(row) for row in rows]


@translating
async def check(db: Db, team_id: TeamId) -> int | None:
    """The number of the first entry that was changed, was moved or is missing. None: all are intact.

    Entries cut off at the end cannot be noticed from the rest; an export kept elsewhere shows them. The words
    of one that was redacted have no sum to compare; it counts as intact if a later entry says that it was.
    """
    expected, previous, redacted = 1, None, set[int]()
    async for one in _in_order(db, team_id):
        true = _sum(team_id, one.number, one.at, one.entry, one.previous)
        intact = one.sha256 == true or one.redacted_at is not None
        if one.number != expected or one.previous != previous or not intact:
            return expected
        if one.redacted_at is not None:
            redacted.add(one.number)
        elif one.entry.action == REDACT:
            redacted -= set(one.entry.detail.get("numbers", ()))
        expected, previous = expected + 1, one.sha256
    return min(redacted, default=None)


async def export(db: Db, team_id: TeamId) -> AsyncIterator[bytes]:
    """The team's entries from the first one on, as JSON, one a line."""
    async for one in _in_order(db, team_id):
        words = _words(team_id, one.number, one.at, one.entry, one.previous)
        when = {} if one.redacted_at is None else {"redacted_at": one.redacted_at.astimezone(UTC).isoformat()}
        yield _json({**words, **when, "sha256": one.sha256}) + b"\n"


async def _in_order(db: Db, team_id: TeamId) -> AsyncIterator[Recorded]:
    after = 0
    while True:
        rows = await _after(db, team_id, after)
        for row in rows:
            yield row
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1].number


@translating
async def _after(db: Db, team_id: TeamId, number: int) -> Sequence[Recorded]:
    rows = await db.fetch(
        "select * from audit where team_id = $1 and number > $2 order by number limit $3",
        team_id,
        number,
        _AT_ONCE,
    )
    return [_recorded(row) for row in rows]


def _sum(team_id: TeamId, number: int, at: datetime, entry: Entry, previous: str | None) -> str:
    return hashlib.sha256(_json(_words(team_id, number, at, entry, previous))).hexdigest()


def _words(team_id: TeamId, number: int, at: datetime, entry: Entry, previous: str | None) -> dict[str, Any]:
    return {
        "team": str(team_id),
        "number": number,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "person": None if entry.person_id is None else str(entry.person_id),
        "actor": entry.actor,
        "action": entry.action,
        "repo": None if entry.repo_id is None else str(entry.repo_id),
        "subject": entry.subject,
        "detail": entry.detail,
        "address": entry.address,
        "result": entry.result,
        "previous": previous,
    }


def _json(value: Mapping[str, Any]) -> bytes:
    """The same bytes for the same value: keys in order, no space, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _storable(value: Any) -> Any:
    """JSON as jsonb returns it: without NUL, and fractions as strings, which jsonb writes differently."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): _storable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_storable(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, int) else str(value)


def _recorded(row: Any) -> Recorded:
    who, repo_id = row["person_id"], row["repo_id"]
    entry = Entry(
        person_id=None if who is None else PersonId(UUID(bytes=who.bytes)),
        actor=row["actor"],
        action=row["action"],
        subject=row["subject"],
        repo_id=None if repo_id is None else RepoId(UUID(bytes=repo_id.bytes)),
        detail=json.loads(row["detail"]),
        address=row["address"],
        result=row["result"],
    )
    return Recorded(row["number"], row["at"], entry, row["previous"], row["sha256"], row["redacted_at"])
