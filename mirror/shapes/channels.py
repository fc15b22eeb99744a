"""Channels as JSON."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.core.channels import ChannelKind
from mirror.shapes.base import Answer
from mirror.store.notify import channels as rows


class QuietHours(Answer, frozen=True, kw_only=True):
    """When only what is urgent is sent."""

    start: Annotated[str, Meta(description="22:00; later than `end`: over midnight")]
    end: str
    zone: Annotated[str, Meta(description="IANA name")]


class Channel(Answer, frozen=True, kw_only=True):
    """A place that messages go to."""

    id: str
    kind: ChannelKind
    name: str
    shown: Annotated[str, Meta(description="what of its address anybody may see")]
    off: Annotated[list[str], Meta(description="kinds of messages that it does not get")]
    quiet: QuietHours | None
    created_at: datetime
    confirmed_at: Annotated[datetime | None, Meta(description="null: nothing is sent there yet")]
    stopped_at: Annotated[datetime | None, Meta(description="when the reader of its mails ended them")]
    sent_at: Annotated[datetime | None, Meta(description="when something last arrived")]
    failing_since: datetime | None
    failure: str | None

    @classmethod
    def of(cls, one: rows.Channel) -> "Channel":
        quiet = None
        if one.quiet is not None:
            start, end = f"{one.quiet.start:%H:%M}", f"{one.quiet.end:%H:%M}"
            quiet = QuietHours(start=start, end=end, zone=one.quiet.zone)
        return cls(
            id=str(one.id),
            kind=one.kind,
            name=one.name,
            shown=one.shown,
            off=sorted(one.off),
            quiet=quiet,
            created_at=one.created_at,
            confirmed_at=one.confirmed_at,
            stopped_at=one.stopped_at,
            sent_at=one.sent_at,
            failing_since=one.failing_since,
            failure=one.failure,
        )


class NewChannel(Answer, frozen=True, kw_only=True):
    """A channel that was just made."""

    channel: Channel
    key: Annotated[str | None, Meta(description="what signs a webhook's messages, shown only once")]
    asked: Annotated[str | None, Meta(description="what became of the question to a mail address")]


class ChannelKey(Answer, frozen=True, kw_only=True):
    """Another key of a webhook."""

    key: Annotated[str, Meta(description="shown only once; the one before it signs too, for a day")]


class ChannelTested(Answer, frozen=True, kw_only=True):
    """What the other side answered to a test."""

    answer: str
