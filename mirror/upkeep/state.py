"""Exporting and importing the state that no history has: teams, people, connections, choices, audit logs.

Who calls: the sweep, daily; `everref export`; and `everref rebuild`, which imports the
newest one. An export is sealed with the keys of SECRET_KEYS: without them it
stays sealed, but the history, which is not sealed, is still rebuilt.
"""

import asyncio
import hashlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Final
from uuid import UUID

from mirror.core.errors import Corrupt, Locked, NoSuchObject, OurFault, Refused
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Fields, RepoFile, time_text
from mirror.core.formats.state_export import Opener, Sealer
from mirror.core.identities import Identity
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import RepoId
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store.people import keys as team_keys
from mirror.store.people import notices, teams
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import reencryption, state
from mirror.store.upkeep.state import Head, Row

EVERY: Final = timedelta(days=1)
KEPT: Final = timedelta(days=30)
ALWAYS_KEPT: Final = 3  # however old they are
_READ: Final = 1 << 20
_AT_ONCE: Final = 500  # rows

log = logging.getLogger("mirror.state")


@dataclass(frozen=True, slots=True)
class Exported:
    """An export in the vault."""

    key: str
    taken_at: datetime
    bytes: int
    tables: Mapping[str, int]  # rows of each


@dataclass(frozen=True, slots=True)
class ImportedState:
    """What an import of the state brought back."""

    taken_at: datetime | None  # as of when; None: none could be read
    added: Mapping[str, int]  # rows of each table that were not here
    aside: Sequence[str] = ()  # why newer ones could not be read, one line each


@dataclass(frozen=True, slots=True)
class About:
    """What can be read of an export without a key."""

    key: str
    taken_at: datetime
    sealed_to: str  # the id of the key
    heads: Sequence[Head]  # how far the audit logs went


async def due(services: Services) -> None:
    """Export the state once a day and when the keys changed; delete old exports. A maintenance task.

    Safe to run twice, also at once.
    """
    if services.keyring is None:
        return
    last = await latest(services)
    if last is None or services.clock() - last.taken_at >= EVERY or last.sealed_to != services.keyring.id:
        await tell_of_contradictions(services)
        await export(services)
    await prune(services)


async def export(services: Services) -> Exported:
    """Store the present state, and beside it how far the audit logs go.

    1. The row that names the export, so that this database knows it as its own.
    2. One consistent read of all tables into a sealed file on this disk: nothing else waits for it.
    3. The sealed object, then its description that needs no keys: from here on it exists.
    4. The row is marked as stored.

    Safe to run twice: each run makes its own export. Raises Refused if this database is
    new and the vault has the state of an earlier one that was not imported yet.
    """
    if services.keyring is None:
        raise OurFault("the state cannot be encrypted: set SECRET_KEYS (32 random characters or more)")
    if others := await foreign(services):
        raise Refused(
            f"the vault has the state of another database ({others[-1]}); run everref rebuild to import it"
        )
    at = services.clock()
    marks = await reencryption.marks(services.db, len(services.keyring.mark))
    opens_with = services.keyring.id if marks.keys() <= {services.keyring.mark} else None
    key = layout.state_key(at, layout.unique())
    await state.begin(services.db, key, at)
    failpoints.reached("state: begun")
    with tempfile.TemporaryFile(dir=services.disk.root) as file:
        tables, heads = await _spool(services, services.keyring, key, file)
        size, sha256 = await _upload(services, key, file)
    failpoints.reached("state: stored")
    about = {
        "format": manifest.FORMAT,
        "key": key,
        "taken_at": time_text(at),
        "bytes": size,
        "sha256": sha256,
        "sealed_to": services.keyring.id,
        "tables": tables,
        "audit": [{"team": str(head.team_id), "count": head.count, "sha256": head.sha256} for head in heads],
    }
    await services.vault.put(layout.state_about_key(key), f"{json.dumps(about, indent=0)}\n".encode())
    failpoints.reached("state: told")
    await state.settle(services.db, key, at, "stored", tables, opens_with)
    return Exported(key, at, size, tables)


async def _spool(
    services: Services, keyring: Keyring, key: str, file: IO[bytes]
) -> tuple[dict[str, int], Sequence[Head]]:
    """Write all tables into a sealed file; the rows of each table, and how far the audit logs go."""
    sealer = Sealer(keyring, key)

    def write(table: str, lines: Sequence[str]) -> None:
        if not lines:
            lines = [json.dumps({"table": table})]
        file.write(sealer.add("".join(f"{line}\n" for line in lines).encode()))

    async def take(table: str, lines: Sequence[str]) -> None:
        await asyncio.to_thread(write, table, lines)

    tables, heads = await state.read(services.db, take)
    await asyncio.to_thread(lambda: file.write(sealer.end()))
    return tables, heads


async def _upload(services: Services, key: str, file: IO[bytes]) -> tuple[int, str]:
    """Store the file; its size, and its SHA-256."""
    size, sha256 = 0, hashlib.sha256()
    file.seek(0)
    async with services.vault.create(key) as writer:
        while chunk := await asyncio.to_thread(file.read, _READ):
            sha256.update(chunk)
            size += len(chunk)
            await writer.write(chunk)
        await writer.commit()
    return size, sha256.hexdigest()


async def import_newest(services: Services, described: Mapping[RepoId, RepoFile]) -> ImportedState | None:
    """Import the newest state in the vault that opens, once, into a database that has none of its own.

    `described` is what attested descriptions say about repos, which may be newer. None: there is nothing to
    import. Existing rows stay as they are. One transaction: safe to run twice, and after a
    run that was killed. A state that cannot be read is skipped, and tried again by the next
    rebuild.
    """
    known, keys = await state.known(services.db), await _keys(services)
    if any(one.state == "taken-up" for one in known.values()):
        return None
    aside = [key for key in keys if key in known and known[key].state == "unreadable"]
    if known and not aside:
        return None  # it has exported what it has
    reasons = list[str]()
    for key in reversed(aside or keys):
        at = layout.parse_state_key(key)
        assert at is not None
        try:
            return ImportedState(at, await _import(services, key, at, described), reasons)
        except (BadKey, Corrupt, NoSuchObject) as error:
            await state.settle(services.db, key, at, "unreadable", {})
            reasons.append(str(error))
    return ImportedState(None, {}, reasons) if reasons else None


async def identities(services: Services) -> list[Identity]:
    """The teams' own identities in the newest export that the keys open, so far as the keys open them.

    For what is sealed and must be read before that export is imported. Nothing is changed.
    """
    if services.keyring is None:
        return []
    for key in reversed(await _keys(services)):
        found = list[Identity]()
        try:
            async for table, rows in _batches(services, services.keyring, key):
                for row in rows if table == "team_key" else ():
                    with suppress(BadKey):  # it was encrypted with a key that is gone
                        sealed = bytes.fromhex(row["sealed"].removeprefix("\\x"))
                        plain = services.keyring.open(sealed, team_keys.CONTEXT.format(row["id"]))
                        found.append(Identity(row["recipient"], plain.decode()))
        except (BadKey, Corrupt, NoSuchObject):  # an older one may open
            continue
        return found
    return []


async def _import(
    services: Services, key: str, at: datetime, described: Mapping[RepoId, RepoFile]
) -> Mapping[str, int]:
    """The number of imported rows of each table. Raises BadKey, Corrupt; nothing is changed then."""
    if services.keyring is None:
        raise BadKey(f"{key}: there are no keys; set SECRET_KEYS to the keys that encrypted it")
    services.progress.phase("reading the state", None, "rows")
    async with state.taking_up(services.db, services.clock()) as into:
        async for table, rows in _batches(services, services.keyring, key):
            services.progress.advance(len(rows))
            if table == "repo":
                rows = [_newer(row, described.get(RepoId(UUID(row["id"]))), at) for row in rows]
            await into.add(table, rows)
        await state.settle(into.connection, key, at, "taken-up", into.added)
        failpoints.reached("state: taken up")
    return into.added


async def _batches(services: Services, keyring: Keyring, key: str) -> AsyncIterator[tuple[str, list[Row]]]:
    """The rows of an export, each batch with its table. Raises BadKey, Corrupt."""
    opener, table, rows = Opener(keyring, key), "", list[Row]()
    async for chunk in services.vault.read(key):
        for line in opener.add(chunk):
            row = json.loads(line)
            if row.keys() == {"table"}:
                if rows:
                    yield table, rows
                table, rows = row["table"], []
                continue
            rows.append(row)
            if len(rows) == _AT_ONCE:
                yield table, rows
                rows = []
    opener.end()
    if rows:
        yield table, rows


def _newer(row: Row, about: RepoFile | None, at: datetime) -> Row:
    """A repo's row, updated with its description in the vault if that was written after the export."""
    if about is None or about.at is None or about.at <= at:
        return row
    description = json.loads(manifest.encode_repo(about).decode("utf-8", "replace"))
    changed = {column: description[column] for column in row.keys() & description.keys()}
    return {**row, **changed, **({"team_id": description["team"]} if description["team"] else {})}


async def replace_all(services: Services) -> None:
    """Leave only an export of what there is now: those before may have what was erased since.

    Does nothing without a keyring, as there are no exports then. Safe to run twice.
    """
    if services.keyring is not None:
        await export(services)
        await prune(services, timedelta(0), kept=1)


async def prune(services: Services, grace: timedelta = KEPT, kept: int = ALWAYS_KEPT) -> list[str]:
    """Delete exports older than `grace`, except the newest `kept`; returns the deleted keys.

    Safe to run twice: the sealed object, by which an export is found, is deleted last. Exports that this
    database does not know are left alone; one that the store locks stays, and is tried again the next time.
    """
    known, keys = await state.known(services.db), await _keys(services)
    for key, one in known.items():
        if key not in keys and services.clock() - one.taken_at > grace:  # of a run that was killed
            await state.forget(services.db, key)
    deleted = []
    for key in keys[:-kept]:
        if key in known and services.clock() - known[key].taken_at > grace:
            try:
                await services.vault.delete(layout.state_about_key(key))
                await services.vault.delete(key)
            except Locked as locked:
                log.info("the export %s stays for now: %s", key, locked)
                continue
            await services.vault.give_up(key)
            await state.forget(services.db, key)
            deleted.append(key)
    return deleted


async def latest(services: Services) -> About | None:
    """The newest export of this database, as the vault describes it. None: there is none."""
    known = await state.known(services.db)
    mine = [key for key in await _keys(services) if key in known and known[key].state == "stored"]
    found = await _abouts(services, mine[-1:])
    return found[0] if found else None


async def _abouts(services: Services, keys: Sequence[str]) -> list[About]:
    """What can be read of these exports without a key. Raises Corrupt."""
    found = []
    for key in keys:
        try:
            fields = Fields.of(await services.vault.get(layout.state_about_key(key)), f"the export {key}")
        except NoSuchObject:
            continue  # of a run that was killed
        heads = [
            Head(TeamId(row.uuid("team")), row.count("count", 1), row.sha256("sha256"))
            for row in fields.rows("audit")
        ]
        found.append(About(key, fields.time("taken_at"), fields.text("sealed_to"), heads))
    return found


async def contradictions(services: Services) -> list[tuple[Head, datetime]]:
    """Every audit log that contradicts an export: how far the log went, and the export's time.

    A log only grows, so its last entry at that time must still be in it, with the same sum. One
    for each team: the oldest. Exports that are `unread` say nothing about the logs here.
    """
    found: dict[TeamId, tuple[Head, datetime]] = {}
    left_out = set(await unread(services))
    for about in await _abouts(services, [key for key in await _keys(services) if key not in left_out]):
        sums = await state.audit_sums(services.db, about.heads)
        for head, sha256 in zip(about.heads, sums, strict=True):
            if sha256 != head.sha256:
                found.setdefault(head.team_id, (head, about.taken_at))
    return list(found.values())


async def unread(services: Services) -> list[str]:
    """The exports of an earlier database that no rebuild could read, or that none has tried to read.

    An export that is older than the imported one is contained in that.
    """
    known = await state.known(services.db)
    taken_up = max((key for key, one in known.items() if one.state == "taken-up"), default="")
    unopenable = {key for key, one in known.items() if one.state == "unreadable" and key > taken_up}
    return [key for key in await _keys(services) if not known or key in unopenable]


async def unopenable(services: Services, keys: Sequence[str]) -> list[str]:
    """Those of these exports that none of the keys opens. Raises Corrupt."""
    here = services.keyring.ids if services.keyring else ()
    return [about.key for about in await _abouts(services, keys) if about.sealed_to not in here]


async def foreign(services: Services) -> list[str]:
    """The exports of an earlier database, oldest first: those in the vault if this database has none."""
    return [] if await state.known(services.db) else await _keys(services)


async def tell_of_contradictions(services: Services) -> None:
    """Notify the teams whose audit logs were changed. Safe to run twice: each is notified once."""
    for head, seen_at in await contradictions(services):
        log.warning("the audit log of team %s does not match the exports in the vault", head.team_id)
        if await teams.find(services.db, head.team_id):
            await notices.add(
                services.db,
                head.team_id,
                None,
                "audit",
                f"entry {head.count} of the audit log was changed or removed since {time_text(seen_at)}",
                services.clock(),
                f"audit/{head.team_id}/{head.count}/{head.sha256}",
            )


async def _keys(services: Services) -> list[str]:
    """The exports in the vault, oldest first."""
    return [stat.key async for stat in services.vault.list(layout.STATES) if layout.parse_state_key(stat.key)]
