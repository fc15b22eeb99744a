"""Known damage in the vault: found by a verification or a drill, until a later one finds none."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.core.model import RepoId
from mirror.store.database import Db, storable, transaction, translating


@dataclass(frozen=True, slots=True)
class Damage:
    """What is broken or missing in a repo's backup."""

    message: str
    at: datetime  # when it was last found


@translating
async def found(
    db: Db, repo_id: RepoId, problem: str, message: str, at: datetime, drilled: int | None = None
) -> None:
    """Record the damage and notify the repo's team with this message. Safe to run twice.

    `drilled` is the snapshot whose drill found it; None: a verification did. The team sees one notice
    for a problem while nobody has dismissed it, and a new one when it is found again after that.
    """
    key = f"damage/{repo_id}/{hashlib.sha256(problem.encode(errors='replace')).hexdigest()[:16]}"
    async with transaction(db) as connection:
        await connection.execute(
            """
            update repo set damaged_at = $2, damage = $3,
              heal_at = case when damaged_at is null then null else heal_at end, damage_drilled = case
              when $4::int is not null and (damaged_at is null or damage_drilled is not null)
                then greatest(damage_drilled, $4::int)
            end
            where id = $1
            """,
            repo_id,
            at,
            storable(problem),
            drilled,
        )
        await connection.execute(
            "update notice set told_key = null where told_key = $1 and seen_at is not null", key
        )
        await connection.execute(
            """
            insert into notice (team_id, repo_id, kind, message, at, told_key)
            select team_id, id, $5, $2, $3, $4 from repo where id = $1
            on conflict (told_key) do update set at = excluded.at, message = excluded.message
            """,
            repo_id,
            storable(message),
            at,
            key,
            "damage" if drilled is None else "drill-failed",
        )


@translating
async def nothing_found(
    db: Db, repo_id: RepoId, began: datetime, at: datetime, drilled: int | None = None
) -> None:
    """End the damage that a good verification, or a drill of snapshot `drilled`, started then, disproves.

    A drill disproves only what drills found, of the same snapshot or those before. Safe to run twice.
    """
    async with transaction(db) as connection:
        done = await connection.execute(
            """
            update repo set damaged_at = null, damage = null, damage_drilled = null
            where id = $1 and damaged_at <= $2 and ($3::int is null or damage_drilled <= $3::int)
            """,
            repo_id,
            began,
            drilled,
        )
        if done == "UPDATE 1" or drilled is None:
            await connection.execute(
                """
                update notice set seen_at = $3
                where repo_id = $1 and starts_with(told_key, 'damage/') and seen_at is null and at <= $2
                """,
                repo_id,
                began,
                at,
            )


def damage(row: Any) -> Damage | None:
    """The damage in a row of the table of repos."""
    return None if row["damaged_at"] is None else Damage(row["damage"], row["damaged_at"])
