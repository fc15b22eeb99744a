"""Whether a repo's new objects are sealed, whose keys seal and open them, and reading what is in either form.

Who calls: services/open gives the keys to the vault; flows ask `of` before they choose a key, and `got` where
an object may be there sealed or as it is.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.core.errors import NoSuchObject, NotFound
from mirror.core.formats import layout
from mirror.core.identities import Identity
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import RepoId, Sealed
from mirror.store.backup import sealing
from mirror.store.database import Db
from mirror.store.people import keys
from mirror.store.people.teams import TeamId
from mirror.vault import age
from mirror.vault import sealed as sealed_vault
from mirror.vault.contract import GET_LIMIT

if TYPE_CHECKING:
    from mirror.services.open import Services

_FRESH: Final = 60.0  # seconds that a team's identities are known before they are asked for again


class TeamKeys:
    """The keys of the teams, as the vault asks for them; what is `given` opens as well, for any team."""

    def __init__(self, db: Db, keyring: Keyring | None) -> None:
        self._db, self._keyring = db, keyring
        self._known: dict[RepoId, tuple[float, Sequence[Identity]]] = {}
        self.given: list[Identity] = []  # by a person who has nothing else: `everref rebuild --identity`

    def __repr__(self) -> str:
        return "TeamKeys(***)"

    async def recipients(self, key: str) -> Sequence[str]:
        """To whom the object with this key is sealed, now. Raises NotFound where nobody has the repo."""
        repo_id = layout.sealed_for(key)
        team_id = await sealing.team_of(self._db, repo_id) if repo_id else None
        if team_id is None:
            raise NotFound(f"{key} belongs to no repo that is here")
        return await keys.recipients(self._db, team_id)

    async def identities(self, key: str) -> Sequence[Identity]:
        """What opens objects of this one's team, so far as it is here; asked again after a minute."""
        repo_id = layout.sealed_for(key)
        if repo_id is None:
            return await self.others(key)
        at, found = self._known.get(repo_id, (0.0, ()))
        if not found or time.monotonic() - at > _FRESH:
            team_id = await sealing.team_of(self._db, repo_id)
            found = await self._of_teams([team_id] if team_id else [])
            self._known[repo_id] = (time.monotonic(), found)
        return [*found, *self.given]

    async def others(self, key: str) -> Sequence[Identity]:
        """What opens an object of a repo that is not here yet, as in a rebuild: everything that is here.

        Never for a repo that some team has: whoever can write to the bucket could put what another team
        sealed there, and read it as a member of that one.
        """
        repo_id = layout.sealed_for(key)
        if repo_id is not None and await sealing.team_of(self._db, repo_id) is not None:
            return self.given
        return [*await self._of_teams(await sealing.teams_with_keys(self._db)), *self.given]

    async def _of_teams(self, teams: Sequence[TeamId]) -> list[Identity]:
        found: list[Identity] = []
        if self._keyring is None:
            return found
        for team_id in teams:
            try:
                found += await keys.identities(self._db, self._keyring, team_id)
            except BadKey:  # whoever needs it says so: KeyMissing
                continue
        return found


@dataclass(frozen=True, slots=True)
class Got:
    """A small object as it was found."""

    key: str
    plain: bytes
    sealed: Sealed | None  # what is stored; None: it is not sealed


async def of(services: "Services", repo_id: RepoId) -> bool:
    """Whether new objects of this repo are sealed now."""
    return await keys.is_sealed(services.db, repo_id)


async def got(services: "Services", key: str, limit: int = GET_LIMIT) -> Got:
    """A small object that is stored under this key, sealed or as it is; both are asked for at once.

    Raises NoSuchObject where there is neither, KeyMissing, Corrupt, LimitReached.
    """
    sealed, plain = layout.sealed(key), layout.plain(key)
    found, other = await asyncio.gather(
        _stored(services, sealed, age.sealed_limit(limit)), _stored(services, plain, limit)
    )
    if found is not None:
        about = Sealed(len(found), hashlib.sha256(found).hexdigest())
        return Got(sealed, await opened(services, sealed, found), about)
    if other is None:
        raise NoSuchObject(f"the vault has no object {plain}, nor {sealed}")
    return Got(plain, other, None)


async def _stored(services: "Services", key: str, limit: int) -> bytes | None:
    try:
        return await services.stored.get(key, limit)
    except NoSuchObject:
        return None


async def opened(services: "Services", key: str, stored: bytes) -> bytes:
    """What is sealed in the stored bytes of this object. Raises KeyMissing, Corrupt."""
    return await sealed_vault.opened(services.keys, key, stored)
