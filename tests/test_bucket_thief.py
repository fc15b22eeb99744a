"""Somebody who can add objects to the bucket, and delete none, has Everref itself delete nothing by them."""

import json
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from mirror.core.errors import KeyMissing
from mirror.core.formats import epochs, layout, manifest
from mirror.services.open import open_services
from mirror.store.backup import epochs as epoch_rows
from mirror.store.backup import parts
from mirror.store.upkeep import erased
from mirror.upkeep import heal, prune, verify
from mirror.upkeep.erasure import forget
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work, refs_of, run_git
from tests.test_sealed_team import seal


async def test_a_planted_object_that_says_that_a_repo_is_gone_deletes_nothing(
    mirror: Mirror, work: Work, empty_database: str
) -> None:
    work.commit()
    repo = (await mirror.backup(work)).repo
    said = {
        "format": 1,
        "repo": str(repo.id),
        "team": str(uuid4()),
        "snapshots": 1,
        "bytes": 1,
        "erased_at": "2026-11-01T00:00:00Z",
    }
    await mirror.services.vault.put(layout.erased_key(repo.id), json.dumps(said).encode())
    before = await mirror.keys()
    settings = replace(mirror.services.settings, database_url=empty_database)
    for one in (settings, mirror.services.settings):  # the database was lost, or is there
        async with open_services(one, clock=mirror.clock) as services:
            assert [one.repo.id for one in (await rebuild.rebuild(services)).repos] == [repo.id]
            await forget.due(services)
            assert await erased.find(services.db, repo.id) is None
    assert set(before) <= set(await mirror.keys())
    assert await mirror.refs(repo, 1) == work.refs()


@pytest.mark.parametrize("number", [1, 2])
async def test_a_planted_part_that_claims_to_replace_others_has_none_of_them_deleted(
    mirror: Mirror, work: Work, number: int
) -> None:
    moments = []
    for forced in range(3):
        work.commit("side", {"forced": b"secret %d" % forced}, parents=[])
        repo = (await mirror.backup(work)).repo
        moments.append(work.refs())
        if not forced:
            run_git("-C", work.path, "update-ref", "-d", "refs/heads/side")
            await mirror.backup(work)  # a snapshot that brings nothing has no part
            moments.append(work.refs())
    services, vault = mirror.services, mirror.services.vault
    real = await parts.live(services.db, repo.id)
    key = layout.bundle_key(repo.id, number, 1, 4, "0" * 16)
    claim = replace(real[0], key=key, complete=True, segments=())
    await vault.put(key, await vault.get(real[0].key))
    await vault.put(layout.index_key(key), manifest.encode_index(claim))
    if number > 1:
        at = mirror.clock()
        gone = (epochs.Dropped(1, 3, at, "the retention policy: keeps the last 1"),)
        record = epochs.Record(repo.id, number, 4, at, "the retention policy", "keeps the last 1", gone)
        await vault.put(layout.epoch_key(repo.id, number), epochs.encode(record))
    await services.db.execute("truncate repo, ref_change, ref_stay cascade")
    await rebuild.rebuild(services)
    mirror.clock.now += timedelta(days=2)
    await prune.prune(services, prune.GRACE)
    assert {part.key for part in real} <= set(await mirror.keys())
    if number > 1:
        assert not await epoch_rows.dropped(services.db, repo.id)
        return  # that epoch counts for nothing, so that every moment is as it was
    assert (await verify.verify(services, repo)).problems
    for each in (key, layout.index_key(key)):  # whoever runs Everref sees that, and deletes it
        await vault.delete(each)
    await verify.verify(services, repo)
    await heal.heal(services, repo)
    for n, refs in enumerate(moments, 1):
        assert refs_of(await mirror.restored(repo, n)) == refs


async def test_what_another_team_sealed_opens_for_no_repo_of_this_one(mirror: Mirror, work: Work) -> None:
    services = mirror.services
    await seal(mirror)
    work.commit()
    theirs = (await mirror.backup(work)).repo
    (part,) = await parts.live(services.db, theirs.id)
    await services.db.execute("insert into team (id, name) values ($1, 'thief')", thief := uuid4())
    own = uuid4()
    await services.db.execute(
        "insert into repo (id, team_id, name, url, created_at) values ($1, $2, 'mine', 'file:///', $3)",
        own,
        thief,
        mirror.clock(),
    )
    planted = part.key.replace(str(theirs.id), str(own))
    await services.stored.put(planted, await services.stored.get(part.key))
    assert await services.vault.get(part.key)
    with pytest.raises(KeyMissing):
        await services.vault.get(planted)
    with pytest.raises(KeyMissing):
        async for _ in services.vault.read(planted):
            pass
