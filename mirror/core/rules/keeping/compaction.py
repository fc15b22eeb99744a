"""Which parts of a pack log to merge next: the decision behind `compact`, from sizes and counts only.

Two ways, weighed by what was measured on 500 pushes of a real history:

- A merge splices a run of increments into one part that keeps every inner
  boundary. Runs are taken in tiers: an entry is written again only when its part has
  grown by the fan-in, so no more than log(pushes) times.
- A checkpoint is one complete part, packed anew by git. It is due when the
  increments have grown to half of the base, which bounds what it costs by what was
  pushed, or when chains of deltas may have become too deep for git to read quickly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.core.model import Part, Segment

FAN_IN: Final = 8
DEEPEST: Final = 1000  # increments since the base: 500 spliced pushes made delta chains of 509


@dataclass(frozen=True, slots=True)
class _Run:
    """Parts that follow one another in the log, and of which one becomes."""

    parts: tuple[Part, ...]

    @property
    def first(self) -> int:
        return self.parts[0].first

    @property
    def last(self) -> int:
        return self.parts[-1].last


@dataclass(frozen=True, slots=True)
class Merge(_Run):
    """Splice these parts into one."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those of the new part: all the old ones, in log order."""
        return tuple(segment for part in self.parts for segment in part.segments)


@dataclass(frozen=True, slots=True)
class Checkpoint(_Run):
    """Pack everything that these parts, the whole log, hold into one complete part."""


def due(parts: Sequence[Part], fan_in: int = FAN_IN) -> Merge | Checkpoint | None:
    """What to do next with the live parts of one epoch; None: nothing.

    To be called again after each answer was carried out. Parts that overlap or
    leave a gap are left alone: that is for `verify` and `rebuild` to settle, and
    no merge may hide a loss.
    """
    log = tuple(sorted(parts, key=lambda part: (part.first, part.last)))
    if len(log) < 2 or not _is_whole(log):
        return None
    base, increments = log[0], log[1:]
    if len(increments) >= fan_in and 2 * sum(part.bytes for part in increments) >= base.bytes:
        return Checkpoint(log)
    if sum(len(part.segments) for part in increments) > DEEPEST:
        return Checkpoint(log)
    return _merge(increments, fan_in)


def _is_whole(log: Sequence[Part]) -> bool:
    """Whether the parts begin with a complete one and each follows on where the one before it ends."""
    return (
        log[0].complete
        and all(later.first == earlier.last + 1 for earlier, later in zip(log, log[1:], strict=False))
        and all(part.segments and not part.complete for part in log[1:])
        and len({part.epoch for part in log}) == 1
    )


def _merge(increments: Sequence[Part], fan_in: int) -> Merge | None:
    """The run at the log's end that makes one part of the highest tier; None: no run makes one.

    A part is of tier t when it has fan_in**t segments or more, but fewer than
    fan_in**(t + 1). A run of tiers up to t is merged when it makes one of t + 1: so
    every entry that is written again moves up, and no tier keeps fan_in parts.
    """
    found: Merge | None = None
    run: tuple[Part, ...] = ()
    most = 1
    while len(run) < len(increments):
        most *= fan_in
        start = len(increments) - len(run)
        while start and len(increments[start - 1].segments) < most:
            start -= 1
        run = tuple(increments[start:])
        if len(run) >= fan_in and sum(len(part.segments) for part in run) >= most:
            found = Merge(run)
    return found
