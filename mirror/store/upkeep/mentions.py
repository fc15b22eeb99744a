"""Which columns of the whole database name a git object; for the proof that one is gone.

Who calls: upkeep/erasure/proof. The columns are those that the database itself lists, so that a new table is
looked at, too. What is sealed cannot be looked into.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from mirror.core.model import RepoId, Target
from mirror.store.database import Db, translating

_RECORD: Final = "the record of who asked for it, who confirmed it and why"
_WAS_AT: Final = "the id alone, where a ref was or is, as the manifests have it"
_TOLD: Final = "the id alone, in what a run or Everref said of it"

# The columns in which Everref itself writes an id beside other words, and never what an object holds.
NAMED_IN: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("pending_action.wanted", "pending_action.result", "pending_action.subject"),
            *("pending_action.why", "pending_action.failed"),
            *("audit.detail", "audit.subject", "epoch.why", "snapshot.dropped_why"),
        ),
        _RECORD,
    ),
    **dict.fromkeys(("note.body", "mirror_target.refs", "rollback.asked"), _WAS_AT),
    **dict.fromkeys(
        (
            *("job.asked", "job.notes", "job.result", "job.failure_message"),
            *("drill.problems", "drill.findings", "team_drill_repo.problem", "evidence.body"),
            *("repo.failure_message", "repo.damage", "restore.target", "restore.destination"),
            *("mirror_target.notes", "mirror_target.failure", "mirror_push.failure", "rollback_ref.why"),
            *("rollback_repo.problem", "lost_push.why", "settled.subject", "notice.message"),
            *("message.content", "upload.result", "upload.why"),
        ),
        _TOLD,
    ),
}


@dataclass(frozen=True, slots=True)
class Mention:
    """A column whose rows name it."""

    column: str  # with its table: delivery.body
    rows: int
    allowed: str | None  # why that may stay; None: the rows may hold more than the id


@dataclass(frozen=True, slots=True)
class Mentions:
    """What the database says of objects."""

    columns: int  # that were looked at
    found: tuple[Mention, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    domain: str  # empty: it is of none


@translating
async def of_objects(db: Db, repo_id: RepoId, ids: Collection[Target]) -> Mentions:
    """Every column in which a row of this repo, or of none, names one of these objects; reads all rows."""
    tables = await _columns(db)
    owners = await _owners(db)
    wanted = "|".join(sorted(oid.decode() for oid in ids))
    found = list[Mention]()
    for table, columns in tables.items():
        tests = [f"{_as_text(table, column)} ~ $2" for column in columns]
        counts = ", ".join(f"count(*) filter (where {test})" for test in tests)
        owner = owners.get(table, "null::uuid")
        row = await db.fetchrow(
            f'select {counts} from "{table}" where ({" or ".join(tests)})'
            f" and coalesce({owner}, $1::uuid) = $1::uuid",
            repo_id,
            wanted,
        )
        for column, number in zip(columns, row, strict=True):
            if number:
                name = f"{table}.{column.name}"
                reason = _WAS_AT if column.domain == "ref_target" else NAMED_IN.get(name)
                found.append(Mention(name, number, reason))
    return Mentions(sum(len(columns) for columns in tables.values()), tuple(found))


@translating
async def forget_bodies(db: Db, repo_id: RepoId, ids: Collection[Target]) -> int:
    """Empty the bodies of deliveries that name one of these objects; returns how many.

    A push's body has the messages of its commits. Safe to run twice.
    """
    done = await db.execute(
        """
        update delivery set body = '' from hook
        where hook.id = hook_id and hook.repo_id = $1 and encode(body, 'escape') ~ $2
        """,
        repo_id,
        "|".join(sorted(oid.decode() for oid in ids)),
    )
    return int(done.split()[-1])


def _as_text(table: str, column: _Column) -> str:
    name = f'"{table}"."{column.name}"'
    return f"encode({name}, 'escape')" if column.type == "bytea" else f"{name}::text"


async def _columns(db: Db) -> dict[str, list[_Column]]:
    """The columns of every table that can hold text or bytes."""
    rows = await db.fetch(
        """
        select relname, attname, base.typname as type,
          case when given.typtype = 'd' then given.typname else '' end as domain
        from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
        join pg_type as given on given.oid = atttypid
        join pg_type as base
          on base.oid = case when given.typtype = 'd' then given.typbasetype else given.oid end
        left join pg_type as item on item.oid = base.typelem and base.typcategory = 'A'
        where nspname = 'public' and relkind in ('r', 'p') and not relispartition
          and (
            base.typcategory = 'S' or item.typcategory = 'S' or base.typname in ('bytea', 'json', 'jsonb')
            or item.typname in ('bytea', 'json', 'jsonb')
          )
        order by relname, attnum
        """
    )
    found = dict[str, list[_Column]]()
    for row in rows:
        found.setdefault(row["relname"], []).append(_Column(row["attname"], row["type"], row["domain"]))
    return found


async def _owners(db: Db) -> dict[str, str]:
    """By table, the expression of the repo that a row is about; tables about no repo are left out."""
    own = await db.fetch(
        """
        select relname from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        join pg_attribute on attrelid = pg_class.oid and attname = 'repo_id' and not attisdropped
        where nspname = 'public' and relkind in ('r', 'p')
        """
    )
    edges = await db.fetch(
        """
        select one.relname as one, mine.attname as mine, other.relname as other, theirs.attname as theirs
        from pg_constraint
        join pg_class as one on one.oid = conrelid join pg_class as other on other.oid = confrelid
        join pg_attribute as mine on mine.attrelid = conrelid and mine.attnum = conkey[1]
        join pg_attribute as theirs on theirs.attrelid = confrelid and theirs.attnum = confkey[1]
        where contype = 'f' and cardinality(conkey) = 1 order by one, mine
        """
    )
    found = {row["relname"]: f'"{row["relname"]}".repo_id' for row in own}
    found["repo"] = '"repo".id'
    while True:
        further = [row for row in edges if row["one"] not in found and row["other"] in found]
        if not further:
            return found
        for row in further:
            one, other = row["one"], row["other"]
            same = f'"{other}"."{row["theirs"]}" = "{one}"."{row["mine"]}"'
            found.setdefault(one, f'(select {found[other]} from "{other}" where {same})')
