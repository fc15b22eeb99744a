"""Tables as CSV, as a spreadsheet opens them."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def csv_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for each row, after the names. A cell that a spreadsheet would read as a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])
    return out.getvalue()


def plain(value: Any) -> str:
    """A value as programs read it; a time is in UTC."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: Any) -> str:
    text = "" if value is None else plain(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" and text[:1] else text
