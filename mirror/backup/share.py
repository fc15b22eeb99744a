"""What one sync may still bring in before its team, or its repo, has more than it may.

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
    """What was left to the team when the sync began, of which its parts take some."""

    services: Services
    team_id: TeamId
    repo_id: RepoId
    allowance: Allowance

    def check(self) -> None:
        """Before anything is fetched: raise OverLimit where nothing more fits."""
        self.allowance.check()

    async def through(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same bytes, up to as many as fit; then OverLimit is raised, and no more are asked for."""
        came = 0
        async with aclosing(chunks):
            async for chunk in chunks:
                came += len(chunk)
                self.allowance.check(came)
                yield chunk

    async def reserve(self, key: str, size: int) -> None:
        """Before a bundle is there for good: count it, also for syncs that end at the same time."""
        limits = self.services.settings.limits
        await quotas.reserve(self.services.db, self.team_id, self.repo_id, limits, key, size)
        self.allowance.brought += size
