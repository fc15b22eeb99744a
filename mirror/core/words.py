"""Values in a person's words: how much, how long, how long ago, and names of git as text."""

from datetime import UTC, datetime
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
    """Text from elsewhere without what a terminal would act on, or hide."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def name(raw: bytes) -> str:
    """Bytes of git as text; what is no UTF-8 is U+FFFD."""
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
    """What the vault has that the database does not know."""
    return f"the vault has {count(repos, 'repo')} that this database does not know: run everref rebuild"


def unsaved(files: int, octets: int | None = None) -> str:
    """That so many large files are not saved, as Git LFS keeps them outside git."""
    how_large = "" if octets is None else f" ({size(octets)})"
    return f"{count(files, 'large file')}{how_large} of Git LFS {'is' if files == 1 else 'are'} not saved"


def mend(repo: str) -> str:
    """What to do about damage in the vault."""
    return f"put what is damaged back from a copy of the vault, then run everref verify {repo}"


def ago(then: datetime, now: datetime) -> str:
    """How long ago, in the coarsest unit that still says something."""
    seconds = (now - then).total_seconds()
    if -1 < seconds < 1:
        return "just now"
    length, unit = next((length, unit) for limit, length, unit in _AGES if abs(seconds) < limit)
    number = int(abs(seconds) // length)
    return f"{number} {unit} ago" if seconds > 0 else f"in {number} {unit}"


def sentence(said: object) -> str:
    """A line that an error says, as a sentence; a name or an address that it begins with stays as it is."""
    text = str(said).strip().rstrip(".")
    named = not text.partition(" ")[0].rstrip(",:;").isalpha()
    return f"{text if named else text[:1].upper() + text[1:]}."


def rfc3339(time: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds, always as long: what programs read everywhere."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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
