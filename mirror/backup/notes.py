"""Notes: stored in the vault, and read back from it when the database was lost."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from mirror.core.errors import AlreadyExists, Corrupt
from mirror.core.formats import layout, notes
from mirror.core.formats.notes import Note
from mirror.core.model import Repo, RepoId
from mirror.core.rules.history import late_reports
from mirror.services import failpoints, sealing
from mirror.services.open import Services
from mirror.store.backup import moments, rows_as_notes
from mirror.store.backup import notes as rows
from mirror.store.database import Db, transaction, translating

_AT_ONCE: Final = 100  # notes read from the database at a time

Apply = Callable[[Db, RepoId, Note], Awaitable[None]]

# How each kind is recorded, in the transaction that records the note. Other kinds are left alone.
_KINDS: Final[Mapping[str, Apply]] = {
    late_reports.KIND: moments.retell,
    rows_as_notes.LOST_PUSHES: rows_as_notes.read_lost_pushes,
    rows_as_notes.DRILLS: rows_as_notes.read_drills,
}


async def store_waiting(services: Services, repo_id: RepoId | None = None) -> None:
    """Store the waiting notes, of this repo or of all, in the vault, the oldest first.

    Safe to run twice, also at once: a key is never used for anything else.
    """
    await rows_as_notes.make(services.db, repo_id, services.clock())
    failpoints.reached("notes: made")
    while batch := await rows.waiting(services.db, repo_id, _AT_ONCE):
        for note in batch:
            try:
                key = layout.sealed(note.key, await sealing.of(services, note.repo_id))
                sealed = await services.vault.put(key, note.body)
            except AlreadyExists:  # a run that died had put it
                sealed = (await sealing.got(services, note.key, notes.LIMIT)).sealed
            failpoints.reached("notes: stored")
            await rows.stored(services.db, note.key, sealed)


async def replay(services: Services, repo: Repo) -> int:
    """Record every note of this repo that the vault has and the database does not, in order.

    Returns how many. Safe to run twice. Raises Corrupt for anything that is not a note of this repo.
    """
    known, added = await rows.known(services.db, repo.id), 0
    async for stat in services.vault.list(layout.notes_prefix(repo.id)):
        if layout.plain(stat.key) in known or layout.parse_note_key(stat.key) is None:
            continue
        got = await sealing.got(services, stat.key, notes.LIMIT)
        note = notes.decode(got.plain)
        if note.repo != repo.id:
            raise Corrupt(f"{stat.key} is a note of another repo")
        added += await _recorded(services.db, repo.id, got, note)
    return added


@translating
async def _recorded(db: Db, repo_id: RepoId, got: sealing.Got, note: Note) -> bool:
    """Record a note and what it says, in one transaction. False: both were recorded already."""
    async with transaction(db) as connection:
        key = layout.plain(got.key)
        fresh = await rows.read_back_within(connection, repo_id, key, note.kind, got.plain, got.sealed)
        if fresh and (apply := _KINDS.get(note.kind)):
            await apply(connection, repo_id, note)
    return fresh
