"""Every stored byte is read again: in turns that go on where they were, no faster than need be."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.core.errors import NetworkError, NotFound, Origin
from mirror.core.formats import layout, statements
from mirror.core.formats.statements import DAILY
from mirror.core.model import Repo
from mirror.core.rules import evidence as judging
from mirror.core.rules.health import proving
from mirror.store.backup import parts
from mirror.store.evidence import daily as daily_rows
from mirror.store.evidence import keys
from mirror.store.people import notices, teams
from mirror.store.upkeep import readings
from mirror.upkeep import daily, evidence, rotation
from mirror.vault.directory import DirectoryVault
from tests.parts.everref import Mirror
from tests.parts.repos import Work

DAY = timedelta(days=1)


async def kept(mirror: Mirror, work: Work, pushes: int = 3) -> Repo:
    work.zoo()
    for _ in range(pushes):
        done = await mirror.backup(work)
        work.commit()
    return done.repo


async def stored_bytes(mirror: Mirror, repo: Repo) -> int:
    return sum(part.bytes + part.index_bytes for part in await parts.live(mirror.services.db, repo.id))


async def test_what_is_stored_is_read_again_within_the_period_and_the_day_is_recorded(
    mirror: Mirror, work: Work
) -> None:
    repo = await kept(mirror, work)
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    size = await stored_bytes(mirror, repo)
    await rotation.due(mirror.services)
    assert await readings.days(db, team, mirror.clock.now - DAY) == []  # it is all new
    found = await readings.coverage(db, mirror.clock.now, team)
    assert (found.total, found.read, found.fresh, found.ratio) == (size, 0, size, 1.0)
    mirror.clock.now += 31 * DAY
    before = await readings.coverage(db, mirror.clock.now, team)
    assert (before.ratio, before.repos_read) == (0.0, 0)
    assert before.oldest_at is not None and mirror.clock.now - before.oldest_at > 30 * DAY
    mirror.clock.step = timedelta(milliseconds=1)
    await rotation.due(mirror.services)
    after = await readings.coverage(db, mirror.clock.now, team)
    assert (after.ratio, after.read, after.repos_read, after.damaged) == (1.0, size, 1, 0)
    assert after.oldest_at is not None and mirror.clock.now - after.oldest_at < DAY
    (day,) = await readings.days(db, team, mirror.clock.now - DAY)
    assert (day.bytes > size, day.objects, day.problems) == (True, 3 + 1 + 3, 0)


async def test_a_rotation_that_was_killed_goes_on_with_what_it_had_not_read(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await kept(mirror, work)
    mirror.clock.now += 31 * DAY
    keys: list[str] = []
    compare = rotation._compare

    async def dying(services: object, key: str, *rest: object) -> None:
        keys.append(key)
        if len(keys) == 3:
            raise KeyboardInterrupt
        await compare(services, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rotation, "_compare", dying)
    with pytest.raises(KeyboardInterrupt):
        await rotation.turn(mirror.services, at_once=True)
    await rotation.turn(mirror.services, at_once=True)
    live = await parts.live(mirror.services.db, repo.id)
    wanted = [key for part in live for key in (part.key, layout.index_key(part.key) * bool(part.index_bytes))]
    assert sorted(keys) == sorted([*filter(None, wanted), keys[2]])


async def test_reading_keeps_to_its_rate_across_restarts_and_makes_way_for_syncs(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await kept(mirror, work)
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    mirror.clock.now += 20 * DAY
    mirror.clock.step = timedelta()
    await db.execute("update repo set wanted_at = $2 where id = $1", repo.id, mirror.clock())
    await rotation.due(mirror.services)
    assert await readings.days(db, team, mirror.clock.now - DAY) == []  # a sync waits
    await db.execute("update repo set wanted_at = synced_at where id = $1", repo.id)
    monkeypatch.setattr(proving, "SLOWEST", 0.05)  # bytes a second
    for _ in range(3):
        await rotation.due(mirror.services)
    (day,) = await readings.days(db, team, mirror.clock.now - DAY)
    assert (
        day.bytes == (await parts.live(db, repo.id))[0].bytes + (await parts.live(db, repo.id))[0].index_bytes
    )
    mirror.clock.now += 9 * DAY  # nearly overdue, so that it waits no longer; and its time has come again
    await db.execute("update repo set wanted_at = $2 where id = $1", repo.id, mirror.clock())
    await rotation.due(mirror.services)
    assert (
        sum(one.objects for one in await readings.days(db, team, mirror.clock.now - 30 * DAY)) > day.objects
    )


@pytest.mark.parametrize("damage", ["part", "index", "manifest", "missing"])
async def test_a_byte_that_changed_is_found_named_and_told_once(
    mirror: Mirror, work: Work, damage: str
) -> None:
    repo = await kept(mirror, work)
    first = (await parts.live(mirror.services.db, repo.id))[0]
    key = {
        "part": first.key,
        "missing": first.key,
        "index": layout.index_key(first.key),
        "manifest": layout.manifest_key(repo.id, 2),
    }[damage]
    path = Path(mirror.services.settings.data) / "vault" / key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content)
    mirror.clock.now += 31 * DAY
    found = await rotation.turn(mirror.services, at_once=True)
    assert len(found.problems) == 1 and key in found.problems[0]
    db, team = mirror.services.db, await teams.default(mirror.services.db)
    (told,) = await notices.open_of(db, team)
    assert told.kind == "damage" and key in told.message
    if damage != "manifest":
        assert "#1 to #3 need it, no snapshot can be restored without it" in told.message
    covered = await readings.coverage(db, mirror.clock.now, team)
    assert covered.damaged == (damage != "manifest")
    assert (covered.ratio == 1.0) == (damage == "manifest")


async def test_an_object_that_the_vault_does_not_give_stops_no_other(
    mirror: Mirror, work: Work, make_work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await kept(mirror, work)
    other = make_work("other.git")
    other.commit()
    await mirror.backup(other)
    first = (await parts.live(mirror.services.db, repo.id))[0]
    read = DirectoryVault.read

    def refusing(vault: DirectoryVault, key: str, *where: int) -> Any:
        if key == first.key:
            error = NetworkError("the store answered 500")
            error.came_from(Origin.VAULT)
            raise error
        return read(vault, key, *where)

    mirror.clock.now += 31 * DAY
    mirror.clock.step = timedelta(milliseconds=1)
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryVault, "read", refusing)
        with pytest.raises(NetworkError, match="500"):
            await rotation.due(mirror.services)
    found = await readings.coverage(mirror.services.db, mirror.clock.now)
    assert (found.total - found.read, found.repos_read) == (first.bytes + first.index_bytes, 2)
    assert found.damaged == 0
    await rotation.due(mirror.services)  # it is tried again in the next turn
    assert (await readings.coverage(mirror.services.db, mirror.clock.now)).ratio == 1.0


async def test_a_vault_that_is_away_ends_a_turn(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept(mirror, work, 12)
    asked = []

    def away(_vault: DirectoryVault, key: str, *_where: int) -> Any:
        asked.append(key)
        error = NetworkError("the store does not answer")
        error.came_from(Origin.VAULT)
        raise error

    monkeypatch.setattr(DirectoryVault, "read", away)
    mirror.clock.now += 31 * DAY
    with pytest.raises(NetworkError):
        await rotation.turn(mirror.services, at_once=True)
    assert len(asked) == 9
    assert await notices.open_of(mirror.services.db, await teams.default(mirror.services.db)) == []


async def test_each_day_that_is_over_is_signed_once_for_each_team(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, services = await kept(mirror, work), mirror.services
    team = await teams.default(services.db)
    mirror.clock.now += 31 * DAY
    mirror.clock.now = mirror.clock.now.replace(hour=23, minute=30)
    day = mirror.clock.now.date()
    await rotation.turn(services, at_once=True)
    (read,) = await readings.days(services.db, team, mirror.clock.now)
    mirror.clock.now += timedelta(hours=1)  # a worker may still be counting what it read before midnight
    await daily.due(services)
    assert await daily_rows.of_team(services.db, team, None, 9) == []
    mirror.clock.now += timedelta(hours=1)

    async def away(key: str, stored: bytes) -> None:
        raise NetworkError("the vault cannot be reached")

    with monkeypatch.context() as during:
        during.setattr(services.vault, "put", away)
        with pytest.raises(NetworkError):
            await daily.due(services)
    (waiting,) = await daily_rows.of_team(services.db, team, None, 9)
    stored = await daily.of_day(services, team, str(day))  # from the database, while the vault is away
    await daily.due(services)
    await daily.due(services)  # not again
    assert [one.key async for one in services.vault.list(layout.EVIDENCE_DAYS)] == [waiting.key]
    assert await services.vault.get(waiting.key) == stored
    known = {key.id: key for key in await keys.every(services.db)}
    shown = judging.shown("day.json", stored, known)
    assert shown.kind == DAILY
    assert f"were read back on {day}, none missing or changed; 100 % of" in shown.sentence
    reading = statements.read(stored, "day.json")[0].fields.inner("reading")
    found = [reading.count(name) for name in ("bytes", "objects", "problems")]
    assert found == [read.bytes, read.objects, 0]
    exported = {name async for name, _ in evidence.exported(services, [repo], team, None)}
    assert f"statements/daily-verification-{day}.json" in exported
    with pytest.raises(NotFound):
        await daily.of_day(services, team, str(day - DAY))
    await services.db.execute("delete from daily_evidence")
    forged = json.loads(stored)
    forged["signatures"][0]["sig"] = "AAAA" + forged["signatures"][0]["sig"][4:]
    await services.vault.put(
        layout.daily_key(team, day - DAY, layout.unique()), statements.canonical(forged) + b"\n"
    )
    assert (await daily.replay(services), await daily.replay(services)) == (1, 0)  # as a rebuild does
    assert [row.day for row in await daily_rows.of_team(services.db, team, None, 9)] == [day]
