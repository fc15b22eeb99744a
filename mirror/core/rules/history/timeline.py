"""Every ref over time as values: lanes with bars, pushes and cuts.

web/pages/repos/timeline_svg draws them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Literal

from mirror.core.model import Kind, RefName
from mirror.core.times import zones

Taken = Literal["forced", "deleted"]

APART: Final = (
    b"refs/heads/",
    b"refs/tags/",
)  # these refs have a lane each; refs of other folders share one where there are many
MANY: Final = 3


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened to a ref, or a folder of refs, in one stretch of the window: a column of the picture."""

    number: int  # of the stretch, from 0
    moves: int
    first: Kind
    last: Kind
    at: datetime  # of the last move
    snapshot: int  # with that move
    forced: int
    deleted: int
    created: int
    cut_at: datetime | None = None  # of the last move that took something away; None: none did
    cut: int | None = None  # the snapshot with that move
    first_at: datetime | None = None  # of the first move; None: for a folder, where it does not show
    by: str | None = None  # who made the last move; None: nobody told us, here and below
    cut_by: str | None = None  # and the last one that took something away


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time in which a ref existed and was not force-pushed."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Push:
    """A notch: one push, or several too close to tell apart."""

    at: datetime
    snapshot: int
    moves: int
    by: str | None = None  # who made the last of them; None: nobody told us


@dataclass(frozen=True, slots=True)
class Cut:
    """Where something was taken away."""

    at: datetime
    snapshot: int
    kind: Taken
    moves: int  # that took something away here
    until: datetime  # until when only the vault holds it
    by: str | None = None  # who did the last of them; None: nobody told us


@dataclass(frozen=True, slots=True)
class Lane:
    """One ref, or a folder of them, in the window."""

    name: bytes  # of the ref; of a folder with its slash
    refs: int  # 1; for a folder, how many of its refs moved
    bars: tuple[Bar, ...]
    pushes: tuple[Push, ...]
    cuts: tuple[Cut, ...]

    @property
    def folded(self) -> bool:
        """Whether it stands for a folder of refs."""
        return self.name.endswith(b"/")


@dataclass(frozen=True, slots=True)
class Timeline:
    """The picture of a window, the most important lane first."""

    start: datetime
    end: datetime
    lanes: tuple[Lane, ...]
    moved: int  # refs that moved in the window
    moves: int


@dataclass(frozen=True, slots=True)
class Telling:
    """How much happened to one ref in a window."""

    name: RefName
    ref_id: int
    moves: int
    taken: int  # moves that forced or deleted it
    last: int  # the snapshot of its last move


def folder_of(name: bytes) -> bytes:
    """The folder whose lane a ref shares: `refs/pull/`. A name such as refs/stash is its own folder."""
    end = name.find(b"/", 5)
    return name[: end + 1] if end > 0 else name


def chosen(found: Sequence[Telling], top: RefName | None, limit: int, unfolded: bytes = b"") -> list[Telling]:
    """Which refs have a lane of their own, the most important first.

    `top` (HEAD's branch) comes before refs that were forced or deleted, and those before refs that
    moved recently. Folders other than branches and tags share a lane when more than a few of
    their refs moved, except the folder `unfolded`.
    """
    siblings: dict[bytes, int] = {}
    for one in found:
        siblings[folder_of(one.name)] = siblings.get(folder_of(one.name), 0) + 1
    alone = [
        one
        for one in found
        if one.name.startswith(APART)
        or siblings[folder_of(one.name)] <= MANY
        or (unfolded and one.name.startswith(unfolded))
    ]
    alone.sort(key=lambda one: (one.name != top, one.taken == 0, -one.last, -one.moves, one.name))
    return alone[:limit]


def lane(
    name: bytes,
    stretches: Sequence[Stretch],
    start: datetime,
    end: datetime,
    *,
    there: bool = True,
    refs: int = 1,
    lost: Collection[tuple[bytes, int]] | None = None,
) -> Lane:
    """The lane of these stretches, which are in order.

    `there` says whether a ref without any move existed. `lost` are the names and snapshots of moves
    that left something only in the vault; None: all moves that took something away.
    """
    began = start if (stretches[0].first is not Kind.CREATED if stretches else there) else None
    bars: list[Bar] = []
    pushes: list[Push] = []
    cuts: list[Cut] = []
    folded = name.endswith(b"/")
    for one in stretches:
        at = min(max(one.at, start), end)
        if taken := one.forced + one.deleted:
            snapshot = one.cut or one.snapshot
            gone = min(max(one.cut_at or one.at, start), end)
            only_here = lost is None or folded or (name, snapshot) in lost
            kind: Taken = "deleted" if one.deleted else "forced"
            cuts.append(Cut(gone, snapshot, kind, taken, end if only_here else gone, one.cut_by))
        if folded:
            began = began or at
        elif taken:
            bars += [Bar(began, gone)] if began is not None and began <= gone else []
            began = None if one.last is Kind.DELETED else gone
        elif began is None:
            began = min(max(one.first_at or one.at, start), end)
        if rest := one.moves - taken - (0 if folded else one.created):
            pushes.append(Push(at, one.snapshot, rest, one.by))
    bars += [Bar(began, end)] if began is not None else []
    return Lane(name, refs, tuple(bars), tuple(pushes), tuple(_ended(cuts, bars, folded)))


def _ended(cuts: Sequence[Cut], bars: Sequence[Bar], folded: bool) -> Iterable[Cut]:
    """Cuts whose dotted lines end where the next one begins: two in one lane would cover each other."""
    for number, cut in enumerate(cuts):
        later = [one.at for one in cuts[number + 1 :][:1]]
        later += [bar.start for bar in bars if cut.kind == "deleted" and not folded and bar.start > cut.at][
            :1
        ]
        until = min([cut.until, *later]) if later else cut.until
        yield replace(cut, until=max(until, cut.at))


UNITS: Final[tuple[tuple[timedelta, str], ...]] = (
    (timedelta(minutes=1), "%H:%M"),
    (timedelta(minutes=5), "%H:%M"),
    (timedelta(minutes=15), "%H:%M"),
    (timedelta(hours=1), "%H:%M"),
    (timedelta(hours=3), "%H:%M"),
    (timedelta(hours=6), "%-d %b, %H:%M"),
    (timedelta(days=1), "%-d %b"),
    (timedelta(days=2), "%-d %b"),
    (timedelta(days=7), "%-d %b"),
    (timedelta(days=14), "%-d %b"),
)
_MONDAY: Final = datetime(2000, 1, 3)  # from which all are counted, so that ticks stay in place
_MONTHS: Final = (1, 2, 3, 6, 12, 24, 60, 120)


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the axis."""

    at: datetime
    label: str


def ticks(start: datetime, end: datetime, most: int = 8, zone: tzinfo = UTC) -> list[Tick]:
    """The ticks of the axis at round times, from minutes to decades: about `most` of them.

    The times are round on the clocks of `zone`.
    """
    span = end - start
    first, last = (one.astimezone(zone).replace(tzinfo=None) for one in (start, end))
    for unit, form in UNITS:
        if span / unit <= most:
            number = -((_MONDAY - first) // unit) - 2  # where clocks are put back, a tick is before its place
            shown = [_MONDAY + n * unit for n in range(number, number + int(span / unit) + 6)]
            labels = [(one, one.strftime(_form(one, unit, form))) for one in shown]
            return _placed(labels, start, end, zone)
    months = next((m for m in _MONTHS if span / timedelta(days=30.4 * m) <= most), _MONTHS[-1])
    form = "%Y" if months >= 12 else "%b %Y"
    number = (first.year * 12 + first.month - 1) // months * months
    labels = []
    while number // 12 <= min(last.year, 9998):
        at = datetime(number // 12 or 1, number % 12 + 1, 1)
        labels.append((at, at.strftime(form)))
        number += months
    return _placed(labels, start, end, zone)[: most + 1]


def _placed(
    labels: Iterable[tuple[datetime, str]], start: datetime, end: datetime, zone: tzinfo
) -> list[Tick]:
    """The ticks within the window; none for a time that clocks skip, one for a time that they show twice."""
    found = []
    for shown, label in labels:
        if not zones.is_skipped(shown, zone) and start <= (at := zones.moment_of(shown, zone)) <= end:
            found.append(Tick(at, label))
    return found


def _form(at: datetime, unit: timedelta, form: str) -> str:
    """The format of a tick: midnight shows the day."""
    if unit < timedelta(days=1) and (at.hour, at.minute) == (0, 0):
        return "%-d %b"
    return form
