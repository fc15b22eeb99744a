"""Reports that came after the sync which found their moves: they name them, and show what was passed over.

Who calls: backup/sync, in its turn, before backup/rescue looks at what is new.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from typing import Final

from mirror.backup import notes as keeping
from mirror.backup.part import classed
from mirror.backup.rescue import GIVEN_UP, GONE, is_sound, served
from mirror.backup.snapshot import SnapshotDraft, SyncRun, take_snapshot
from mirror.core.errors import Corrupt, LimitReached, NetworkError, Origin, Refused, RemoteGone
from mirror.core.formats import notes
from mirror.core.model import Kind, Listing, Reason, RefName, Refs, Snapshot, Target
from mirror.core.rules import late_reports
from mirror.core.rules.late_reports import Moved, Part, Past, Retelling, Retold, Story
from mirror.core.rules.pushes import TOGETHER, Answered, Lost, ReportedUpdate, UpdateId
from mirror.git import read
from mirror.git.upstream import NotOurRef
from mirror.store.backup import history, moments, reported_updates
from mirror.store.backup import notes as note_rows
from mirror.store.database import transaction
from mirror.store.leases import fenced

MOMENTS: Final = 200  # within one snapshot, after which reports that come late for it tell nothing more


@dataclass(slots=True)
class LateResult:
    """Where it came to: the latest snapshot, and the claims that are left for the rescue."""

    last: Snapshot
    left: Sequence[ReportedUpdate]
    waits: set[UpdateId] = field(default_factory=set)  # for the next sync, as the line broke
    broken_off: NetworkError | None = None


async def tell(
    run: SyncRun, last: Snapshot, old: Refs, seen: Listing, told: Sequence[ReportedUpdate], now: datetime
) -> LateResult:
    """Let claims about moves that the history has already name them, and split those that were several.

    1. Which move each belongs to is decided by mirror/core/rules/late_reports.py.
    2. What was passed over and is not held is fetched by its id, while the remote has it. It comes in by a
       snapshot of its own, which changes no ref: the pack log is append-only.
    3. The moments between are found anew, and get numbers within their snapshot.
    4. One transaction, fenced by the lease, records it, answers the claims and keeps the note.
    5. The note goes into the vault.

    No snapshot changes by it, nor any moment that has a number. Safe to run twice: what the history tells
    of already is told no more. Reports of a snapshot that has MOMENTS are answered, and tell nothing.
    """
    sound = [update for update in told if is_sound(update, seen.object_format)]
    found: list[Retold] = []
    past = await moments.past(run.services.db, run.repo.id, {update.name for update in sound})
    timed = [update for update in sound if update.told_at and update.told_at <= last.taken_at - TOGETHER]
    for one in await moments.still(run.services.db, run.repo.id, timed) if timed else ():
        past.setdefault(one.name, []).append(one)
    for name in sorted({update.name for update in sound}):
        mine = [update for update in sound if update.name == name]
        found += late_reports.retold(past.get(name, ()), mine, old.get(name), seen.refs.get(name))
    if not found:
        return LateResult(last, told)
    telling = _Telling(run, last, old, seen, now)
    await telling.bring({part.new for one in found for part in one.parts[:-1] if part.new})
    kept = await telling.sound(found)
    for number, of_one in groupby(sorted(kept, key=_number), key=_number):
        await telling.retell(number, list(of_one))
    done = {update.id for one in found for update in one.updates}
    answered = Answered(done - telling.waits, telling.lost.values())
    await reported_updates.answer(run.services.db, run.repo.id, answered, telling.last.number, now)
    await keeping.store_waiting(run.services, run.repo.id)
    left = [update for update in told if update.id not in done]
    return LateResult(telling.last, left, telling.waits, telling.broken_off)


def _without(one: Retold, odd: Collection[tuple[RefName, Target | None]]) -> Retold | None:
    """This move without the parts that led there; None: nobody has told of what is left."""
    parts: list[Part] = []
    for part in one.parts:
        is_last = part is one.parts[-1]
        if (is_last or (one.past.name, part.new) not in odd) and part.new != (
            parts[-1].new if parts else one.past.old
        ):
            parts.append(part)
    return replace(one, parts=parts) if any(part.update for part in parts) else None


def _number(one: Retold) -> int:
    return one.past.snapshot


@dataclass(slots=True)
class _Telling:
    """How far it has come."""

    run: SyncRun
    last: Snapshot
    refs: Refs  # of `last`
    seen: Listing
    now: datetime
    gone: dict[Target, str] = field(default_factory=dict)  # what can't be had, and why
    lost: dict[UpdateId, Lost] = field(default_factory=dict)
    waits: set[UpdateId] = field(default_factory=set)
    broken_off: NetworkError | None = None

    async def bring(self, wanted: Collection[Target]) -> None:
        """Step 2: have the pack log hold these objects, as far as the remote gives them."""
        absent = await read.missing(self.run.pool.path, wanted)
        if self.broken_off or not absent:
            return
        moment = SnapshotDraft(
            Listing(self.refs, self.seen.object_format),
            max(self.now, self.last.taken_at),
            Reason.PUSH,
            seen=False,
            besides=absent,
        )
        try:
            self.last = await take_snapshot(self.run, self.last, self.refs, moment)
        except NotOurRef:
            had = await served(self.run, absent)
            self.gone |= {target: GONE for target in absent - had}
            await self.bring(had)
        except (Corrupt, Refused) as error:
            if error.origin is Origin.SOURCE and await self.run.pool.empty_if_broken():
                error.came_from(Origin.DISK, instead_of=Origin.SOURCE)
            if error.origin is not Origin.SOURCE:
                raise
            if len(absent) == 1:
                self.gone |= {target: str(error) for target in absent}
            else:
                for target in sorted(absent):
                    await self.bring([target])
        except (NetworkError, LimitReached, RemoteGone) as error:
            if error.origin is not Origin.SOURCE:
                raise
            self.broken_off = NetworkError(
                f"pushes that were passed over are not saved yet: {error}", origin=error.origin
            )
            self.run.services.progress.note(str(self.broken_off))

    async def sound(self, found: Sequence[Retold]) -> list[Retold]:
        """What can be told of this: without the pushes that are lost, and without what waits for the line."""
        path = self.run.pool.path
        absent = await read.missing(path, {part.new for one in found for part in one.parts[:-1] if part.new})
        branches = {
            part.new
            for one in found
            if one.past.name.startswith(b"refs/heads/")
            for part in one.parts[:-1]
            if part.new and part.new not in absent
        }
        why = dict.fromkeys(
            branches - await read.commits_among(path, branches), "it is no commit, as a branch must be"
        )
        why |= {target: self.gone.get(target, "") for target in absent}
        return [kept for one in found if (kept := self._without(one, why)) is not None]

    def _without(self, one: Retold, why: Mapping[Target, str]) -> Retold | None:
        """What is left where these can't be had: for this reason, or, without one, as the line broke."""
        off = [(part, part.new) for part in one.parts[:-1] if part.new and part.new in why]
        if any(not why[target] and not self._is_old(part) for part, target in off):
            self.waits |= {update.id for update in one.updates}
            return None
        for part, target in off:
            if part.update:
                self.lost[part.update.id] = Lost(
                    *(one.past.name, part.update.before, target, part.update.by, part.update.at),
                    why[target] or str(self.broken_off),
                )
        return _without(one, {(one.past.name, target) for target in why})

    def _is_old(self, part: Part) -> bool:
        """Whether the remote could not be asked for it for so long that it is given up."""
        return part.update is not None and self.now - part.update.at > GIVEN_UP

    async def retell(self, number: int, found: Sequence[Retold]) -> None:
        """Steps 3 and 4 for one snapshot."""
        db, repo_id = self.run.services.db, self.run.repo.id
        recorded = await moments.moves_of(db, repo_id, number)
        within = await moments.within(db, repo_id, number)
        if (
            len(within) >= MOMENTS
        ):  # each note repeats all of them, so that forged reports would cost their square
            return self.run.services.progress.note(f"#{number} has {len(within)} moments; no more are told")
        before = await history.refs_at(db, repo_id, number - 1)
        told_of = found
        while True:
            story = Story(number, dict(before), found[0].past.since, self.last.number)
            story.tell([move for move, _ in recorded], within, told_of)
            odd = {(step.name, step.new) for step in story.odd}
            left = [kept for one in told_of if (kept := _without(one, odd))]
            if left == told_of:
                break
            told_of = left
        if not told_of:
            return
        moves = await self._changed(story, recorded)
        told = Retelling(number, self.seen.object_format, story.moments, moves)
        body = notes.encode(repo_id, late_reports.KIND, late_reports.encode(told))
        answered = Answered({update.id for one in found for update in one.updates} - self.lost.keys())
        async with transaction(db) as connection:
            await fenced(connection, self.run.lease, repo_id)
            await moments.retell_within(connection, repo_id, told)
            await reported_updates.answer_within(connection, repo_id, answered, self.last.number, self.now)
            await note_rows.add_within(connection, repo_id, late_reports.KIND, body, self.now)

    async def _changed(self, story: Story, recorded: Sequence[tuple[Past, Kind]]) -> list[Moved]:
        """All moves of the refs of which something else is told than was recorded, each ref's in order."""
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
