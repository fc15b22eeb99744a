"""Evidence as JSON: signed statements about a repo, and its badge."""

from datetime import date, datetime
from typing import Annotated

from msgspec import Meta

from mirror.shapes.base import Answer
from mirror.store.evidence import daily, statements


class Statement(Answer, frozen=True, kw_only=True):
    """A signed statement about a repo, without its bytes."""

    name: Annotated[str, Meta(description="by which the statement itself is asked for")]
    kind: Annotated[str, Meta(description="drill or verification")]
    snapshot: int
    moment: Annotated[int, Meta(description="within the snapshot; 0: the snapshot itself")]
    at: Annotated[datetime, Meta(description="when what it tells of ended")]
    passed: bool
    key: Annotated[str, Meta(description="the id of the key that signed it")]
    sha256: Annotated[str, Meta(description="of its bytes")]

    @classmethod
    def of(cls, row: statements.Row) -> "Statement":
        return cls(
            name=row.name,
            kind=row.kind,
            snapshot=row.snapshot,
            moment=row.moment,
            at=row.at,
            passed=row.passed,
            key=row.key_id,
            sha256=row.sha256,
        )


class Day(Answer, frozen=True, kw_only=True):
    """A signed statement about what was read back of a team's repos on one day, without its bytes."""

    day: Annotated[date, Meta(description="in UTC; by which the statement itself is asked for")]
    at: Annotated[datetime, Meta(description="when it was signed")]
    passed: Annotated[bool, Meta(description="nothing that was read was missing or changed")]
    key: Annotated[str, Meta(description="the id of the key that signed it")]
    sha256: Annotated[str, Meta(description="of its bytes")]

    @classmethod
    def of(cls, row: daily.Row) -> "Day":
        return cls(day=row.day, at=row.at, passed=row.passed, key=row.key_id, sha256=row.sha256)


class Badge(Answer, frozen=True, kw_only=True):
    """The badge of a repo."""

    url: Annotated[str | None, Meta(description="for whoever may see it; null: it is off")]
