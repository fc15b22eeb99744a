"""Where people are told: adding, testing, changing and removing channels, each with its audit entry.

Who calls: the pages, the API and the command line. What is sent there, and when, is decided in notify.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any, Final, cast, get_args
from uuid import UUID, uuid4

import asyncpg

from mirror.channels import chat, webhook
from mirror.channels import wire as wires
from mirror.channels.send import send
from mirror.core.channels import Address, ChannelKind, NotDelivered, unsubscribed
from mirror.core.errors import NotFound, OverLimit, Refused, TooOften, UsageError
from mirror.core.keyring import BadKey, Keyring
from mirror.core.messages import KINDS, Link, Message
from mirror.core.rules import roles as rules
from mirror.core.rules.roles import PersonId, Role
from mirror.core.times import zones
from mirror.people import mails, operator
from mirror.people.acting import HOUR, By, acting, audit_entry, audit_own, check_let_in, limit_tries
from mirror.services.open import Services
from mirror.store.database import transaction
from mirror.store.notify import channels
from mirror.store.notify.channels import Channel, Owner, Quiet
from mirror.store.people import audit, people, teams
from mirror.store.people.people import Person
from mirror.store.people.teams import Team

MOST_TEAM: Final = 20  # channels of a team, and of the installation
MOST_PERSON: Final = 10
TESTS: Final = 20  # of one channel in an hour
ADDED: Final = 30  # channels that one person adds in an hour
OVERLAP: Final = timedelta(days=1)  # in which a webhook is signed with the key before the newest, too
EXAMPLES: Final = (
    ("Slack", "https://hooks.slack.com/services/T…/B…/…"),
    ("Microsoft Teams", "workflows://HOST/WORKFLOW/SIGNATURE/"),
    ("Matrix", "matrixs://USER:PASSWORD@HOST/#ROOM"),
    ("Discord", "https://discord.com/api/webhooks/ID/TOKEN"),
    ("ntfy", "ntfys://HOST/TOPIC"),
    ("PagerDuty", "pagerduty://INTEGRATION_KEY@API_KEY"),
)
_testing: Final = set[PersonId]()  # who waits for the answer of a slow service, for which others wait too
_GONE: Final = "there is no such channel, or it was removed"
_OLD: Final = "this link is too old or was never made; ask for another where the channel was added"


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose channels. Neither: of whoever runs the installation, an owner of the command line's team."""

    team: Team | None = None
    person: Person | None = None

    @property
    def owner(self) -> Owner:
        return Owner(self.team.id if self.team else None, self.person.id if self.person else None)

    @property
    def most(self) -> int:
        """Channels that they can have."""
        return MOST_PERSON if self.person else MOST_TEAM


@dataclass(frozen=True, slots=True)
class Added:
    """A channel that was just made."""

    channel: Channel
    key: str | None = field(repr=False, default=None)  # that signs what is sent to a webhook: shown once
    asked: str | None = None  # of a mail address: what became of the question whether it may be used


async def listed(services: Services, whose: Whose) -> Sequence[Channel]:
    """Their channels, the oldest first."""
    return await channels.of(services.db, whose.owner)


async def add(services: Services, by: By | None, whose: Whose, kind: str, to: str, name: str = "") -> Added:
    """A new channel. A mail address that is not known to be theirs is asked first, once.

    `by`: None is whoever runs Everref, from the command line. Raises UsageError, Refused, NotFound,
    OverLimit, TooOften.
    """
    to, kind = to.strip(), _kind(kind)
    now = _now(services, by)
    keyring = _keyring(services)
    if by is not None:
        await limit_tries(services.db, f"channels by {by.person.id}", ADDED, HOUR, now)
    to, shown = await _checked(services, kind, to)
    name = _name(name or shown)
    key = webhook.new_key() if kind == "webhook" else None
    known = kind != "mail" or by is None or await _is_theirs(services, whose, to)
    if not known:
        await mails.limit_mails(services.db, to, by.person.id if by else None, now)
    async with _changing(services, by, whose, "channel.add", name, kind=kind, to=shown) as connection:
        if await channels.count(connection, whose.owner) >= whose.most:
            raise OverLimit(
                f"there are {whose.most} channels, which is the limit; remove one first", "channels"
            )
        for one in await channels.of(connection, whose.owner):
            if (one.kind, one.shown) == (kind, shown) and await _goes_to(connection, keyring, one, to, now):
                raise UsageError(f"messages are sent to {shown} already, as {one.name}", field="to")
        made = await channels.add(
            connection, keyring, whose.owner, kind, name, shown, to, now, key=key, confirmed=known
        )
    return Added(made, key, None if known else await _ask(services, by, whose, made))


async def _goes_to(
    connection: asyncpg.Connection, keyring: Keyring, channel: Channel, to: str, now: datetime
) -> bool:
    """Whether it has this very address: a second one would be told everything a second time."""
    try:
        known = await channels.address(connection, keyring, channel.id, "", now)
    except BadKey:  # it can be read no more, and one that works may take its place
        return False
    return known is not None and known.to == to


async def ask(services: Services, by: By | None, whose: Whose, channel: Channel) -> str:
    """Mail the question whether the address may be used; returns what became of it, in a sentence.

    Raises TooOften. One that is refused for now is asked again by pressing the button again.
    """
    if channel.kind != "mail" or channel.confirmed_at is not None:
        raise UsageError("this channel needs no confirmation")
    await mails.limit_mails(services.db, channel.shown, by.person.id if by else None, _now(services, by))
    return await _ask(services, by, whose, channel)


async def _ask(services: Services, by: By | None, whose: Whose, channel: Channel) -> str:
    now, keyring = _now(services, by), _keyring(services)
    who = mails.called(by.person.name) if by else operator.ACTOR
    if whose.team:
        who = f"{who}, of the team {whose.team.name},"
    link = f"{mails.origin(services)}{mails.confirm_path(keyring, channel.id, now)}"
    try:
        await send(
            wires.of(services.settings), Address("mail", channel.shown), mails.question(now, who, link)
        )
    except NotDelivered as error:
        again = "check the address" if error.permanent else "ask again in some minutes"
        return f"the confirmation was not sent to {channel.shown}: {error}; {again}"
    return f"a link was mailed to {channel.shown}; nothing else is sent there until somebody opens it"


async def confirm(services: Services, token: str) -> Channel:
    """The channel is wanted: somebody read the mail. Safe to run twice. Raises NotFound."""
    channel = await confirmable(services, token)
    async with transaction(services.db) as connection:
        if not await channels.confirm(connection, channel.id, services.clock()):
            raise NotFound(_GONE)
        await _told(connection, channel, "channel.confirm", services)
    return channel


async def confirmable(services: Services, token: str) -> Channel:
    """The channel that a link would confirm. Raises NotFound."""
    channel_id = mails.confirmed(_keyring(services), token, services.clock())
    found = None if channel_id is None else await channels.find(services.db, channel_id)
    if found is None:
        raise NotFound(_OLD)
    return found


async def stoppable(services: Services, token: str) -> Channel:
    """The channel whose mails a link would end. Raises NotFound."""
    channel_id = unsubscribed(_keyring(services), token)
    found = None if channel_id is None else await channels.find(services.db, channel_id)
    if found is None:
        raise NotFound(_GONE)
    return found


async def stop(services: Services, token: str) -> Channel:
    """Its reader wants no more. Safe to run twice. Raises NotFound."""
    channel = await stoppable(services, token)
    async with transaction(services.db) as connection:
        if channel.stopped_at is None:
            await channels.stop(connection, channel.id, services.clock())
            await _told(connection, channel, "channel.stop", services)
    return channel


async def change(
    services: Services,
    by: By | None,
    whose: Whose,
    channel_id: UUID,
    *,
    name: str | None = None,
    off: Collection[str] | None = None,
    quiet: tuple[str, str, str] | None = None,
) -> Channel:
    """Set its name, the kinds that are not sent there, and its quiet hours (from, to, zone; empty: none).

    None leaves each as it is. Raises UsageError, NotFound, Refused.
    """
    channel = await theirs(services, whose, channel_id)
    called = channel.name if name is None else _name(name)
    unwanted = channel.off if off is None else frozenset(off)
    if unknown := sorted(unwanted - KINDS.keys() - channel.off):
        raise UsageError(
            f"there is no kind of message {unknown[0]!r}; there are {', '.join(KINDS)}", field="off"
        )
    hours = channel.quiet if quiet is None else _quiet(*quiet)
    detail = {"off": sorted(unwanted), "quiet": f"{hours.start:%H:%M}-{hours.end:%H:%M}" if hours else ""}
    async with _changing(services, by, whose, "channel.change", called, **detail) as connection:
        if not await channels.change(connection, channel.id, called, unwanted, hours):
            raise NotFound(_GONE)
    return await theirs(services, whose, channel_id)


async def rotate(services: Services, by: By | None, whose: Whose, channel_id: UUID) -> str:
    """A new key for a webhook, shown once; for OVERLAP the one before it signs too. Raises as `change`."""
    channel = await theirs(services, whose, channel_id)
    if channel.kind != "webhook":
        raise UsageError("only a webhook has a key")
    key = webhook.new_key()
    async with _changing(services, by, whose, "channel.key", channel.name) as connection:
        until = _now(services, by) + OVERLAP
        if not await channels.set_key(connection, _keyring(services), channel.id, key, until):
            raise NotFound(_GONE)
    return key


async def remove(services: Services, by: By | None, whose: Whose, channel_id: UUID) -> Channel:
    """Send nothing there any more; its address is forgotten. Raises NotFound, Refused."""
    channel = await theirs(services, whose, channel_id)
    async with _changing(services, by, whose, "channel.remove", channel.name) as connection:
        if not await channels.remove(connection, _keyring(services), channel.id, _now(services, by)):
            raise NotFound(_GONE)
    return channel


async def test(services: Services, by: By | None, whose: Whose, channel_id: UUID) -> str:
    """Send a message there at once; returns the other side's answer, in a line.

    Raises NotDelivered, saying why not, which the channel then shows too; UsageError, NotFound, TooOften.
    """
    channel, now = await theirs(services, whose, channel_id), _now(services, by)
    if channel.confirmed_at is None:
        raise UsageError(f"{channel.shown} has not confirmed that messages may be sent there")
    if by is not None:
        await limit_tries(services.db, f"test of channel {channel.id}", TESTS, HOUR, now)
    origin = mails.origin(services)
    to = await channels.address(services.db, _keyring(services), channel.id, origin, now)
    if to is None:
        raise NotFound(_GONE)
    message = Message(
        uuid4(),
        "test",
        False,
        "A test from Everref",
        (f"{by.person.name if by else operator.ACTOR} pressed Test. Messages arrive here.",),
        now,
        team=whose.team.name if whose.team else None,
        link=Link("Open Everref", origin),
    )
    if by is not None:
        if by.person.id in _testing:
            raise TooOften("another test of yours is under way; wait for its answer", 30)
        _testing.add(by.person.id)
    try:
        answer = await send(wires.of(services.settings), to, message)
    except NotDelivered as error:
        await channels.tried(services.db, channel.id, now, str(error))
        raise
    finally:
        if by is not None:
            _testing.discard(by.person.id)
    await channels.tried(services.db, channel.id, now, None)
    return answer


async def keep_admin(services: Services) -> None:
    """Have the address after `admin=` in SMTP_URL as a channel of the installation. Safe to run twice."""
    if services.keyring is not None:
        smtp, now = services.settings.smtp, services.clock()
        async with transaction(services.db) as connection:
            await teams.lock(connection, await teams.default(connection))  # one at a time
            await channels.ensure_admin(connection, services.keyring, smtp.admin if smtp else None, now)


async def theirs(services: Services, whose: Whose, channel_id: UUID) -> Channel:
    """Their channel of this id. Raises NotFound, also where it is somebody else's."""
    found = await channels.find(services.db, channel_id)
    if found is None or found.owner != whose.owner:
        raise NotFound(_GONE)
    return found


@asynccontextmanager
async def _changing(
    services: Services, by: By | None, whose: Whose, action: str, subject: str, **detail: Any
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction in which somebody who may changes their channels, and its audit entry."""
    if by is None:
        team_id = whose.team.id if whose.team else await teams.default(services.db)
        async with transaction(services.db) as connection:
            await teams.lock(connection, team_id)
            yield connection
            await operator.did(connection, team_id, action, subject, detail, _now(services, by))
    elif whose.person is not None:
        async with transaction(services.db) as connection:
            await check_let_in(connection, by)
            await people.lock(connection, whose.person.id)
            yield connection
            await audit_own(connection, by, action, subject, **detail)
    else:
        team = whose.team or Team(await teams.default(services.db), teams.DEFAULT)
        needed = Role.ADMIN if whose.team else Role.OWNER
        async with acting(services.db, by, team, needed, action, subject, **detail) as (connection, _):
            yield connection


async def _told(db: asyncpg.Connection, channel: Channel, action: str, services: Services) -> None:
    """Record what the reader of a mail did, who need not be anybody here."""
    owner, now = channel.owner, services.clock()
    team_id = owner.team_id or await teams.default(db)
    if owner.person_id is not None:
        person = await people.find(db, owner.person_id)
        home = await teams.home(db, owner.person_id)
        if person is not None and home is not None:
            await audit.add(db, home.id, audit_entry(By(person, now), action, channel.name), now)
        return
    reader = f"the reader of {channel.shown}"
    entry = audit.Entry(person_id=None, actor=reader, action=action, subject=channel.name)
    await audit.add(db, team_id, entry, now)


async def _checked(services: Services, kind: ChannelKind, to: str) -> tuple[str, str]:
    """The address as it is kept, and what of it anybody may see. Raises UsageError."""
    private = services.settings.allow_private_remotes
    if kind == "webhook":
        to = webhook.check(to, private)
        return to, webhook.host(to)
    if kind == "chat":
        return to, (await chat.check(to, private)).shown
    if services.settings.smtp is None:
        raise UsageError(
            "SMTP_URL is not set here, so no mail can be sent; the person who runs Everref can set it",
            field="to",
        )
    try:
        to = rules.email_address(to)
    except UsageError as error:
        raise UsageError(str(error), field="to") from None
    return to, to


async def _is_theirs(services: Services, whose: Whose, email: str) -> bool:
    """Whether this is the person's own address, which they confirmed before."""
    if whose.person is None:
        return False
    known = await people.by_confirmed_email(services.db, email)
    return known is not None and known.id == whose.person.id


def _now(services: Services, by: By | None) -> datetime:
    return services.clock() if by is None else by.at


def _kind(text: str) -> ChannelKind:
    if text in get_args(ChannelKind):
        return cast(ChannelKind, text)
    raise UsageError(f"a channel is one of {', '.join(get_args(ChannelKind))}, not {text!r}", field="kind")


def _name(text: str) -> str:
    name = " ".join(text.split())
    if not name or not name.isprintable() or len(name.encode()) > 200:
        raise UsageError("the name must have 1 to 200 characters, all of them printable", field="name")
    return name


def _quiet(start: str, end: str, zone: str) -> Quiet | None:
    if not start and not end:
        return None
    try:
        first, last = time.fromisoformat(start), time.fromisoformat(end)
    except ValueError:
        raise UsageError(
            "write quiet hours like 22:00 and 07:00, or leave both empty", field="quiet"
        ) from None
    if first.tzinfo or last.tzinfo or first == last:
        raise UsageError("quiet hours begin and end at different times, like 22:00 and 07:00", field="quiet")
    if (zone or "UTC") not in zones.names():
        raise UsageError(f"there is no time zone {zone!r}; write one like Europe/Berlin", field="quiet")
    return Quiet(first, last, zone or "UTC")


def _keyring(services: Services) -> Keyring:
    if services.keyring is None:
        raise Refused("SECRET_KEYS is not set, so no address can be stored; set it and restart Everref")
    return services.keyring
