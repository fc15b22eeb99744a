"""The badge of a repo: one line that says whether it was proved restorable, as a small picture (SVG)."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Final

from mirror.core import words

STALE: Final = timedelta(days=31)  # after which a drill proves nothing of today
_WIDTH: Final = 6.8  # pixels of a letter, at most, at 11 pixels
_PAD: Final = 7


@dataclass(frozen=True, slots=True)
class Badge:
    """What it says, and in which colour."""

    says: str
    colour: str  # of the right half, dark enough for white letters


def badge(drilled_at: datetime | None, failed: bool, damaged: bool, now: datetime) -> Badge:
    """What is known of a repo: its newest drill, whether that failed, and whether its backup is damaged."""
    if failed or damaged:
        return Badge("not restorable", "#b3261e")
    if drilled_at is None:
        return Badge("not proved yet", "#5f6368")
    proved = f"proved {words.ago(drilled_at, now)}"
    return Badge(proved, "#5f6368") if now - drilled_at > STALE else Badge(f"restorable, {proved}", "#1a6b3c")


def svg(one: Badge) -> str:
    """The picture: letters of the reader's own fonts, and a title for screen readers."""
    left, right = (round(len(text) * _WIDTH) + 2 * _PAD for text in ("backup", one.says))
    says = escape(f"backup: {one.says}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-labelledby="t"><title id="t">{says}</title>'
        f'<rect width="{left + right}" height="20" rx="3" fill="#30343a"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{left}z" fill="{one.colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">backup</text>'
        f'<text x="{left + right / 2}" y="14">{escape(one.says)}</text></g></svg>\n'
    )
