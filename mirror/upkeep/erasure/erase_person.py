"""Erasing a person: their account and their name, in the database and in the exports of the state.

Who calls: jobs/pending, when what was asked for has taken effect; the command line and the account page ask.
What they did stays in the audit logs as done by a former member, with the sums of what was written.
"""

import secrets
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from mirror.core import words
from mirror.core.errors import NotFound, Refused
from mirror.core.rules.keeping.pending import Kind
from mirror.core.rules.roles import PersonId
from mirror.people import pending
from mirror.people.acting import By
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.database import transaction
from mirror.store.people import audit, erasures, people, teams
from mirror.store.people.pending import Pending
from mirror.store.people.people import Person
from mirror.store.people.teams import DEFAULT, Team
from mirror.upkeep import state


async def ask(services: Services, by: By | None, person: Person, why: str = "") -> Pending:
    """Ask for this account to be erased, in the person's own team; `by` None: at the command line.

    Raises Refused while a team would be without an owner, and as `people.pending.ask` does.
    """
    await _check(services, person)
    home = await teams.home(services.db, person.id)
    team = home or Team(await teams.default(services.db), DEFAULT)
    return await pending.ask(
        services,
        by,
        team,
        Kind.ERASE,
        {"person": str(person.id)},
        subject="the account of the person who asked" if by else f"the account {person.id}",
        why=why,
    )


async def erase(services: Services, person_id: PersonId) -> Mapping[str, Any]:
    """Delete the account, and the name in what stays.

    1. One transaction: audit logs are redacted, each with an entry that says so; all that is only theirs is
    deleted. 2. The state is exported anew, and every earlier export deleted. Safe to run twice: an account
    that is gone leaves step 2 alone. Raises Refused while a team would be without an owner.
    """
    person, now = await people.find(services.db, person_id), services.clock()
    entries = 0
    if person is not None:
        await _check(services, person)
        async with transaction(services.db) as db:
            await people.lock(db, person.id)
            for team_id in sorted(await erasures.teams_that_name(db, person)):
                await teams.lock(db, team_id)
                if numbers := await erasures.redact(db, team_id, person, now):
                    await audit.add(db, team_id, erasures.entry(numbers), now)
                    entries += len(numbers)
            await erasures.remove(db, person, f"erased-{secrets.token_hex(4)}")
        failpoints.reached("erase: person deleted")
    await state.replace_all(services)
    return {"person": str(person_id), "entries": entries}


def person_of(one: Pending) -> PersonId:
    """Whom it is about."""
    return PersonId(UUID(str(one.wanted["person"])))


async def left(services: Services, person_id: PersonId) -> list[str]:
    """Where something of an erased account still is, each in a line. Raises NotFound while it is there."""
    if await people.find(services.db, person_id) is not None:
        raise NotFound("this account is not erased")
    found = await erasures.rows_of(services.db, person_id)
    return [f"database: {words.count(number, 'row')} of {name}" for name, number in found.items() if number]


async def _check(services: Services, person: Person) -> None:
    """Raise Refused where a team would be left without an owner."""
    for one in await erasures.owned_alone(services.db, person.id):
        if one.members > 1:
            raise Refused(
                f"{one.team.name} has no other owner; make another member its owner first, or remove them"
            )
        if one.repos:
            raise Refused(
                f"{one.team.name} has {words.count(one.repos, 'repo')} and nobody else; have their backups "
                "deleted first, or let somebody else own them"
            )
