"""A team's channels: where its people are told."""

from typing import Annotated, Final

from msgspec import Meta

from mirror.core.channels import ChannelKind
from mirror.people import channels as flow
from mirror.people.channels import Whose
from mirror.shapes.base import Page
from mirror.shapes.channels import Channel, ChannelKey, ChannelTested, NewChannel
from mirror.web.api.call import Body, call, uuid_of
from mirror.web.api.shapes import Words
from mirror.web.dispatch import Needs, RequestContext

CHANNELS: Final = "/teams/{team}/channels"
CHANNEL: Final = f"{CHANNELS}/{{channel}}"


class ChannelWanted(Body, frozen=True, kw_only=True):
    """Where to tell people."""

    kind: ChannelKind
    to: Annotated[str, Meta(max_length=4096, description="a mail or https:// address, or an Apprise URL")]
    name: Words = ""


class Hours(Body, frozen=True, kw_only=True):
    """Quiet hours; both times empty: none."""

    start: Annotated[str, Meta(max_length=8)]
    end: Annotated[str, Meta(max_length=8)]
    zone: Words = "UTC"


class ChannelChange(Body, frozen=True, kw_only=True):
    """What is to be otherwise; what is left out stays."""

    name: Words | None = None
    off: Annotated[list[Words], Meta(max_length=50)] | None = None
    quiet: Hours | None = None


async def list_channels(context: RequestContext) -> Page[Channel]:
    """The team's channels, the oldest first."""
    found = await flow.listed(context.services, Whose(team=context.of_team()))
    return Page(items=[Channel.of(one) for one in found], next=None)


async def add_channel(context: RequestContext, body: ChannelWanted) -> NewChannel:
    """Add a channel. A mail address is asked first, and gets nothing before somebody says yes."""
    added = await flow.add(
        context.services, context.by(), Whose(team=context.of_team()), body.kind, body.to, body.name
    )
    return NewChannel(channel=Channel.of(added.channel), key=added.key, asked=added.asked)


async def change_channel(context: RequestContext, body: ChannelChange) -> Channel:
    """Change the name of a channel, the kinds of messages that it gets, or its quiet hours."""
    changed = await flow.change(
        context.services,
        context.by(),
        Whose(team=context.of_team()),
        uuid_of(context, "channel", "channel"),
        name=body.name,
        off=body.off,
        quiet=None if body.quiet is None else (body.quiet.start, body.quiet.end, body.quiet.zone),
    )
    return Channel.of(changed)


async def test_channel(context: RequestContext) -> ChannelTested:
    """Send a message there at once. 502: the other side did not take it."""
    chosen = uuid_of(context, "channel", "channel")
    team = Whose(team=context.of_team())
    return ChannelTested(answer=await flow.test(context.services, context.by(), team, chosen))


async def rotate_channel_key(context: RequestContext) -> ChannelKey:
    """Make another key for a webhook; for a day the one before it signs too."""
    chosen = uuid_of(context, "channel", "channel")
    team = Whose(team=context.of_team())
    return ChannelKey(key=await flow.rotate(context.services, context.by(), team, chosen))


async def remove_channel(context: RequestContext) -> None:
    """Remove a channel; its address is forgotten."""
    chosen = uuid_of(context, "channel", "channel")
    await flow.remove(context.services, context.by(), Whose(team=context.of_team()), chosen)


CALLS: Final = (
    call("GET", CHANNELS, list_channels, Needs.ADMIN, "admin"),
    call("POST", CHANNELS, add_channel, Needs.ADMIN, "admin", status=201, sure=True),
    call("PATCH", CHANNEL, change_channel, Needs.ADMIN, "admin"),
    call("POST", f"{CHANNEL}/test", test_channel, Needs.ADMIN, "admin"),
    call("POST", f"{CHANNEL}/key", rotate_channel_key, Needs.ADMIN, "admin", status=201, sure=True),
    call("DELETE", CHANNEL, remove_channel, Needs.ADMIN, "admin"),
)
