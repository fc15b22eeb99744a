"""What was measured, as values: medians, ratios, and the tables that show them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median as _median
from typing import Literal

Unit = Literal["s", "bytes", "MB", "statements", "reads"]

HEAD = ("what", "repository", "Everref", "against", "takes", "ratio", "goal", "stretch", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: samples of ours and of a peer's, taken side by side in one run. Less is better."""

    what: str
    repo: str
    ours: tuple[float, ...]
    unit: Unit
    peer: str = ""  # what the other one is; empty: nobody, the goal is absolute
    theirs: tuple[float, ...] = ()
    goal: float | None = None  # a ratio, or a value in `unit` where there is no peer
    stretch: float | None = None
    remark: str = ""

    @property
    def measure(self) -> float:
        """What the goal is about: the ratio of the medians, or our median alone."""
        return ratio(self.ours, self.theirs) if self.theirs else median(self.ours)


def median(samples: Sequence[float]) -> float:
    """The middle one; ValueError when there is none."""
    if not samples:
        raise ValueError("no samples")
    return _median(samples)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median against median: below 1 we need less."""
    return median(ours) / median(theirs)


def verdict(row: Row) -> str:
    """How the row stands to its goal."""
    if row.goal is None:
        return ""
    if row.stretch is not None and row.measure <= row.stretch:
        return "stretch"
    return "goal" if row.measure <= row.goal else "missed"


def shown(value: float, unit: Unit) -> str:
    """A value with its unit, three digits that matter."""
    if unit == "s":
        return (
            f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"
        )
    if unit in ("MB", "statements", "reads"):
        return f"{value:.0f} {unit}"
    for size, word in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.2f} {word}"
    return f"{value:.0f} B"


def shown_ratio(value: float) -> str:
    """A ratio, and as a fraction where it is a small one."""
    return f"{value:.3f} (1/{1 / value:.0f})" if 0 < value < 0.5 else f"{value:.2f}"


def shown_limit(value: float | None, row: Row) -> str:
    if value is None:
        return ""
    return f"≤ {shown_ratio(value) if row.theirs else shown(value, row.unit)}"


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table, as HEAD names its columns."""
    return (
        row.what,
        row.repo,
        shown(median(row.ours), row.unit),
        row.peer,
        shown(median(row.theirs), row.unit) if row.theirs else "",
        shown_ratio(row.measure) if row.theirs else "",
        shown_limit(row.goal, row),
        shown_limit(row.stretch, row),
        " ".join(filter(None, (verdict(row), row.remark))),
    )


def text_table(rows: Sequence[Row]) -> str:
    """The rows for a terminal, and below each the samples themselves."""
    table = [HEAD, *(cells(row) for row in rows)]
    width = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    lines = []
    for number, line in enumerate(table):
        lines.append("  ".join(cell.ljust(width[column]) for column, cell in enumerate(line)).rstrip())
        if number:
            row = rows[number - 1]
            lines.append(f"    {_samples(row.ours, row.unit)}")
            if row.theirs:
                lines[-1] += f"  |  {_samples(row.theirs, row.unit)}"
    return "\n".join(lines) + "\n"


def _samples(samples: Sequence[float], unit: Unit) -> str:
    few = sorted(samples)
    if len(few) > 5:
        few = [few[0], few[len(few) // 4], median(few), few[3 * len(few) // 4], few[-1]]
    return f"{len(samples)} samples: " + " ".join(shown(value, unit) for value in few)


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows for RESULTS.md."""
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(cells(row)) for row in rows]
    return "\n".join(lines) + "\n"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def document(facts: str, sections: Mapping[str, str]) -> str:
    """The whole of RESULTS.md: the facts of the machine, then one section for each case."""
    parts = [f"{facts.rstrip()}\n", *(f"## {name}\n\n{body.strip()}\n" for name, body in sections.items())]
    return "\n".join(parts)


def sections_of(text: str, facts: str) -> dict[str, str]:
    """The sections of an earlier document, when it tells of the same machine; else none."""
    head, *sections = text.split("\n## ")
    if head.strip() != facts.strip():
        return {}
    split = (section.partition("\n") for section in sections)
    return {name: body.strip() for name, _, body in split}


def facts_of(text: str, facts: str) -> str:
    """The facts of an earlier document when they differ in the repositories alone, else these."""
    head = text.partition("\n## ")[0]
    return head if _apart_from_repositories(head) == _apart_from_repositories(facts) else facts


def _apart_from_repositories(facts: str) -> list[str]:
    return [line for line in facts.strip().splitlines() if not line.startswith("- repository ")]
