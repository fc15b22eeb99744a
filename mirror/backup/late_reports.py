"""Reports that came after the sync which found their moves: they name them, and show what was passed over.

Who calls: backup/sync, before it plans the snapshots of what is new.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

from mirror.backup import notes as vault_notes
from mirror.backup.snapshot import SyncRun, classed, try_snapshot
from mirror.core.errors import NetworkError
from mirror.core.formats import notes
from mirror.core.model import Kind, Listing, Reason, RefName, Refs, Snapshot, Target
from mirror.core.rules.history import late_reports, pushes, reports
from mirror.core.rules.history.late_reports import Moved, Part, Past, Retelling, Retold, Story
from mirror.core.rules.history.pushes import Answered, BrokenOff, Gone, Look, Lost, SnapshotDraft, Unsound
from mirror.core.rules.history.reports import TOGETHER, ReportedUpdate, UpdateId
from mirror.git import read
from mirror.store.backup import history, moments, reported_updates
from mirror.store.backup import notes as note_rows
from mirror.store.database import transaction
from mirror.store.leases import fenced

MOMENTS: Final = 200  # within one snapshot; late reports of a snapshot that has more change nothing


@dataclass(frozen=True, slots=True)
class LateResult:
    """What is left once late reports were dealt with."""

    last: Snapshot  # the latest
    left: Sequence[ReportedUpdate]  # of what is new
    broken_off: NetworkError | None = None  # why the connection broke meanwhile; None: it did not


async def apply(run: SyncRun, last: Snapshot, old: Refs, look: Look) -> LateResult:
    """Let reports of moves that the history has already name them, and split those that were several.

    1. Which move each belongs to is decided by core/rules/history/late_reports.
    2. What was passed over and is not held is fetched by its id, while the remote has it. It comes in by a
       snapshot of its own, which changes no ref: the pack log is append-only.
    3. The moments between are found again, and get numbers within their snapshot.
    4. One transaction, fenced by the lease, records it, answers the updates and keeps the note.
    5. The note goes into the vault.

    No snapshot changes by it, nor any moment that has a number. Safe to run twice: what the history has
    already is not recorded again. Reports of a snapshot that has MOMENTS are answered, and change nothing.
    """
    db, repo_id = run.services.db, run.repo.id
    sound = [one for one in look.updates if reports.is_sound(one, look.listing.object_format)]
    names = {update.name for update in sound}
    past = await moments.past(db, repo_id, names)
    timed = [one for one in sound if one.forge_time and one.forge_time <= last.taken_at - TOGETHER]
    for still in await moments.still(db, repo_id, timed) if timed else ():
        past.setdefault(still.name, []).append(still)
    found: list[Retold] = []
    for name in sorted(names):
        mine = [update for update in sound if update.name == name]
        found += late_reports.retold(past.get(name, ()), mine, old.get(name), look.listing.refs.get(name))
    if not found:
        return LateResult(last, look.updates)
    retelling = _Retelling(run, last, old, look)
    await retelling.fetch({part.new for one in found for part in one.parts[:-1] if part.new})
    possible = await retelling.possible(found)
    for number, of_one in groupby(sorted(possible, key=_number), key=_number):
        await retelling.record(number, list(of_one))
    done = {update.id for one in found for update in one.updates}
    answered = Answered(done - retelling.waiting, retelling.lost.values())
    await reported_updates.answer(db, repo_id, answered, retelling.last.number, look.at)
    await vault_notes.store_waiting(run.services, repo_id)
    left = [update for update in look.updates if update.id not in done]
    return LateResult(retelling.last, left, retelling.broken_off)


def _without(one: Retold, excluded: Collection[tuple[RefName, Target | None]]) -> Retold | None:
    """This move without the parts that led there; None: nobody reported what is left."""
    parts: list[Part] = []
    for part in one.parts:
        is_last = part is one.parts[-1]
        if (is_last or (one.past.name, part.new) not in excluded) and part.new != (
            parts[-1].new if parts else one.past.old
        ):
            parts.append(part)
    return replace(one, parts=parts) if any(part.update for part in parts) else None


def _number(one: Retold) -> int:
    return one.past.snapshot


@dataclass(slots=True)
class _Retelling:
    """How far it has come."""

    run: SyncRun
    last: Snapshot
    refs: Refs  # of `last`
    look: Look
    gone: dict[Target, str] = field(default_factory=dict)  # what can't be had, and why
    lost: dict[UpdateId, Lost] = field(default_factory=dict)
    waiting: set[UpdateId] = field(default_factory=set)  # for the next sync, as the connection broke
    broken_off: NetworkError | None = None

    async def fetch(self, wanted: Collection[Target]) -> None:
        """Step 2: have the pack log hold these objects, as far as the remote gives them."""
        absent = await read.missing(self.run.pool.path, wanted)
        if self.broken_off or not absent:
            return
        draft = SnapshotDraft(
            Listing(self.refs, self.look.listing.object_format),
            max(self.look.at, self.last.taken_at),
            Reason.PUSH,
            is_current=False,
            extra=absent,
        )
        match await try_snapshot(self.run, self.last, self.refs, draft):
            case Gone(targets):
                self.gone |= dict.fromkeys(targets, pushes.GONE)
                await self.fetch(absent - set(targets))
            case Unsound(why) if len(absent) == 1:
                self.gone |= dict.fromkeys(absent, why)
            case Unsound():
                for target in sorted(absent):
                    await self.fetch([target])
            case BrokenOff(_, error):
                self.broken_off = error
            case Snapshot() as taken:
                self.last = taken

    async def possible(self, found: Sequence[Retold]) -> list[Retold]:
        """What can be recorded: without pushes that are lost, and without what waits for the connection."""
        path = self.run.pool.path
        absent = await read.missing(path, {part.new for one in found for part in one.parts[:-1] if part.new})
        branches = {
            part.new
            for one in found
            if one.past.name.startswith(b"refs/heads/")
            for part in one.parts[:-1]
            if part.new and part.new not in absent
        }
        why = dict.fromkeys(branches - await read.commits_among(path, branches), pushes.NO_COMMIT)
        why |= {target: self.gone.get(target, "") for target in absent}
        return [kept for one in found if (kept := self._without(one, why)) is not None]

    def _without(self, one: Retold, why: Mapping[Target, str]) -> Retold | None:
        """What is left where these can't be had: for this reason; an empty one: the connection broke."""
        absent = [(part, part.new) for part in one.parts[:-1] if part.new and part.new in why]
        if any(not why[target] and not self._is_old(part) for part, target in absent):
            self.waiting |= {update.id for update in one.updates}
            return None
        for part, target in absent:
            if part.update:
                self.lost[part.update.id] = Lost(
                    *(one.past.name, part.update.before, target, part.update.by, part.update.at),
                    why[target] or str(self.broken_off),
                )
        return _without(one, {(one.past.name, target) for target in why})

    def _is_old(self, part: Part) -> bool:
        """Whether it could not be fetched for so long that it is given up."""
        return part.update is not None and self.look.at - part.update.at > pushes.GIVEN_UP

    async def record(self, number: int, found: Sequence[Retold]) -> None:
        """Steps 3 and 4 for one snapshot."""
        db, repo_id = self.run.services.db, self.run.repo.id
        recorded = await moments.moves_of(db, repo_id, number)
        within = await moments.within(db, repo_id, number)
        if len(within) >= MOMENTS:  # each note repeats all of them: forged reports would cost their square
            note = f"#{number} has {len(within)} moments already; no more are recorded"
            return self.run.services.progress.note(note)
        before = await history.refs_at(db, repo_id, number - 1)
        kept = found
        while True:
            story = Story(number, dict(before), found[0].past.since, self.last.number)
            story.tell([move for move, _ in recorded], within, kept)
            impossible = {(step.name, step.new) for step in story.impossible}
            left = [rest for one in kept if (rest := _without(one, impossible))]
            if left == kept:
                break
            kept = left
        if not kept:
            return
        moves = await self._changed(story, recorded)
        retelling = Retelling(number, self.look.listing.object_format, story.moments, moves)
        body = notes.encode(repo_id, late_reports.KIND, late_reports.encode(retelling))
        answered = Answered({update.id for one in found for update in one.updates} - self.lost.keys())
        async with transaction(db) as connection:
            await fenced(connection, self.run.lease, repo_id)
            await moments.retell_within(connection, repo_id, retelling)
            await reported_updates.answer_within(
                connection, repo_id, answered, self.last.number, self.look.at
            )
            await note_rows.add_within(connection, repo_id, late_reports.KIND, body, self.look.at)

    async def _changed(self, story: Story, recorded: Sequence[tuple[Past, Kind]]) -> list[Moved]:
        """All moves of the refs that moved otherwise than was recorded, each ref's in order."""
        kinds = dict(recorded)
        new = {one.step.name for one in story.moves if one.past is None or one.moment != one.past.moment}
        made = sorted((one for one in story.moves if one.step.name in new), key=lambda one: one.step.name)
        changes = await classed(
            self.run.services.git, self.run.pool.path, [one.step for one in made], self.run.services.progress
        )
        return [
            Moved(replace(change, kind=kinds[one.past]) if one.past else change, one.moment)
            for change, one in zip(changes, made, strict=True)
        ]
