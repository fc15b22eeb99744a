"""The state that no history tells: teams, people, connections, choices, audit logs; into the vault, and back.

Who calls: the sweep, daily; `everref export`; and `everref rebuild`, which takes the
newest one up. An export is sealed with the keys of SECRET_KEYS: without them it
stays shut, and the history, which nothing seals, is rebuilt all the same.
"""

import asyncio
import hashlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Final
from uuid import UUID

from mirror.core.errors import Corrupt, NoSuchObject, OurFault, Refused
from mirror.core.formats import layout, manifest
from mirror.core.formats.manifest import Fields, RepoFile, time_text
from mirror.core.formats.state_export import Opener, Sealer
from mirror.core.keyring import BadKey, Keyring
from mirror.core.model import RepoId
from mirror.services import failpoints
from mirror.services.open import Services
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
    """One export, as it is in the vault."""

    key: str
    taken_at: datetime
    bytes: int
    tables: Mapping[str, int]  # rows of each


@dataclass(frozen=True, slots=True)
class ImportedState:
    """What came back of the state."""

    taken_at: datetime | None  # as of when; None: none could be read
    added: Mapping[str, int]  # rows of each table that were not here
    aside: Sequence[str] = ()  # why newer ones could not be read, each in a line


@dataclass(frozen=True, slots=True)
class About:
    """What can be read of an export without a key."""

    key: str
    taken_at: datetime
    sealed_to: str  # the id of the key
    heads: Sequence[Head]  # how far the audit logs went


async def due(services: Services) -> None:
    """Export the state once a day, and when the keys changed; delete exports that are old. A chore.

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
    """Store the state as it is at this moment, and beside it how far the audit logs go.

    1. The row that names the export, so that this database knows it as its own.
    2. One look at all tables, into a sealed file on this disk: nothing else waits for that.
    3. The sealed object, then what can be read of it without keys: from here on it exists.
    4. The row says so.

    Safe to run twice: each is an export of its own. Raises Refused where this database is
    new, and the vault has the state of one before it that was not taken up yet.
    """
    if services.keyring is None:
        raise OurFault("the state cannot be sealed: set SECRET_KEYS (32 random characters or more)")
    if others := await strange(services):
        raise Refused(
            f"the vault has the state of another database ({others[-1]}); run everref rebuild to take it up"
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
    """Write all of it into a file, sealed; how many rows of each table, and how far the audit logs go."""
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


async def take_up(services: Services, described: Mapping[RepoId, RepoFile]) -> ImportedState | None:
    """Take up the newest state in the vault that opens, once, in a database that has none of its own.

    `described` is what attested descriptions say of repos, which may be newer. None: there is nothing to
    take up. What is here already stays as it is. One transaction: safe to run twice, and after a
    run that was killed. One that cannot be read is left aside, and is tried again by the next
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
            return ImportedState(at, await _take_up(services, key, at, described), reasons)
        except (BadKey, Corrupt, NoSuchObject) as error:
            await state.settle(services.db, key, at, "unreadable", {})
            reasons.append(str(error))
    return ImportedState(None, {}, reasons) if reasons else None


async def _take_up(
    services: Services, key: str, at: datetime, described: Mapping[RepoId, RepoFile]
) -> Mapping[str, int]:
    """How many rows of each table were not here. Raises BadKey, Corrupt, and nothing is changed then."""
    if services.keyring is None:
        raise BadKey(f"{key}: there are no keys; set SECRET_KEYS to those that sealed it")
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
    """A repo's row with what the vault says of it, where that was written after the export."""
    if about is None or about.at is None or about.at <= at:
        return row
    said = json.loads(manifest.encode_repo(about).decode("utf-8", "replace"))
    changed = {column: said[column] for column in row.keys() & said.keys()}
    return {**row, **changed, **({"team_id": said["team"]} if said["team"] else {})}


async def prune(services: Services, grace: timedelta = KEPT) -> list[str]:
    """Delete exports that are older than `grace`, but for the newest ones; the keys of what was deleted.

    Safe to run twice: the sealed object goes last, by which an export is found. What this
    database does not know it leaves alone.
    """
    known, keys = await state.known(services.db), await _keys(services)
    for key, one in known.items():
        if key not in keys and services.clock() - one.taken_at > grace:  # of a run that was killed
            await state.forget(services.db, key)
    deleted = []
    for key in keys[:-ALWAYS_KEPT]:
        if key in known and services.clock() - known[key].taken_at > grace:
            await services.vault.delete(layout.state_about_key(key))
            await services.vault.discard(key)
            await state.forget(services.db, key)
            deleted.append(key)
    return deleted


async def latest(services: Services) -> About | None:
    """The newest export that this database made, as the vault tells of it. None: there is none."""
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
    """Every audit log that is not what an export says it was: how far it went, and when that was seen.

    A log goes on, so what was its last entry then is in it still, with the same sum. One
    of each team: the oldest. Exports that are `unread` say nothing of the logs that are here.
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
    """The exports of a database before this one that a rebuild could not read, or that none has tried to.

    What is older than the one that was taken up goes on in that.
    """
    known = await state.known(services.db)
    taken_up = max((key for key, one in known.items() if one.state == "taken-up"), default="")
    shut = {key for key, one in known.items() if one.state == "unreadable" and key > taken_up}
    return [key for key in await _keys(services) if not known or key in shut]


async def shut(services: Services, keys: Sequence[str]) -> list[str]:
    """Those of these exports that none of the keys opens, as the vault tells of them. Raises Corrupt."""
    here = services.keyring.ids if services.keyring else ()
    return [about.key for about in await _abouts(services, keys) if about.sealed_to not in here]


async def strange(services: Services) -> list[str]:
    """The exports in the vault, where this database knows none: they are of one before it. Oldest first."""
    return [] if await state.known(services.db) else await _keys(services)


async def tell_of_contradictions(services: Services) -> None:
    """Tell the teams whose audit logs are not what they were. Safe to run twice: each is told once."""
    for head, seen_at in await contradictions(services):
        log.warning("the audit log of team %s is not what the vault says", head.team_id)
        if await teams.find(services.db, head.team_id):
            await notices.add(
                services.db,
                head.team_id,
                None,
                "audit",
                f"entry {head.count} of the audit log was changed or is gone since {time_text(seen_at)}",
                services.clock(),
                f"audit/{head.team_id}/{head.count}/{head.sha256}",
            )


async def _keys(services: Services) -> list[str]:
    """The exports in the vault, oldest first."""
    return [stat.key async for stat in services.vault.list(layout.STATES) if layout.parse_state_key(stat.key)]
