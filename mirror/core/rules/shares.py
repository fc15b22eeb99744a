"""Share links: what may be given out for how long, and why a link has ended. Who calls: restore/shares."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Final, Literal

from mirror.core.errors import UsageError
from mirror.core.times import when

Form = Literal["bundle", "archive", "clone"]
State = Literal["live", "revoked", "used", "expired", "person", "left", "role", "token", "password"]

FORMS: Final[tuple[Form, ...]] = ("bundle", "archive", "clone")
BY_OPERATOR: Final = "command line (operator of this installation)"  # made a link that is no account's
USUAL: Final = timedelta(days=7)
SHORTEST: Final = timedelta(hours=1)
LONGEST_DAYS: Final = 90
CHOICES: Final = (1, 7, 30, 90)  # days that a form offers
CLAIMED: Final = timedelta(hours=1)  # for which a link that works once is held for who began to fetch it

WHY: Final[Mapping[State, str]] = {
    "live": "works",
    "revoked": "was revoked",
    "used": "was used up: it worked once",
    "expired": "has expired",
    "person": "ended: the account of the person who made it was deleted",
    "left": "ended: the person who made it left the team",
    "role": "ended: the person who made it may no longer share",
    "token": "ended: the API token that made it was revoked",
    "password": "ended: the person who made it set a new password or used a one-time link",
}  # what a list says of a link


def lasting(text: str, most_days: int | None = None) -> timedelta:
    """How long a link works: `7` are days, `12h` and `2 weeks` are what they say.

    `most_days`: what the team may choose; None: LONGEST_DAYS, which nobody exceeds. Raises UsageError.
    """
    text = text.strip()
    most = min(LONGEST_DAYS if most_days is None else most_days, LONGEST_DAYS)
    try:
        found = timedelta(days=int(text)) if text.isascii() and text.isdecimal() else when.span(text)
    except (UsageError, OverflowError, ValueError):
        raise UsageError(
            f"{text[:40]!r} is not a length of time; write days such as 7, or 12h", field="days"
        ) from None
    if not SHORTEST <= found <= timedelta(days=most):
        raise UsageError(f"a share link works for 1 hour to {most} days; choose that", field="days")
    return found


def forms_of(chosen: Collection[str]) -> tuple[Form, ...]:
    """In which forms it may be fetched, in their order. Raises UsageError."""
    found = tuple(form for form in FORMS if form in chosen)
    if not found or len(found) != len(set(chosen)):
        raise UsageError(f"choose what the link gives: {', '.join(FORMS)}", field="form")
    return found


def told(forms: Sequence[str]) -> str:
    """`a bundle, an archive or a clone`."""
    named = [{"bundle": "a bundle", "archive": "an archive", "clone": "a clone"}[form] for form in forms]
    return " or ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
