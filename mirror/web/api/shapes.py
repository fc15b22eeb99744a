"""What calls of the API take and give beside the shapes of `mirror/shapes`."""

from typing import Annotated

from msgspec import Meta, field

from mirror.shapes.base import Answer
from mirror.web.api.call import Body, Query

Limit = Annotated[int, Meta(ge=1, le=200, description="how many to give at most")]
Cursor = Annotated[str, Meta(max_length=2000, description="`next` of the page before")]
When = Annotated[
    str,
    Meta(
        max_length=100, description="a moment: #12, 2024-05-01T12:00:00Z, 2024-05-01, 2h ago; else the latest"
    ),
]
Words = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]


class Paged(Query, frozen=True, kw_only=True):
    """Which page of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class Problem(Answer, frozen=True, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: Annotated[str, Meta(description="what is wrong, and what to do about it")]
    kind: Annotated[str, Meta(description="the class of the error")] = field(name="class")
    retry: Annotated[bool, Meta(description="whether the same may work later")]


class Told(Answer, frozen=True, kw_only=True):
    """What somebody should know about what was done."""

    notes: list[str]


class Nothing(Body, frozen=True, kw_only=True):
    """Nothing is to be said."""
