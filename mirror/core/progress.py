"""How long-running work reports its progress to the person who waits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

NOTES: Final = 200  # the last lines that are kept


class Progress(Protocol):
    """Phases of one piece of work; every call is cheap enough to make per chunk."""

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        """A new phase begins; `unit` is "bytes" or a plural noun, `total` None when it cannot be known."""

    def advance(self, amount: int) -> None:
        """Add to what is done of the phase."""

    def note(self, text: str) -> None:
        """A line that the person should see now."""


class Silent:
    """A Progress that discards everything."""

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Both:
    """A Progress that passes everything to two."""

    one: Progress
    other: Progress

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.one.phase(name, total, unit)
        self.other.phase(name, total, unit)

    def advance(self, amount: int) -> None:
        self.one.advance(amount)
        self.other.advance(amount)

    def note(self, text: str) -> None:
        self.one.note(text)
        self.other.note(text)


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase that has ended."""

    name: str
    seconds: float
    bytes: int  # 0 where it counted something else


@dataclass(frozen=True, slots=True)
class Seen:
    """The progress of a piece of work at one moment."""

    phase: str | None = None  # None: it has not begun with any
    done: int | None = None  # of the phase
    total: int | None = None  # None: not known
    unit: str = ""
    bytes: int = 0  # that all phases have moved
    phases: tuple[Phase, ...] = ()  # as they ended
    notes: tuple[str, ...] = ()  # the last of them


class Meter:
    """A Progress that stores what it is told, to be read at any time; `clock` is monotonic, in seconds.

    `notes` are those of earlier tries.
    """

    def __init__(self, clock: Callable[[], float], notes: Sequence[str] = ()) -> None:
        self._clock = clock
        self._began = clock()
        self._name: str | None = None
        self._done = 0
        self._total: int | None = None
        self._unit = ""
        self._bytes = 0
        self._phases: list[Phase] = []
        self._notes = list(notes)

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        self._end()
        self._name, self._total, self._unit = name, total, unit

    def advance(self, amount: int) -> None:
        self._done += amount
        if self._unit == "bytes":
            self._bytes += amount

    def note(self, text: str) -> None:
        self._notes.append(text)
        del self._notes[:-NOTES]

    @property
    def seen(self) -> Seen:
        """How far it is now."""
        return Seen(
            phase=self._name,
            done=None if self._name is None else self._done,
            total=self._total,
            unit=self._unit,
            bytes=self._bytes,
            phases=tuple(self._phases),
            notes=tuple(self._notes),
        )

    @property
    def ended(self) -> Seen:
        """How it was at the end: every phase has ended."""
        self._end()
        self._name, self._total, self._unit = None, None, ""
        return self.seen

    def _end(self) -> None:
        now = self._clock()
        if self._name is not None:
            moved = self._done if self._unit == "bytes" else 0
            self._phases.append(Phase(self._name, round(now - self._began, 3), moved))
        self._began, self._done = now, 0
