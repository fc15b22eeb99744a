"""Networks from which people have signed in: guesses from elsewhere do not lock them out of these."""

from datetime import datetime, timedelta
from typing import Final

from mirror.core.rules.roles import PersonId
from mirror.store.database import Db, storable, translating

LASTS: Final = timedelta(days=90)  # for which a network is known after a sign-in
MOST: Final = 50  # networks of one person


@translating
async def is_known(db: Db, email: str, network: str, now: datetime) -> bool:
    """Whether the person with this e-mail address signed in from this network in the last LASTS."""
    found: bool = await db.fetchval(
        """
        select exists (
          select from sign_in_place join person on person.id = person_id
          where email = lower($1) and network = $2 and used_at > $3
        )
        """,
        storable(email),
        storable(network),
        now - LASTS,
    )
    return found


@translating
async def is_new(db: Db, person_id: PersonId, network: str, now: datetime) -> bool:
    """Whether the person has signed in from elsewhere in the last LASTS, and not from this network."""
    found: bool = await db.fetchval(
        """
        select count(*) > 0 and not coalesce(bool_or(network = $2), false) from sign_in_place
        where person_id = $1 and used_at > $3
        """,
        person_id,
        storable(network),
        now - LASTS,
    )
    return found


@translating
async def remember(db: Db, person_id: PersonId, network: str, now: datetime) -> None:
    """Remember that they have just signed in from this network, and forget old networks."""
    await db.execute(
        """
        with gone as (
          delete from sign_in_place
          where person_id = $1 and network <> $2 and (used_at <= $4 or network in (
            select network from sign_in_place where person_id = $1 order by used_at desc offset $5
          ))
        )
        insert into sign_in_place (person_id, network, used_at) values ($1, $2, $3)
        on conflict (person_id, network) do update
          set used_at = greatest(sign_in_place.used_at, excluded.used_at)
        """,
        person_id,
        storable(network),
        now,
        now - LASTS,
        MOST - 1,
    )
