"""What a month of a repo in the vault costs, by the operator's price table; and what storing parts saves.

Who calls: upkeep/costs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final, Literal, get_args

from mirror.core.errors import UsageError
from mirror.core.prices import Prices

Kind = Literal["parts", "indexes", "manifests", "replaced"]
KINDS: Final[Sequence[Kind]] = get_args(Kind)

_MONTH: Final = re.compile(r"([0-9]{4})-([0-9]{2})")
_MICRO: Final = Decimal("0.000001")
_THOUSAND: Final = Decimal(1000)


@dataclass(frozen=True, slots=True)
class Month:
    """A month by UTC, as stores bill it."""

    start: datetime
    end: datetime  # not included

    @property
    def first(self) -> date:
        """Its first day."""
        return self.start.date()

    @property
    def days(self) -> int:
        """How many it has."""
        return (self.end - self.start).days

    @property
    def label(self) -> str:
        """As people write it in addresses: `2026-11`."""
        return f"{self.start:%Y-%m}"

    def before(self) -> "Month":
        """The one before."""
        return month_of(self.start - timedelta(days=1))

    def after(self) -> "Month":
        """The one after."""
        return month_of(self.end)


def month_of(at: datetime) -> Month:
    """The month in which this moment is, by UTC."""
    start = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return Month(start, (start + timedelta(days=32)).replace(day=1))


def month_named(text: str | None, now: datetime) -> Month:
    """The month that is asked for, such as `2026-11`; None or empty: this one.

    Raises UsageError for what is no month, and for one to come.
    """
    if not text:
        return month_of(now)
    match = _MONTH.fullmatch(text.strip())
    if match is None or not 2000 <= int(match[1]) < 9000 or not 1 <= int(match[2]) <= 12:
        raise UsageError("that is not a month; write one such as 2026-11", field="month")
    found = month_of(datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC))
    if found.start > now:
        raise UsageError("that month has not begun; choose an earlier one", field="month")
    return found


@dataclass(frozen=True, slots=True)
class Used:
    """What the database knows of one repo in one month."""

    repo_id: str
    repo: str
    byte_days: Mapping[tuple[Kind, str], int]  # by kind and storage class: the sum over the measured days
    measured: int  # days
    since: datetime  # when it was added
    snapshots: int  # taken in the month
    uploads: int  # requests that stored parts and their indexes
    merged: int  # requests by which compaction read and stored parts
    drills: int
    drilled: int  # bytes
    restores: int  # with bundles
    restored: int  # bytes up to their moments: the most that they can have read
    downloads: int  # bundles that were made to be downloaded
    downloaded: int  # bytes, if each was downloaded once
    parts: int  # that are live now
    stored: int  # bytes of these


@dataclass(frozen=True, slots=True)
class Readings:
    """What the rotation read of a team in one month."""

    bytes: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One repo in one month."""

    repo_id: str
    repo: str
    average: Mapping[Kind, int]  # bytes, over the days of the month that it has been here for
    classes: Mapping[str, int]  # the same by storage class
    measured: int  # days
    days: int  # of the month, that it has been here for
    writes: int
    reads: int
    restored: int  # bytes
    checked: int  # bytes
    storage_cost: Decimal | None = None  # None: there is no price table
    requests_cost: Decimal | None = None
    egress_cost: Decimal | None = None

    @property
    def bytes(self) -> int:
        """On average, of all kinds."""
        return sum(self.average.values())

    @property
    def cost(self) -> Decimal | None:
        """All of it. None: there is no price table."""
        if self.storage_cost is None or self.requests_cost is None or self.egress_cost is None:
            return None
        return self.storage_cost + self.requests_cost + self.egress_cost


@dataclass(frozen=True, slots=True)
class Saved:
    """How much all snapshots of a repo take, and what other ways to keep them would."""

    repo_id: str
    repo: str
    snapshots: int
    stored: int  # bytes of the live parts and their indexes
    each: int  # bytes of a full bundle for each snapshot, estimated
    daily: int  # bytes of a full bundle for each day that has a snapshot, estimated

    @property
    def times(self) -> float:
        """How many times as much a bundle a day would take."""
        return self.daily / self.stored if self.stored else 1.0


@dataclass(frozen=True, slots=True)
class Bill:
    """A team's month."""

    month: Month
    prices: Prices | None  # None: bytes are shown, and no money
    lines: Sequence[Line]
    saved: Sequence[Saved]
    exports: int = 0  # bytes of bundles to download that are in the vault now
    is_over: bool = False  # the month has ended

    @property
    def cost(self) -> Decimal | None:
        """Of all repos. None: there is no price table."""
        if self.prices is None:
            return None
        return sum((line.cost for line in self.lines if line.cost is not None), Decimal(0))

    def of_repo(self, repo_id: str) -> "Bill":
        """What is about one repo."""
        chosen = [line for line in self.lines if line.repo_id == repo_id]
        return replace(self, lines=chosen, saved=[one for one in self.saved if one.repo_id == repo_id])

    @property
    def bytes(self) -> int:
        """On average, of all repos."""
        return sum(line.bytes for line in self.lines)

    @property
    def unmeasured(self) -> int:
        """Days of repos that nobody measured, and that are taken to be like the others."""
        return sum(line.days - line.measured for line in self.lines)


def lines(
    used: Sequence[Used], readings: Readings, month: Month, prices: Prices | None, now: datetime
) -> list[Line]:
    """What each repo used in the month, and its cost.

    Days that were not measured are taken to be like the measured ones. What the rotation read is
    known of the team alone and shared out by the bytes of each repo's parts.
    """
    stored = sum(one.stored for one in used)
    return [_line(one, readings, one.stored / stored if stored else 0.0, month, prices, now) for one in used]


def _line(
    one: Used, readings: Readings, share: float, month: Month, prices: Prices | None, now: datetime
) -> Line:
    days = max(one.measured, _days_here(one, month, now))
    average: dict[Kind, int] = {}
    classes: dict[str, int] = {}
    for (kind, name), sum_of_days in one.byte_days.items():
        size = sum_of_days // one.measured if one.measured else 0
        average[kind] = average.get(kind, 0) + size
        classes[name] = classes.get(name, 0) + size
    a_reading = 2 * one.parts + 1  # each part and its index, and the newest manifest
    line = Line(
        one.repo_id,
        one.repo,
        average,
        classes,
        one.measured,
        days,
        writes=one.snapshots + one.uploads + one.merged + one.drills + one.downloads,
        reads=one.merged + a_reading * (one.drills + one.restores) + round(readings.objects * share),
        restored=one.restored + one.downloaded,
        checked=one.drilled + round(readings.bytes * share),
    )
    return line if prices is None else _priced(line, month, prices)


def _days_here(one: Used, month: Month, now: datetime) -> int:
    """The days of the month until now on which the repo was here; today counts."""
    start, end = max(month.start, one.since), min(month.end, now)
    last = (end - timedelta(microseconds=1)).astimezone(UTC).date()
    return max(0, (last - start.astimezone(UTC).date()).days + 1)


def _priced(line: Line, month: Month, prices: Prices) -> Line:
    of_month = Decimal(line.days) / month.days
    storage = sum(
        (_units(size, prices) * of_month * prices.of_class(name) for name, size in line.classes.items()),
        Decimal(0),
    )
    requests = line.writes * prices.writes / _THOUSAND + line.reads * prices.reads / _THOUSAND
    egress = _units(line.restored, prices) * prices.egress + _units(line.checked, prices) * prices.checks
    return replace(
        line,
        storage_cost=_rounded(storage),
        requests_cost=_rounded(requests),
        egress_cost=_rounded(egress),
    )


def _units(size: int, prices: Prices) -> Decimal:
    return Decimal(size) / prices.unit_bytes


def _rounded(amount: Decimal) -> Decimal:
    return amount.quantize(_MICRO, ROUND_HALF_UP)


def money(amount: Decimal) -> str:
    """An amount as people read it: two decimals, and what is less than half a cent is not called nothing."""
    if 0 < amount < Decimal("0.005"):
        return "<0.01"
    return f"{amount.quantize(Decimal('0.01'), ROUND_HALF_UP):,}"
