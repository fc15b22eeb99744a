"""By whose credentials a restore reaches its target: what a role may have the team's tokens and keys do.

Who calls: restore/target, before it gives out any, so for plans, restores and undoing alike; and jobs/run,
when a restore is asked for. A worker asks again when the job runs: the person's role may have changed since.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from mirror.core.errors import NotAllowed
from mirror.core.model import Secret
from mirror.core.rules.roles import PersonId, Role
from mirror.git import address
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.discovery import remotes
from mirror.store.people import teams
from mirror.store.people.teams import TeamId

Asked = Mapping[str, Any]  # of a job

_NOT_KEPT: Final = (
    "only an admin restores by the team's own access to an address that the team does not keep; "
    "give a token of yours for it, or have an admin do it"
)


@dataclass(frozen=True, slots=True)
class Authority:
    """By what a restore reaches its target."""

    role: Role  # in which it is asked for
    lent: Secret | None = field(default=None, repr=False)  # for this restore alone
    here: bool = False  # by whoever runs Everref, whose the paths of this machine are


async def role_of(services: Services, team_id: TeamId, person_id: UUID | None, asked: Asked) -> Role:
    """In which role a restore is done: the person's of now, or the one in which they asked, if that is less.

    Nobody is the command line, which may everything. Raises NotAllowed for who may not restore any more.
    """
    if person_id is None:
        return Role.OWNER
    now = await teams.role_of(services.db, team_id, PersonId(person_id))
    if now is None:
        raise NotAllowed("who asked for this is no member of the team any more")
    asked_in = Role(asked.get("role", now))
    least = asked_in if now.may(asked_in) else now
    if not least.may(Role.OPERATOR):
        raise NotAllowed(f"a restore needs the role operator; who asked for this is {least} now")
    return least


async def check(services: Services, team_id: TeamId, asked: Asked, url: str, means: Authority) -> None:
    """Raise NotAllowed where the team's own credentials would be used at an address not for this role.

    An operator writes where the team keeps a repository, by what that is read by, and to what the
    restore makes. Any other address wants credentials that are lent for the restore, or an admin.
    """
    if means.role.may(Role.ADMIN):
        return
    of_machine = address.is_path(url)  # reached by the rights of who runs Everref, whatever is lent
    if means.lent is not None and not of_machine:
        return
    if not (of_machine or address.is_ssh(url) or asked.get("connection")):
        return  # nothing of the team's goes there
    kept = await repos.by_url(services.db, team_id, url)
    if kept is not None:
        origin = await remotes.get(services.db, kept.id)
        by_connection = None if origin.connection_id is None else str(origin.connection_id)
        if not origin.set_aside and by_connection == asked.get("connection"):
            return
    raise NotAllowed(_NOT_KEPT)
