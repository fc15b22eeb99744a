"""Which of a connection's repositories a rule chooses, for discovery/choose and discovery/discover."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from mirror.core import globs
from mirror.core.errors import UsageError

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
        raise UsageError(f"{len(kept)} patterns are too many; use {MOST} or fewer")
    for pattern in kept:
        if len(pattern) > LONGEST or not pattern.isprintable() or any(map(str.isspace, pattern)):
            raise UsageError(
                f"a pattern is up to {LONGEST} characters without spaces, such as 'acme/*' or '*/api'"
            )
    return kept


async def matching(full_names: Iterable[str], given: Sequence[str]) -> set[str]:
    """The names, in small letters, of the repositories that one of the patterns means.

    `*` also matches `/`, so that `acme/*` takes the subgroups of acme as well.
    Case does not count: it does not at the forges either.
    """
    tests = (globs.pattern(pattern.casefold()).match for pattern in given)
    return await globs.meant([name.casefold() for name in full_names], tests, None)


async def wanted(
    listed: Iterable[N], everything: bool, given: Sequence[str], known: Collection[str]
) -> list[N]:
    """The repositories to back up now: all of them, or those that match a pattern.

    `known` are the repository ids that were chosen once: what somebody has
    stopped keeping since is not chosen again by a rule.
    """
    new = [one for one in listed if one.repository_id not in known]
    if everything:
        return new
    meant = await matching([one.full_name for one in new], given)
    return [one for one in new if one.full_name.casefold() in meant]
