"""Evidence: signed when something is proved, checked without Everref, and void by one changed byte."""

import base64
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement as in_toto
from in_toto_attestation.v1 import statement_pb2

from mirror.backup import evidence
from mirror.core.errors import NetworkError, UsageError
from mirror.core.formats import layout, statements
from mirror.core.formats.statements import DRILL, NotProven, PublicKey, SigningKey, Statement, Subject
from mirror.core.keyring import Keyring
from mirror.core.model import Repo
from mirror.core.rules import evidence as judging
from mirror.restore import drill
from mirror.services.open import open_services
from mirror.store.evidence import keys
from mirror.store.evidence import statements as rows
from mirror.store.evidence.statements import Row
from mirror.upkeep import prune, state, verify
from mirror.upkeep.moving import rebuild
from tests.parts.everref import Mirror
from tests.parts.repos import Work

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def signed(key: SigningKey, at: datetime = AT) -> bytes:
    subject = (Subject("a/snapshots/0000000001.json", "0" * 64),)
    told = {
        "repo": {"id": "a", "name": "acme/api"},
        "snapshot": 1,
        "problems": [],
        "bytes": 306,
        "refs": 2,
        "seconds": 0.4,
        "taken_at": "2026-03-02T08:00:00.000000Z",
    }
    return statements.sign(Statement(DRILL, subject, at, told), key)


def ran(*words: str, cwd: Path, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)


def checked(home: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """`everref evidence verify` as somebody calls it who has no data."""
    env = {"PATH": "/usr/bin:/bin", "EVERREF_DATA": str(home)}
    return ran(
        sys.executable, "-m", "mirror.cli", "evidence", "verify", *map(str, words), cwd=Path.cwd(), env=env
    )


async def drilled(mirror: Mirror, work: Work) -> tuple[Repo, Row, bytes]:
    """A repo with one drill, and its statement as the vault has it."""
    work.commit("main", {"a": b"1"})
    repo = (await mirror.backup(work, "acme/api")).repo
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    row = (await rows.newest_of(mirror.services.db, repo.id))[DRILL]
    return repo, row, await mirror.services.vault.get(row.key)


async def public(mirror: Mirror) -> dict[str, PublicKey]:
    return {key.id: key for key in await keys.every(mirror.services.db)}


def test_any_changed_byte_shows() -> None:
    key = SigningKey.new()
    known = {key.id: PublicKey(key.public)}
    stored = signed(key)
    assert statements.verify(stored, known, "one.json").at == AT
    for place in range(len(stored)):
        for flip in (1, 32):
            changed = stored[:place] + bytes([stored[place] ^ flip]) + stored[place + 1 :]
            with pytest.raises(NotProven, match=r"^one\.json: "):
                statements.verify(changed, known, "one.json")


@pytest.mark.parametrize(
    ("since", "until", "why"),
    [
        (AT + DAY, None, "was in use from"),
        (AT - 2 * DAY, AT - DAY, "was in use from"),
        (AT - DAY, AT + DAY, None),
        (AT, None, None),
    ],
)
def test_a_key_holds_while_it_was_in_use(since: datetime, until: datetime | None, why: str | None) -> None:
    key = SigningKey.new()
    known = {key.id: PublicKey(key.public, since, until)}
    if why is None:
        assert statements.verify(signed(key), known, "one.json").kind == DRILL
        return
    with pytest.raises(NotProven, match=why):
        statements.verify(signed(key), known, "one.json")


def test_what_is_signed_by_no_name_is_no_statement() -> None:
    key = SigningKey.new()
    envelope = json.loads(signed(key))
    envelope["signatures"][0]["keyid"] = 5
    with pytest.raises(NotProven, match="was changed"):
        statements.verify(statements.canonical(envelope) + b"\n", {key.id: PublicKey(key.public)}, "one.json")


def test_another_key_is_named() -> None:
    key, other = SigningKey.new(), SigningKey.new()
    with pytest.raises(NotProven, match=f"signed by {key.id}, which is not among the given keys"):
        statements.verify(signed(key), {other.id: PublicKey(other.public)}, "one.json")
    assert "private" not in repr(key)


def test_a_list_of_keys_holds_together() -> None:
    old, new = SigningKey.new(), SigningKey.new()
    first = statements.introduced(statements.introduce(old, AT, None), "old")
    second = statements.introduced(statements.introduce(new, AT + DAY, old), "new")
    said = statements.published([first, second])
    assert list(statements.keys_of(said, "keys.json")) == [old.id, new.id]
    assert statements.keys_of(second.pem.encode(), "key.pem")[new.id].public == new.public
    forged = replace(second, previous=first.id, introduction=statements.introduce(new, AT, None).decode())
    for wrong in (
        statements.published([first, forged]),
        said.replace(first.id.encode(), second.id.encode()),
        b"{}",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        statements.published([replace(first, introduction="\ud800")]),
    ):
        with pytest.raises((UsageError, NotProven)):
            statements.keys_of(wrong, "keys.json")


async def test_a_drill_signs_a_statement_that_other_tools_read_and_check(
    mirror: Mirror, work: Work, tmp_path: Path
) -> None:
    repo, row, stored = await drilled(mirror, work)
    envelope = json.loads(stored)
    payload = base64.b64decode(envelope["payload"])
    parsed = json_format.Parse(payload, statement_pb2.Statement())
    in_toto.Statement.copy_from_pb(parsed).validate()
    snapshot = await mirror.snapshot(repo, 1)
    assert parsed.predicate_type == "https://everref.example.org/evidence/drill/v1"
    assert [one.digest["sha256"] for one in parsed.subject] == [
        snapshot.manifest_sha256,
        snapshot.refs_digest,
    ]
    assert parsed.subject[0].name == layout.manifest_key(repo.id, 1)
    assert (row.passed, row.snapshot, row.at.tzinfo) == (True, 1, UTC)
    # As docs/evidence.md has it: openssl, with the bytes that DSSE signs.
    [key] = (await public(mirror)).values()
    pae = b"DSSEv1 %d %b %d %b" % (
        len(envelope["payloadType"]),
        envelope["payloadType"].encode(),
        len(payload),
        payload,
    )
    for name, content in (
        ("key.pem", key.pem.encode()),
        ("signed", pae),
        ("sig", base64.b64decode(envelope["signatures"][0]["sig"])),
    ):
        (tmp_path / name).write_bytes(content)
    openssl = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pem"]
    done = ran(*openssl, "-in", "signed", "-sigfile", "sig", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


async def test_a_verification_signs_which_parts_were_read_back(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"1"})
    repo = (await mirror.backup(work)).repo
    await verify.verify(mirror.services, repo)
    row = (await rows.newest_of(mirror.services.db, repo.id))["verification"]
    found = statements.verify(await mirror.services.vault.get(row.key), await public(mirror), "v")
    assert found.predicate["result"] == "passed"
    for part in found.predicate["parts"]:
        stored = await mirror.services.vault.get(part["key"])
        assert rows.digest(stored) == part["sha256"]
    assert await prune.strays(mirror.services, repo) == []  # what is signed is no waste


async def test_a_failed_drill_is_signed_as_one(mirror: Mirror, work: Work) -> None:
    work.commit("main", {"a": b"1"})
    repo = (await mirror.backup(work)).repo
    [part] = [key for key in await mirror.keys() if key.endswith(".bundle")]
    (Path(mirror.services.settings.data) / "vault" / part).unlink()
    await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    row = (await rows.newest_of(mirror.services.db, repo.id))[DRILL]
    assert not row.passed
    shown = judging.shown("d", await mirror.services.vault.get(row.key), await public(mirror))
    assert "FAILED" in shown.sentence


async def test_evidence_waits_in_a_row_while_the_vault_is_away(
    mirror: Mirror, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.commit("main", {"a": b"1"})
    repo = (await mirror.backup(work)).repo
    put = type(mirror.services.vault).put

    async def away(*_: object) -> None:
        raise NetworkError("the vault does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(mirror.services.vault), "put", away)
        await drill.drill(mirror.services, repo, await mirror.snapshot(repo, 1))
    assert type(mirror.services.vault).put is put
    row = (await rows.newest_of(mirror.services.db, repo.id))[DRILL]
    assert row.body and not [key for key in await mirror.keys() if "evidence" in key]
    body = await evidence.stored(mirror.services, row)
    await evidence.store_waiting(mirror.services)
    await evidence.store_waiting(mirror.services)
    assert await mirror.services.vault.get(row.key) == body
    assert len([key for key in await mirror.keys() if key.startswith(layout.EVIDENCE_KEYS)]) == 1


async def test_what_an_older_key_signed_holds_after_a_rotation(mirror: Mirror, work: Work) -> None:
    _, row, stored = await drilled(mirror, work)
    first = await evidence.rotate(mirror.services)
    second = await evidence.rotate(mirror.services)
    known = await public(mirror)
    assert statements.verify(stored, known, "old").kind == DRILL
    assert [key.previous for key in known.values()] == [None, row.key_id, first.id]
    assert statements.is_introduced_by(second, known) and statements.is_introduced_by(first, known)
    ended = known[row.key_id].until
    assert ended and first.since and ended == first.since + evidence.OVERLAP
    now = await evidence.signing_key(mirror.services)
    assert now and now.id == second.id
    assert set(statements.keys_of(statements.published(list(known.values())), "k")) == set(known)


async def test_a_changed_statement_in_the_vault_is_not_handed_out(mirror: Mirror, work: Work) -> None:
    _, row, stored = await drilled(mirror, work)
    path = Path(mirror.services.settings.data) / "vault" / row.key
    path.chmod(0o600)
    path.write_bytes(stored.replace(b'"keyid":"', b'"keyid": "'))
    with pytest.raises(NotProven, match="was changed in the vault"):
        await evidence.stored(mirror.services, row)


async def test_lost_secret_keys_make_a_new_key_and_old_evidence_still_holds(
    mirror: Mirror, work: Work
) -> None:
    repo, row, stored = await drilled(mirror, work)
    other = replace(mirror.services, keyring=Keyring(["n" * 40]))
    await drill.drill(other, repo, await mirror.snapshot(repo, 1))
    known = await public(mirror)
    newest = (await rows.newest_of(mirror.services.db, repo.id))[DRILL]
    assert newest.key_id != row.key_id and known[newest.key_id].previous is None
    assert statements.verify(stored, known, "old") and known[row.key_id].until is not None
    without = replace(mirror.services, keyring=None)
    assert await evidence.signing_key(without) is None
    await drill.drill(without, repo, await mirror.snapshot(repo, 1))  # it proves, and signs nothing


@pytest.mark.parametrize("keys_known", [True, False], ids=["the state has the key", "the key was lost too"])
async def test_a_rebuild_finds_the_evidence_again(
    mirror: Mirror, work: Work, empty_database: str, keys_known: bool, tmp_path: Path
) -> None:
    repo, row, stored = await drilled(mirror, work)
    if keys_known:
        await state.export(mirror.services)
    rotated = await evidence.rotate(mirror.services)
    settings = replace(
        mirror.services.settings,
        database_url=empty_database,
        data=str(tmp_path / "again"),
        vault_url=f"file://{mirror.services.settings.data}/vault",
    )
    async with open_services(settings, clock=mirror.clock) as again:
        await rebuild.rebuild(again)
        await rebuild.rebuild(again)
        found = await rows.newest_of(again.db, repo.id)
        if not keys_known:
            assert found == {} and await keys.every(again.db) == []
            return
        assert found[DRILL] == row and await evidence.stored(again, found[DRILL]) == stored
        assert [key.id for key in await keys.every(again.db)] == [row.key_id, rotated.id]


async def test_the_command_checks_files_without_any_data(mirror: Mirror, work: Work, tmp_path: Path) -> None:
    _, _, stored = await drilled(mirror, work)
    good, bad, known = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "keys.json"
    good.write_bytes(stored)
    bad.write_bytes(stored.replace(b'"sig":"', b'"sig":"A', 1))
    known.write_bytes(statements.published(list((await public(mirror)).values())))
    home = tmp_path / "nothing"
    done = checked(home, good, "--key", known)
    assert done.returncode == 0 and "was restored from the vault alone in" in done.stdout, done.stderr
    assert not home.exists()
    done = checked(home, good, bad, "--key", known, "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["holds"] for line in lines] == [True, False] and "bad.json" in lines[1]["why"]
    assert "1 of 2 files did not hold" in json.loads(done.stderr)["error"]["message"]
    assert checked(home, good, "--key", tmp_path / "none").returncode == 2
    assert checked(home, tmp_path / "none", "--key", known).returncode == 2
