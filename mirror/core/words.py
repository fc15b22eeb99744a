"""Values in plain words: sizes, durations, ages, and git names as text."""

import math
from datetime import UTC, datetime, timedelta
from typing import Final

_SIZES: Final = ("kB", "MB", "GB", "TB", "PB")
_AGES: Final = (
    (120, 1, "s"),
    (7200, 60, "min"),
    (172800, 3600, "h"),
    (5184000, 86400, "days"),
    (63113904, 2629746, "months"),
    (float("inf"), 31556952, "years"),
)


def clean(text: str) -> str:
    """Text from elsewhere without characters that a terminal would act on or hide."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def name(raw: bytes) -> str:
    """Bytes of git as text; bytes that are not UTF-8 become U+FFFD."""
    return clean(raw.decode(errors="replace"))


def count(number: int, noun: str) -> str:
    """`1 ref`, `100,000 refs`."""
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def size(octets: float) -> str:
    """Bytes, in the decimal units that disks and object stores are sold by."""
    if octets < 1000:
        return f"{int(octets)} B"
    power = 1
    while octets >= 999.95 * 1000**power and power < len(_SIZES):
        power += 1
    return f"{octets / 1000**power:.1f} {_SIZES[power - 1]}"


def not_known(repos: int) -> str:
    """What to say when the vault has repos that the database does not know."""
    return f"the vault has {count(repos, 'repo')} that this database does not know: run everref rebuild"


def unsaved(files: int, octets: int | None = None) -> str:
    """What to say about large files that are not saved, because Git LFS stores them outside git."""
    how_large = "" if octets is None else f" ({size(octets)})"
    return f"{count(files, 'large file')}{how_large} of Git LFS {'is' if files == 1 else 'are'} not saved"


def mend(repo: str) -> str:
    """What to do about damage in the vault: what heals by itself is named, as nobody need wait for it."""
    return (
        "Everref heals what it can by itself; restore what stays damaged from a copy of the vault,"
        f" then run everref verify {repo}"
    )


def ago(then: datetime, now: datetime) -> str:
    """How long ago, in the coarsest unit that still says something."""
    seconds = (now - then).total_seconds()
    if -1 < seconds < 1:
        return "just now"
    length, unit = next((length, unit) for limit, length, unit in _AGES if abs(seconds) < limit)
    number = int(abs(seconds) // length)
    return f"{number} {unit} ago" if seconds > 0 else f"in {number} {unit}"


def sentence(said: object) -> str:
    """An error message as a sentence; a name or an address at its beginning stays as it is."""
    text = str(said).strip().rstrip(".")
    named = not text.partition(" ")[0].rstrip(",:;").isalpha()
    return f"{text if named else text[:1].upper() + text[1:]}."


def rfc3339(time: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds, always as long: what programs read everywhere."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def minute(at: datetime) -> str:
    """`2026-11-22 14:05 UTC`: a time to come, to the minute, and not before it."""
    up = at.astimezone(UTC) + timedelta(seconds=59, microseconds=999_999)
    return f"{up:%Y-%m-%d %H:%M} UTC"


def percent(ratio: float) -> str:
    """A part of a whole, never rounded up to all of it: 98.2 %."""
    return f"{math.floor(ratio * 1000) / 10:g} %"


def lasted(seconds: float) -> str:
    """A duration in words."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
