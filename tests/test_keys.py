"""Whose keys: a team's own identities, the recovery keys of its people, and what is refused."""

from uuid import uuid4

import asyncpg
import pytest

from mirror.core import identities
from mirror.core.keyring import BadKey, Keyring
from mirror.store.people import keys, teams
from mirror.store.upkeep import state
from tests.parts.chain import START, begin

RING = Keyring(["k" * 32])


async def test_a_team_has_one_identity_that_is_sealed_to(db: asyncpg.Pool) -> None:
    repo = (await begin(db)).repo
    team = await teams.default(db)
    assert await keys.without(db, 10) == [team]
    assert await keys.recipients(db, team) == []
    first = identities.made()
    assert await keys.add_identity(db, RING, team, first, START)
    assert not await keys.add_identity(db, RING, team, identities.made(), START)
    assert await keys.recipients(db, team) == [first.recipient]
    assert await keys.identities(db, RING, team) == [first]
    assert first.text not in repr(first) + str(first)
    assert await keys.without(db, 10) == []
    assert not await keys.is_sealed(db, repo.id)
    await db.execute("update team set sealed_since = $1", START)
    assert await keys.is_sealed(db, repo.id)
    with pytest.raises(BadKey):
        await keys.identities(db, Keyring(["other" * 8]), team)


async def test_an_identity_that_comes_back_opens_beside_one_that_was_made_anew(
    db: asyncpg.Pool,
) -> None:
    """A worker that starts over an empty database makes identities before the state is imported."""
    team, new, old = await teams.default(db), identities.made(), identities.made()
    assert await keys.add_identity(db, RING, team, new, START)
    id = str(uuid4())
    lost = {
        "id": id,
        "team_id": str(team),
        "recipient": old.recipient,
        "sealed": "\\x" + RING.seal(old.text.encode(), keys.CONTEXT.format(id)).hex(),
        "made_at": START.isoformat(),
        "retired_at": None,
    }
    sealing = {"id": str(team), "name": teams.DEFAULT, "sealed_since": START.isoformat()}
    async with state.taking_up(db, START) as import_:
        await import_.add("team", [sealing])
        await import_.add("team_key", [lost])
    assert await keys.identities(db, RING, team) == [new, old]
    assert await keys.recipients(db, team) == [new.recipient]
    assert await db.fetchval("select sealed_since from team where id = $1", team) == START
