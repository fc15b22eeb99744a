"""What was said: messages, each with the channels that it goes to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from mirror.core.messages import Message, from_json, to_json
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, transaction, translating
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Planned:
    """A message at a channel, and when it is to be sent there."""

    channel_id: UUID
    due_at: datetime
    held: bool = False  # it waits for its turn or a morning: several are put into one digest


@dataclass(frozen=True, slots=True)
class About:
    """Whom a message is for. Neither: whoever runs the installation."""

    team_id: TeamId | None = None
    person_id: PersonId | None = None  # this person alone


@dataclass(frozen=True, slots=True)
class Reached:
    """A channel that a message goes to, and what became of it there."""

    channel_id: UUID
    channel: str  # its name
    kind: str  # mail, webhook or chat
    shown: str  # what anybody may see of its address
    state: str  # waiting, sent or failed
    due_at: datetime
    tries: int
    tried_at: datetime | None
    answer: str | None  # what the other side last said; None: nothing yet
    in_digest: bool  # it was, or will be, sent together with others
    person_id: PersonId | None  # whose own channel it is; None: the team's, or the installation's


@dataclass(frozen=True, slots=True)
class Said:
    """A message, and where it went."""

    message: Message
    team: str | None  # None: about the installation, or a person alone
    reached: Sequence[Reached]  # empty: no channel wanted it


@translating
async def add(
    db: Db,
    message: Message,
    to: Sequence[Planned],
    about: About | None = None,
    told_key: str | None = None,
) -> bool:
    """Write the message and its sendings, in the caller's transaction if there is one.

    False: the same was said before (`told_key`), and nothing is written; so it is safe to run twice.
    What is due at once is sent within seconds by any worker.
    """
    about = about or About()
    async with transaction(db) as connection:
        added = await connection.fetchval(
            """
            insert into message (id, team_id, person_id, kind, urgent, content, told_key, at)
            values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (told_key) do nothing returning true
            """,
            message.id,
            about.team_id,
            about.person_id,
            message.kind,
            message.urgent,
            storable(json.dumps(to_json(message))).replace("\\u0000", "\\ufffd"),
            None if told_key is None else storable(told_key),
            message.at,
        )
        if added is None:
            return False
        await send_to(connection, message.id, to)
    return True


@translating
async def send_to(db: Db, message_id: UUID, to: Sequence[Planned]) -> None:
    """Have a message sent to more channels. Safe to run twice: a channel gets it once."""
    await db.execute(
        """
        insert into sending (message_id, channel_id, due_at, first_at, is_held)
        select $1, channel_id, due_at, due_at, held
        from unnest($2::uuid[], $3::timestamptz[], $4::boolean[]) as one (channel_id, due_at, held)
        on conflict do nothing
        """,
        message_id,
        [one.channel_id for one in to],
        [one.due_at for one in to],
        [one.held for one in to],
    )


@translating
async def by_key(db: Db, told_key: str) -> Message | None:
    """The message that was said under this key. None: none was."""
    content = await db.fetchval("select content from message where told_key = $1", storable(told_key))
    return None if content is None else from_json(json.loads(content))


@translating
async def page(
    db: Db,
    about: About | None,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 100,
) -> list[Said]:
    """What was said before the message of this time and id, newest first, with where each went.

    Of a team; of a person: what was for them alone; of whoever runs the installation. None: of everybody.
    """
    rows = await db.fetch(
        """
        with said as (
          select message.*, team.name as team from message left join team on team.id = message.team_id
          where ($1::timestamptz is null or (at, message.id) < ($1, $6::uuid))
            and ($5 or (team_id is not distinct from $2 and message.person_id is not distinct from $3))
          order by at desc, message.id desc limit $4
        )
        select said.id, content, team, sending.*, channel.name, channel.kind as channel_kind, shown,
          channel.person_id
        from said
        left join sending on sending.message_id = said.id
        left join channel on channel.id = sending.channel_id
        order by said.at desc, said.id desc, channel.name, channel.id
        """,
        before[0] if before else None,
        about.team_id if about else None,
        about.person_id if about else None,
        limit,
        about is None,
        before[1] if before else None,
    )
    found: dict[UUID, Said] = {}
    for row in rows:
        known = found.get(row["id"])
        if known is None:
            known = found[row["id"]] = Said(from_json(json.loads(row["content"])), row["team"], [])
        if row["channel_id"] is not None:
            assert isinstance(known.reached, list)
            known.reached.append(_reached(row))
    return list(found.values())


@translating
async def forget_before(db: Db, moment: datetime) -> None:
    """Forget what was said before this moment, and what became of it. Safe to run twice."""
    await db.execute("delete from message where at < $1", moment)


def _reached(row: Any) -> Reached:
    return Reached(
        UUID(bytes=row["channel_id"].bytes),
        row["name"],
        row["channel_kind"],
        row["shown"],
        row["state"],
        row["due_at"],
        row["tries"],
        row["tried_at"],
        row["answer"],
        row["digest_id"] is not None,
        None if row["person_id"] is None else PersonId(UUID(bytes=row["person_id"].bytes)),
    )


def reached_for(reached: Sequence[Reached], person_id: PersonId | None) -> list[Reached]:
    """The same as this person may see it: of other members' own channels, only that there is one."""
    return [
        one
        if one.person_id in (None, person_id)
        else replace(one, channel="a member's own channel", shown="", answer=None)
        for one in reached
    ]
