"""Which of a connection's repositories are chosen by a rule; asked by flows/choose and flows/relist."""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol, TypeVar

from mirror.errors import UsageError

LONGEST: Final = 200  # characters of a pattern
MOST: Final = 100  # patterns of one connection


class Named(Protocol):
    """A repository as its forge lists it."""

    @property
    def repository_id(self) -> str: ...

    @property
    def full_name(self) -> str: ...


N = TypeVar("N", bound=Named)


def patterns(given: Iterable[str]) -> tuple[str, ...]:
    """What a person wrote, as it is kept: trimmed, each once, in their order. Raises UsageError."""
    kept = tuple(dict.fromkeys(text for text in (one.strip().strip("/") for one in given) if text))
    if len(kept) > MOST:
        raise UsageError(f"{len(kept)} patterns are too many; give {MOST} or fewer")
    for pattern in kept:
        if len(pattern) > LONGEST or not pattern.isprintable() or any(map(str.isspace, pattern)):
            raise UsageError(
                f"a pattern is up to {LONGEST} characters without spaces, such as 'acme/*' or '*/api'"
            )
    return kept


def matches(full_name: str, given: Sequence[str]) -> bool:
    """Whether one of the patterns means this repository.

    `*` also matches `/`, so that `acme/*` takes the subgroups of acme as well.
    Case does not count: it does not at the forges either.
    """
    name = full_name.casefold()
    return any(fnmatchcase(name, pattern.casefold()) for pattern in given)


def wanted(listed: Iterable[N], everything: bool, given: Sequence[str], known: Collection[str]) -> list[N]:
    """The repositories that are to be kept now: all of them, or what matches a pattern.

    `known` are the repository ids that were chosen once: what somebody has
    stopped keeping since is not chosen again by a rule.
    """
    return [
        one
        for one in listed
        if one.repository_id not in known and (everything or matches(one.full_name, given))
    ]
