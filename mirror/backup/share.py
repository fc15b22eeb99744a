"""How much one sync may still store before its team or its repo exceeds a limit.

Who calls: backup/snapshot, before it fetches, while it does, and before a part is stored.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from mirror.core.model import RepoId
from mirror.core.quotas import Allowance
from mirror.services.open import Services
from mirror.store.people import quotas
from mirror.store.people.teams import TeamId


@dataclass(frozen=True, slots=True)
class Share:
    """What the team had left when the sync began; its parts use it up."""

    services: Services
    team_id: TeamId
    repo_id: RepoId
    allowance: Allowance

    def check(self) -> None:
        """Before anything is fetched: raise OverLimit if nothing more fits."""
        self.allowance.check()

    async def through(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same bytes, as long as they fit; then OverLimit is raised, and no more are read."""
        came = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                came += len(chunk)
                self.allowance.check(came)
                yield chunk

    async def reserve(self, key: str, size: int) -> None:
        """Before a bundle is committed: count it, also for syncs that end at the same time."""
        limits = self.services.settings.limits
        await quotas.reserve(self.services.db, self.team_id, self.repo_id, limits, key, size)
        self.allowance.brought += size
