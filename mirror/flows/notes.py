"""Notes on their way into the vault, and back from it when the database was lost."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from mirror import late, layout, notes
from mirror.errors import AlreadyExists, Corrupt
from mirror.flows import steps
from mirror.flows.edges import Edges
from mirror.model import Repo, RepoId
from mirror.notes import Note
from mirror.store import moments, noted
from mirror.store import notes as rows
from mirror.store.database import Db, transaction, translating

_AT_ONCE: Final = 100  # notes read from the database at a time

Apply = Callable[[Db, RepoId, Note], Awaitable[None]]

# Who records what a kind tells, in the transaction that records the note. Other kinds are left alone.
_KINDS: Final[Mapping[str, Apply]] = {
    late.KIND: moments.retell,
    noted.LOST_PUSHES: noted.read_lost_pushes,
    noted.DRILLS: noted.read_drills,
}


async def store_waiting(edges: Edges, repo_id: RepoId | None = None) -> None:
    """Put the notes that wait, of this repo or of all, into the vault, the oldest first.

    Safe to run twice, also at once: a key is never used for anything else.
    """
    await noted.make(edges.db, repo_id, edges.clock())
    steps.reached("notes: made")
    while batch := await rows.waiting(edges.db, repo_id, _AT_ONCE):
        for note in batch:
            with suppress(AlreadyExists):  # a run that died had put it
                await edges.vault.put(note.key, note.body)
            steps.reached("notes: stored")
            await rows.stored(edges.db, note.key)


async def replay(edges: Edges, repo: Repo) -> int:
    """Record every note of this repo that the vault has and the database does not, in their order.

    Returns how many. Safe to run twice. Raises Corrupt for what is no note of this repo's.
    """
    known, added = await rows.known(edges.db, repo.id), 0
    async for stat in edges.vault.list(layout.notes_prefix(repo.id)):
        if stat.key in known or layout.parse_note_key(stat.key) is None:
            continue
        stored = await edges.vault.get(stat.key, limit=notes.LIMIT)
        note = notes.decode(stored)
        if note.repo != repo.id:
            raise Corrupt(f"{stat.key} is a note of another repo")
        added += await _recorded(edges.db, repo.id, stat.key, note, stored)
    return added


@translating
async def _recorded(db: Db, repo_id: RepoId, key: str, note: Note, stored: bytes) -> bool:
    """Record a note and what it tells, in one transaction. False: both were recorded already."""
    async with transaction(db) as connection:
        fresh = await rows.read_back_within(connection, repo_id, key, note.kind, stored)
        if fresh and (apply := _KINDS.get(note.kind)):
            await apply(connection, repo_id, note)
    return fresh
