"""Messages in words: lasting states, things that happened, digests.

Who calls: the other modules of notify. A message holds no secret; times in it are in UTC, to the minute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode
from uuid import uuid4

from mirror.core import words
from mirror.core.config import Settings
from mirror.core.messages import KINDS, Link, Message
from mirror.core.rules.health import causes
from mirror.core.rules.health.alarms import Alarm, Word, kind_of
from mirror.core.rules.health.telling import DIGEST_LINES
from mirror.store.notify.alarms import Trouble

# Of which kind a message about a cause is; all others are errors of backups.
_KINDS: Final[Mapping[str, str]] = {
    "token": "credential",
    "credentials": "credential",
    "damage": "damage",
    "late": "behind",
    "unchecked": "behind",
    "behind": "behind",
}
_CALM: Final = frozenset({"hook", "archived"})  # nothing is lost while people sleep


def base(settings: Settings) -> str:
    """The scheme and host under which people reach the pages."""
    return (settings.base_url or f"http://127.0.0.1:{settings.port}").rstrip("/")


def url(settings: Settings, *path: str, **query: str) -> str:
    """The address of a page."""
    joined = "/".join(quote(part, safe="/") for part in path)
    return f"{base(settings)}/{joined}" + (f"?{urlencode(query)}" if query else "")


def minute(at: datetime) -> str:
    """`2026-11-22 14:05 UTC`: a time that has passed."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def new(
    kind: str,
    subject: str,
    lines: Sequence[str],
    at: datetime,
    *,
    team: str | None = None,
    urgent: bool | None = None,
    link: Link | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Message:
    """A new message; `urgent` None: as its kind is."""
    calm = kind not in KINDS or not KINDS[kind].urgent
    return Message(
        id=uuid4(),
        kind=kind,
        urgent=not calm if urgent is None else urgent,
        subject=" ".join(subject.split()),
        lines=tuple(line for line in lines if line),
        at=at,
        team=team,
        link=link,
        facts=facts or {},
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """A state that people are told of, and how it stood when they last heard of it."""

    word: Word
    was: Alarm | None  # None: they never heard of it
    now: Alarm


def title(one: Trouble) -> str:
    """The cause in a line, as the home page has it."""
    if one.kind == "over":
        return "Nothing new is being saved: a limit is reached"
    if one.login is not None:
        return causes.refused(*one.login)
    return causes.title(one)


def of_trouble(settings: Settings, one: Trouble, turn: Turn, at: datetime) -> Message:
    """A cause that began, became much larger, comes and goes, or stays after it did."""
    kind = _KINDS.get(one.kind, "failing")
    pressing = KINDS[kind].urgent and one.kind not in _CALM
    subject = title(one)
    lines = [words.sentence(one.why) if one.why else causes.detail(one), _not_saved(one, at)]
    if one.many > 1:
        lines.append(_named(one))
    lines.append(_to_do(one))
    if turn.word == "grew" and turn.was is not None:
        lines.insert(0, f"When this was last said, it was {causes.repositories(turn.was.told_many)}.")
    elif turn.word == "flaps":
        subject = f"Comes and goes: {subject}"
        lines.insert(0, flapping(turn.now))
    elif turn.word == "settled":
        lines.insert(0, "This came and went; now it has been so for an hour.")
    if one.many == 1:
        name = one.repos[0][0]
        link = Link(f"Open {name}", url(settings, one.team, name))
    elif one.kind == "token":
        link = Link("Sign in again, or replace the token", url(settings, one.team, "-/connect"))
    elif one.kind == "over":
        link = Link("See the limits", url(settings, one.team, "-/settings"))
    else:
        link = Link(f"Show all {one.many:,}", url(settings, one.team, cause=one.cause))
    made = new(
        kind,
        subject,
        lines,
        at,
        team=one.team,
        urgent=pressing and turn.word != "settled",
        link=link,
        facts=facts(one.cause, turn),
    )
    return replace(made, repos=tuple(name for name, _ in one.repos), many=one.many)


def _to_do(one: Trouble) -> str:
    if one.kind == "token":
        return "Sign in there again, or replace the token; what was pushed meanwhile is saved then."
    return causes.to_do(one.kind)


def _not_saved(one: Trouble, now: datetime) -> str:
    """What it means for the backups."""
    if one.kind in ("hook", "archived", "damage", "over") or not one.many:
        return ""
    have = f"{causes.repositories(one.many)} {'has' if one.many == 1 else 'have'}"
    if one.many == one.unsaved:
        return f"{have} never been saved."
    if one.since is None:
        return f"{have} not been saved since then."
    since = f"{minute(one.since)} ({words.ago(one.since, now)})"
    never = f" {one.unsaved:,} of them never were." if one.unsaved else ""
    return f"{have} not been saved since {since}.{never}"


def _named(one: Trouble) -> str:
    names = ", ".join(name for name, _ in one.repos)
    rest = one.many - len(one.repos)
    return f"{names} and {rest:,} more." if rest else f"{names}."


def flapping(now: Alarm) -> str:
    """That a state will not settle."""
    return (
        f"This began or ended {len(now.flips)} times within an hour. Nothing more is said of it until it "
        "has been the same for an hour."
    )


def facts(cause: str, turn: Turn) -> dict[str, Any]:
    """What programs read of a state."""
    return {
        "cause": cause,
        "state": turn.word,
        "is_on": turn.now.is_on,
        "since": turn.now.since.astimezone(UTC).isoformat(),
    }


def resolved(
    settings: Settings, titled: str, cause: str, team: str | None, turn: Turn, at: datetime
) -> Message:
    """A state is over that people were told of."""
    kind = "installation" if team is None else _KINDS.get(kind_of(cause), "failing")
    lasted = words.lasted(max((at - turn.now.since).total_seconds(), 0))
    lines = [f"It lasted {lasted}, from {minute(turn.now.since)}."]
    if turn.word == "flaps":
        lines = [flapping(turn.now)]
    elif turn.word == "settled":
        lines = ["It came and went, and has not come back for an hour."]
    link = Link("Open Everref", url(settings, team or "status"))
    subject = f"Comes and goes: {titled}" if turn.word == "flaps" else f"Resolved: {titled}"
    return new(kind, subject, lines, at, team=team, urgent=False, link=link, facts=facts(cause, turn))


def digest(settings: Settings, messages: Sequence[Message], at: datetime) -> Message:
    """Several messages that waited, as one: a line each, the oldest first."""
    teams = sorted({one.team for one in messages if one.team})
    lines = [
        f"{minute(one.at)}: {one.subject}{f' ({one.team})' if len(teams) > 1 and one.team else ''}"
        for one in messages[:DIGEST_LINES]
    ]
    if len(messages) > DIGEST_LINES:
        lines.append(f"And {len(messages) - DIGEST_LINES:,} more.")
    repos = tuple(dict.fromkeys(name for one in messages for name in one.repos))
    team = teams[0] if len(teams) == 1 else None
    return Message(
        id=uuid4(),
        kind="digest",
        urgent=any(one.urgent for one in messages),
        subject=f"{len(messages)} messages: {messages[0].subject}, and more",
        lines=tuple(lines),
        at=at,
        team=team,
        repos=repos[:12],
        many=len(repos),
        link=Link("Open Everref", url(settings, team or "")),
        facts={"messages": [str(one.id) for one in messages]},
    )
