"""The state that no history has, table by table: read from the database for an export, and imported back.

Every table is either exported or left out for a reason. What is exported is in the
order in which rows refer to each other.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from mirror.store.database import Db, transaction, translating
from mirror.store.people import teams
from mirror.store.people.teams import TeamId

_AT_ONCE: Final = 500  # rows

Row = dict[str, Any]  # a row as PostgreSQL writes it in JSON


@dataclass(frozen=True, slots=True)
class Table:
    """A table of which rows are exported."""

    name: str
    only: tuple[str, ...] = ()  # the columns that are; none: all but `without`
    without: tuple[str, ...] = ()


EXPORTED: Final[Sequence[Table]] = (
    Table("person"),
    Table("team"),
    Table("team_limit"),
    Table("identity"),
    Table("member"),
    Table("former_admin"),
    Table("pending_action"),
    Table("pending_told"),
    Table("erased_repo"),
    Table("api_token"),
    Table("invitation"),
    Table("ssh_key"),
    Table("team_key"),
    Table("recovery_key"),
    Table("ssh_host"),
    Table("connection", without=("list_at", "listed_at", "etags")),  # so that it is listed at once
    Table(
        "repo",  # what was chosen and is known; how it is doing shows anew
        only=(
            *("id", "team_id", "name", "url", "object_format", "created_at", "added_by", "private"),
            *("forge", "host", "repository_id", "connection_id"),
            *(
                "paused_at",
                "set_aside",
                "disconnected",
                "archived_at",
                "schedule",
                "excluded",
                "rpo",
                "badge",
            ),
        ),
    ),
    Table("credential"),
    Table("hook", without=("minute_at", "minute_count", "kept_bytes")),
    Table("audit"),
    Table("notice", without=("id",)),
    Table("settled", without=("id",)),
    Table("channel", without=("sending_until", "troubled_since", "tries", "retry_at")),  # tried at once
    Table("evidence_key"),
    Table("ping", only=("id", "team_id", "sealed", "shown", "style", "drill_age", "read_age", "created_at")),
    Table("restore", without=("id",)),
    Table("measured_month"),
    Table("stored_month"),
    Table("retention_policy"),
    Table("snapshot_pin"),
    Table("repo_hold"),
    Table("store_hold"),
    Table("mirror"),
)

_BOUND: Final = ("audit", "ssh_key")  # summed or sealed for the id of their team, and no other
_NAMES: Final = frozenset(table.name for table in EXPORTED)

# Each with the reason.
LEFT_OUT: Final[Mapping[str, str]] = {
    **dict.fromkeys(("snapshot", "part", "ref", "ref_stay", "ref_change"), "the manifests tell"),
    **dict.fromkeys(("lost_push", "drill", "moment", "note"), "the notes in the vault tell"),
    "checkpoint": "the checkpoints in the vault tell",
    "epoch": "the records of epochs in the vault tell",
    **dict.fromkeys(("evidence", "daily_evidence"), "the statements in the vault tell"),
    **dict.fromkeys(
        ("intent", "lease", "run", "worker", "forge_lease", "vault_reader"), "of those who are at work now"
    ),
    **dict.fromkeys(
        ("job", "restored_ref", "rollback", "rollback_repo", "rollback_ref"), "work that is under way, or was"
    ),
    **dict.fromkeys(("message", "sending", "event"), "said, or too late to be said"),
    **dict.fromkeys(("alarm", "telling"), "what is still so is told anew"),
    "queue": "follows from repos and jobs",
    **dict.fromkeys(("mirror_target", "mirror_push"), "follows from mirrors, once what they hold was listed"),
    **dict.fromkeys(
        ("reading", "rotation", "team_drill", "team_drill_repo"),
        "what one database had read; after a rebuild all is read again",
    ),
    **dict.fromkeys(("lock_proof", "lock_pass"), "what one database has found out and done; done again"),
    "prediction": "follows from the histories, within an hour",
    **dict.fromkeys(("delivery", "claim"), "hints, kept for 30 days; forges deliver again"),
    **dict.fromkeys(("session", "sign_in_link", "sign_in_place"), "people sign in again"),
    **dict.fromkeys(("tries", "idempotency", "host_hold"), "of the last minutes"),
    **dict.fromkeys(("outage", "team_over"), "of this installation, now"),
    "pushed_by": "the next push tells anew",
    **dict.fromkeys(
        ("counted", "counted_total", "served", "received"), "what one database has counted for /metrics"
    ),
    "export": "bundles to download, which go within a day",
    **dict.fromkeys(("upload", "upload_piece"), "files that are not proved yet; they are uploaded again"),
    **dict.fromkeys(
        ("vault_copy", "copy_due", "copy_damage", "copy_reading"), "the settings and the copies tell anew"
    ),
    "repo_import": "of one run; an import that was interrupted is run again",
    "vault_switch": "the settings of the new database name its first vault",
    **dict.fromkeys(("reseal", "plain_tombstone"), "a listing of the vault tells what lies plain in it"),
    "vault_identity": "the marker in the vault tells",
    "listed": "the forges tell, when they are asked again",
    **dict.fromkeys(
        ("share", "share_use", "share_total"),
        "a link that was revoked or used up since the export must not work again; the audit log has them all",
    ),
    **dict.fromkeys(("chore", "state_export", "migration"), "of one database"),
}


@dataclass(frozen=True, slots=True)
class Head:
    """How far a team's audit log goes."""

    team_id: TeamId
    count: int  # entries
    sha256: str  # of the last one


@dataclass(frozen=True, slots=True)
class KnownState:
    """An export that this database knows."""

    key: str
    taken_at: datetime
    state: str  # begun, stored, taken-up, unreadable
    tables: Mapping[str, int]  # rows


@translating
async def read(
    db: asyncpg.Pool, take: Callable[[str, Sequence[str]], Awaitable[None]]
) -> tuple[dict[str, int], list[Head]]:
    """Pass all that is exported to `take`: a table's name with a batch of its rows as JSON, the first empty.

    All as it was at one moment. Returns how many rows each table has, and how far the audit logs go.
    """
    counts = dict[str, int]()
    async with (
        db.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        for table in EXPORTED:
            await take(table.name, [])
            counts[table.name] = 0
            async for batch in _rows(connection, table):
                await take(table.name, batch)
                counts[table.name] += len(batch)
        return counts, await heads(connection)


async def _rows(connection: asyncpg.Connection, table: Table) -> AsyncIterator[list[str]]:
    chosen = table.only or [one for one in await columns(connection, table.name) if one not in table.without]
    listed = ", ".join(f'"{column}"' for column in chosen)
    batch: list[str] = []
    async for row in connection.cursor(
        f"select to_jsonb(chosen)::text from (select {listed} from {table.name} {_order(table)}) as chosen",
        prefetch=_AT_ONCE,
    ):
        batch.append(row[0])
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _order(table: Table) -> str:
    return "order by team_id, number" if table.name == "audit" else ""


@translating
async def columns(db: Db, table: str) -> list[str]:
    """The columns of a table that can be written."""
    found = await db.fetch(
        """
        select attname from pg_attribute
        where attrelid = to_regclass($1) and attnum > 0 and not attisdropped and attgenerated = ''
        order by attnum
        """,
        table,
    )
    return [row["attname"] for row in found]


@translating
async def heads(db: Db) -> list[Head]:
    """How far each team's audit log goes, by team."""
    found = await db.fetch(
        "select distinct on (team_id) team_id, number, sha256 from audit order by team_id, number desc"
    )
    return [Head(TeamId(UUID(bytes=row[0].bytes)), row[1], row[2]) for row in found]


@translating
async def audit_sums(db: Db, wanted: Sequence[Head]) -> list[str | None]:
    """The SHA-256 of the entries of these numbers; None where there is no such entry."""
    found = await db.fetch(
        """
        select audit.sha256
        from unnest($1::uuid[], $2::bigint[]) with ordinality as head (team_id, number, place)
        left join audit using (team_id, number) order by place
        """,
        [head.team_id for head in wanted],
        [head.count for head in wanted],
    )
    return [row[0] for row in found]


@translating
async def begin(db: Db, key: str, taken_at: datetime) -> None:
    """Record that an export is about to be stored under this key."""
    await db.execute(
        "insert into state_export (key, taken_at, state) values ($1, $2, 'begun')", key, taken_at
    )


@translating
async def settle(
    db: Db, key: str, taken_at: datetime, state: str, tables: Mapping[str, int], opens_with: str | None = None
) -> None:
    """Record an export's result: stored, imported, or unreadable. Safe to run twice.

    `opens_with` is the id of the key that opens it and all that is in it. None: it is not known.
    """
    await db.execute(
        """
        insert into state_export (key, taken_at, state, tables, opens_with) values ($1, $2, $3, $4, $5)
        on conflict (key) do update set
          state = excluded.state, tables = excluded.tables, opens_with = excluded.opens_with
        """,
        key,
        taken_at,
        state,
        json.dumps(tables),
        opens_with,
    )


@translating
async def opens_with(db: Db) -> str | None:
    """The id of the one key that the newest export needs. None: there is none, or it may need several."""
    found: str | None = await db.fetchval(
        "select opens_with from state_export where state in ('stored', 'taken-up') order by key desc limit 1"
    )
    return found


@translating
async def known(db: Db) -> dict[str, KnownState]:
    """Every export that this database knows, by its key."""
    return {
        row["key"]: KnownState(row["key"], row["taken_at"], row["state"], json.loads(row["tables"]))
        for row in await db.fetch("select * from state_export order by taken_at")
    }


@translating
async def forget(db: Db, key: str) -> None:
    """Forget an export that is no longer in the vault."""
    await db.execute("delete from state_export where key = $1", key)


@translating
async def taken_up_as_of(db: Db) -> datetime | None:
    """The time of the state that a rebuild imported. None: none was imported."""
    found: datetime | None = await db.fetchval(
        "select max(taken_at) from state_export where state = 'taken-up'"
    )
    return found


_Reference = tuple[str, str, str, bool]  # a column, the table and column that it refers to, whether it must


@dataclass(slots=True)
class TakingUp:
    """An import of a state into the database, in one transaction.

    What is there already stays. A row is left out where what it cannot be without is
    not there; what else it refers to and is not there becomes null. A team is the
    one of that id; the command line's is known by its name. An audit log goes on
    where the one here ends, or is left out. Credentials are for the team and address
    that they were kept for: a repo that is here with others gets none.
    """

    connection: Db
    at: datetime
    added: dict[str, int] = field(default_factory=dict)
    teams: dict[str, str] = field(default_factory=dict)  # old id -> the one here, where that is another
    _heads: dict[str, tuple[int, str | None]] | None = None
    _elsewhere: set[str] = field(default_factory=set)  # repos that are here with another team or address
    _shapes: dict[str, tuple[list[str], list[_Reference]]] = field(default_factory=dict)

    @translating
    async def add(self, table: str, given: Sequence[Row]) -> None:
        """Import rows of this table; tables come in the order of EXPORTED. Other tables are ignored."""
        if table not in _NAMES:
            return
        if table == "team":
            given = [row for row in given if await self._is_new_team(row)]
        elif table in _BOUND:
            given = [row for row in given if row["team_id"] not in self.teams]
        if table == "audit":
            given = await self._that_follow(given)
        elif table == "team_key":
            await self._retire_beside(given)
        elif table == "credential":
            given = [row for row in given if row["repo_id"] not in self._elsewhere]
        if given:
            self.added[table] = self.added.get(table, 0) + await self._insert(table, given)
        if table == "repo":
            await self._see_which_are_elsewhere(given)

    async def _see_which_are_elsewhere(self, given: Sequence[Row]) -> None:
        found = await self.connection.fetch(
            """
            select id::text from repo join jsonb_populate_recordset(null::repo, $1::jsonb) as given using (id)
            where (repo.team_id, repo.url, repo.forge, repo.host, repo.repository_id)
              is distinct from (given.team_id, given.url, given.forge, given.host, given.repository_id)
            """,
            json.dumps(given),
        )
        self._elsewhere.update(row[0] for row in found)

    async def _retire_beside(self, given: Sequence[Row]) -> None:
        """A team that was made anew has another identity that is sealed to: what comes back still opens."""
        found = await self.connection.fetch(
            "select team_id::text, id::text from team_key where retired_at is null"
        )
        current = {row["team_id"]: row["id"] for row in found}
        for row in given:
            team = self.teams.get(row["team_id"], row["team_id"])
            if current.get(team, row["id"]) != row["id"]:
                row["retired_at"] = row["retired_at"] or self.at.isoformat()

    async def _is_new_team(self, row: Row) -> bool:
        """Whether the team's row must still be made; False: it exists, or was made under a similar name."""
        old = TeamId(UUID(row["id"]))
        if await teams.find(self.connection, old):
            await self._seal_on(old, row)
            return False
        if not await teams.by_name(self.connection, row["name"]):
            return True
        new = await teams.recover(self.connection, old, row["name"], self.at)
        if new != old:
            self.teams[str(old)] = str(new)
        await self._seal_on(new, row)
        return False

    async def _seal_on(self, team_id: TeamId, row: Row) -> None:
        """A team that was made anew goes on to seal what it stores, if it did."""
        if since := row.get("sealed_since"):
            await self.connection.execute(
                "update team set sealed_since = coalesce(sealed_since, $2) where id = $1",
                team_id,
                datetime.fromisoformat(since),
            )

    async def _that_follow(self, given: Sequence[Row]) -> list[Row]:
        if self._heads is None:
            self._heads = {
                str(head.team_id): (head.count, head.sha256) for head in await heads(self.connection)
            }
        following = []
        for row in given:
            if (row["number"] - 1, row["previous"]) == self._heads.get(row["team_id"], (0, None)):
                self._heads[row["team_id"]] = (row["number"], row["sha256"])
                following.append(row)
        return following

    async def _insert(self, table: str, given: Sequence[Row]) -> int:
        if table not in self._shapes:
            self._shapes[table] = (await columns(self.connection, table), await self._references(table))
        all_columns, references = self._shapes[table]
        fitting = [column for column in all_columns if column in given[0]]
        values = {column: f'given."{column}"' for column in fitting}
        needed = []
        for column, other, key, required in references:
            if column not in values:
                continue
            if other == "team":
                for row in given:
                    row[column] = self.teams.get(row[column], row[column])
            there = f'exists (select from {other} where {other}."{key}" = given."{column}")'
            if required:
                needed.append(there)
            else:
                values[column] = f'case when {there} then given."{column}" end'
        listed = ", ".join(f'"{column}"' for column in fitting)
        done = await self.connection.execute(
            f"""
            insert into {table} ({listed})
            select {", ".join(values.values())}
            from jsonb_populate_recordset(null::{table}, $1::jsonb) as given
            {"where " + " and ".join(needed) if needed else ""}
            on conflict do nothing
            """,
            json.dumps(given),
        )
        return int(done.rpartition(" ")[2])

    async def _references(self, table: str) -> list[_Reference]:
        found = await self.connection.fetch(
            """
            select mine.attname, confrelid::regclass::text, other.attname, mine.attnotnull
            from pg_constraint
            join pg_attribute as mine on mine.attrelid = conrelid and mine.attnum = conkey[1]
            join pg_attribute as other on other.attrelid = confrelid and other.attnum = confkey[1]
            where conrelid = to_regclass($1) and contype = 'f' and cardinality(conkey) = 1
            """,
            table,
        )
        return [tuple(row) for row in found]


@asynccontextmanager
async def taking_up(db: Db, at: datetime) -> AsyncIterator[TakingUp]:
    """All of it, or nothing."""
    async with transaction(db) as connection:
        yield TakingUp(connection, at)
