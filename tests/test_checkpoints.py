"""Checkpoints: whatever is rewritten after one shows, and what one proof tells is about nobody else."""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mirror.backup import evidence as signing
from mirror.cli.commands import evidence as command
from mirror.core.errors import Corrupt, NetworkError, NotFound, Refused
from mirror.core.formats import layout, proofs, statements
from mirror.core.formats.proofs import REPO, TEAM
from mirror.core.formats.statements import NotProven, PublicKey
from mirror.core.model import Repo
from mirror.core.rules import evidence as judging
from mirror.restore import drill
from mirror.services.open import Services, open_services
from mirror.store.evidence import checkpoints as rows
from mirror.store.evidence import keys
from mirror.store.people import audit, teams
from mirror.store.people.audit import Entry
from mirror.upkeep import checkpoints, evidence, state
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work

DAY = timedelta(days=1)


async def some(mirror: Mirror, work: Work, name: str = "acme/api") -> Repo:
    work.commit("main", {"a": b"1"})
    repo = (await mirror.backup(work, name)).repo
    team = await teams.default(mirror.services.db)
    await audit.add(
        mirror.services.db,
        team,
        Entry(person_id=None, actor="ann", action="repo.add", subject=name),
        mirror.clock(),
    )
    return repo


async def signed(mirror: Mirror) -> rows.Row:
    """A checkpoint of today, in the vault."""
    mirror.clock.now += DAY
    await checkpoints.due(mirror.services)
    last = await rows.last(mirror.services.db)
    assert last is not None
    return last


async def known(services: Services) -> dict[str, PublicKey]:
    return {key.id: key for key in await keys.every(services.db)}


def file(mirror: Mirror, key: str) -> Path:
    path = Path(mirror.services.settings.data) / "vault" / key
    path.chmod(0o600)
    return path


async def test_a_checkpoint_is_signed_once_a_day_and_names_the_one_before(mirror: Mirror, work: Work) -> None:
    repo = await some(mirror, work)
    first = await signed(mirror)
    await checkpoints.due(mirror.services)  # not again today
    work.commit("main", {"a": b"2"})
    await mirror.backup(work)
    second = await signed(mirror)
    assert (first.number, second.number, second.size) == (1, 2, 2)
    trusted = await known(mirror.services)
    found = proofs.checkpoint(
        statements.verify(await checkpoints.body(mirror.services, second), trusted, "2"), "2"
    )
    assert found.previous == first.sha256
    heads = {leaf.head.of: leaf.head for leaf in await checkpoints.leaves(mirror.services, second)}
    assert (heads[REPO].id, heads[REPO].number, heads[TEAM].number) == (repo.id, 2, 1)
    checked = await checkpoints.check(mirror.services)
    assert (checked.checkpoints, checked.heads, checked.problems) == (2, 3, ())


async def test_a_proof_is_about_one_history_and_shows_nothing_of_another(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    repo, other = await some(mirror, work), await some(mirror, make_work("other"), "acme/other")
    await signed(mirror)
    trusted = await known(mirror.services)
    stored = await checkpoints.proof(mirror.services, REPO, repo.id)
    shown = judging.shown("p.json", stored, trusted)
    assert f"the history of repo {repo.id} went to 1" in shown.sentence
    assert str(other.id).encode() not in stored
    said = json.loads(stored)
    leaf = json.loads(said["leaf"])
    for changed in (
        {**said, "leaf": json.dumps({**leaf, "number": 2}, sort_keys=True, separators=(",", ":"))},
        {**said, "index": said["index"] + 1},
        {**said, "path": ["0" * 64, *said["path"][1:]]},
        {**said, "checkpoint": said["checkpoint"].replace('"sig":"', '"sig":"A')},
    ):
        with pytest.raises(NotProven, match=r"^p\.json"):
            judging.shown("p.json", statements.canonical(changed) + b"\n", trusted)
    with pytest.raises(NotProven, match="written as Everref writes it"):
        judging.shown("p.json", stored.replace(b":", b": ", 1), trusted)


async def test_the_newest_checkpoint_is_shown_to_follow_one_that_somebody_has(
    mirror: Mirror, work: Work
) -> None:
    await some(mirror, work)
    for _ in range(5):
        await signed(mirror)
    trusted = await known(mirror.services)
    for number in range(1, 5):
        stored = await checkpoints.extension(mirror.services, number)
        shown = judging.shown("f.json", stored, trusted)
        assert shown.sentence.startswith(f"checkpoint 5 follows checkpoint {number} of ")
        said = json.loads(stored)
        other = (await checkpoints.extension(mirror.services, 1 + number % 4)).decode()
        forged = statements.canonical({**said, "first": json.loads(other)["first"]}) + b"\n"
        with pytest.raises(NotProven, match="does not follow|was rewritten"):
            judging.shown("f.json", forged, trusted)
    with pytest.raises(NotFound):
        await checkpoints.extension(mirror.services, 5)


REWRITES: dict[str, str] = {
    "a manifest in the vault": "snapshot 1 of repo .* was rewritten in the vault",
    "a snapshot in the database": "snapshot 1 of repo .* was rewritten in the database",
    "the history in vault and database alike": "was rewritten in the database",
    "an entry of the audit log": "entry 1 of the audit log of team .* was rewritten in the database",
    "the audit log cut off": "entry 1 of the audit log of team .* is missing from the database",
    "a checkpoint": "checkpoint 1 was changed in the vault",
    "a checkpoint in vault and database": "does not match|does not follow",
    "the leaves": "does not lead to the signed root|cannot be read|not written",
    "a checkpoint gone": "0000000001.json is not in the vault",
}


@pytest.mark.parametrize("what", REWRITES)
async def test_whatever_is_rewritten_is_named(mirror: Mirror, work: Work, what: str) -> None:
    repo = await some(mirror, work)
    await signed(mirror)
    await signed(mirror)
    db = mirror.services.db
    manifest, first = layout.manifest_key(repo.id, 1), layout.checkpoint_key(1)
    if what in ("a manifest in the vault", "the history in vault and database alike"):
        path = file(mirror, manifest)
        path.write_bytes(path.read_bytes().replace(b'"reason":"manual"', b'"reason":"sweep"'))
    if what in ("a snapshot in the database", "the history in vault and database alike"):
        await db.execute("update snapshot set manifest_sha256 = $1", "0" * 64)
    await db.execute("alter table audit disable trigger user")
    if what == "an entry of the audit log":
        await db.execute("update audit set sha256 = $1", "0" * 64)
    if what == "the audit log cut off":
        await db.execute("delete from audit")
    if what.startswith("a checkpoint"):
        stored = await mirror.services.vault.get(first)
        changed = stored.replace(b'"sig":"', b'"sig":"A')
        path = file(mirror, first)
        if what == "a checkpoint gone":
            path.unlink()
        else:
            path.write_bytes(changed)
        if what == "a checkpoint in vault and database":
            await db.execute(
                "update checkpoint set sha256 = $1 where number = 1", sha256(changed).hexdigest()
            )
    if what == "the leaves":
        path = file(mirror, layout.leaves_key(1))
        path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":2', 1))
    found = await checkpoints.check(mirror.services)
    assert found.problems
    assert any(re.search(REWRITES[what], problem) for problem in found.problems), found.problems


async def test_repos_that_come_and_go_between_two_checkpoints_are_no_contradiction(
    mirror: Mirror, work: Work, make_work: Callable[..., Work]
) -> None:
    repo = await some(mirror, work)
    await signed(mirror)
    await some(mirror, make_work("other"), "acme/new")
    await mirror.services.db.execute(
        "update repo set archived_at = now(), paused_at = now() where id = $1", repo.id
    )
    second = await signed(mirror)
    assert second.size == 3
    assert (await checkpoints.check(mirror.services)).problems == ()


async def test_a_checkpoint_waits_for_the_vault_and_two_at_once_make_one(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some(mirror, work)

    async def away(*_: object) -> None:
        raise NetworkError("the vault does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(mirror.services.vault), "put", away)
        with pytest.raises(NetworkError):
            await checkpoints.due(mirror.services)
    last = await rows.last(mirror.services.db)
    assert last and last.body and not await rows.add(mirror.services.db, last)
    await checkpoints.due(mirror.services)
    await checkpoints.store_waiting(mirror.services)
    assert (await checkpoints.check(mirror.services)).problems == ()


async def test_a_rebuild_goes_on_from_the_last_checkpoint(
    mirror: Mirror, work: Work, tmp_path: Path, empty_database: str
) -> None:
    await some(mirror, work)
    await signed(mirror)
    await state.export(mirror.services)
    await signed(mirror)
    settings = replace(
        mirror.services.settings,
        database_url=empty_database,
        data=str(tmp_path / "again"),
        vault_url=f"file://{mirror.services.settings.data}/vault",
    )
    async with open_services(settings, clock=mirror.clock) as again:
        assert await checkpoints.take(again) is None  # there is nothing to sign, and no key for it
        assert await keys.every(again.db) == []
        await rebuild.rebuild(again)
        mirror.clock.now += DAY
        await checkpoints.due(again)
        last = await rows.last(again.db)
        assert last and last.number == 3
        assert (await checkpoints.check(again)).problems == ()
    with pytest.raises(Refused, match="checkpoint 3 of another database; run everref rebuild"):
        await checkpoints.take(mirror.services)


async def test_an_export_holds_offline_and_names_what_does_not(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    repo = await some(mirror, work)
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    await signed(mirror)
    await signed(mirror)
    team = await teams.default(mirror.services.db)
    files = {name: stored async for name, stored in evidence.exported(mirror.services, [repo], team, 1)}
    path = tmp_path / "api.zip"
    await command._zipped(path, evidence.exported(mirror.services, [repo], team, 1))
    with zipfile.ZipFile(path) as whole:
        assert set(whole.namelist()) == set(files)
    trusted = statements.keys_of(files["keys.json"], "keys.json")
    shown: dict[str, Any] = {
        name: judging.shown(name, stored, trusted)
        for name, stored in files.items()
        if name not in ("README.txt", "keys.json")
    }
    assert sorted(one.kind for one in shown.values()) == [
        "checkpoint",
        "consistency",
        "drill",
        "inclusion",
        "inclusion",
    ]
    assert judging.contradiction(shown) is None
    first = await rows.of_number(mirror.services.db, 1)
    assert first is not None
    old = judging.shown("1.json", await checkpoints.body(mirror.services, first), trusted)
    assert judging.contradiction({**shown, "1.json": old}) is None
    forged = proofs.Checkpoint(1, first.at, 0, b"\0" * 32, None, bytes.fromhex("00" * 32))
    key = await signing.signing_key(mirror.services)
    assert key is not None
    other = judging.shown("other.json", proofs.sign(forged, key), await known(mirror.services))
    why = judging.contradiction({"1.json": old, "other.json": other})
    assert why and "both have checkpoint 1, and it differs" in why
    leaf = proofs.Leaf(proofs.Head(proofs.REPO, repo.id, 1, "0" * 64), "00" * 16)
    forked = proofs.Checkpoint(2, first.at, 1, leaf.hash, first.sha256, proofs.entry(first.sha256))
    proof = proofs.include(proofs.sign(forked, key), leaf, 0, [])  # of another second checkpoint
    lone = judging.shown("proof.json", proof, await known(mirror.services))
    why = judging.contradiction({**shown, "proof.json": lone})
    assert why and "both have checkpoint 2, and it differs" in why
    with pytest.raises(NotFound, match="no checkpoint 7"):
        await command._zipped(tmp_path / "no.zip", evidence.exported(mirror.services, [repo], None, 7))
    assert not (tmp_path / "no.zip").exists()


def test_leaves_that_cannot_be_read_are_said() -> None:
    for text in ("", "{}", '{"repo":"x"}', '{"number":1,"repo":"6f2daac8-0000-0000-0000-000000000000"}'):
        with pytest.raises(Corrupt, match="leaf"):
            proofs.leaf_of(text, "leaves")
