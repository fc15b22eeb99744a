"""What is pending, as JSON: what was asked for, by whom, and when it takes effect."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta

from mirror.shapes.base import Answer
from mirror.store.people import pending as rows


class Pending(Answer, frozen=True, kw_only=True):
    """Something that takes something away for ever, asked for by one person and confirmed by another."""

    id: UUID
    team: Annotated[str, Meta(description="as it was called when this was asked for")]
    kind: Annotated[str, Meta(description="forget-repo, shorten-retention, erase...")]
    subject: Annotated[str, Meta(description="what it is done to")]
    does: Annotated[str, Meta(description="what it does, in words")]
    why: Annotated[str, Meta(description="the reason that was given; empty: none")]
    state: Annotated[
        str,
        Meta(
            description="asked (it needs a second person), agreed (it waits for its time), under-way, done, "
            "failed, cancelled, or lapsed (nobody confirmed it)"
        ),
    ]
    asked_by: str
    asked_at: datetime
    confirmed_by: Annotated[str | None, Meta(description="null: nobody has, or nobody else could")]
    confirmed_at: datetime | None
    takes_effect_at: Annotated[datetime | None, Meta(description="null: it needs a second person")]
    cancelled_by: str | None
    cancelled_at: datetime | None
    done_at: datetime | None
    failed: Annotated[str | None, Meta(description="why the last try did not end well")]

    @classmethod
    def of(cls, one: rows.Pending, now: datetime) -> "Pending":
        return cls(
            id=one.id,
            team=one.team,
            kind=str(one.kind),
            subject=one.subject,
            does=one.does,
            why=one.why,
            state=one.state(now),
            asked_by=one.asked_name,
            asked_at=one.asked.at,
            confirmed_by=one.confirmed_name,
            confirmed_at=one.confirmed_at,
            takes_effect_at=one.takes_effect_at,
            cancelled_by=one.cancelled_name or None,
            cancelled_at=one.cancelled_at,
            done_at=one.done_at,
            failed=one.failed,
        )


class PendingDays(Answer, frozen=True, kw_only=True):
    """How many days a team's pending actions wait."""

    days: Annotated[int, Meta(description="from the confirmation until it is done")]
    asked: Annotated[Pending | None, Meta(description="fewer days were asked for: that waits, too")]
