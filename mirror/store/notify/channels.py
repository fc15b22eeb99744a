"""Channels: the places that messages go to, with their addresses sealed."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, Final
from uuid import UUID, uuid4

from mirror.core.channels import Address, ChannelKind, unsubscribe_url
from mirror.core.keyring import Keyring
from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, translating
from mirror.store.people.teams import TeamId

_SELECT: Final = """
select channel.*, (
  select max(tried_at) from sending where channel_id = channel.id and state = 'sent'
) as sent_at from channel
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose channel it is: a team's or a person's. Neither: of whoever runs the installation."""

    team_id: TeamId | None = None
    person_id: PersonId | None = None


@dataclass(frozen=True, slots=True)
class Quiet:
    """Hours in which only what is urgent is sent; `start` may be later than `end`: over midnight."""

    start: time
    end: time
    zone: str  # IANA


@dataclass(frozen=True, slots=True)
class Channel:
    """One place that messages go to, as its owner sees it."""

    id: UUID
    owner: Owner
    kind: ChannelKind
    name: str
    shown: str  # what of its address anybody may see
    off: frozenset[str]  # kinds of messages that it does not want
    quiet: Quiet | None  # None: everything is sent at any time
    created_at: datetime
    confirmed_at: datetime | None  # None: nothing but the question whether it may be used is sent
    stopped_at: datetime | None  # None: its reader has not ended these mails
    failing_since: datetime | None  # None: what was last sent arrived
    failure: str | None
    sent_at: datetime | None  # when something last arrived; None: nothing has yet


@translating
async def add(
    db: Db,
    keyring: Keyring,
    owner: Owner,
    kind: ChannelKind,
    name: str,
    shown: str,
    to: str,
    at: datetime,
    *,
    key: str | None = None,
    confirmed: bool,
) -> Channel:
    """A new channel to this address; `key` signs what is sent to a webhook."""
    made = uuid4()
    await db.execute(
        """
        insert into channel (id, team_id, person_id, kind, name, shown, sealed, created_at, confirmed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        made,
        owner.team_id,
        owner.person_id,
        kind,
        storable(name),
        storable(shown),
        _sealed(keyring, made, {"to": to, "keys": [key] if key else []}),
        at,
        at if confirmed else None,
    )
    return _channel(await db.fetchrow(f"{_SELECT} where id = $1", made))


@translating
async def of(db: Db, owner: Owner) -> Sequence[Channel]:
    """The owner's channels that are in use or wait to be confirmed, the oldest first."""
    rows = await db.fetch(
        f"""{_SELECT}
        where removed_at is null and team_id is not distinct from $1 and person_id is not distinct from $2
        order by created_at, id""",
        owner.team_id,
        owner.person_id,
    )
    return [_channel(row) for row in rows]


@translating
async def find(db: Db, channel_id: UUID) -> Channel | None:
    """The channel of this id. None: there is none, or it was removed."""
    row = await db.fetchrow(f"{_SELECT} where id = $1 and removed_at is null", channel_id)
    return None if row is None else _channel(row)


@translating
async def count(db: Db, owner: Owner) -> int:
    """How many channels the owner has. The owner's row must be locked for the answer to stay true."""
    found: int = await db.fetchval(
        """
        select count(*) from channel
        where removed_at is null and team_id is not distinct from $1 and person_id is not distinct from $2
        """,
        owner.team_id,
        owner.person_id,
    )
    return found


@translating
async def address(db: Db, keyring: Keyring, channel_id: UUID, origin: str, now: datetime) -> Address | None:
    """Where the channel's messages go, for `mirror.channels.send`. None: it was removed. Raises BadKey.

    `origin`: scheme and host of the pages, for the link in a mail that ends these mails.
    """
    row = await db.fetchrow(
        "select kind, sealed from channel where id = $1 and removed_at is null", channel_id
    )
    if row is None:
        return None
    said = _opened(keyring, channel_id, row["sealed"])
    until = said.get("until")
    keys = said["keys"] if until and now < datetime.fromisoformat(until) else said["keys"][:1]
    stop = unsubscribe_url(keyring, origin, channel_id) if row["kind"] == "mail" else None
    return Address(row["kind"], said["to"], tuple(keys), stop)


@translating
async def set_key(db: Db, keyring: Keyring, channel_id: UUID, key: str, until: datetime) -> bool:
    """Sign with this key from now on, and with the one before it too until then. False: it was removed.

    The caller's transaction holds the row meanwhile.
    """
    sealed = await db.fetchval(
        "select sealed from channel where id = $1 and removed_at is null for no key update", channel_id
    )
    if sealed is None:
        return False
    said = _opened(keyring, channel_id, sealed)
    said = {**said, "keys": [key, *said["keys"][:1]], "until": until.isoformat()}
    await db.execute(
        "update channel set sealed = $2 where id = $1", channel_id, _sealed(keyring, channel_id, said)
    )
    return True


@translating
async def change(db: Db, channel_id: UUID, name: str, off: Collection[str], quiet: Quiet | None) -> bool:
    """Set its name, the kinds that it does not want, and its quiet hours. False: it was removed."""
    done = await db.execute(
        """
        update channel set name = $2, off = $3, quiet_from = $4, quiet_to = $5, zone = $6
        where id = $1 and removed_at is null
        """,
        channel_id,
        storable(name),
        sorted(off),
        quiet.start if quiet else None,
        quiet.end if quiet else None,
        quiet.zone if quiet else None,
    )
    return done == "UPDATE 1"


@translating
async def remove(db: Db, keyring: Keyring, channel_id: UUID, at: datetime) -> bool:
    """Send nothing there any more, and forget its address. False: it was removed before.

    What was sent stays, with what became of it; what waits for it is given up.
    """
    done = await db.execute(
        """
        with gone as (
          update sending set state = 'failed', answer = 'the channel was removed'
          where channel_id = $1 and state = 'waiting'
        )
        update channel set removed_at = $2, sealed = $3 where id = $1 and removed_at is null
        """,
        channel_id,
        at,
        _sealed(keyring, channel_id, {"to": "", "keys": []}),
    )
    return done == "UPDATE 1"


@translating
async def confirm(db: Db, channel_id: UUID, at: datetime) -> bool:
    """Its reader wants it. A person's own e-mail address is then known to be theirs. Safe to run twice.

    False: it was removed.
    """
    done = await db.fetchval(
        """
        with mine as (
          update channel set confirmed_at = coalesce(confirmed_at, $2), stopped_at = null
          where id = $1 and removed_at is null returning person_id, kind, shown
        ), known as (
          update person set email_confirmed_at = coalesce(email_confirmed_at, $2) from mine
          where person.id = mine.person_id and mine.kind = 'mail' and email = lower(shown)
        )
        select true from mine
        """,
        channel_id,
        at,
    )
    return bool(done)


@translating
async def stop(db: Db, channel_id: UUID, at: datetime) -> Channel | None:
    """Its reader wants no more: nothing is sent until it is confirmed again. Safe to run twice.

    None: there is no such channel, or it was removed.
    """
    await db.execute(
        """
        with gone as (
          update sending set state = 'failed', answer = 'its reader ended these mails'
          where channel_id = $1 and state = 'waiting'
        )
        update channel set confirmed_at = null, stopped_at = coalesce(stopped_at, $2)
        where id = $1 and removed_at is null
        """,
        channel_id,
        at,
    )
    return await find(db, channel_id)


@translating
async def tried(db: Db, channel_id: UUID, at: datetime, failure: str | None) -> None:
    """What a test showed: it works (None), or since now it does not, and why."""
    await db.execute(
        """
        update channel set failure = $3::text,
          failing_since = case when $3::text is null then null else coalesce(failing_since, $2) end
        where id = $1
        """,
        channel_id,
        at,
        None if failure is None else storable(failure),
    )


@translating
async def ensure_admin(db: Db, keyring: Keyring, address: str | None, at: datetime) -> None:
    """The mail channel of whoever runs the installation, as SMTP_URL names them. Safe to run twice.

    One that an earlier SMTP_URL named is removed; one that its reader ended stays ended.
    """
    name = "admin in SMTP_URL"
    rows = await db.fetch(
        """
        select id, shown from channel
        where team_id is null and person_id is null and kind = 'mail' and name = $1 and removed_at is null
        """,
        name,
    )
    for row in rows:
        if row["shown"] != address:
            await remove(db, keyring, UUID(bytes=row["id"].bytes), at)
    if address is not None and all(row["shown"] != address for row in rows):
        await add(db, keyring, Owner(), "mail", name, address, address, at, confirmed=True)


def _sealed(keyring: Keyring, channel_id: UUID, said: dict[str, Any]) -> bytes:
    return keyring.seal(json.dumps(said).encode(), f"channel/{channel_id}")


def _opened(keyring: Keyring, channel_id: UUID, sealed: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(keyring.open(sealed, f"channel/{channel_id}"))
    return found


def _channel(row: Any) -> Channel:
    team_id, person_id = row["team_id"], row["person_id"]
    quiet = None
    if row["quiet_from"] is not None:
        quiet = Quiet(row["quiet_from"], row["quiet_to"], row["zone"] or "UTC")
    return Channel(
        UUID(bytes=row["id"].bytes),
        Owner(
            None if team_id is None else TeamId(UUID(bytes=team_id.bytes)),
            None if person_id is None else PersonId(UUID(bytes=person_id.bytes)),
        ),
        row["kind"],
        row["name"],
        row["shown"],
        frozenset(row["off"]),
        quiet,
        row["created_at"],
        row["confirmed_at"],
        row["stopped_at"],
        row["failing_since"],
        row["failure"],
        row["sent_at"],
    )
