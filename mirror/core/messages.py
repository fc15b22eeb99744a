"""What is said to people outside the pages: kinds of messages, and a message as every channel gets it.

Who calls: notify decides what is said; channels say it by mail, by webhook or in a chat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of message, which each channel can switch off."""

    name: str  # in rows, webhooks and addresses
    about: str  # in words, as the pages name it
    urgent: bool = False  # sent in quiet hours too


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("behind", "a repository is outside its recovery point objective"),
        Kind("failing", "backups fail, or work again", urgent=True),
        Kind("credential", "a credential has died or will expire", urgent=True),
        Kind("force-push", "a protected branch or tag was force-pushed or deleted", urgent=True),
        Kind("mass-deletion", "most branches of a repository were deleted or replaced", urgent=True),
        Kind("drill-failed", "a drill failed", urgent=True),
        Kind("drill", "a drill of all repositories ended"),
        Kind("damage", "damage was found in the vault", urgent=True),
        Kind("restore", "a restore began or ended"),
        Kind("sign-in", "somebody signed in from a new place", urgent=True),
        Kind("member", "somebody joined or left a team, or has another role"),
        Kind("channel", "a channel no longer works"),
        Kind("mirror", "a mirror fails, or was changed by somebody else"),
        Kind("report", "the weekly report"),
        Kind("installation", "Everref itself needs somebody", urgent=True),
    )
}


# Kinds that are about one team's own safety: no channel can switch them off.
ALWAYS: Final = frozenset({"pending"})


@dataclass(frozen=True, slots=True)
class Link:
    """Where to go on: its label, and an absolute address."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that is said, the same through every channel.

    It holds no secret, but for a link that its reader asked for.
    """

    id: UUID  # the same at every try, so that who receives it twice can tell
    kind: str  # of KINDS, or `digest`, `test`, `confirm`, `password`, `invitation`: never switched off
    urgent: bool
    subject: str  # one line
    lines: Sequence[str]  # paragraphs of plain text: what it is, what it means, what to do
    at: datetime  # of what happened
    team: str | None = None  # its name; None: about the installation, or a person alone
    repos: Sequence[str] = ()  # names, the first ones
    many: int = 0  # repositories in all
    link: Link | None = None  # the one thing to press
    facts: Mapping[str, Any] = field(default_factory=dict)  # for programs: JSON values


def to_json(message: Message) -> dict[str, Any]:
    """The message as rows and webhooks have it; times are RFC 3339 in UTC."""
    return {
        **asdict(message),
        "id": str(message.id),
        "at": message.at.astimezone(UTC).isoformat(),
        "lines": list(message.lines),
        "repos": list(message.repos),
    }


def from_json(said: Mapping[str, Any]) -> Message:
    """The message in a row. Fields that a later version adds are ignored."""
    link = said.get("link")
    return Message(
        id=UUID(said["id"]),
        kind=said["kind"],
        urgent=said["urgent"],
        subject=said["subject"],
        lines=tuple(said["lines"]),
        at=datetime.fromisoformat(said["at"]),
        team=said.get("team"),
        repos=tuple(said.get("repos", ())),
        many=said.get("many", 0),
        link=Link(link["label"], link["url"]) if link else None,
        facts=said.get("facts", {}),
    )
