"""Why repos of a team need somebody, a cause at a time, and what was settled: queries of the home page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from mirror.core.model import RefName, RepoId, label
from mirror.store.database import Db, query, storable, translating
from mirror.store.people.teams import TeamId

Settling = Literal["forced", "archived", "hook", "notice"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A connection whose token its forge refuses."""

    id: UUID
    forge: str
    host: str
    login: str
    why: str
    by_token: bool  # somebody pasted it; there is no consent to ask for


@dataclass(frozen=True, slots=True)
class Trouble:
    """Repos that need somebody for one reason.

    The kind is damage, token, late, unchecked, behind, archived, hook, or the class of an error;
    `where` is the host, if any.
    """

    kind: str
    where: str
    many: int
    unsaved: int  # of them: nothing was ever saved
    since: datetime | None  # when the first of them began; None: not known
    repos: Sequence[tuple[str, str]]  # names with what is known of each, in order; the first ones
    refused: Refused | None = None  # the connection; None: that is not the cause

    @property
    def key(self) -> str:
        """The cause, as an address has it."""
        return (
            self.kind
            if self.kind in ("damage", "late", "unchecked", "behind", "archived")
            else f"{self.kind}:{self.where}"
        )


@dataclass(frozen=True, slots=True)
class Forced:
    """A repo that was force-pushed, with its most important force-push."""

    repo_id: RepoId
    repo: str
    ref: RefName
    snapshot: int  # the first that has it
    by: str | None
    at: datetime
    is_default: bool  # it was the branch that HEAD names
    many: int  # force-pushes in all
    deleted: bool = False  # it was the default branch, and is gone
    before: str = ""  # the moment just before, as #72 or #72.1


@dataclass(frozen=True, slots=True)
class Settled:
    """A need that somebody settled, or that a restore did."""

    kind: str  # a Settling, or restored
    repo: str | None  # None: it is about no single repo
    snapshot: int | None  # that was restored; None: nothing was
    subject: str  # empty: it was restored
    person: str | None  # None: somebody who is gone, or at the command line
    at: datetime
    ref: RefName | None  # the first that was restored


@translating
async def troubles(db: Db, team: TeamId, now: datetime, names: int) -> list[Trouble]:
    """Every cause for which repos of the team need somebody, with so many names of each at most."""
    return [_trouble(row) for row in await db.fetch(query("causes"), team, now, names)]


def _trouble(row: Any) -> Trouble:
    kind, _, where = row["cause"].partition(":")
    refused = None
    if row["connection_id"] is not None:
        refused = Refused(
            UUID(bytes=row["connection_id"].bytes),
            row["forge"],
            row["host"],
            row["login"],
            row["why"],
            row["grant_kind"] == "token",
        )
    repos = list(zip(row["names"], row["details"], strict=True))
    return Trouble(kind, where, row["many"], row["unsaved"], row["since"], repos, refused)


@translating
async def of_cause(db: Db, team: TeamId, now: datetime, cause: str) -> list[RepoId]:
    """The repos of the team that need somebody for this reason."""
    rows = await db.fetch("select repo_id from troubled($1, $2) where cause = $3", team, now, storable(cause))
    return [RepoId(UUID(bytes=row["repo_id"].bytes)) for row in rows]


@translating
async def forced_lately(db: Db, team: TeamId, since: datetime) -> list[Forced]:
    """The repos that were force-pushed since then; those whose default branch was comes first."""
    return [
        Forced(
            RepoId(UUID(bytes=row["repo_id"].bytes)),
            row["repo"],
            RefName(row["ref"]),
            row["snapshot"],
            row["pushed_by"],
            row["at"],
            row["is_default"],
            row["many"],
            row["deleted"],
            label(row["snapshot"], row["before_moment"])
            if row["before_moment"]
            else label(row["snapshot"] - 1),
        )
        for row in await db.fetch(query("forced_lately"), team, since)
    ]


@translating
async def settled_lately(db: Db, team: TeamId, since: datetime, most: int) -> list[Settled]:
    """What was settled since then, the newest first."""
    return [
        Settled(
            row["kind"],
            row["repo"],
            row["snapshot"],
            row["subject"],
            row["person"],
            row["at"],
            None if row["ref"] is None else RefName(row["ref"]),
        )
        for row in await db.fetch(query("settled_lately"), team, since, most)
    ]


@dataclass(frozen=True, slots=True)
class Settlement:
    """Somebody says that a need is dealt with."""

    kind: Settling
    subject: str  # what it was about, in a line
    person_id: UUID
    at: datetime


@translating
async def settle(
    db: Db,
    team: TeamId,
    done: Settlement,
    repos: Sequence[RepoId] | None = None,
    snapshot: int | None = None,
) -> None:
    """Record that a need of these repos is settled, or of the team where `repos` is None.

    `snapshot`: of a force-push, up to which.
    """
    await db.execute(
        """
        insert into settled (team_id, kind, repo_id, snapshot, subject, person_id, at)
        select $1, $2, repo_id, $4, $5, $6, $7 from unnest($3::uuid[]) as repo_id
        """,
        team,
        done.kind,
        [None] if repos is None else list(repos),
        snapshot,
        storable(done.subject),
        done.person_id,
        done.at,
    )
