"""Evidence to take along, and evidence that only the vault still has, after the database was lost."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from mirror.backup.evidence import OVERLAP, stored
from mirror.core.errors import NoSuchObject, NotFound
from mirror.core.formats import layout, proofs, statements
from mirror.core.formats.statements import DAILY, DRILL, VERIFICATION, NotProven, PublicKey, Statement
from mirror.core.model import Repo
from mirror.services.open import Services
from mirror.store.evidence import checkpoints as checkpoint_rows
from mirror.store.evidence import daily as daily_rows
from mirror.store.evidence import keys
from mirror.store.evidence import statements as rows
from mirror.store.evidence.keys import NewKey
from mirror.store.evidence.statements import Row
from mirror.store.people.teams import TeamId
from mirror.upkeep import checkpoints

_KEY_LIMIT: Final = 1 << 20  # bytes of the introduction of a key
_AT_ONCE: Final = 100  # statements read from the database at a time
_README: Final = """\
Evidence of Everref
===================

statements/       what drills, verifications and the reading of each day showed, one file each, signed
checkpoint.json   the heads of all histories and audit logs at one time, signed
checkpoint.tsr    when an authority had seen it (RFC 3161), if one was configured
inclusion/        the proofs that these histories are in that checkpoint
follows-*.json    the proof that the checkpoint follows one that you had before, if you named it
keys.json         the public keys, as of now. Get them from the installation itself, too:
                  https://<its host>/.well-known/everref-evidence.json, and compare.

To check everything, without any data of Everref:

  everref evidence verify statements/*.json checkpoint.json inclusion/*.json --key keys.json

With stock tools (openssl 3 and Python), for one file:

python3 -c 'import base64, json, sys
e = json.load(open(sys.argv[1])); p = base64.b64decode(e["payload"]); t = e["payloadType"].encode()
open("signed", "wb").write(b"DSSEv1 %d %s %d %s" % (len(t), t, len(p), p))
open("signature", "wb").write(base64.b64decode(e["signatures"][0]["sig"]))
k = {one["key_id"]: one for one in json.load(open("keys.json"))["keys"]}
open("key.pem", "w").write(k[e["signatures"][0]["keyid"]]["public_key"])' checkpoint.json
openssl pkeyutl -verify -rawin -pubin -inkey key.pem -in signed -sigfile signature

The time stamp, with the certificates of the authority, which it publishes:

everref evidence verify checkpoint.json checkpoint.tsr --key keys.json --tsa CERTS.pem
openssl ts -verify -in checkpoint.tsr -data checkpoint.json -CAfile CERTS.pem

docs/evidence.md of Everref says what each field means.
"""


async def exported(
    services: Services, chosen: Sequence[Repo], team: TeamId | None, known: int | None
) -> AsyncIterator[tuple[str, bytes]]:
    """Everything that shows how these repos are backed up, file by file: its name, and its bytes.

    `team`: the proof of its audit log and the statements about its days, too. `known`: the number of a
    checkpoint that somebody has, which the newest one is shown to follow.
    Raises NotFound without such a checkpoint, and the vault's errors.
    """
    yield "README.txt", _README.encode()
    yield "keys.json", statements.published(await keys.every(services.db))
    for repo in chosen:
        before = None
        while batch := await rows.of_repo(services.db, repo.id, before, _AT_ONCE):
            for row in batch:
                yield f"statements/{repo.id}-{row.kind}-{row.name}", await stored(services, row)
            before = batch[-1].at
    if team is not None:
        day = None
        while days := await daily_rows.of_team(services.db, team, day, _AT_ONCE):
            for one in days:
                yield f"statements/{DAILY}-{one.name}", await stored(services, one)
            day = days[-1].day
    newest = await checkpoint_rows.last(services.db)
    if newest is None:
        if known is not None:
            raise NotFound(f"there is no checkpoint {known}")
        return
    yield "checkpoint.json", await checkpoints.body(services, newest)
    if (stamp := await checkpoints.stamp_of(services, newest)) is not None:
        yield "checkpoint.tsr", stamp
    wanted: set[tuple[str, UUID]] = {(proofs.REPO, repo.id) for repo in chosen}
    if team is not None:
        wanted.add((proofs.TEAM, team))
    for (of, id), proof in (await checkpoints.inclusions(services, newest, wanted)).items():
        yield f"inclusion/{of}-{id}.json", proof
    if known is not None:
        yield f"follows-{known}.json", await checkpoints.extension(services, known)


async def replay_keys(services: Services) -> None:
    """Record the keys that the vault has, the database has not, and a key that it has introduced.

    Anybody who can write to the vault can add a key there, so that one which no known key introduced is
    left alone; what it signed is then checked with a list of keys that was kept elsewhere. They only
    check. Safe to run twice.
    """
    known = {key.id: key for key in await keys.every(services.db)}
    found: dict[str, tuple[str, PublicKey]] = {}
    async for stat in services.vault.list(layout.EVIDENCE_KEYS):
        try:
            stored = await services.vault.get(stat.key, limit=_KEY_LIMIT)
            key = statements.introduced(stored, stat.key)
        except (NotProven, NoSuchObject) as error:
            services.progress.note(str(error))
            continue
        if key.id not in known:
            found[key.id] = stat.key, key
    ends = {key.previous: key.since for _, key in found.values() if key.previous and key.since}
    while trusted := [one for one in found.values() if statements.is_introduced_by(one[1], known)]:
        for vault_key, key in trusted:
            del found[key.id]
            next_since = ends.get(key.id)
            until = next_since + OVERLAP if next_since else services.clock()
            known[key.id] = replace(key, until=until)
            await keys.read_back(services.db, NewKey(key, vault_key), until, services.clock())
    for vault_key, _ in found.values():
        services.progress.note(f"{vault_key}: no key that is known introduced this one; it is left out")


async def replay(services: Services, repo: Repo) -> int:
    """Record the statements about a repo that the vault has, the database has not, and a known key signed.

    Returns how many. Others are left alone, in the vault. Safe to run twice.
    """
    here, added = await rows.known(services.db, repo.id), 0
    trusted = {key.id: key for key in await keys.every(services.db)}
    async for stat in services.vault.list(layout.evidence_prefix(repo.id)):
        if stat.key in here or not layout.is_evidence(stat.key):
            continue
        try:
            stored = await services.vault.get(stat.key, limit=statements.LIMIT)
            statement = statements.verify(stored, trusted, stat.key)
            row = _row(repo, stat.key, statement, statements.read(stored, stat.key)[1][0], stored)
        except (NotProven, NoSuchObject) as error:
            services.progress.note(f"left out: {error}")
            continue
        added += await rows.add(services.db, row)
    return added


def _row(repo: Repo, key: str, statement: Statement, key_id: str, stored: bytes) -> Row:
    """What the database had of a statement. Raises NotProven if it is about something else."""
    fields = statement.fields
    if statement.kind not in (DRILL, VERIFICATION) or fields.inner("repo").uuid("id") != repo.id:
        raise NotProven(f"{key}: it is not about this repo")
    return Row(
        key,
        repo.id,
        statement.kind,
        fields.count("snapshot", 1),
        fields.count("moment") if "moment" in fields.fields else 0,
        fields.time("finished_at"),
        fields.text("result") == "passed",
        key_id,
        rows.digest(stored),
    )
