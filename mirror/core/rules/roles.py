"""Roles and scopes, and which names, addresses and passwords are acceptable. Who calls: people, web."""

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal, NewType
from uuid import UUID

from mirror.core.errors import UsageError

PersonId = NewType("PersonId", UUID)
Scope = Literal["read", "backup", "restore", "admin"]

SHORTEST: Final = 10  # characters of a password
LONGEST: Final = 1000  # bytes of one: hashing takes its time
_FEWEST: Final = 4  # different characters of one
_NAME: Final = 200  # bytes of a person's name
_TEAM: Final = 60  # characters of a team's name
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")


class Role(StrEnum):
    """What a member may do in a team: each role may do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    OWNER = "owner"

    def may(self, needed: "Role") -> bool:
        """Whether this role is the needed one, or more."""
        return _ORDER[self] >= _ORDER[needed]


_ORDER: Final = {role: place for place, role in enumerate(Role)}

# What an API token may do, and the role that its owner needs for it.
SCOPES: Final[Mapping[Scope, Role]] = {
    "read": Role.VIEWER,
    "backup": Role.OPERATOR,
    "restore": Role.OPERATOR,
    "admin": Role.ADMIN,
}

# Names no team can have: its pages would collide with others, or it would be taken for something else.
RESERVED: Final = frozenset(
    """
    about account accounts activity admin api app assets audit auth backup billing blog channels
    command-line confirm connect contact dashboard docs download drill drills events everref explore
    favicon forgot git graphql health healthz help home hooks info invitation invitations join jobs legal
    license link links login logout mail manifest metrics mirror new notices null oauth openapi password
    people person pricing privacy public readyz register repo repos reset restore robots root s search
    security service session sessions settings sign-in sign-out sign-up signin signout signup sitemap
    static status style support sw system team teams terms tokens undefined unsubscribe user users
    webhooks well-known www
    """.split()
)


def team_name(text: str) -> str:
    """A team name made from a person's or login's name: lower case letters, digits and dashes."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:_TEAM].strip("-")
    if not name:
        return "my-team"
    return f"{name}-team" if name in RESERVED else name


def check_team_name(name: str) -> None:
    """Raise UsageError where a team cannot have this name, with one that would be accepted."""
    if not name or team_name(name) != name or len(name) > _TEAM:
        hint = f", such as {team_name(name)}" if name.strip() and name not in RESERVED else ""
        if name in RESERVED:
            raise UsageError(
                f"no team can be called {name}, because the name is reserved; choose another", field="team"
            )
        raise UsageError(
            f"a team's name has letters a to z, digits, and dashes between them, {_TEAM} at most{hint}",
            field="team",
        )


def check_person_name(name: str, asked: str = "enter a name") -> str:
    """The name of a person or thing, without invisible characters. Raises UsageError."""
    seen = _seen(name)
    if not seen:
        raise UsageError(asked, field="name")
    if len(seen.encode()) > _NAME:
        raise UsageError(f"the name is too long; use {_NAME} bytes at most", field="name")
    return seen


def person_name(*texts: str) -> str:
    """The name for somebody to whom a forge gives these names: the first that is acceptable."""
    return next((seen[: _NAME // 4] for seen in map(_seen, texts) if seen), "Somebody")


def _seen(text: str) -> str:
    return " ".join("".join(" " if _unseen(one) else one for one in text).split())


def _unseen(character: str) -> bool:
    """Whether it is a control, a surrogate, or changes the direction of text."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def email_address(text: str) -> str:
    """An e-mail address as it is stored. Raises UsageError where it is not valid."""
    email = text.strip().lower()
    if not _EMAIL.fullmatch(email) or any(_unseen(one) for one in email) or len(email.encode()) > 320:
        raise UsageError("that is not an e-mail address; write it like ann@example.org", field="email")
    return email


def password_bytes(password: str) -> bytes:
    """A password as it is hashed: the same however its characters are encoded (NFKC)."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def check_password(password: str, email: str) -> None:
    """Raise UsageError where a password is too easy to guess, with what would be accepted."""
    if len(password) < SHORTEST:
        raise UsageError(f"the password is too short; use {SHORTEST} characters or more", field="password")
    if len(password_bytes(password)) > LONGEST:
        raise UsageError(f"the password is too long; use {LONGEST} bytes or fewer", field="password")
    if len(set(password)) < _FEWEST:
        raise UsageError("the password repeats the same few characters; choose another", field="password")
    if password.strip().lower() in (email, email.partition("@")[0]):
        raise UsageError(
            "the password is your e-mail address, which others know; choose another", field="password"
        )
