"""Sending what is due: each channel one message at a time, many channels at once, again where that failed.

Who calls: the workers, every two seconds, and a web process while no worker is alive.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from mirror.channels import chat
from mirror.core import words
from mirror.core.channels import NotDelivered
from mirror.core.errors import EverrefError
from mirror.core.messages import Link, Message
from mirror.core.rules.health import telling
from mirror.notify import words as said
from mirror.services.lanes import Lane, UnderWay
from mirror.services.open import Services
from mirror.store.database import transaction
from mirror.store.notify import messages, sendings
from mirror.store.notify.messages import Planned
from mirror.store.notify.sendings import Claimed, Trouble
from mirror.store.people import notices

EVERY: Final = 2.0  # seconds between two looks at what is due
TRY_SECONDS: Final = 75.0  # that one try may take, which is more than a channel takes by itself
LEASE: Final = timedelta(minutes=2)  # for which nobody else sends to the channel
AT_ONCE: Final = 12  # channels that work
IN_TROUBLE: Final = 4  # channels that lately did not answer, which so hold up no other
CHATS: Final = 2  # of those that work; each has a process of its own
CHATS_IN_TROUBLE: Final = chat.AT_ONCE - CHATS
LONGEST: Final = timedelta(hours=6)  # that another side can make us wait

log = logging.getLogger("mirror.notify")


class Sender(Protocol):
    """How a message gets to a channel. Returns what the other side said; raises NotDelivered."""

    async def __call__(self, channel_id: UUID, message: Message) -> str: ...


@dataclass(slots=True)
class Delivery:
    """The deliveries of one process."""

    services: Services
    send: Sender

    async def work(self) -> None:
        """Send what is due until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lane(False, AT_ONCE, CHATS).work())
            group.create_task(self._lane(True, IN_TROUBLE, CHATS_IN_TROUBLE).work())

    def _lane(self, troubled: bool, most: int, chats: int) -> Lane[Claimed]:
        """Up to `most` channels, `chats` of them chats, each with one message at a time.

        A chat is claimed when it can begin: one that waited here for its process would be taken for slow.
        """

        async def claim(busy: Collection[UnderWay[Claimed]]) -> list[Claimed]:
            if len(busy) >= most:
                return []
            open_chats = chats - sum(one.work.kind == "chat" for one in busy)
            return await self._claim(most - len(busy), troubled=troubled, chats=open_chats)

        return Lane(
            every=EVERY, claim=claim, do=self._deliver, is_full=lambda busy: len(busy) >= most, log=log
        )

    async def once(self) -> int:
        """Send what is due now, until nothing is; returns how many tries that took."""
        tries = 0
        while True:
            claimed = [
                *await self._claim(AT_ONCE, troubled=False, chats=CHATS),
                *await self._claim(IN_TROUBLE, troubled=True, chats=CHATS_IN_TROUBLE),
            ]
            if not claimed:
                return tries
            tries += len(claimed)
            await asyncio.gather(*(self._deliver(one) for one in claimed))

    async def _claim(self, most: int, *, troubled: bool, chats: int) -> list[Claimed]:
        now = self.services.clock()
        return await sendings.claim(self.services.db, now, now + LEASE, most, troubled=troubled, chats=chats)

    async def _deliver(self, claimed: Claimed) -> None:
        """Send one message, or a digest of those that waited, and record what became of it.

        At least once: if this process dies after the other side took it and before that is recorded, it
        is sent again, with the same id, once the lease is over.
        """
        try:
            await self._try(claimed)
        except EverrefError as error:  # of the database; the lease ends by itself, and then it is tried again
            log.warning("a message to %s: %s", claimed.name, error)
        except Exception:
            log.exception("a bug in sending a message")

    async def _try(self, claimed: Claimed) -> None:
        db, services = self.services.db, self.services
        message = claimed.messages[0]
        if len(claimed.messages) > 1:
            message = said.digest(services.settings, claimed.messages, services.clock())
            await sendings.combine(db, claimed.channel_id, message, claimed.message_ids, services.clock())
        try:
            async with asyncio.timeout(TRY_SECONDS):
                answer = await self.send(claimed.channel_id, message)
        except TimeoutError:
            await self._failed(claimed, message, NotDelivered("the other side did not answer in time"))
        except EverrefError as error:
            if error.is_shared:  # our database: it says nothing of the channel
                raise
            await self._failed(claimed, message, error)
        else:
            now = services.clock()
            await sendings.arrived(db, claimed, message.id, answer, now)
            if claimed.failing_since is not None:
                await self._works_again(claimed, now)

    async def _failed(self, claimed: Claimed, message: Message, error: EverrefError) -> None:
        """The channel waits, longer each time; what is a day old is given up.

        A channel counts as dead once nothing arrived for FAILING_AFTER, or if it says that nothing ever will.
        """
        services, now = self.services, self.services.clock()
        wait = telling.wait(claimed.tries + 1)
        asked = getattr(error, "retry_after", None)
        if asked is not None:
            wait = min(max(wait, asked), LONGEST)
        since = claimed.troubled_since or now
        if now < since + telling.FAILING_AFTER:  # by then it is known whether the channel is dead
            wait = min(wait, since + telling.FAILING_AFTER - now) if asked is None else wait
        dead = error.permanent or now - since >= telling.FAILING_AFTER
        ends = error.permanent or now + wait >= claimed.first_at + telling.GIVEN_UP
        trouble = Trouble(str(error), ends, now + wait, dead)
        await sendings.not_arrived(services.db, claimed, message.id, trouble, now)
        if dead and claimed.failing_since is None:
            await self._is_dead(claimed, str(error), now)

    async def _is_dead(self, claimed: Claimed, why: str, now: datetime) -> None:
        """Tell the others, and the team's home page: people no longer hear of things there."""
        lines = [
            words.sentence(why),
            "What is said there is lost a day after it was said. Correct the channel, then send a test.",
        ]
        await self._tell(claimed, f"Messages to {claimed.name} no longer arrive", lines, now, "dead")

    async def _works_again(self, claimed: Claimed, now: datetime) -> None:
        since = claimed.failing_since or now
        lasted = words.lasted((now - since).total_seconds())
        await self._tell(
            claimed, f"Messages to {claimed.name} arrive again", [f"They did not for {lasted}."], now, "works"
        )

    async def _tell(self, claimed: Claimed, subject: str, lines: list[str], now: datetime, what: str) -> None:
        about, services = claimed.about, self.services
        page = "account/channels" if about.person_id else "status/channels"
        async with transaction(services.db) as db:
            team = await sendings.team_name(db, about)
            others = [
                one
                for one in await sendings.listening(db, now)
                if one.about == about and one.channel.id != claimed.channel_id
            ]
            link = Link(
                "See the channels",
                said.url(services.settings, f"{team}/-/settings/channels" if team else page),
            )
            message = said.new("channel", subject, lines, now, team=team, link=link)
            plan = telling.plan(message, [one.channel for one in others], now)
            key = f"channel/{claimed.channel_id}/{what}/{now.isoformat()}"
            await messages.add(
                db, message, [Planned(one.channel_id, one.at, one.held) for one in plan], about, key
            )
            if about.team_id is not None:
                text = f"{subject}: {lines[0]}"
                await notices.add(db, about.team_id, None, "channel", text.rstrip("."), now, key)
