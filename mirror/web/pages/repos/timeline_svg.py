"""The picture of every ref over time: a timeline's values as SVG text, and as the list that is read aloud."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final
from xml.sax.saxutils import quoteattr

from markupsafe import Markup, escape

from mirror.core import words
from mirror.core.rules.history.timeline import Cut, Lane, Push, Timeline, ticks
from mirror.core.times import zones

WIDTH: Final = 1064
LABELS: Final = 190  # where the lanes begin
LANE: Final = 34  # from one lane to the next
TOP: Final = 37  # of the first bar
BAR: Final = 14
THIN: Final = 4  # the bar of a tag, which is not pushed to
ELEMENTS: Final = 3000  # at most, of the whole picture
LETTERS: Final = 24  # of a name before its lane
GRIP: Final = 136
SAID: Final = 24  # letters in the grip
TARGET: Final = 34  # of a link in the picture: 24 pixels where a phone makes it smaller
LINKS: Final = 100  # cuts at most that are links, the latest
BESIDE: Final = 68  # the width of what leads to the snapshot before the handle, or after it
TABBED: Final = 30  # of those links at most that a keyboard comes by, the latest
TITLED: Final = 300  # pushes at most of a picture that says of each what it is without a script

_EDGE: Final = 60  # what a label at the right needs
_SHORT: Final = ("refs/heads/", "refs/tags/")


@dataclass(frozen=True, slots=True)
class Link:
    """Where something in the picture leads, and what it is called."""

    href: str
    label: str


@dataclass(frozen=True, slots=True)
class Handle:
    """The moment that was chosen, what the handle says, and what is before and after it."""

    at: datetime
    said: str = ""
    before: Link | None = None  # None: it is the first
    after: Link | None = None  # None: it is the latest


@dataclass(frozen=True, slots=True)
class Said:
    """How the picture speaks of what is in it: without it, its notches and cuts are only drawn."""

    push: Callable[[Lane, Push], str]
    cut: Callable[[Lane, Cut], Link]


def svg(
    shown: Timeline,
    *,
    handle: Handle | None = None,
    said: Said | None = None,
    width: int = WIDTH,
    zone: tzinfo = UTC,
) -> Markup:
    """The picture, with the handle at a moment where one is given.

    Never more than some 3,000 elements, however much happened: pushes that are too close become one notch.
    Its axis and its words are on the clocks of `zone`.
    """
    return _Picture(shown, width, said, zone).drawn(handle)


def spoken(shown: Timeline, zone: tzinfo = UTC) -> list[str]:
    """The lanes as sentences, for who cannot see the picture."""
    return [_sentence(lane, zone) for lane in shown.lanes]


def figure(
    shown: Timeline, *, handle: Handle | None = None, said: Said | None = None, zone: tzinfo = UTC
) -> Markup:
    """The picture and, for screen readers, the list of what it shows."""
    lines = Markup("").join(Markup("<li>{}</li>").format(line) for line in spoken(shown, zone))
    return svg(shown, handle=handle, said=said, zone=zone) + Markup('<ul class="hear">{}</ul>').format(lines)


def label(lane: Lane) -> str:
    """A lane's name as people say it: a branch and a tag without their folder, a folder with a star."""
    name = words.name(lane.name)
    if lane.folded:
        return f"{name}*"
    for start in _SHORT:
        if name.startswith(start):
            return name.removeprefix(start)
    return name


def _sentence(lane: Lane, zone: tzinfo) -> str:
    pushes = sum(push.moves for push in lane.pushes)
    told = [words.count(pushes, "push") if pushes == 1 else f"{pushes:,} pushes"] if pushes else []
    for kind in ("forced", "deleted"):
        cuts = [cut for cut in lane.cuts if cut.kind == kind]
        if cuts:
            last = _minute(cuts[-1].at, zone)
            moves = sum(cut.moves for cut in cuts)
            told.append(f"{kind} {last}" if moves == 1 else f"{kind} {moves:,} times, last {last}")
    who = f"{label(lane)} ({words.count(lane.refs, 'ref')})" if lane.folded else label(lane)
    return f"{who}: {', '.join(told) or 'no push in this time'}"


class _Picture:
    def __init__(self, shown: Timeline, width: int, said: Said | None, zone: tzinfo) -> None:
        self._shown = shown
        self._zone = zone
        self._width = width
        self._said = said
        self._seconds = max((shown.end - shown.start).total_seconds(), 1.0)
        self._bottom = TOP + LANE * max(len(shown.lanes), 1) - 3
        # Every lane has the same share of what a browser draws quickly.
        self._share = max((ELEMENTS - 100 - 3 * LINKS) // max(len(shown.lanes), 1) - 6, 6)
        self._titled = sum(len(lane.pushes) for lane in shown.lanes) <= TITLED

    def drawn(self, handle: Handle | None) -> Markup:
        height = self._bottom + TARGET + 2
        about = "Every ref over time" + (
            f"; the handle is at {handle.said or _minute(handle.at, self._zone)}" if handle else ""
        )
        out = [
            f'<svg class="strata" width="100%" viewBox="0 0 {self._width} {height}" role="group"'
            f' aria-label={quoteattr(_clean(about))}><g aria-hidden="true">'
        ]
        out += self._axis()
        for number, lane in enumerate(self._shown.lanes):
            out += self._lane(lane, TOP + LANE * number)
        out.append('<g class="names">')
        for number, lane in enumerate(self._shown.lanes):
            title = f"<title>{_text(_full(lane))}</title>{_text(_cut(label(lane)))}"
            out.append(f'<text x="0" y="{TOP + LANE * number + 12}">{title}</text>')
        out.append("</g>")
        if handle is not None:
            out += self._handle(handle)
        out.append("</g>")
        if self._said is not None:
            out += self._links(self._said)
        out.append("</svg>")
        return Markup("".join(out))

    def _x(self, at: datetime) -> float:
        part = (at - self._shown.start).total_seconds() / self._seconds
        return LABELS + min(max(part, 0.0), 1.0) * (self._width - LABELS)

    def _axis(self) -> Iterable[str]:
        for tick in ticks(self._shown.start, self._shown.end, zone=self._zone):
            x = self._x(tick.at)
            yield f'<line class="grid" x1="{_n(x)}" y1="22" x2="{_n(x)}" y2="{self._bottom}"/>'
            if x <= self._width - _EDGE:
                yield f'<text class="t" x="{_n(x + 5)}" y="16">{escape(tick.label)}</text>'

    def _lane(self, lane: Lane, top: int) -> Iterable[str]:
        thin = lane.name.startswith(b"refs/tags/") and not lane.folded
        height = THIN if thin else BAR
        y = top + (BAR - height) // 2
        yield f"<g data-lane={quoteattr(_clean(words.name(lane.name)))}>"
        third = self._share // 3
        bars = [(self._x(bar.start), self._x(bar.end)) for bar in lane.bars]
        for left, right in _joined(bars, third):
            wide = max(right - left - 2 * (right < self._width - 1), 1.5)
            yield (
                f'<rect class="stay" x="{_n(left)}" y="{y}" width="{_n(wide)}" height="{height}"'
                f' rx="{height // 2 if thin else 3}"/>'
            )
        if not thin:
            # A title is an element as well.
            for push in _thinned(lane.pushes, third // (1 + self._titled), self._shown):
                x = min(self._x(push.at), self._width - 1.5)
                said = self._said if self._titled else None
                end = f"><title>{_text(said.push(lane, push))}</title></rect>" if said else "/>"
                yield (
                    f'<rect class="push" x="{_n(x)}" y="{top + 3}" width="1.5" height="8"'
                    f' data-n="{push.snapshot}"{end}'
                )
        yield from self._cuts(lane, top, third)
        yield "</g>"

    def _cuts(self, lane: Lane, top: int, most: int) -> Iterable[str]:
        for cut in _cuts_thinned(lane.cuts, most // 2, self._shown):
            x = self._x(cut.at)
            low = top + (18 if _gone(cut) else 20)
            yield f'<line class="cut" x1="{_n(x)}" y1="{top - 4}" x2="{_n(x)}" y2="{low}"/>'
            end = self._x(cut.until)
            if end > x + 6:  # beside the bar where the ref went on elsewhere, in its place where it went
                middle = top + (7 if _gone(cut) and not lane.folded else 19)
                yield f'<path class="ghost" d="M{_n(x + 5)} {middle} H{_n(end)}"/>'

    def _links(self, said: Said) -> Iterable[str]:
        """What can be pressed: the latest cut of each stretch that a finger can tell from the next."""
        found: list[tuple[int, float, Lane, Cut]] = []
        for number, lane in enumerate(self._shown.lanes):
            free = float(self._width + TARGET)
            for cut in reversed(lane.cuts):
                x = self._x(cut.at)
                if x <= free - TARGET:
                    free = x
                    found.append((number, x, lane, cut))
        found = sorted(found, key=lambda one: one[3].at)[-LINKS:]
        tabbed = {(number, cut.snapshot) for number, _, _, cut in found[-TABBED:]}
        for number, x, lane, cut in sorted(found, key=lambda one: one[:2]):
            link = said.cut(lane, cut)
            left = min(max(x - TARGET / 2, 0), self._width - TARGET)
            skipped = "" if (number, cut.snapshot) in tabbed else ' tabindex="-1"'
            yield (
                f"<a href={quoteattr(link.href)} aria-label={quoteattr(_clean(link.label))}"
                f' data-n="{cut.snapshot}" data-of="{number}"{skipped}><title>{_text(link.label)}</title>'
                f'<rect class="target" x="{_n(left)}" y="{TOP + LANE * number + BAR // 2 - TARGET // 2}"'
                f' width="{TARGET}" height="{TARGET}" rx="4"/></a>'
            )

    def _handle(self, handle: Handle) -> Iterable[str]:
        x = self._x(handle.at)
        yield f'<line class="head" x1="{_n(x)}" y1="20" x2="{_n(x)}" y2="{self._bottom}"/>'
        if not handle.said:
            return
        grip = min(max(x - GRIP / 2, 0), self._width - GRIP)
        top = self._bottom + 5
        yield f'<rect class="grip" x="{_n(grip)}" y="{top}" width="{GRIP}" height="24" rx="12"/>'
        yield self._under("gt", grip + GRIP / 2, handle.said[:SAID])
        for link, left, sign in (
            (handle.before, grip - 74, "\u2039 {}"),
            (handle.after, grip + GRIP + 6, "{} \u203a"),
        ):
            if link is not None and 0 <= left <= self._width - BESIDE:
                yield (
                    f'<a class="beside" href={quoteattr(link.href)} tabindex="-1">'
                    f'<rect class="target" x="{_n(left)}" y="{self._bottom}"'
                    f' width="{BESIDE}" height="{TARGET}" rx="4"/>'
                    f"{self._under('t', left + BESIDE / 2, sign.format(link.label))}</a>"
                )

    def _under(self, kind: str, x: float, text: str) -> str:
        """A text in the line of the grip."""
        place = f'x="{_n(x)}" y="{self._bottom + 21}" text-anchor="middle"'
        return f'<text class="{kind}" {place}>{_text(text)}</text>'


def _gone(cut: Cut) -> bool:
    return cut.kind == "deleted"


def _joined(bars: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Bars without gaps that nobody would see; at most so many."""
    gap = 0.5
    while True:
        found: list[tuple[float, float]] = []
        for left, right in bars:
            if found and len(bars) > most and left - found[-1][1] < gap:
                found[-1] = (found[-1][0], right)
            else:
                found.append((left, right))
        if len(found) <= most:
            return found
        gap *= 2


def _thinned(pushes: Sequence[Push], most: int, shown: Timeline) -> list[Push]:
    """At most so many notches: the last push of each stretch stands for it."""
    if len(pushes) <= most:
        return list(pushes)
    whole = shown.end - shown.start
    kept = {int((push.at - shown.start) / whole * (most - 1)): push for push in pushes}
    return list(kept.values())


def _cuts_thinned(cuts: Sequence[Cut], most: int, shown: Timeline) -> list[Cut]:
    """At most so many cuts, likewise."""
    if len(cuts) <= most:
        return list(cuts)
    whole = shown.end - shown.start
    kept = {int((cut.at - shown.start) / whole * (most - 1)): cut for cut in cuts}
    return list(kept.values())


def _full(lane: Lane) -> str:
    name = words.name(lane.name)
    return f"{name}*, {words.count(lane.refs, 'ref')} that moved" if lane.folded else name


def _cut(name: str) -> str:
    """A name that fits before its lane: what tells refs apart is mostly at the end."""
    if len(name) <= LETTERS:
        return name
    return f"{name[: LETTERS // 3]}\u2026{name[-(LETTERS - LETTERS // 3 - 1) :]}"


def _text(text: str) -> str:
    return str(escape(_clean(text)))


def _clean(text: str) -> str:
    return words.clean(text)


def _minute(at: datetime, zone: tzinfo) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M} {zones.abbreviation(at, zone)}"


def _n(number: float) -> str:
    """A coordinate with no more digits than can be seen."""
    return f"{number:.1f}".removesuffix(".0")
