"""What all shapes share: names of git as text, times as text, and some of many."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from mirror.core import refs
from mirror.core.words import rfc3339

T = TypeVar("T")

Base64 = Annotated[str, Meta(description="base64 of the bytes; only there where they are no UTF-8")]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a program is answered."""


def plain(shape: Answer) -> dict[str, Any]:
    """A shape as JSON has it, with every time as text."""
    found: dict[str, Any] = _timed(msgspec.to_builtins(shape, builtin_types=(datetime,)))
    return found


def encoded(shape: Answer) -> bytes:
    """A shape as JSON, as the API sends it."""
    return msgspec.json.encode(plain(shape))


def _timed(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, dict):
        return {key: _timed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_timed(one) for one in value]
    return value


def git(key: str, value: bytes | None) -> dict[str, Any]:
    """Bytes of git under this key, and under the same with `_b64` where they are no UTF-8."""
    return {key: None} if value is None else dict(refs.shown_as(key, value))


class Page(Answer, Generic[T], frozen=True, kw_only=True):
    """Some of many."""

    items: list[T]
    next: str | None  # the cursor of the page after this one; null: this is the last
