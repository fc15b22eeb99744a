"""A repo's history as pages show it: lanes of a window, pushes in pages, days, a moment's neighbours."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from mirror.core import refs
from mirror.core.globs import check
from mirror.core.model import HEAD, Kind, Reason, RefChange, RefName, RepoId
from mirror.core.rules.history.timeline import APART, Lane, Stretch, Telling, Timeline, chosen, lane
from mirror.store.backup.history import Logged
from mirror.store.browse import refs_shown
from mirror.store.database import Db, connected, query, translating

STRETCHES: Final = 400  # columns of a picture
QUIET: Final = 8  # the fewest lanes of a picture, filled up with refs that did not move
_SHOWN: Final = 50  # moves of one push
_LAST: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Pushed:
    """The ref changes that one snapshot found, as one push."""

    snapshot: int
    taken_at: datetime
    reason: Reason
    by: tuple[str, ...]  # who, as far as webhooks reported it
    changes: tuple[Logged, ...]  # the first of them
    count: int  # of all changes in the snapshot, also those that do not match
    is_dropped: bool = False  # its snapshot is no longer kept

    @property
    def at(self) -> datetime:
        """When it happened, as well as we know."""
        return max((one.at for one in self.changes), default=self.taken_at)


@dataclass(frozen=True, slots=True)
class Day:
    """What happened to one repo on one day."""

    day: date
    snapshots: int
    moves: int
    taken: int  # refs forced or deleted
    failures: int  # syncs that failed


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A moment, with the kept ones before and after it."""

    number: int
    taken_at: datetime
    before: tuple[int, datetime] | None  # None: it is the first
    after: tuple[int, datetime] | None  # None: it is the latest
    took: RefChange | None = None  # the first ref that the next one forced or deleted; None: it did neither


async def lanes(
    db: Db,
    repo_id: RepoId,
    start: datetime,
    end: datetime,
    *,
    limit: int = 24,
    unfolded: bytes = b"",
    lost: Collection[tuple[bytes, int]] | None = None,
) -> Timeline:
    """Every ref over time: HEAD's branch, then what was forced or deleted, then what moved lately.

    At most `limit` refs have a lane of their own, the others share one per folder (`refs/pull/`).
    `unfolded`: only refs whose names begin like this, each in its own lane. `lost`: see `timeline.lane`.
    """
    end = max(end, start + timedelta(seconds=1))
    async with connected(db) as held:
        window = await _window(held, repo_id, start, end)
        told = await _telling(held, window, unfolded, 4 * limit)
        alone = chosen([one for one, _, _ in told], window.top, limit, unfolded)
        known = {one.name: one.ref_id for one in alone}
        quiet = await _quiet(held, window, unfolded, set(known), min(limit, QUIET) - len(alone))
        ids = list(known.values())
        stretches = await _stretches(held, window, ids)
        shown = [lane(one.name, stretches.get(one.ref_id, []), start, end, lost=lost) for one in alone]
        shown += [lane(name, [], start, end) for name in quiet]
        shown.sort(key=lambda one: one.name != window.top)  # stable: HEAD's branch comes first
        folded = [] if unfolded else await _folders(held, window, ids)
    moved, moves = (told[0][1], told[0][2]) if told else (0, 0)
    return Timeline(start, end, (*shown, *folded), moved, moves)


@dataclass(frozen=True, slots=True)
class _Window:
    """The stretch of a repo's history that a picture shows."""

    repo_id: RepoId
    start: datetime
    end: datetime
    first: int  # its first snapshot; after the last one, where the window has none
    last: int
    top: RefName | None  # HEAD's branch at the last one; None: HEAD names none


@translating
async def _window(db: Db, repo_id: RepoId, start: datetime, end: datetime) -> _Window:
    row = await db.fetchrow(query("window"), repo_id, start, end, HEAD)
    last, head = row["last"] or 0, row["head"]
    top = refs.symbolic_target(head) if head and refs.is_symbolic(head) else None
    return _Window(repo_id, start, end, row["first"] or last + 1, last, top)


@translating
async def _telling(db: Db, window: _Window, beginning: bytes, limit: int) -> list[tuple[Telling, int, int]]:
    """The refs that moved in a window, most important first; with the totals of refs and moves."""
    pattern = _literal(beginning) + b"%" if beginning else None
    rows = await db.fetch(query("lanes_telling"), window.repo_id, window.first, window.last, pattern, limit)
    return [
        (
            Telling(RefName(row["name"]), row["ref_id"], row["moves"], row["taken"], row["last"]),
            row["refs_moved"],
            int(row["all_moves"]),
        )
        for row in rows
    ]


def _literal(name: bytes) -> bytes:
    """A LIKE pattern of these very bytes."""
    return name.replace(b"\\", b"\\\\").replace(b"%", b"\\%").replace(b"_", b"\\_")


async def _quiet(
    db: Db, window: _Window, beginning: bytes, known: Collection[RefName], count: int
) -> list[RefName]:
    """Refs to fill a picture that has few lanes: HEAD's branch, then branches and tags in name order."""
    found: list[RefName] = []
    top, number = window.top, window.last
    if top and top not in known and top.startswith(beginning):
        found += await refs_shown.targets_at(db, window.repo_id, [top], number)
    if len(found) < count:
        starts = (beginning,) if beginning else APART
        pages = await _names_after(db, window.repo_id, number, starts, count + len(known) + 1)
        for start, page in zip(starts, pages, strict=True):
            names = [name for name in page if name.startswith(start) and name not in (*known, *found)]
            found += names[: max(count - len(found), 0)]
    return found


@translating
async def _names_after(
    db: Db, repo_id: RepoId, number: int, starts: Sequence[bytes], limit: int
) -> list[list[RefName]]:
    """The names of a snapshot's refs after each of these, in name order: at most `limit` for each."""
    rows = await db.fetch(
        """
        select place, page.name
        from unnest($3::bytea[]) with ordinality as given (start, place)
        cross join lateral refs_page($1, $2, given.start, null, $4) as page
        """,
        repo_id,
        number,
        list(starts),
        limit,
    )
    found: list[list[RefName]] = [[] for _ in starts]
    for place, name in rows:
        found[place - 1].append(RefName(name))
    return [sorted(names) for names in found]


@translating
async def _stretches(db: Db, window: _Window, ids: Sequence[int]) -> Mapping[int, list[Stretch]]:
    """What each of these refs did in a window, by its id."""
    asked = (window.repo_id, ids, window.first, window.last, window.start, window.end, _begins(window))
    rows = await db.fetch(query("lane_stretches"), *asked)
    found: dict[int, list[Stretch]] = {}
    for row in rows:
        found.setdefault(row["ref_id"], []).append(_stretch(row))
    return found


@translating
async def _folders(db: Db, window: _Window, ids: Sequence[int]) -> list[Lane]:
    """A lane for each folder of the other refs that moved in a window, the busiest first."""
    asked = (window.repo_id, ids, window.first, window.last, _begins(window))
    rows = await db.fetch(query("folder_stretches"), *asked)
    counts = {bytes(row["folder"]): row["refs"] for row in rows if row["stretch"] is None}
    found: dict[bytes, list[Stretch]] = {folder: [] for folder in counts}
    for row in rows:
        if row["stretch"] is not None:
            found[bytes(row["folder"])].append(_stretch(row))
    start, end = window.start, window.end
    made = [lane(folder, told, start, end, refs=counts[folder]) for folder, told in found.items()]
    return sorted(made, key=lambda one: (not one.cuts, -one.refs, one.name))


def _begins(window: _Window) -> list[datetime]:
    """Where each stretch of a window begins."""
    length = window.end - window.start
    return [window.start + number * length / STRETCHES for number in range(STRETCHES)]


def _stretch(row: Any) -> Stretch:
    return Stretch(
        number=row["stretch"],
        moves=row["moves"],
        first=Kind(row["first"]),
        last=Kind(row["last"]),
        at=row["at"],
        snapshot=row["snapshot"],
        forced=row["forced"],
        deleted=row["deleted"],
        created=row["created"],
        cut_at=row["cut_at"],
        cut=row["cut"],
        first_at=row.get("first_at"),
        by=row.get("by"),
        cut_by=row.get("cut_by"),
    )


@translating
async def feed(
    db: Db,
    repo_id: RepoId,
    *,
    before: int | None = None,
    limit: int = 50,
    kinds: Collection[Kind] = (),
    glob: str | None = None,
    by: str | None = None,
    shown: int = _SHOWN,
) -> list[Pushed]:
    """The pushes before a snapshot (None: all), newest first, at most `limit`, each with its first changes.

    With `kinds`, a ref glob or a pusher, only pushes with such a change, and only those changes of them.
    For the next page ask again with the last push's snapshot.
    """
    upto = _LAST if before is None else before
    if not (kinds or glob or by):
        return _pushes(await db.fetch(query("feed_all"), repo_id, upto, limit, shown))
    check([glob] if glob else [])
    patterns = refs_shown.patterns(glob) if glob else None
    found: list[Pushed] = []
    number = limit
    while len(found) < limit:  # a pattern can match more than its glob, so the page may need filling up
        asked = (repo_id, upto, [kind.value for kind in kinds] or None, patterns, by, number, shown)
        rows = await db.fetch(query("feed"), *asked)
        if not rows:
            break
        meant = None if glob is None else await refs.meant_by([row["name"] for row in rows], [glob])
        found += _pushes([row for row in rows if meant is None or row["name"] in meant])
        upto, number = rows[-1]["snapshot"], refs_shown.wider(number)
    return found[:limit]


def _pushes(rows: Sequence[Any]) -> list[Pushed]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row["snapshot"], []).append(row)
    return [
        Pushed(
            snapshot=number,
            taken_at=moves[0]["taken_at"],
            reason=Reason(moves[0]["reason"]),
            by=tuple(dict.fromkeys(row["pushed_by"] for row in moves if row["pushed_by"] is not None)),
            changes=tuple(_logged(row) for row in moves),
            count=moves[0]["changes_count"],
            is_dropped=moves[0]["is_dropped"],
        )
        for number, moves in found.items()
    ]


def _logged(row: Any) -> Logged:
    return Logged(row["snapshot"], row["taken_at"], _change(row), row["moment"] or 0)


def _change(row: Any) -> RefChange:
    name, by, at = RefName(row["name"]), row["pushed_by"], row["pushed_at"]
    return RefChange(name, row["old"], row["new"], Kind(row["kind"]), by, at)


@translating
async def days(db: Db, repo_ids: Sequence[RepoId], since: datetime) -> dict[RepoId, list[Day]]:
    """What happened to each of these repos on each day since then (UTC), quiet days left out."""
    found: dict[RepoId, list[Day]] = {repo_id: [] for repo_id in repo_ids}
    for row in await db.fetch(query("days"), list(repo_ids), since):
        numbers = (int(row["snapshots"]), int(row["moves"]), int(row["taken"]), int(row["failures"]))
        found[RepoId(row["repo_id"])].append(Day(row["day"], *numbers))
    return found


@translating
async def moment(db: Db, repo_id: RepoId, number: int) -> Neighbours | None:
    """A snapshot with the kept ones before and after it, and what the very next one took away.

    None: there is no such snapshot.
    """
    rows = await db.fetch(query("neighbours"), repo_id, number)
    found = {row["number"]: row for row in rows}
    if number not in found:
        return None

    kept = [(other, row["taken_at"]) for other, row in sorted(found.items()) if row["is_kept"]]
    before = next((one for one in reversed(kept) if one[0] < number), None)
    later = next((one for one in kept if one[0] > number), None)
    after = found.get(number + 1)
    took = None if after is None or after["kind"] is None else _change(after)
    return Neighbours(number, found[number]["taken_at"], before, later, took)


@translating
async def numbers_at(db: Db, repo_id: RepoId, moments: Sequence[datetime]) -> list[int]:
    """The last snapshot at or before each of these times; 0: there was none yet."""
    rows = await db.fetch(
        """
        select coalesce((
          select number from snapshot where repo_id = $1 and taken_at <= given.at
          order by number desc limit 1
        ), 0)
        from unnest($2::timestamptz[]) with ordinality as given (at, place) order by place
        """,
        repo_id,
        list(moments),
    )
    return [row[0] for row in rows]
