"""What will soon fail: the histories that tell, and what was found in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from mirror.core.model import RepoId
from mirror.core.rules.health import prediction
from mirror.core.rules.health.prediction import Credential, Hooked, Outcome, Prediction
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A prediction as it is shown."""

    prediction: Prediction
    repo_id: RepoId | None  # None: it is about no single repo
    since: datetime  # when it was first foreseen


@dataclass(slots=True)
class Histories:
    """What the rules look at, of one team."""

    credentials: list[Credential] = field(default_factory=list)
    hooks: list[tuple[RepoId, Hooked]] = field(default_factory=list)
    durations: list[tuple[RepoId, str, list[tuple[datetime, float]]]] = field(default_factory=list)
    stored: list[tuple[datetime, float]] = field(default_factory=list)  # bytes in the vault, by day
    hosts: dict[str, list[Outcome]] = field(default_factory=dict)


@translating
async def histories(db: Db, now: datetime, slow: float) -> Mapping[TeamId, Histories]:
    """Everything that the rules look at, by team. `slow`: seconds; of faster repos nothing is told."""
    found: dict[TeamId, Histories] = {}

    def of(row: Any) -> Histories:
        return found.setdefault(TeamId(UUID(bytes=row["team_id"].bytes)), Histories())

    for row in await db.fetch(query("foreseen_credentials")):
        of(row).credentials.append(
            Credential(
                row["login"],
                row["host"],
                row["expires_at"],
                row["grant_kind"] == "oauth",
                row["owned"],
                row["repos"],
            )
        )
    for row in await db.fetch(query("foreseen_hooks")):
        of(row).hooks.append((_repo(row["id"]), Hooked(row["name"], row["since"], row["times"])))
    for row in await db.fetch(query("foreseen_durations"), now, prediction.WINDOW, slow):
        points = list(zip(row["times"], row["seconds"], strict=True))
        of(row).durations.append((_repo(row["id"]), row["name"], points))
    for row in await db.fetch(query("foreseen_stored"), now, prediction.WINDOW):
        days = of(row).stored
        days.append((row["at"], row["bytes"] + (days[-1][1] if days else 0)))
    for row in await db.fetch(query("foreseen_hosts"), now, prediction.FLAKY):
        of(row).hosts.setdefault(row["host"], []).append(Outcome(row["at"], row["failed"]))
    return found


@translating
async def keep(
    db: Db, team: TeamId, found: Sequence[tuple[RepoId | None, Prediction]], now: datetime
) -> list[Prediction]:
    """Replace what was foreseen of the team; returns what is new. Safe to run twice."""
    async with transaction(db) as connection:
        rows = await connection.fetch(
            """
            with gone as (
              delete from prediction where team_id = $1 and not exists (
                select from unnest($2::text[], $3::text[]) as told (kind, subject)
                where told.kind = prediction.kind and told.subject = prediction.subject
              )
            )
            insert into prediction (team_id, kind, subject, repo_id, title, why, at, since)
            select $1, kind, subject, repo_id, title, why, at, $8
            from unnest($2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::timestamptz[])
              as told (kind, subject, repo_id, title, why, at)
            on conflict (team_id, kind, subject) do update set
              repo_id = excluded.repo_id, title = excluded.title, why = excluded.why, at = excluded.at
            returning kind, subject, xmax = 0 as new
            """,
            team,
            [one.kind for _, one in found],
            [storable(one.subject) for _, one in found],
            [repo_id for repo_id, _ in found],
            [storable(one.title) for _, one in found],
            [storable(one.why) for _, one in found],
            [one.at for _, one in found],
            now,
        )
    new = {(row["kind"], row["subject"]) for row in rows if row["new"]}
    return [one for _, one in found if (one.kind, storable(one.subject)) in new]


@translating
async def teams_with_any(db: Db) -> list[TeamId]:
    """The teams of which something was foreseen."""
    rows = await db.fetch("select distinct team_id from prediction")
    return [TeamId(UUID(bytes=row["team_id"].bytes)) for row in rows]


@translating
async def of_team(db: Db, team: TeamId | None, repo_id: RepoId | None = None) -> list[Foreseen]:
    """What was foreseen of the team (None: of all), or of one of its repos; the soonest first."""
    rows = await db.fetch(
        """
        select * from prediction
        where ($1::uuid is null or team_id = $1) and ($2::uuid is null or repo_id = $2)
        order by at nulls last, kind, subject
        """,
        team,
        repo_id,
    )
    return [
        Foreseen(
            Prediction(row["kind"], row["subject"], row["title"], row["why"], row["at"]),
            None if row["repo_id"] is None else _repo(row["repo_id"]),
            row["since"],
        )
        for row in rows
    ]


def _repo(value: Any) -> RepoId:
    return RepoId(UUID(bytes=value.bytes))
