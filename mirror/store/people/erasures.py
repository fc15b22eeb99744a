"""Taking a person out of every table: their account, and their name in what stays."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, translating
from mirror.store.people import audit
from mirror.store.people.people import Person
from mirror.store.people.teams import DEFAULT, Team, TeamId, team
from mirror.store.upkeep import erased

FORMER: Final = "a former member"  # what a person is called once their account is erased
_AT_ONCE: Final = 1000  # entries that are read together


@dataclass(frozen=True, slots=True)
class Owned:
    """A team that would have no owner any more."""

    team: Team
    members: int  # with this person
    repos: int


@translating
async def owned_alone(db: Db, person_id: PersonId) -> list[Owned]:
    """The teams of which this person is the only owner, but for the command line's own."""
    rows = await db.fetch(
        """
        select team.*,
          (select count(*) from member where team_id = team.id)::int as members,
          (select count(*) from repo where team_id = team.id)::int as repos
        from team join member on member.team_id = team.id and member.person_id = $1 and member.role = 'owner'
        where team.name <> $2 and not exists (
          select from member as other
          where other.team_id = team.id and other.role = 'owner' and other.person_id <> $1
        )
        order by team.name
        """,
        person_id,
        DEFAULT,
    )
    return [Owned(team(row), row["members"], row["repos"]) for row in rows]


@translating
async def teams_that_name(db: Db, person: Person) -> list[TeamId]:
    """The teams whose audit logs have an entry by this person, or about them."""
    rows = await db.fetch(
        "select distinct team_id from audit where person_id = $1 or subject = any($2::text[])",
        person.id,
        _names(person),
    )
    return [TeamId(row[0]) for row in rows]


async def redact(db: Db, team_id: TeamId, person: Person, at: datetime) -> list[int]:
    """Take this person out of the team's audit log; returns the numbers of the entries that were changed.

    In a transaction, in which an entry then says which. The sums of what was written stay.
    """
    await db.execute("set local everref.redacting = 'yes'")
    rows = await db.fetch(
        """
        select number, person_id, actor, subject, detail from audit
        where team_id = $1
          and (person_id = $2 or subject = any($3::text[]) or detail::text like any($4::text[]))
        order by number
        """,
        team_id,
        person.id,
        _names(person),
        [f"%{json.dumps(name)[1:-1]}%" for name in _names(person)],
    )
    for row in rows:
        own = row["person_id"] == person.id
        await db.execute(
            """
            update audit set redacted_at = $3, person_id = case when $4 then null else person_id end,
              address = case when $4 then null else address end, actor = $5, subject = $6, detail = $7
            where team_id = $1 and number = $2
            """,
            team_id,
            row["number"],
            at,
            own,
            FORMER if own else row["actor"],
            FORMER if row["subject"] in _names(person) else row["subject"],
            json.dumps(_without(json.loads(row["detail"]), _names(person))),
        )
    await db.execute("set local everref.redacting = 'no'")
    return [row["number"] for row in rows]


async def remove(db: Db, person: Person, erased_name: str) -> None:
    """Delete the account and what is only theirs, and their name in what stays; in a transaction.

    A team of their own in which nobody else is loses its name; notices and messages that name them go.
    """
    names = _names(person)
    like = [f"%{name}%" for name in names]
    teams = [row[0] for row in await db.fetch("select team_id from member where person_id = $1", person.id)]
    await db.execute(
        """
        delete from notice using unnest($2::text[]) as pattern
        where team_id = any($1::uuid[]) and notice.message like pattern
        """,
        teams,
        like,
    )
    await db.execute(
        """
        delete from message using unnest($2::text[]) as pattern
        where (team_id = any($1::uuid[]) or person_id = $3) and content::text like pattern
        """,
        teams,
        [f"%{json.dumps(name)[1:-1]}%" for name in names],
        person.id,
    )
    for column, by in (
        ("asked_name", "asked_by"),
        ("confirmed_name", "confirmed_by"),
        ("cancelled_name", "cancelled_by"),
    ):
        await db.execute(f"update pending_action set {column} = $2 where {by} = $1", person.id, FORMER)
    if person.email:
        await db.execute("delete from invitation where email = $1", person.email)
    await db.execute("delete from invitation where accepted_by = $1", person.id)
    await db.execute(
        """
        update team set name = $2, person_id = null
        where person_id = $1 and not exists (
          select from member where team_id = team.id and member.person_id <> $1
        )
        """,
        person.id,
        erased_name,
    )
    await db.execute("delete from person where id = $1", person.id)


async def redact_all(db: Db, team_id: TeamId, at: datetime) -> list[int]:
    """Take who, what and from where out of a team's whole audit log; returns the numbers of the entries.

    In a transaction, in which an entry then says which. What was redacted before stays as it is.
    """
    await db.execute("set local everref.redacting = 'yes'")
    rows = await db.fetch(
        """
        update audit set
          redacted_at = $2, person_id = null, address = null, actor = $3, subject = '', detail = '{}'
        where team_id = $1 and redacted_at is null and action <> $4 returning number
        """,
        team_id,
        at,
        FORMER,
        audit.REDACT,
    )
    await db.execute("set local everref.redacting = 'no'")
    return sorted(row[0] for row in rows)


async def remove_team(db: Db, team_id: TeamId, erased_name: str, at: datetime) -> None:
    """Delete everything that a team set up, its memberships and its name; in a transaction.

    Its row stays, for its audit log, and who were its admins and owners, who are told. The tables are those
    that have a `team_id`, whichever they are, those that refer to others first.
    """
    await db.execute(
        """
        insert into former_admin (team_id, person_id, role, left_at)
        select team_id, person_id, role, $2 from member where team_id = $1 and role in ('admin', 'owner')
        on conflict (team_id, person_id) do update set role = excluded.role, left_at = excluded.left_at
        """,
        team_id,
        at,
    )
    for table in await erased.tables(db, "team_id"):
        if table not in ("former_admin", "repo"):
            await db.execute(f"delete from {table} where team_id = $1", team_id)
    await db.execute(
        "update team set name = $2, person_id = null, sealed_since = null where id = $1", team_id, erased_name
    )


@translating
async def rows_of(db: Db, person_id: PersonId) -> dict[str, int]:
    """How many rows each table has that refer to this person; none should have any once they are erased."""
    columns = await db.fetch(
        """
        select conrelid::regclass::text as name, attname as column from pg_constraint
        join pg_attribute on attrelid = conrelid and attnum = conkey[1]
        where contype = 'f' and confrelid = 'person'::regclass and cardinality(conkey) = 1
        """
    )
    places = [(row["name"], row["column"]) for row in columns] + [("audit", "person_id"), ("person", "id")]
    found = dict[str, int]()
    for name, column in places:
        number = await db.fetchval(f'select count(*) from {name} where "{column}" = $1', person_id)
        found[name] = found.get(name, 0) + number
    return found


def entry(numbers: Sequence[int]) -> audit.Entry:
    """The entry that says which entries were redacted."""
    return audit.Entry(
        person_id=None,
        actor="Everref",
        action=audit.REDACT,
        subject="the account of a former member was erased",
        detail={"numbers": list(numbers)},
    )


def _names(person: Person) -> list[str]:
    return [one for one in (person.name, person.email) if one]


def _without(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, names) for one in value]
    return FORMER if value in names else value
