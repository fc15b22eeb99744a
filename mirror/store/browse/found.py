"""Refs and commits of all repos of a team, found by name and by id: the queries of the home page's search."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror.core.model import RefName, Target, label
from mirror.store.database import Db, query, translating
from mirror.store.people.teams import TeamId

READ: Final = 1000  # refs that are read before the best are chosen
SHORTEST: Final = 7  # digits of an id
LONGEST: Final = 1000  # letters of a word that count; PostgreSQL takes 2,046 at most
_ID: Final = re.compile(rf"[0-9a-f]{{{SHORTEST},64}}")
_LEFT_OUT: Final = frozenset({"", "refs", "heads", "tags"})  # as in ref_words of sql/089


@dataclass(frozen=True, slots=True)
class FoundRef:
    """A ref that is there, or that was."""

    repo: str
    name: RefName
    target: Target  # where it points, or pointed last
    last: int | None  # the last snapshot that has it; None: it is there
    gone_at: datetime | None  # when the first snapshot without it was taken; None: it is there


@dataclass(frozen=True, slots=True)
class FoundCommit:
    """An object that a ref points at, or once did."""

    repo: str
    oid: Target
    ref: RefName
    moment: str  # at which the ref pointed there: #72 or #72.1
    now: bool  # the ref still does


def commit_id(text: str) -> str | None:
    """The id that somebody typed, or its beginning. None: it is none, or too short."""
    found = _ID.fullmatch(text.strip().lower())
    return found[0] if found else None


def words(text: str) -> str | None:
    """What somebody typed as a tsquery of words that begin so. None: there is no word in it."""
    raw = text.encode("utf-8", "surrogateescape").lower()
    escaped = "".join(
        f"\\{byte:03o}" if byte >= 0x80 else "\\\\" if byte == 0x5C else chr(byte) for byte in raw
    )
    found = [one for one in re.split(r"[^a-z0-9\\]+", escaped) if one not in _LEFT_OUT][:8]
    return " & ".join("'{}':*".format(one[:LONGEST].replace("\\", "\\\\")) for one in found) or None


@translating
async def refs(db: Db, team: TeamId, text: str, limit: int) -> Sequence[FoundRef]:
    """The branches and tags of the team's repos whose names have words that begin so, also deleted ones."""
    asked = words(text)
    if asked is None:
        return []
    return [
        FoundRef(
            row["repo"],
            RefName(row["name"]),
            Target(row["target"]),
            row["last_snapshot"],
            row["gone_at"] if row["last_snapshot"] else None,
        )
        for row in await db.fetch(query("found_refs"), team, asked, READ, limit)
    ]


@translating
async def commits(db: Db, team: TeamId, text: str, limit: int) -> Sequence[FoundCommit]:
    """What a ref of the team's repos ever pointed at, by its id or the beginning of it."""
    oid = commit_id(text)
    if oid is None:
        return []
    low = oid.encode()
    return [
        FoundCommit(
            row["repo"],
            Target(row["oid"]),
            RefName(row["name"]),
            label(row["snapshot"], row["moment"] or 0),
            row["now"],
        )
        for row in await db.fetch(query("found_commits"), team, low, low + b"g", limit)
    ]
