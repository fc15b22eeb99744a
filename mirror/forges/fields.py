"""Reading a forge's answer: each field must have the right type, or the answer is refused."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from mirror.core.errors import Corrupt, Origin
from mirror.forges.http import Answer

LONGEST_TEXT: Final = 1000  # characters of a name; GitHub's have 140, GitLab's 512


def table(answer: Answer, host: str) -> Mapping[str, Any]:
    """The answer, which must be a JSON object."""
    return row(answer.body, host)


def rows(answer: Answer, host: str) -> list[Mapping[str, Any]]:
    """The answer, which must be a JSON list of objects."""
    if not isinstance(answer.body, list):
        raise Corrupt(f"{host} did not answer with a list", origin=Origin.FORGE)
    return [row(one, host) for one in answer.body]


def row(value: object, host: str) -> Mapping[str, Any]:
    """A value, which must be a JSON object."""
    if not isinstance(value, Mapping):
        raise Corrupt(f"{host} did not answer with a JSON object", origin=Origin.FORGE)
    return value


def number(value: Mapping[str, Any], key: str, host: str) -> str:
    """The forge's number for something, as text."""
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int):
        raise Corrupt(f"{host} answered without the number {key}", origin=Origin.FORGE)
    return str(found)


def text(value: Mapping[str, Any], key: str, host: str) -> str:
    """A text that must be there."""
    found = value.get(key)
    if not isinstance(found, str) or not found or len(found) > LONGEST_TEXT:
        raise Corrupt(f"{host} answered without {key}", origin=Origin.FORGE)
    return found


def at_home(value: Mapping[str, Any], key: str, home: str, path: str) -> str:
    """An address that must be the forge's own; where it is another's, the one that it has to be by its path.

    A forge that anybody could connect must not lead git to a file, nor a browser to a script.
    """
    found, ours = value.get(key), urlsplit(home)
    if isinstance(found, str):
        try:
            told = urlsplit(found)
        except ValueError:
            return f"{home}/{quote(path)}"
        if (
            (told.scheme, told.netloc) == (ours.scheme, ours.netloc)
            and found.isprintable()
            and len(found) <= 2 * LONGEST_TEXT
        ):
            return found
    return f"{home}/{quote(path)}"


def moment(value: object) -> datetime | None:
    """A time as forges write it: RFC 3339, a date, or "2026-01-31 12:00:00 UTC"."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.removesuffix(" UTC"))
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def count(value: object, factor: int = 1) -> int | None:
    """A number of bytes, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value * factor
