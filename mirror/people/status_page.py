"""Whether everybody may see how a team's repos are served, without signing in: switched on by its owner."""

from typing import get_args

from mirror.core.errors import UsageError
from mirror.core.rules.roles import Role
from mirror.people.acting import By, acting
from mirror.store.browse import served
from mirror.store.browse.served import StatusPage
from mirror.store.database import Db
from mirror.store.people.teams import Team


async def show(db: Db, by: By, team: Team, page: str | None) -> StatusPage | None:
    """Let everybody see how the team's repos are served. None: nobody. Raises UsageError, Refused.

    Safe to run twice: it is set to what it is.
    """
    found = next((one for one in get_args(StatusPage) if one == page), None)
    if page is not None and found is None:
        raise UsageError(f"the page for everybody shows {' or '.join(get_args(StatusPage))}, or is off")
    async with acting(db, by, team, Role.OWNER, "team.status-page", team.name, shows=found or "nothing") as (
        connection,
        _,
    ):
        await served.set_status_page(connection, team.id, found)
    return found
