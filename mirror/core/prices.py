"""The price table of the operator: what the store of the vault asks, read from a setting.

Who uses it: core/config reads it, core/rules/keeping/costs reckons with it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from mirror.core.errors import UsageError

STANDARD: Final = "STANDARD"  # the storage class of what nobody moved to another
UNITS: Final[Mapping[str, int]] = {"GB": 10**9, "GiB": 1 << 30}

_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_CLASS: Final = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_MOST: Final = Decimal(1_000_000)  # a price beyond this is a slip of the pen
_NAMES: Final = "currency, unit, storage, storage.CLASS, writes, reads, egress or checks"


@dataclass(frozen=True, slots=True)
class Prices:
    """What the store asks, in one currency."""

    currency: str  # ISO 4217
    storage: Mapping[str, Decimal]  # a unit-month by storage class; STANDARD is there
    writes: Decimal = Decimal(0)  # 1,000 of them
    reads: Decimal = Decimal(0)  # 1,000 of them
    egress: Decimal = Decimal(0)  # a unit that restores and downloads read
    checks: Decimal = Decimal(0)  # a unit that drills and readings read
    unit: str = "GB"  # of all prices by size: a key of UNITS

    @property
    def unit_bytes(self) -> int:
        """How many bytes one unit has."""
        return UNITS[self.unit]

    def of_class(self, name: str) -> Decimal:
        """A unit-month in this storage class; that of STANDARD where the table has no price for it."""
        return self.storage.get(name, self.storage[STANDARD])


def read(text: str, setting: str = "PRICES") -> Prices:
    """A price table: `name = value`, by commas or lines, `#` begins a comment.

    Raises UsageError, which names the setting and what is wrong with it.
    """
    given: dict[str, str] = {}
    for line in text.splitlines():
        for item in line.partition("#")[0].split(","):
            if not item.strip():
                continue
            name, equals, value = (part.strip() for part in item.partition("="))
            if not equals or not value:
                raise UsageError(f"{setting}: {item.strip()!r} is no price; write NAME = NUMBER")
            if name in given:
                raise UsageError(f"{setting}: {name} is there twice; remove one")
            given[name] = value
    currency, unit = given.pop("currency", ""), given.pop("unit", "GB")
    if not _CURRENCY.fullmatch(currency):
        raise UsageError(f"{setting}: currency must be three capital letters, as in currency = EUR")
    if unit not in UNITS:
        raise UsageError(f"{setting}: unit must be GB or GiB, not {unit!r}")
    storage: dict[str, Decimal] = {}
    others: dict[str, Decimal] = {}
    for name, value in given.items():
        if name == "storage":
            storage[STANDARD] = _price(setting, name, value)
        elif name.startswith("storage.") and _CLASS.fullmatch(name.removeprefix("storage.")):
            storage.setdefault(name.removeprefix("storage."), _price(setting, name, value))
        elif name in ("writes", "reads", "egress", "checks"):
            others[name] = _price(setting, name, value)
        else:
            raise UsageError(f"{setting}: {name} is not known; a name is {_NAMES}")
    if STANDARD not in storage:
        raise UsageError(
            f"{setting}: storage is missing; write what a {unit} costs a month, as storage = 0.02"
        )
    return Prices(currency, storage, **others, unit=unit)


def _price(setting: str, name: str, text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation:
        price = Decimal(-1)
    if not price.is_finite() or not 0 <= price < _MOST:
        raise UsageError(f"{setting}: {name} must be a number such as 0.023, not {text!r}")
    return price


def written(prices: Prices) -> str:
    """A table that `read` reads as the same, on one line."""
    items = [f"currency={prices.currency}", f"unit={prices.unit}"]
    items += [
        f"{'storage' if name == STANDARD else f'storage.{name}'}={price:f}"
        for name, price in prices.storage.items()
    ]
    items += [f"{name}={getattr(prices, name):f}" for name in ("writes", "reads", "egress", "checks")]
    return ",".join(items)
