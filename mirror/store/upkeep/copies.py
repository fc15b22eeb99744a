"""The stores that hold the vault: what each still has to get, how far it is behind, what was wrong in it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mirror.core.formats import layout
from mirror.core.words import count, lasted
from mirror.store.database import Db, query, storable, translating

LATE: Final = timedelta(minutes=15)  # behind, after which it is said; five are usual at the most
SILENT: Final = timedelta(minutes=2)  # after which a switch that nobody goes on with is off
LONGEST_PUT: Final = timedelta(minutes=10)  # longer than a store may take to answer for a small object
BEGUN: Final = timedelta(minutes=1)  # after which a store is tried although nobody said that the first has it
GIVEN_UP: Final = timedelta(days=2)  # after which what never came to be is no longer waited for
_CLAIMED: Final = timedelta(minutes=15)  # in which nobody else copies the same object; a part may be large


@dataclass(frozen=True, slots=True)
class Due:
    """What a store is to get or to lose."""

    key: str
    wanted: str  # put, delete
    since: datetime
    stored: bool  # the first store has done it
    again: bool  # what is there is damaged: it is replaced
    tries: int


@dataclass(frozen=True, slots=True)
class Sum:
    """What an object is, as the database recorded it."""

    bytes: int | None  # None: not recorded
    sha256: str


@dataclass(frozen=True, slots=True)
class Copy:
    """How a copy stands."""

    name: str
    place: str
    listed_at: datetime | None  # None: never compared, so that it is being filled
    objects: int | None
    bytes: int | None
    extra: int  # objects that the first does not have
    away_since: datetime | None  # None: it answers
    away: str | None
    reads: int  # objects that were read from it instead of the first
    read_from_at: datetime | None
    read_from: str | None
    waiting: int  # objects that it still has to get or to lose
    oldest: datetime | None  # since when the oldest of them waits; None: it has everything
    problem: str | None  # why it waits, if a try failed
    damaged: int  # objects of it that are damaged
    damage: str | None  # one of them
    read_at: datetime | None  # when everything in it had last been read back; None: not yet
    read_bytes: int  # read back of what there is

    def lag(self, now: datetime) -> timedelta:
        """How far it is behind."""
        return now - self.oldest if self.oldest else timedelta()

    def state(self, now: datetime) -> tuple[str, bool]:
        """How it stands, in words, and whether that is well."""
        if self.away_since is not None:
            return f"away for {lasted((now - self.away_since).total_seconds())}: {self.away}", False
        if self.damaged:
            return f"{count(self.damaged, 'damaged object')}; {self.damage}", False
        if self.listed_at is None:
            return f"being filled, {count(self.waiting, 'object')} to go", True
        if self.oldest is None:
            return "has everything", True
        why = f": {self.problem}" if self.problem else ""
        behind = lasted(self.lag(now).total_seconds())
        return f"{behind} behind, {count(self.waiting, 'object')} to go{why}", self.lag(now) <= LATE


@translating
async def register(db: Db, places: Mapping[str, str], now: datetime) -> None:
    """Know these stores, by name, with where they are. Safe to run twice."""
    await db.execute(
        """
        insert into vault_copy (name, place, added_at)
        select name, place, $3 from unnest($1::text[], $2::text[]) as given (name, place)
        on conflict (name) do update set place = excluded.place where vault_copy.place <> excluded.place
        """,
        list(places),
        list(places.values()),
        now,
    )


@translating
async def first(db: Db) -> str | None:
    """The store that a switch made the first. None: there was no switch."""
    found: str | None = await db.fetchval("select first from vault_switch")
    return found


@translating
async def begins(
    db: Db, names: Sequence[str], default: str, key: str, wanted: str, now: datetime
) -> tuple[str, str | None]:
    """Note that all stores but the first shall get or lose a key; the first, and the one that will be.

    `names`: all stores of the settings. `default`: the first where no switch was made.
    """
    row = await db.fetchrow(
        """
        with chosen as materialized (
          select coalesce((select first from vault_switch), $2) as first,
            (select also from vault_switch where beat_at > clock_timestamp() - $6::interval) as also
        ), noted as (
          insert into copy_due (copy, key, wanted, since, due_at)
          select name, $3, $4, $5, $5::timestamptz + $7::interval
          from unnest($1::text[]) as name, chosen where name <> chosen.first
          on conflict (copy, key) do update
            set wanted = excluded.wanted, stored = false, due_at = excluded.due_at, tries = 0, problem = null,
              begun_at = clock_timestamp()
        )
        select first, also from chosen
        """,
        *(list(names), default, key, wanted, now, SILENT, BEGUN),
    )
    return row["first"], row["also"]


@translating
async def stored(db: Db, key: str, now: datetime) -> None:
    """The first store has followed for this key: the others are due. Safe to run twice."""
    await db.execute("update copy_due set stored = true, due_at = $2 where key = $1", key, now)


@translating
async def dropped(db: Db, key: str) -> None:
    """Nobody shall follow for this key. Safe to run twice."""
    await db.execute("delete from copy_due where key = $1", key)


@translating
async def want(db: Db, copy: str, keys: Collection[str], now: datetime, *, again: bool = False) -> None:
    """Note that a copy lacks these keys; with `again`, that what it has there is damaged."""
    await db.execute(
        """
        insert into copy_due as mine (copy, key, wanted, since, stored, due_at, again)
        select $1, key, 'put', $3, true, $3, $4 from unnest($2::text[]) as key
        on conflict (copy, key) do update set again = mine.again or excluded.again, due_at = excluded.due_at
        where mine.wanted = 'put'
        """,
        *(copy, list(keys), now, again),
    )


@translating
async def claim(db: Db, copy: str, now: datetime, limit: int) -> Sequence[Due]:
    """Take what is due for a store, the longest waiting first; nobody else gets it for a while."""
    rows = await db.fetch(
        """
        with chosen as (
          select copy, key from copy_due where copy = $1 and due_at <= $2
          order by stored desc, since, key limit $3 for update skip locked
        )
        update copy_due set due_at = $2::timestamptz + $4::interval, tries = tries + 1
        from chosen where copy_due.copy = chosen.copy and copy_due.key = chosen.key
        returning copy_due.*
        """,
        *(copy, now, limit, _CLAIMED),
    )
    found = [Due(*(row[name] for name in Due.__dataclass_fields__)) for row in rows]
    return sorted(found, key=lambda one: (one.since, one.key))


@translating
async def followed(db: Db, copy: str, one: Due) -> None:
    """A store has followed. What was wanted of the same key meanwhile stays wanted. Safe to run twice."""
    await db.execute(
        """
        with gone as (
          delete from copy_due where copy = $1 and key = $2 and wanted = $3 and (stored or not $4)
        )
        delete from copy_damage where copy = $1 and key = $2
        """,
        *(copy, one.key, one.wanted, one.stored),
    )


@translating
async def later(db: Db, copy: str, key: str, problem: str | None, due_at: datetime) -> None:
    """Try it again then."""
    await db.execute(
        "update copy_due set due_at = $4, problem = $3 where copy = $1 and key = $2",
        *(copy, key, problem and storable(problem), due_at),
    )


@translating
async def give_way(db: Db, copy: str, now: datetime) -> None:
    """What is claimed and not followed may be taken at once: who claimed it has ended. Safe to run twice."""
    await db.execute(
        "update copy_due set due_at = $2 where copy = $1 and stored and due_at > $2 and problem is null",
        copy,
        now,
    )


@translating
async def waiting(db: Db, copy: str) -> int:
    """How many objects a store still has to get or to lose, of those that the first is known to have."""
    found: int = await db.fetchval("select count(*) from copy_due where copy = $1 and stored", copy)
    return found


@translating
async def is_marked(db: Db, name: str) -> bool:
    """Whether the marker of this copy was seen or written already."""
    found: bool | None = await db.fetchval("select marked from vault_copy where name = $1", name)
    return bool(found)


@translating
async def set_marked(db: Db, name: str) -> None:
    """The marker of this copy is there. Safe to run twice."""
    await db.execute("update vault_copy set marked = true where name = $1 and not marked", name)


@translating
async def away(db: Db, name: str, why: str, now: datetime) -> None:
    """A copy does not answer. Safe to run twice."""
    await db.execute(
        "update vault_copy set away_since = coalesce(away_since, $3), away = $2 where name = $1",
        *(name, storable(why), now),
    )


@translating
async def back(db: Db, name: str) -> bool:
    """A copy answers; whether it did not before. Safe to run twice."""
    done = await db.execute(
        "update vault_copy set away_since = null, away = null where name = $1 and away_since is not null",
        name,
    )
    return bool(done == "UPDATE 1")


@translating
async def read_elsewhere(db: Db, name: str, why: str, now: datetime) -> None:
    """An object was read from a copy because the first did not give it."""
    await db.execute(
        """
        update vault_copy set reads = reads + 1, read_from_at = $3, read_from = $2 where name = $1
        """,
        *(name, storable(why), now),
    )


@translating
async def listed(db: Db, name: str, objects: int, size: int, extra: int, now: datetime) -> None:
    """A copy was compared with the first, by their listings."""
    await db.execute(
        "update vault_copy set listed_at = $5, objects = $2, bytes = $3, extra = $4 where name = $1",
        *(name, objects, size, extra, now),
    )


@translating
async def found_damaged(db: Db, name: str, key: str, problem: str, now: datetime) -> None:
    """An object of a copy is damaged: it is to be replaced. Safe to run twice."""
    await db.execute(
        """
        with noted as (
          insert into copy_damage (copy, key, problem, found_at) values ($1, $2, $3, $4)
          on conflict (copy, key) do nothing
        )
        insert into copy_due as mine (copy, key, wanted, since, stored, due_at, again)
        values ($1, $2, 'put', $4, true, $4, true)
        on conflict (copy, key) do update set again = true, due_at = $4 where mine.wanted = 'put'
        """,
        *(name, key, storable(problem), now),
    )


@translating
async def forget(db: Db, name: str) -> None:
    """Know this store no longer. Safe to run twice."""
    await db.execute("delete from vault_copy where name = $1", name)


@translating
async def next_to_read(db: Db, name: str, prefixes: Sequence[str], now: datetime, days: int) -> str | None:
    """The prefix of a copy that was not read back for longest, if for longer than its time.

    `prefixes`: those of the installation, for so many `days`. Repos follow the period of their team.
    """
    found: str | None = await db.fetchval(
        """
        select known.prefix from (
          select repo.id::text || '/' as prefix, read_days as days
          from repo join team on team.id = repo.team_id
          where read_days > 0 and exists (select from snapshot where repo_id = repo.id)
          union all
          select given, $4::int from unnest($2::text[]) as given
        ) as known
        left join copy_reading on copy = $1 and copy_reading.prefix = known.prefix
        where read_at is null or read_at < $3::timestamptz - 0.5 * days * interval '1 day'
        order by read_at nulls first, known.prefix limit 1
        """,
        *(name, list(prefixes), now, days),
    )
    return found


@translating
async def may_read(db: Db, name: str, now: datetime) -> bool:
    """Whether more of a copy may be read back already, and it has been filled and answers."""
    found: bool | None = await db.fetchval(
        """
        select read_next_at <= $2 and listed_at is not null and away_since is null
        from vault_copy where name = $1
        """,
        *(name, now),
    )
    return bool(found)


@translating
async def read_back(
    db: Db, name: str, prefix: str, size: int, objects: int, at: datetime, next_at: datetime
) -> None:
    """All of a copy under a prefix was read; the next may be read at `next_at`."""
    await db.execute(
        """
        with paced as (update vault_copy set read_next_at = $6 where name = $1)
        insert into copy_reading (copy, prefix, read_at, bytes, objects) values ($1, $2, $5, $3, $4)
        on conflict (copy, prefix) do update
          set read_at = excluded.read_at, bytes = excluded.bytes, objects = excluded.objects
        """,
        *(name, prefix, size, objects, at, next_at),
    )


@translating
async def sums(db: Db, keys: Collection[str]) -> Mapping[str, Sum]:
    """What the database recorded of these objects as they are stored, sealed or not.

    Those of which it recorded nothing are left out.
    """
    manifests = [(key, found) for key in keys if (found := layout.parse_manifest_key(key))]
    parts = [(key, layout.parse_bundle_key(key)) for key in keys if layout.is_index(key)]
    beside = [(key, _part_beside(key)) for key, found in parts if found]
    rows = await db.fetch(
        query("stored_sums"),
        list(keys),
        [key for key, _ in beside],
        [of for _, of in beside],
        [key for key, _ in manifests],
        [found.repo_id for _, found in manifests],
        [found.number for _, found in manifests],
        [layout.is_sealed(key) for key, _ in manifests],
    )
    return {row["key"]: Sum(row["bytes"], row["sha256"]) for row in rows}


def _part_beside(key: str) -> str:
    """The key of the part that this index is beside."""
    return layout.sealed(f"{layout.plain(key).removesuffix('.idx')}.bundle", layout.is_sealed(key))


@translating
async def standing(db: Db, names: Sequence[str]) -> Sequence[Copy]:
    """How these stores stand, in this order; those that no process has opened yet are left out."""
    if not names:
        return []
    rows = await db.fetch(
        """
        select vault_copy.*, waiting, oldest, problem, damaged, damage, read_at,
          coalesce(read_bytes, 0) as read_bytes
        from vault_copy
        cross join lateral (
          select count(*) as waiting, min(since) as oldest,
            (array_agg(problem order by since) filter (where problem is not null))[1] as problem
          from copy_due where copy = name and stored
        ) as due
        cross join lateral (
          select count(*) as damaged, min(copy_damage.key || ': ' || copy_damage.problem) as damage
          from copy_damage where copy = name
        ) as broken
        cross join lateral (
          select min(copy_reading.read_at) as read_at, sum(copy_reading.bytes)::bigint as read_bytes
          from copy_reading where copy = name
        ) as reading
        where name = any($1) order by array_position($1, name)
        """,
        list(names),
    )
    return [Copy(**{name: row[name] for name in Copy.__dataclass_fields__}) for row in rows]


@translating
async def begin_switch(db: Db, name: str) -> datetime | None:
    """Have small objects written into this store at once, too; since when, by the clock of the database.

    A switch to it that is under way goes on. None: one to another store is. Safe to run twice.
    """
    since: datetime | None = await db.fetchval(
        """
        insert into vault_switch as mine (also, since, beat_at)
        values ($1, clock_timestamp(), clock_timestamp())
        on conflict (the_one) do update set also = $1, beat_at = clock_timestamp(),
          since = case
            when mine.also = $1 and mine.beat_at > clock_timestamp() - $2::interval then mine.since
            else clock_timestamp()
          end
        where mine.also is null or mine.also = $1 or mine.beat_at < clock_timestamp() - $2::interval
        returning since
        """,
        *(name, SILENT),
    )
    return since


@translating
async def beat(db: Db, name: str, since: datetime) -> bool:
    """Who switches is alive. False: it was silent for too long, so the switch is off."""
    done = await db.execute(
        """
        update vault_switch set beat_at = clock_timestamp()
        where also = $1 and since = $2 and beat_at > clock_timestamp() - $3::interval
        """,
        *(name, since, SILENT),
    )
    return bool(done == "UPDATE 1")


@translating
async def in_flight(db: Db, name: str, since: datetime) -> int:
    """How many writes began before `since`, not long ago, and may not have ended yet."""
    found: int = await db.fetchval(
        """
        select count(*) from copy_due
        where copy = $1 and not stored and begun_at < $2 and begun_at > clock_timestamp() - $3::interval
        """,
        *(name, since, LONGEST_PUT),
    )
    return found


@translating
async def end_switch(db: Db, name: str, since: datetime) -> bool:
    """Let this store be the first, if the switch is still on and it lacks nothing. Safe to run twice."""
    done = await db.execute(
        """
        update vault_switch set first = $1, also = null, since = null, beat_at = null
        where also = $1 and since = $2 and beat_at > clock_timestamp() - $3::interval
          and not exists (select from copy_due where copy = $1 and wanted = 'put' and stored)
        """,
        *(name, since, SILENT),
    )
    return bool(done == "UPDATE 1")


@translating
async def cancel_switch(db: Db, name: str) -> None:
    """Leave the first store as it is. Safe to run twice."""
    await db.execute(
        "update vault_switch set also = null, since = null, beat_at = null where also = $1", name
    )
