"""Notes: what is told of a repo besides its snapshots reaches the vault, and comes back from it."""

from uuid import UUID

import pytest

from mirror.backup import notes as keeping
from mirror.core.errors import Corrupt
from mirror.core.formats import layout, notes
from mirror.core.model import Repo, RepoId
from mirror.store.backup import notes as rows
from mirror.store.database import Db, transaction
from mirror.upkeep import verify
from tests.parts.everref import Mirror
from tests.parts.repos import Work


async def kept(mirror: Mirror, work: Work) -> Repo:
    work.commit()
    return (await mirror.backup(work)).repo


async def told(mirror: Mirror, repo: Repo, number: int) -> None:
    """Keep a note in a transaction."""
    body = notes.encode(repo.id, "told", {"number": number, "rows": [{"name": "é"}, {"name": "b"}]})
    async with transaction(mirror.services.db) as connection:
        await rows.add_within(connection, repo.id, "told", body, mirror.clock())


async def test_a_note_is_readable_json_and_reads_back() -> None:
    repo = RepoId(UUID(int=7))
    stored = notes.encode(repo, "told", {"number": 3, "rows": [{"name": "é"}]})
    assert stored.decode() == (
        '{\n"format":1,\n"repo":"00000000-0000-0000-0000-000000000007",\n"kind":"told",\n"number":3,\n'
        '"rows":[\n{"name":"é"}\n]\n}\n'
    )
    found = notes.decode(stored)
    assert (found.repo, found.kind, found.fields.count("number")) == (repo, "told", 3)
    with pytest.raises(Corrupt, match="format is not 1"):
        notes.decode(stored.replace(b'"format":1', b'"format":2'))


async def test_notes_reach_the_vault_once_and_are_accounted_for(mirror: Mirror, work: Work) -> None:
    repo = await kept(mirror, work)
    for number in range(3):
        await told(mirror, repo, number)
    waiting = await rows.waiting(mirror.services.db, repo.id, 10)
    await mirror.services.vault.put(waiting[0].key, waiting[0].body)  # by a run that died right after
    await keeping.store_waiting(mirror.services)
    await keeping.store_waiting(mirror.services)
    keys = [key for key in await mirror.keys() if layout.parse_note_key(key)]
    assert keys == sorted(await rows.known(mirror.services.db, repo.id)) == [one.key for one in waiting]
    found = await verify.verify(mirror.services, repo)
    assert (found.problems, found.strays) == ((), ())
    await mirror.services.vault.delete(keys[1])
    assert [keys[1] in line for line in (await verify.verify(mirror.services, repo)).problems] == [True]


async def test_notes_keep_their_order_when_the_clock_goes_back(mirror: Mirror, work: Work) -> None:
    repo = await kept(mirror, work)
    for number in range(3):
        mirror.clock.now -= 2 * mirror.clock.step
        await told(mirror, repo, number)
    waiting = await rows.waiting(mirror.services.db, repo.id, 10)
    assert [notes.decode(one.body).fields.count("number") for one in waiting] == [0, 1, 2]
    assert [one.key for one in waiting] == sorted(one.key for one in waiting)


async def test_what_the_database_lost_is_read_back_in_order_and_once(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = await kept(mirror, work)
    for number in range(3):
        await told(mirror, repo, number)
    await keeping.store_waiting(mirror.services)
    await mirror.services.db.execute("delete from note")
    applied = []

    async def apply(connection: Db, repo_id: RepoId, note: notes.Note) -> None:
        applied.append(note.fields.count("number"))

    monkeypatch.setattr(keeping, "_KINDS", {"told": apply})
    for _ in range(2):
        await keeping.replay(mirror.services, repo)
    assert applied == [0, 1, 2]
    assert len(await rows.known(mirror.services.db, repo.id)) == 3
