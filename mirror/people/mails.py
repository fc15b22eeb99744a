"""Mails to one person: is this address yours, a forgotten password, an invitation.

They go out at once, past the channels: whoever they are for may have none. How many there are is
limited, so that nobody can have Everref send mails to a stranger.
"""

import asyncio
import logging
import re
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from mirror.channels import wire as wires
from mirror.channels.send import send
from mirror.channels.wire import Wire
from mirror.core import peer, signed
from mirror.core.channels import Address, NotDelivered
from mirror.core.errors import TooOften
from mirror.core.keyring import Keyring
from mirror.core.messages import Link, Message
from mirror.core.rules.roles import PersonId
from mirror.people.acting import HOUR, limit_tries
from mirror.people.members import LINK
from mirror.services.open import Services
from mirror.store.database import Db
from mirror.store.people import attempts as tries
from mirror.store.people import links, people

CONFIRMED_WITHIN: Final = timedelta(days=3)  # for which the link that confirms an address works
DAY: Final = timedelta(days=1)
TO_ONE: Final = 3  # mails of this module to one address in a day
BY_ONE: Final = 20  # that one person has sent in a day
OF_ALL: Final = 1000  # of the installation in a day
ASKED: Final = 10  # passwords that are said to be forgotten, from one network in an hour
PAUSES: Final = (
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=40),
)  # after a refusal for now
SENT: Final = "If an account has confirmed this address, a link is on its way. It works once, for an hour."
_CALLED: Final = 60  # characters of a name in a mail to a stranger
_OF_LINKS: Final = re.compile(r"[/\\:@<>]+")
_DOTS: Final = re.compile("[.\u3002]+")
_CONFIRM: Final = "confirm a channel"

log = logging.getLogger("mirror.people.mails")
Pause = Callable[[float], Awaitable[None]]


def origin(services: Services) -> str:
    """Scheme and host under which people reach the pages."""
    settings = services.settings
    return (settings.base_url or f"http://127.0.0.1:{settings.port}").rstrip("/")


async def limit_mails(db: Db, address: str, by: PersonId | None, at: datetime) -> None:
    """Count a mail that somebody has sent to an address that may not be theirs. Raises TooOften."""
    seconds = int(DAY.total_seconds())
    if not await tries.take(db, f"mail to {_mailbox(address)}", TO_ONE, DAY, at):
        raise TooOften(
            f"this address has been sent {TO_ONE} mails today; look in its junk folder, or wait a day",
            seconds,
        )
    if by is not None and not await tries.take(db, f"mails by {by}", BY_ONE, DAY, at):
        raise TooOften(f"you have had {BY_ONE} such mails sent today; wait a day", seconds)
    if not await tries.take(db, "mails of all", OF_ALL, DAY, at):
        raise TooOften("Everref has sent too many such mails today; try again tomorrow", seconds)


def _mailbox(address: str) -> str:
    """The mailbox that an address reaches at most hosts: `ann+lists@acme.com` is Ann's, too (RFC 5233)."""
    local, at, host = address.strip().lower().rpartition("@")
    return f"{local.partition('+')[0]}{at}{host}"


def confirm_path(keyring: Keyring, channel_id: UUID, at: datetime) -> str:
    """The path of the page that confirms a channel; whoever opens it has read the mail."""
    return f"/confirm/{signed.sign(keyring, _CONFIRM, str(channel_id), at)}"


def confirmed(keyring: Keyring, token: str, at: datetime) -> UUID | None:
    """The channel that a link confirms. None: the link is old, or was never made."""
    said = signed.read(keyring, _CONFIRM, token, CONFIRMED_WITHIN, at)
    return UUID(said) if isinstance(said, str) else None


def question(at: datetime, who: str, link: str) -> Message:
    """Whether an address may be used; `who` asks."""
    lines = (
        f"{who} asks Everref, which backs up Git repositories, to send messages to this address.",
        "If you want them, open the link and press the button. It works for three days.",
        "If not, ignore this mail: without the button, nothing else is sent here.",
    )
    subject = "Do you want messages from Everref here?"
    return personal("confirm", subject, lines, at, Link("Confirm this address", link))


def called(name: str) -> str:
    """A person's name in a mail to somebody who may not know them: nothing in it becomes a link."""
    plain = _OF_LINKS.sub(" ", unicodedata.normalize("NFKC", name))
    return " ".join(_DOTS.sub(". ", plain).split())[:_CALLED].strip()


def personal(
    kind: str, subject: str, lines: Sequence[str], at: datetime, link: Link | None = None
) -> Message:
    """A message for one person; nobody can switch it off."""
    return Message(uuid4(), kind, True, subject, tuple(lines), at, link=link)


async def patiently(wire: Wire, to: Address, message: Message, pause: Pause = asyncio.sleep) -> str:
    """Deliver, again after a while where the server refuses for now; an hour at most.

    Sent again it is the same mail. It ends with the process: who misses the mail asks for another.
    Raises NotDelivered.
    """
    for left in (*PAUSES, None):
        try:
            return await send(wire, to, message)
        except NotDelivered as error:
            if error.permanent or left is None:
                raise
            await pause(max(left, error.retry_after or left).total_seconds())
    raise AssertionError("the last try returns or raises")


async def check_may_ask(db: Db, place: str, at: datetime) -> None:
    """Count somebody who forgot a password, by their network. Raises TooOften."""
    await limit_tries(db, f"forgot from {peer.network(place)}", ASKED, HOUR, at)


async def reset_password(services: Services, email: str, at: datetime, pause: Pause = asyncio.sleep) -> bool:
    """Mail a one-time link to the person whose confirmed address this is; whether there is such a person.

    The caller runs it behind an answer that is always the same, so that nobody learns who has an account.
    Only an address that was confirmed is mailed: one that was merely typed could be anybody's, and whoever
    reads it would get into an account made otherwise. Opening the link ends every other way in that is not
    ticked. Raises NotDelivered.
    """
    person = await people.by_confirmed_email(services.db, email.strip())
    if person is None or person.email is None:
        return False
    # Counted by themselves, so that whoever invites somebody keeps no link from them.
    if not await tries.take(services.db, f"link to {person.email}", TO_ONE, DAY, at):
        log.info("no more links today for person %s, who forgot their password", person.id)
        return True
    raw = await links.make(services.db, person.id, at, LINK)
    lines = (
        "Somebody, probably you, said on Everref's sign-in page that you forgot your password.",
        "Open the link to sign in and set another. It works once, for an hour.",
        "If it was not you, ignore this mail: nothing changes until the link is used.",
    )
    message = personal(
        "password",
        "Set a new password for Everref",
        lines,
        at,
        Link("Sign in and set a password", f"{origin(services)}/sign-in/{raw}?new-password=1"),
    )
    await patiently(wires.of(services.settings), Address("mail", person.email), message, pause)
    return True


async def invite(
    services: Services, by: PersonId, inviter: str, team: str, email: str, link: str, at: datetime
) -> str:
    """Mail an invitation; returns what the server said. Raises NotDelivered, TooOften."""
    await limit_mails(services.db, email, by, at)
    lines = (
        f"{called(inviter)} invites you to the team {team} at Everref, which backs up Git repositories.",
        "The link works for seven days, for one person. If you do not know who this is, ignore this mail.",
    )
    subject = f"{called(inviter)} invites you to {team}"
    message = personal("invitation", subject, lines, at, Link("See the invitation", link))
    return await send(wires.of(services.settings), Address("mail", email), message)
