"""What waits to be sent, who sends it, and what became of it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from mirror.core.messages import Message, from_json
from mirror.core.rules.health.telling import Channel
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, query, storable, transaction, translating
from mirror.store.notify import messages
from mirror.store.notify.messages import About
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Claimed:
    """A channel that nobody else sends to for a while, and what is to be sent there."""

    channel_id: UUID
    about: About  # whose channel it is
    kind: str  # mail, webhook or chat
    name: str
    messages: Sequence[Message]  # several: they go as one digest; in the order in which they happened
    message_ids: Sequence[UUID]
    tries: int  # of the channel in a row that failed
    troubled_since: datetime | None
    failing_since: datetime | None
    first_at: datetime  # when the first of them was to be sent


@dataclass(frozen=True, slots=True)
class Listening:
    """A channel that is in use, and whom it is about."""

    channel: Channel
    about: About
    teams: frozenset[TeamId]  # that it hears of
    created_at: datetime
    failing_since: datetime | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits, and what did not arrive."""

    waiting: int  # that are due
    oldest_due: datetime | None  # None: none is
    failed: int  # within a day
    failing: int  # channels


@translating
async def listening(db: Db, now: datetime) -> list[Listening]:
    """Every channel that is confirmed and in use, of teams, of persons and of the installation."""
    return [_listening(row) for row in await db.fetch(query("listening"), now)]


@translating
async def claim(
    db: Db, now: datetime, until: datetime, most: int, *, troubled: bool, chats: int
) -> list[Claimed]:
    """Channels at which something is due, for nobody else until then: those that work, or those in trouble.

    `chats`: how many of them may be chats. Nobody's many channels come before the first of somebody else.
    Safe to run twice, also at once: whoever claims a channel has all that goes there, and sends it in turn.
    """
    async with transaction(db) as connection:
        rows = await connection.fetch(query("claim_channels"), now, until, most, troubled, chats)
        return [_claimed(row) for row in rows]


@translating
async def combine(db: Db, channel_id: UUID, digest: Message, parts: Collection[UUID], now: datetime) -> None:
    """Have these messages sent to the channel as this one. Safe to run twice: a part has one digest."""
    async with transaction(db) as connection:
        owner = await connection.fetchrow("select team_id, person_id from channel where id = $1", channel_id)
        if owner is None:  # it went with its team, and so did what was to be sent there
            return
        await messages.add(connection, digest, [messages.Planned(channel_id, now)], _about(owner))
        await connection.execute(
            """
            update sending set digest_id = $3
            where channel_id = $1 and message_id = any($2::uuid[]) and digest_id is null
            """,
            channel_id,
            list(parts),
            digest.id,
        )


@translating
async def arrived(db: Db, claimed: Claimed, message_id: UUID, answer: str, at: datetime) -> None:
    """The message arrived: so did those that it is a digest of, and the channel works."""
    async with transaction(db) as connection:
        await connection.execute(
            """
            update sending set state = 'sent', tries = tries + 1, tried_at = $3, answer = $4
            where channel_id = $1 and (message_id = $2 or digest_id = $2)
            """,
            claimed.channel_id,
            message_id,
            at,
            storable(answer),
        )
        await connection.execute(
            """
            update channel set sending_until = null, troubled_since = null, tries = 0, retry_at = null,
              failing_since = null, failure = null
            where id = $1
            """,
            claimed.channel_id,
        )


@dataclass(frozen=True, slots=True)
class Trouble:
    """What becomes of a channel, and of what was to be sent there, after a try that failed."""

    answer: str
    ends: bool  # the message is given up
    retry_at: datetime  # when the channel is tried again
    is_failing: bool  # it counts as dead


@translating
async def not_arrived(db: Db, claimed: Claimed, message_id: UUID, trouble: Trouble, at: datetime) -> None:
    """The message did not arrive: it waits, with all that goes there, or is given up."""
    async with transaction(db) as connection:
        await connection.execute(
            """
            update sending set
              state = case when $5 then 'failed' else 'waiting' end,
              tries = tries + 1, tried_at = $3, answer = $4,
              due_at = case when $5 then due_at else $6 end
            where channel_id = $1 and (message_id = $2 or digest_id = $2)
            """,
            claimed.channel_id,
            message_id,
            at,
            storable(trouble.answer),
            trouble.ends,
            trouble.retry_at,
        )
        await connection.execute(
            """
            update channel set sending_until = null, tries = tries + 1, retry_at = $3,
              troubled_since = coalesce(troubled_since, $2),
              failing_since = case when $4 then coalesce(failing_since, $2) end,
              failure = case when $4 then $5 end
            where id = $1
            """,
            claimed.channel_id,
            at,
            trouble.retry_at,
            trouble.is_failing or claimed.failing_since is not None,
            storable(trouble.answer),
        )


@translating
async def hand_back(db: Db, channel_id: UUID) -> None:
    """Nobody sends to the channel any more. Safe to run twice."""
    await db.execute("update channel set sending_until = null where id = $1", channel_id)


@translating
async def give_up(db: Db, now: datetime, after: timedelta) -> None:
    """Give up what was first to be sent so long ago, and what was for channels that are gone."""
    async with transaction(db) as connection:
        await connection.execute(
            """
            update sending set state = 'failed', answer = coalesce(
              answer,
              case when removed_at is null then 'it waited for a day' else 'the channel was removed' end
            )
            from channel
            where channel.id = sending.channel_id and state = 'waiting' and digest_id is null
              and (coalesce(first_at, due_at) < $1 or channel.removed_at is not null)
            """,
            now - after,
        )
        await connection.execute(
            """
            update sending set state = 'failed', answer = whole.answer from sending whole
            where sending.state = 'waiting' and whole.message_id = sending.digest_id
              and whole.channel_id = sending.channel_id and whole.state = 'failed'
            """
        )


@translating
async def backlog(db: Db, now: datetime) -> Backlog:
    """What waits to be sent, and what did not arrive."""
    row = await db.fetchrow(
        """
        select waiting.*,
          (
            select count(*) from sending
            where state = 'failed' and tried_at > $1::timestamptz - interval '1 day'
          ) as failed,
          (
            select count(*) from channel where failing_since is not null and removed_at is null
          ) as failing
        from (
          select count(*) as waiting, min(due_at) as oldest from sending
          where state = 'waiting' and due_at <= $1 and digest_id is null
        ) waiting
        """,
        now,
    )
    return Backlog(row["waiting"], row["oldest"], row["failed"], row["failing"])


@translating
async def team_name(db: Db, about: About) -> str | None:
    """What the team is called that a channel is of. None: it is of no team."""
    name: str | None = await db.fetchval("select name from team where id = $1", about.team_id)
    return name


@dataclass(frozen=True, slots=True)
class Dead:
    """A channel of a team that no longer works."""

    id: UUID
    name: str
    failure: str
    since: datetime


@translating
async def dead(db: Db, team_id: TeamId) -> list[Dead]:
    """The channels of a team that do not work, the longest first."""
    rows = await db.fetch(
        """
        select id, name, failure, failing_since from channel
        where team_id = $1 and failing_since is not null and removed_at is null order by failing_since, id
        """,
        team_id,
    )
    return [Dead(_uuid(row["id"]), row["name"], row["failure"], row["failing_since"]) for row in rows]


def _uuid(found: Any) -> UUID:
    return UUID(bytes=found.bytes)


def _about(row: Any) -> About:
    team, person = row["team_id"], row["person_id"]
    return About(
        None if team is None else TeamId(_uuid(team)), None if person is None else PersonId(_uuid(person))
    )


def _listening(row: Any) -> Listening:
    return Listening(
        Channel(
            _uuid(row["id"]),
            row["person_id"] is not None,
            frozenset(row["off"]),
            row["quiet_from"],
            row["quiet_to"],
            row["zone"],
            row["calm_at"],
            tuple(row["urgent_at"] or ()),
        ),
        _about(row),
        frozenset(TeamId(_uuid(one)) for one in row["teams"] or ()),
        row["created_at"],
        row["failing_since"],
    )


def _claimed(row: Any) -> Claimed:
    said = [from_json(json.loads(one)) for one in row["contents"]]
    return Claimed(
        _uuid(row["id"]),
        _about(row),
        row["kind"],
        row["name"],
        said,
        [one.id for one in said],
        row["tries"],
        row["troubled_since"],
        row["failing_since"],
        row["first_at"],
    )
