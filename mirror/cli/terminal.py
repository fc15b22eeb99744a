"""What a person or a program sees: results on standard output, progress on a terminal's standard error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, TextIO

from mirror.cli import render
from mirror.cli.render import Eye
from mirror.core.progress import Progress, Silent
from mirror.core.words import clean

if TYPE_CHECKING:
    from mirror.cli.shapes import Shape

_CODES: Final = {"good": "32", "bad": "31", "warn": "33", "faint": "2", "strong": "1"}
REDRAW: Final = 0.1  # seconds between two drawings of the progress
_CLEAR: Final = "\r\x1b[K"


def paint(text: str, meaning: str) -> str:
    """Text in the colour of its meaning."""
    return f"\x1b[{_CODES[meaning]}m{text}\x1b[0m" if meaning else text


class Out:
    """Where a command's results go. Nothing is held back: a hundred thousand lines stream."""

    def __init__(
        self,
        write: Callable[[str], None],
        now: Callable[[], datetime],
        *,
        as_json: bool,
        quiet: bool,
        colour: bool,
    ) -> None:
        self.json = as_json
        self.quiet = quiet
        self.progress: Progress = Silent()
        self._write, self._now = write, now
        self._paint = paint if colour else render.plain

    def result(self, text: Callable[[Eye], str], shape: Callable[[], Shape]) -> None:
        """What was asked for: lines for a person, or one JSON object on a line."""
        if isinstance(self.progress, Drawn):
            self.progress.end()
        self._write((to_json(shape()) if self.json else text(Eye(self._now(), self._paint))) + "\n")

    def said(self, text: Callable[[Eye], str], shape: Callable[[], Shape]) -> None:
        """What was done: the same, but nothing for a person who wants it quiet."""
        if self.json or not self.quiet:
            self.result(text, shape)

    def remark(self, text: Callable[[Eye], str]) -> None:
        """Something more for a person; programs have it elsewhere."""
        if not self.json and not self.quiet:
            self.result(text, dict)


def to_json(shape: Shape) -> str:
    """One line of JSON; what a terminal would act on is escaped, all other text is as it is."""
    text = json.dumps(shape, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


class Drawn:
    """Progress as one line that is drawn anew, at most ten times a second, and cleared at the end."""

    def __init__(self, stream: TextIO, monotonic: Callable[[], float], width: Callable[[], int]) -> None:
        self._stream, self._monotonic, self._width = stream, monotonic, width
        self._name, self._unit = "", ""
        self._done = 0
        self._total: int | None = None
        self._began = self._due = monotonic()
        self._line = ""  # what is on the screen now

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        self._name, self._total, self._unit, self._done = name, total, unit, 0
        self._began = self._monotonic()
        self.draw()

    def advance(self, amount: int) -> None:
        self._done += amount
        self.draw()

    def note(self, text: str) -> None:
        self.clear()
        self._stream.write(clean(text) + "\n")
        self._stream.flush()

    def draw(self) -> None:
        """Show how far it is, unless that was done a moment ago."""
        now = self._monotonic()
        if now < self._due or not self._name:
            return
        self._due = now + REDRAW
        line = render.progress(self._name, self._done, self._total, self._unit, now - self._began)
        line = line[: max(self._width() - 1, 1)]
        if line != self._line:
            self._stream.write(_CLEAR + line)
            self._stream.flush()
            self._line = line

    def clear(self) -> None:
        """Leave the line empty, for others to write on."""
        if self._line:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._line = ""

    def end(self) -> None:
        """Draw nothing until the next phase: what came of this one is about to be written."""
        self.clear()
        self._name = ""

    async def keep_drawing(self) -> None:
        """Draw also what no call draws: a phase that begins just after another, or tells nothing for long."""
        from asyncio import sleep

        while True:
            await sleep(REDRAW)
            self.draw()


def columns(stream: TextIO) -> Callable[[], int]:
    """How wide this terminal is right now."""

    def width() -> int:
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    return width
