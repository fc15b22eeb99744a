"""Erasing a person: nothing of theirs is left, and what they did stays provable."""

import json
from datetime import timedelta

import asyncpg
import pytest

from mirror.core.errors import NotFound, Refused
from mirror.core.rules.roles import Role
from mirror.jobs import pending as jobs
from mirror.people import accounts, members
from mirror.people.acting import By
from mirror.store.people import audit, notices, people, sessions, teams
from mirror.store.people import pending as rows
from mirror.upkeep import state
from mirror.upkeep.erasure import erase_person
from tests.parts.everref import Mirror
from tests.parts.pending import days_pass

DAY = timedelta(days=1)
HERE = "192.0.2.77"


async def test_an_account_is_erased_and_the_audit_log_still_holds(mirror: Mirror) -> None:
    services, db = mirror.services, mirror.services.db
    mirror.clock.step = timedelta(seconds=1)
    now = mirror.clock.now
    ann = await accounts.sign_up(db, "ann@example.org", "correct horse 1", "Ann Smith", now, HERE)
    bob = await people.add(db, "Bob", now, team_name="bob")
    team = await members.new_team(db, By(ann, now, HERE), "acme")
    await teams.add(db, team.id, bob.id, Role.OWNER, now)
    await members.change_role(db, By(bob, now, HERE), team, ann.id, Role.ADMIN)
    await members.invite(db, services.keyring, By(ann, now, HERE), team, Role.VIEWER)  # type: ignore[arg-type]
    await sessions.start(db, ann.id, now, "a browser", HERE)
    await notices.add(db, team.id, None, "sign-in", "Ann Smith signed in from a new place", now)
    before = [(one.number, one.sha256) for one in await audit.page(db, team.id)]
    await state.export(services)
    asked = await erase_person.ask(services, By(ann, now, HERE), ann)
    assert asked.is_alone  # her own team, in which nobody else is
    await days_pass(mirror, 15 * DAY)
    await jobs.due(services)
    done = await rows.find(db, asked.id)
    assert done is not None and done.state(mirror.clock.now) == "done", done
    assert await people.find(db, ann.id) is None
    assert await erase_person.left(services, ann.id) == []
    # Her name, address and network are in no row of any table.
    for row in await db.fetch("select tablename as name from pg_tables where schemaname = 'public'"):
        for text in ("Ann Smith", "ann@example.org", HERE, "ann@example.org".upper()):
            found = await db.fetchval(
                f"select count(*) from {row['name']} as one where strpos(to_jsonb(one)::text, $1) > 0", text
            )
            assert not found or (row["name"], text) == ("audit", HERE), (row["name"], text)  # Bob's own entry
    assert await audit.check(db, team.id) is None
    after = await audit.page(db, team.id)
    assert [(one.number, one.sha256) for one in after if one.number <= len(before)] == before
    assert {one.entry.actor for one in after} == {"Bob", "a former member", "Everref"}
    exported = [json.loads(line) async for line in audit.export(db, team.id)]
    assert [bool(one.get("redacted_at")) for one in exported] == [True, True, True, False]
    assert (
        len([key for key in await mirror.keys() if key.startswith("state/")]) == 2
    )  # the newest, both objects
    await erase_person.erase(services, ann.id)  # safe to run twice


async def test_who_hides_an_edit_as_a_redaction_is_found_out(mirror: Mirror) -> None:
    db, now = mirror.services.db, mirror.clock.now
    bob = await people.add(db, "Bob", now, team_name="bob")
    team = await members.new_team(db, By(bob, now), "acme")
    for statement in (
        "update audit set actor = 'x'",
        "set local everref.redacting = 'yes'; update audit set actor = 'x'",
        "set local everref.redacting = 'yes'; update audit set redacted_at = now(), sha256 = repeat('0', 64)",
    ):
        with pytest.raises(asyncpg.RaiseError, match="never changed"):
            await db.execute(statement)
    await db.execute(
        "set local everref.redacting = 'yes'; update audit set redacted_at = now(), actor = 'nobody'"
    )
    assert await audit.check(db, team.id) == 1  # no entry says that it was redacted


async def test_nobody_is_erased_who_alone_owns_what_others_use(mirror: Mirror) -> None:
    services, db, now = mirror.services, mirror.services.db, mirror.clock.now
    ann, bob = [await people.add(db, name, now, team_name=name.lower()) for name in ("Ann", "Bob")]
    team = await members.new_team(db, By(ann, now), "acme")
    await teams.add(db, team.id, bob.id, Role.ADMIN, now)
    with pytest.raises(Refused, match="acme has no other owner"):
        await erase_person.ask(services, None, ann)
    with pytest.raises(NotFound, match="is not erased"):
        await erase_person.left(services, ann.id)
