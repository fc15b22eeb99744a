"""Pushing to mirrors what is due, in lanes of their own, so that no mirror takes a backup's slot.

Who calls: every worker, and the command `mirror REPO push`. What is due is in PostgreSQL
(store/restore/mirrors); what a push does is restore/mirroring.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic as time
from typing import Final

from mirror.core import logs
from mirror.core.errors import EverrefError
from mirror.restore import mirroring, mirrors
from mirror.services.lanes import Lane, UnderWay
from mirror.services.open import Services
from mirror.store.people.teams import TeamId
from mirror.store.restore import mirrors as rows
from mirror.store.restore.mirrors import Claimed

EVERY: Final = 1.0  # seconds between two looks at what is due
SPREAD: Final = 10.0  # seconds between two looks for repos that a mirror of a team does not know yet
AT_ONCE: Final = 2  # pushes of a worker to mirrors that work
IN_TROUBLE: Final = 1  # and to those that failed lately, which so hold up no other
SLOW_SECONDS: Final = 60.0  # after which a push no longer keeps one that is quick from beginning
SLOW: Final = 2  # of those that one lane has beside the others
PATIENCE: Final = timedelta(seconds=3)  # for which a repo is left to the worker where its pool is warm
ALL: Final = tuple(range(256))

log = logging.getLogger("mirror.mirrors")


@dataclass(slots=True)
class Mirroring:
    """The pushes of one worker to mirrors."""

    services: Services
    shares: Callable[[], Sequence[int]] = field(default=lambda: ALL)  # of all repos, those that are warm here

    async def work(self) -> None:
        """Push what is due until cancelled; what is under way is cancelled too, and due again later."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spread())
            group.create_task(self._lane(False, AT_ONCE).work())
            group.create_task(self._lane(True, IN_TROUBLE).work())

    async def _spread(self) -> None:
        while True:
            try:
                await mirrors.spread(self.services)
            except EverrefError as error:
                log.warning("mirrors: %s", error)
            await asyncio.sleep(SPREAD)

    def _lane(self, troubled: bool, most: int) -> Lane[Claimed]:
        async def claim(busy: Collection[UnderWay[Claimed]]) -> list[Claimed]:
            room, left = _room(busy, most), most + SLOW - len(busy)
            if room <= 0 or self.services.away:
                return []
            # The last place is another team's: so hosts of one that hang for hours hold up nobody else's.
            but_for = () if left > 1 else {one.work.target.mirror.team_id for one in busy}
            return await self._claim(min(room, max(left - 1, 1)), troubled, but_for)

        return Lane(
            every=EVERY,
            claim=claim,
            do=self._push,
            is_full=lambda busy: _room(busy, most) <= 0,
            log=log,
        )

    async def once(self) -> int:
        """Push what is due now, until nothing is; returns how many pushes that took."""
        await mirrors.spread(self.services)
        done = 0
        while claimed := [*await self._claim(AT_ONCE, False), *await self._claim(IN_TROUBLE, True)]:
            done += len(claimed)
            await asyncio.gather(*(self._push(one) for one in claimed))
        return done

    async def _claim(self, most: int, troubled: bool, but_for: Collection[TeamId] = ()) -> list[Claimed]:
        now = self.services.clock()
        until, shares = now + mirroring.CLAIM, self.shares()
        return await rows.claim(
            self.services.db,
            *(now, until, most),
            troubled=troubled,
            shares=shares,
            patience=PATIENCE,
            but_for=but_for,
        )

    async def _push(self, claimed: Claimed) -> None:
        """One push. What keeps it from being recorded is logged, and it is due again later."""
        one = claimed.target
        with logs.at_work(one.repo_id, None):
            try:
                async with _claim_kept(self.services, claimed):
                    end = await mirroring.push(self.services, claimed)
                if end.failure:
                    log.warning("mirror of %s at %s: %s", one.repo, mirroring.where(one.url), end.failure[1])
                elif end.wrote:
                    log.info("mirror of %s at %s: #%d", one.repo, mirroring.where(one.url), end.snapshot)
            except asyncio.CancelledError:
                with suppress(EverrefError):
                    await rows.hand_back(self.services.db, claimed, self.services.clock())
                raise
            except EverrefError as error:
                log.warning("mirror of %s at %s: %s", one.repo, mirroring.where(one.url), error)
            except Exception:
                log.exception("a bug in pushing to a mirror of %s", one.repo)


def _room(busy: Collection[UnderWay[Claimed]], most: int) -> int:
    """How many pushes of a lane may begin beside these."""
    quick = sum(time() - one.began < SLOW_SECONDS for one in busy)
    return min(most - quick, most + SLOW - len(busy))


@asynccontextmanager
async def _claim_kept(services: Services, claimed: Claimed) -> AsyncIterator[None]:
    """Renew the claim while the block runs; the block is cancelled where it was lost. Raises Busy then."""
    work = asyncio.current_task()
    assert work is not None
    lost = False

    async def renew() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(mirroring.CLAIM.total_seconds() / 3)
            with suppress(EverrefError):
                if not await rows.keep(services.db, claimed, services.clock() + mirroring.CLAIM):
                    lost = True
                    work.cancel()
                    return

    renewing = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if lost and not work.uncancel():
            raise mirroring.taken_over() from None
        raise
    finally:
        renewing.cancel()


async def push_now(services: Services, target: rows.TargetId) -> rows.Ended:
    """Push to this target at once, for somebody who waits for it. Raises Busy where a worker is at it."""
    now = services.clock()
    claimed = await rows.claim_one(services.db, target, now, now + mirroring.CLAIM)
    if claimed is None:
        raise mirroring.taken_over()
    async with _claim_kept(services, claimed):
        return await mirroring.push(services, claimed)
