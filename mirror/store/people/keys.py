"""A team's own identities and its people's recovery keys: to whom backups are sealed, and what opens them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from mirror.core.identities import Identity
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import RepoId
from mirror.core.rules.keeping.recovery_keys import Kind
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.teams import TeamId

CONTEXT: Final = "team_key/{}"  # for what an identity is sealed: its row


@dataclass(frozen=True, slots=True)
class OwnKey:
    """An identity of a team's own, without the secret."""

    id: UUID
    recipient: str
    made_at: datetime
    retired_at: datetime | None  # None: it is the one that is sealed to
    unreadable_since: datetime | None  # None: SECRET_KEYS opens it


@dataclass(frozen=True, slots=True)
class NewKey:
    """A recovery key that somebody adds."""

    recipient: str
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """Somebody's key that a team's backups are sealed to as well."""

    id: UUID
    recipient: str
    kind: Kind
    name: str
    added_by: str | None  # a person's name; None: whoever runs Everref, or somebody who is gone
    added_at: datetime
    proved_at: datetime | None  # None: nothing is sealed to it yet
    removed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Sealing:
    """Whether a team seals what it stores."""

    since: datetime | None  # None: new objects are plain
    recipients_at: datetime | None  # when it last changed to whom; None: it never sealed
    open_until: datetime | None  # until then an owner may download the identities; None: nobody may


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A team with an identity that SECRET_KEYS does not open."""

    team_id: TeamId
    team: str
    since: datetime
    newest: bool  # it is the one that is sealed to now


@translating
async def recipients(db: Db, team_id: TeamId) -> list[str]:
    """To whom new objects of this team are sealed: its own newest key first, then every proved recovery key.

    Empty: the team has no identity yet. All are texts as `age -r` takes them.
    """
    rows = await db.fetch(
        """
        select recipient from (
          select recipient, 0 as place, made_at as at from team_key where team_id = $1 and retired_at is null
          union all
          select recipient, 1, added_at from recovery_key
          where team_id = $1 and proved_at is not null and removed_at is null
        ) as every order by place, at, recipient
        """,
        team_id,
    )
    return [row["recipient"] for row in rows]


@translating
async def identities(db: Db, keyring: Keyring, team_id: TeamId) -> list[Identity]:
    """All that opens this team's objects and that SECRET_KEYS opens, the newest first.

    Raises BadKey where the team has identities and SECRET_KEYS opens none of them.
    """
    rows = await db.fetch(
        """
        select id, recipient, sealed from team_key where team_id = $1
        order by retired_at desc nulls first, made_at desc
        """,
        team_id,
    )
    found, missing = list[Identity](), None
    for row in rows:
        try:
            found.append(_opened(keyring, row))
        except BadKey as error:
            missing = error
    if missing is not None and not found:
        raise missing
    return found


@translating
async def is_sealed(db: Db, repo_id: RepoId) -> bool:
    """Whether new objects of this repo are sealed now."""
    found = await db.fetchval(
        "select sealed_since is not null from repo join team on team.id = team_id where repo.id = $1", repo_id
    )
    return found is True


@translating
async def add_identity(db: Db, keyring: Keyring, team_id: TeamId, new: Identity, at: datetime) -> bool:
    """Give a team its first identity. False: it has one, and nothing is changed."""
    id = uuid4()
    done = await db.execute(
        """
        insert into team_key (id, team_id, recipient, sealed, made_at) values ($1, $2, $3, $4, $5)
        on conflict (team_id) where retired_at is null do nothing
        """,
        id,
        team_id,
        new.recipient,
        keyring.seal(new.text.encode(), CONTEXT.format(id)),
        at,
    )
    return done == "INSERT 0 1"


@translating
async def without(db: Db, limit: int) -> Sequence[TeamId]:
    """Teams that have no identity yet, at most `limit`."""
    rows = await db.fetch(
        """
        select id from team
        where not exists (select from team_key where team_id = team.id and retired_at is null)
        order by id limit $1
        """,
        limit,
    )
    return [TeamId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def own_keys(db: Db, team_id: TeamId) -> Sequence[OwnKey]:
    """The team's own keys, the one that is sealed to first."""
    rows = await db.fetch(
        """
        select id, recipient, made_at, retired_at, unreadable_since from team_key where team_id = $1
        order by retired_at desc nulls first, made_at desc
        """,
        team_id,
    )
    return [
        OwnKey(row["id"], row["recipient"], row["made_at"], row["retired_at"], row["unreadable_since"])
        for row in rows
    ]


@translating
async def sealing(db: Db, team_id: TeamId) -> Sealing:
    """Whether the team seals, and since when to whom it does now."""
    row = await db.fetchrow(
        "select sealed_since, recipients_at, keys_open_until from team where id = $1", team_id
    )
    return Sealing(row["sealed_since"], row["recipients_at"], row["keys_open_until"])


@translating
async def set_sealed(db: Db, team_id: TeamId, since: datetime | None, at: datetime) -> bool:
    """Seal new objects, or store them plain (None). False: that is so already."""
    done = await db.execute(
        """
        update team set sealed_since = $2, recipients_at = case when $2 is null then recipients_at else $3 end
        where id = $1 and (sealed_since is null) <> ($2::timestamptz is null)
        """,
        team_id,
        since,
        at,
    )
    return done != "UPDATE 0"


@translating
async def rotate(db: Db, keyring: Keyring, team_id: TeamId, new: Identity, at: datetime) -> None:
    """Seal to a new identity from now on; the one before opens what was sealed to it."""
    async with transaction(db) as connection:
        await connection.execute(
            "update team_key set retired_at = $2 where team_id = $1 and retired_at is null", team_id, at
        )
        await add_identity(connection, keyring, team_id, new, at)
        await _changed(connection, team_id, at)


@translating
async def bring_back(db: Db, keyring: Keyring, team_id: TeamId, known: Identity, at: datetime) -> bool:
    """Keep an identity that somebody has, so that it opens what was sealed to it. False: it does.

    One of the team's that SECRET_KEYS no longer opens is sealed with the newest of them.
    """
    async with transaction(db) as connection:
        row = await connection.fetchrow(
            "select id, recipient, sealed from team_key where team_id = $1 and recipient = $2 for update",
            team_id,
            known.recipient,
        )
        if row is None:
            id = uuid4()
            await connection.execute(
                """
                insert into team_key (id, team_id, recipient, sealed, made_at, retired_at)
                values ($1, $2, $3, $4, $5, $5)
                """,
                id,
                team_id,
                known.recipient,
                keyring.seal(known.text.encode(), CONTEXT.format(id)),
                at,
            )
            return True
        try:
            _opened(keyring, row)
        except BadKey:
            sealed = keyring.seal(known.text.encode(), CONTEXT.format(row["id"]))
            await connection.execute(
                "update team_key set sealed = $2, unreadable_since = null where id = $1", row["id"], sealed
            )
            return True
        return False


@translating
async def recovery_keys(db: Db, team_id: TeamId) -> Sequence[RecoveryKey]:
    """The team's recovery keys, those that were removed last."""
    rows = await db.fetch(
        f"""
        {_RECOVERY} where recovery_key.team_id = $1
        order by removed_at desc nulls first, added_at, recovery_key.id
        """,
        team_id,
    )
    return [_recovery(row) for row in rows]


@translating
async def recovery_key(db: Db, team_id: TeamId, id: UUID) -> RecoveryKey | None:
    """One of the team's recovery keys, unless it was removed."""
    row = await db.fetchrow(
        f"{_RECOVERY} where recovery_key.team_id = $1 and recovery_key.id = $2 and removed_at is null",
        team_id,
        id,
    )
    return None if row is None else _recovery(row)


@translating
async def is_of_a_team(db: Db, recipient: str) -> bool:
    """Whether this is the public half of a team's own identity."""
    found = await db.fetchval("select true from team_key where recipient = $1 limit 1", recipient)
    return found is True


@translating
async def add_recovery(
    db: Db, team_id: TeamId, new: NewKey, by: PersonId | None, at: datetime
) -> UUID | None:
    """Add a recovery key, to which nothing is sealed before it is proved. None: the team has it already."""
    found = await db.fetchval(
        """
        insert into recovery_key (team_id, recipient, kind, name, added_by, added_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (team_id, recipient) where removed_at is null do nothing returning id
        """,
        team_id,
        storable(new.recipient),
        new.kind,
        storable(new.name),
        by,
        at,
    )
    return None if found is None else UUID(bytes=found.bytes)


@translating
async def prove(db: Db, team_id: TeamId, id: UUID, at: datetime) -> bool:
    """Somebody has shown that they have its private half: seal to it from now on. False: it was so before."""
    async with transaction(db) as connection:
        done = await connection.execute(
            """
            update recovery_key set proved_at = $3
            where team_id = $1 and id = $2 and proved_at is null and removed_at is null
            """,
            team_id,
            id,
            at,
        )
        if done == "UPDATE 0":
            return False
        await _changed(connection, team_id, at)
        return True


@translating
async def remove(db: Db, team_id: TeamId, id: UUID, at: datetime) -> bool:
    """Seal nothing more to this key. False: it was removed before."""
    async with transaction(db) as connection:
        row = await connection.fetchrow(
            """
            update recovery_key set removed_at = $3 where team_id = $1 and id = $2 and removed_at is null
            returning proved_at
            """,
            team_id,
            id,
            at,
        )
        if row is not None and row["proved_at"] is not None:
            await _changed(connection, team_id, at)
        return row is not None


@translating
async def that_seal(db: Db) -> Sequence[TeamId]:
    """Teams that seal, or did."""
    rows = await db.fetch("select id from team where recipients_at is not null order by id")
    return [TeamId(UUID(bytes=row["id"].bytes)) for row in rows]


@translating
async def key_file_of(db: Db, team_id: TeamId) -> str | None:
    """What is in the team's newest key file, as `has_key_file` has it. None: it has none."""
    found: str | None = await db.fetchval("select key_file_of from team where id = $1", team_id)
    return found


@translating
async def has_key_file(db: Db, team_id: TeamId, key: str, of: str) -> None:
    """This key file is in the vault, and is the newest. Safe to run twice."""
    await db.execute("update team set key_file = $2, key_file_of = $3 where id = $1", team_id, key, of)


async def _changed(db: Db, team_id: TeamId, at: datetime) -> None:
    """What was sealed before is to be sealed anew; a team that never sealed has nothing of the kind."""
    await db.execute(
        "update team set recipients_at = $2 where id = $1 and recipients_at is not null", team_id, at
    )


@translating
async def let_out(db: Db, team_id: TeamId, until: datetime) -> None:
    """An owner may download the team's identities until then. Safe to run twice."""
    await db.execute("update team set keys_open_until = $2 where id = $1", team_id, until)


@translating
async def look(db: Db, marks: Sequence[bytes], at: datetime) -> Sequence[Unreadable]:
    """Note which identities no key of SECRET_KEYS opens (`marks`: how what each of them sealed begins).

    Returns the teams that have sealed backups, or seal, and whose current identity is among them.
    """
    async with transaction(db) as connection:
        await connection.execute(
            """
            with seen as (
              select id, substring(sealed from 1 for $3) = any($1::bytea[]) as opens from team_key
            )
            update team_key set unreadable_since = case when opens then null else $2::timestamptz end
            from seen where seen.id = team_key.id and opens = (unreadable_since is not null)
            """,
            list(marks),
            at,
            len(marks[0]) if marks else 1,
        )
    return await unreadable(db)


@translating
async def unreadable(db: Db, team_id: TeamId | None = None) -> Sequence[Unreadable]:
    """Teams (or this one) of which an identity does not open, since when; only those that ever sealed."""
    rows = await db.fetch(
        """
        select team.id, team.name, min(unreadable_since) as since, bool_or(retired_at is null) as newest
        from team_key join team on team.id = team_id
        where unreadable_since is not null and recipients_at is not null
          and ($1::uuid is null or team.id = $1)
        group by team.id, team.name order by team.name
        """,
        team_id,
    )
    return [
        Unreadable(TeamId(UUID(bytes=row["id"].bytes)), row["name"], row["since"], row["newest"])
        for row in rows
    ]


@translating
async def closed(db: Db, marks: Sequence[bytes]) -> Sequence[str]:
    """The teams that seal, or did, of which no key of SECRET_KEYS opens an identity now; by name."""
    rows = await db.fetch(
        """
        select distinct team.name from team_key join team on team.id = team_id
        where recipients_at is not null and not substring(sealed from 1 for $2) = any($1::bytea[])
        order by team.name
        """,
        list(marks),
        len(marks[0]) if marks else 1,
    )
    return [row["name"] for row in rows]


_RECOVERY: Final = """
    select recovery_key.*, person.name as adder
    from recovery_key left join person on person.id = added_by
"""


def _recovery(row: Any) -> RecoveryKey:
    return RecoveryKey(
        UUID(bytes=row["id"].bytes),
        row["recipient"],
        Kind(row["kind"]),
        row["name"],
        row["adder"],
        row["added_at"],
        row["proved_at"],
        row["removed_at"],
    )


def _opened(keyring: Keyring, row: Any) -> Identity:
    plain = keyring.open(row["sealed"], CONTEXT.format(row["id"]))
    return Identity(row["recipient"], plain.decode())
