"""Evidence that only the vault still has: read back after the database was lost."""

from dataclasses import replace
from typing import Final

from mirror.backup.evidence import OVERLAP
from mirror.core.errors import NoSuchObject
from mirror.core.formats import layout, statements
from mirror.core.formats.statements import DRILL, VERIFICATION, NotProven, PublicKey, Statement
from mirror.core.model import Repo
from mirror.services.open import Services
from mirror.store.evidence import keys
from mirror.store.evidence import statements as rows
from mirror.store.evidence.keys import NewKey
from mirror.store.evidence.statements import Row

_KEY_LIMIT: Final = 1 << 20  # bytes of the introduction of a key


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
