"""Actions that take something away for ever: who may ask and confirm, when they take effect, who is told.

Who calls: people/pending and jobs/pending. Times are arguments; nothing here knows the store.

The rules are made against a thief of one owner's session, who may also invite an account of their own
and make sign-in links for others: nothing that such a session alone can do destroys anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from mirror.core.rules.roles import PersonId, Role

DAYS: Final = 7  # from the confirmation to the effect; a team can set more
MOST_DAYS: Final = 365
ALONE: Final = 2  # times as many days where nobody else could confirm
FORMER: Final = timedelta(days=30)  # for which somebody who was an admin or owner is told, and may cancel
LAPSES: Final = timedelta(days=30)  # after which nobody can confirm it any more
SOON: Final = timedelta(days=1)  # so long before it takes effect, at least, people were told again
EARLIER: Final = timedelta(minutes=10)  # than that they are, so that the moment stays what it was said to be
RETRY: Final = timedelta(minutes=10)  # after a try that failed


class Kind(StrEnum):
    """What is asked for."""

    FORGET_REPO = "forget-repo"
    SHORTEN_RETENTION = "shorten-retention"
    SHORTEN_DELAY = "shorten-delay"
    LIFT_HOLD = "lift-hold"
    EXPORT_KEYS = "export-keys"
    REMOVE_RECOVERY_KEY = "remove-recovery-key"
    ERASE = "erase"


# Who may ask. What only makes less be kept in future, an admin may, too: they set it up.
ASKS: Final[Mapping[Kind, Role]] = {
    **dict.fromkeys(Kind, Role.OWNER),
    Kind.SHORTEN_RETENTION: Role.ADMIN,
    Kind.LIFT_HOLD: Role.ADMIN,
}
CONFIRMS: Final = Role.ADMIN

# What each does, for a sentence with its subject: "delete every backup of acme/api".
_DOES: Final[Mapping[Kind, str]] = {
    Kind.FORGET_REPO: "delete every backup of {subject}",
    Kind.SHORTEN_RETENTION: "keep fewer backups of {subject}",
    Kind.SHORTEN_DELAY: "let such actions of {subject} take effect sooner",
    Kind.LIFT_HOLD: "lift the legal hold of {subject}",
    Kind.EXPORT_KEYS: "export the keys of {subject}",
    Kind.REMOVE_RECOVERY_KEY: "remove the recovery key {subject}",
    Kind.ERASE: "erase {subject}",
}


def does(kind: Kind, subject: str) -> str:
    """What it does, in words: `delete every backup of api`."""
    return _DOES[kind].format(subject=subject)


@dataclass(frozen=True, slots=True)
class Admin:
    """An admin or owner of the team, or somebody who was one."""

    person_id: PersonId
    name: str
    role: Role
    since: datetime  # without a break, by nobody else's hand
    left_at: datetime | None = None  # None: they still are


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked, and when."""

    by: PersonId | None  # None: whoever runs the installation, or somebody whose account is gone
    by_operator: bool
    at: datetime


def others(admins: Sequence[Admin], asker: PersonId | None, now: datetime) -> list[Admin]:
    """The admins and owners besides who asks, with those who lately were.

    Those who left count, so that a thief makes no team of one by removing everybody else.
    """
    return [
        one
        for one in admins
        if one.person_id != asker and (one.left_at is None or one.left_at > now - FORMER)
    ]


def may_confirm(asked: Asked, who: Admin, now: datetime, days: int) -> str | None:
    """Why this admin or owner may not confirm it. None: they may.

    A second person, who was there before it was asked for, and has been for as long as the delay is: an
    account that the first one has just let in is no second person.
    """
    if who.left_at is not None or not who.role.may(CONFIRMS):
        return "only an admin or owner of the team can confirm this"
    if asked.by == who.person_id and not asked.by_operator:
        return "you asked for this yourself; another admin or owner must confirm it"
    if who.since >= asked.at:
        return (
            "you became an admin or owner, or were given a sign-in link, after this was asked for; "
            "somebody else must confirm it"
        )
    if who.since > now - timedelta(days=days):
        return (
            f"only somebody who has been an admin or owner for {days} days can confirm this; "
            f"you can from {who.since + timedelta(days=days):%Y-%m-%d} on"
        )
    return None


def may_cancel(asked: Asked, who: Admin | None) -> bool:
    """Whether this person may cancel it: an admin or owner, or one who lately was when it was asked for."""
    if who is None:
        return False
    return who.left_at is None or who.left_at > asked.at - FORMER


def takes_effect(agreed_at: datetime, days: int, *, alone: bool) -> datetime:
    """When it is done unless somebody cancels it; `agreed_at`: when it was confirmed, or asked for alone."""
    return agreed_at + timedelta(days=days * (ALONE if alone else 1))


def after_warning(takes_effect_at: datetime, told_at: datetime) -> datetime:
    """When it is done, as people were told of it then: whoever was told late keeps their day to cancel it."""
    return max(takes_effect_at, told_at + SOON)


def told(admins: Sequence[Admin], asked_at: datetime) -> list[PersonId]:
    """Who is told by mail: every admin and owner, and who was one lately when it was asked for, or since."""
    return [one.person_id for one in admins if one.left_at is None or one.left_at > asked_at - FORMER]
