"""Progress as it happens: parts of a page, sent again by server-sent events whenever they change."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mirror.core.errors import EverrefError, TooOften
from mirror.core.rules.roles import PersonId
from mirror.web.dispatch import RequestContext

LOOK_SECONDS: Final = 1.0  # between two looks
QUIET_SECONDS: Final = 15.0  # after which a comment is sent, so that no proxy closes the stream
LASTS_SECONDS: Final = 600.0  # of one stream; the browser asks again by itself
AT_ONCE: Final = 20  # streams of one person in a process

Look = Callable[
    [], Awaitable[tuple[str, bool]]
]  # the part as it is now, and whether it will not change any more


async def follow(context: RequestContext, look: Look) -> StreamingResponse:
    """Send the part whenever it has changed, until it is final. The first look is made at once."""
    streams, who = context.outside.streams, context.owner().id
    first = await look()
    return _Counted(
        streams,
        who,
        _events(context, look, first),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


class _Counted(StreamingResponse):
    """A stream that counts toward its person's limit while it is sent."""

    def __init__(self, streams: Counter[PersonId], who: PersonId, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._streams = streams
        self._who = who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._streams[self._who] >= AT_ONCE:
            raise TooOften(
                f"you already have {AT_ONCE} live pages open; close one of them", int(QUIET_SECONDS)
            )
        self._streams[self._who] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams[self._who] -= 1
            if not self._streams[self._who]:
                del self._streams[self._who]


async def _events(context: RequestContext, look: Look, first: tuple[str, bool]) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop().time
    (part, ended), sent, quiet_since, began = first, None, clock(), clock()
    while True:
        if part != sent:
            if sent is not None and not await _is_let_in(context):
                return
            yield event("part", part)
            sent, quiet_since = part, clock()
        if ended:
            yield event("end", "")
            return
        if clock() - began > LASTS_SECONDS:
            return
        if clock() - quiet_since > QUIET_SECONDS:
            yield ": still here\n\n"
            quiet_since = clock()
        await asyncio.sleep(LOOK_SECONDS)
        try:
            part, ended = await look()
        except EverrefError:  # it may be back the next time the browser asks
            return


async def _is_let_in(context: RequestContext) -> bool:
    """Whether the visitor still has access; also False while nobody can tell."""
    try:
        return await context.is_still_let_in()
    except EverrefError:
        return False


def event(name: str, data: str) -> str:
    """One event of https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\n{lines}\n"
