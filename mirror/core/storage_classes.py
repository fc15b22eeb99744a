"""Storage classes by age: to which class of the store old objects move, as a rule of its bucket.

The store moves them in place, so nothing is overwritten and locks stay; Everref writes the rule when it is
asked to. Who uses it: core/config reads the setting, cli/commands/vault and vault/lifecycle the rule.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mirror.core.errors import UsageError

# In the order in which S3 moves objects from one to the next; each is read at once, as the first byte takes
# milliseconds: https://docs.aws.amazon.com/AmazonS3/latest/userguide/lifecycle-transition-general-considerations.html
READ_AT_ONCE: Final = ("STANDARD_IA", "INTELLIGENT_TIERING", "GLACIER_IR")
_NEED_A_THAW: Final = ("GLACIER", "DEEP_ARCHIVE")
RULE: Final = "everref-storage-classes"  # the id of our rule; those of others stay
LEAST_BYTES: Final = 128 << 10  # smaller objects cost more in the classes above than in the usual one
_LEAST_DAYS: Final = 30  # S3 bills so many in STANDARD_IA at least, and refuses an earlier move
_MOST_DAYS: Final = 3650
_STEP: Final = re.compile(r"([0-9]{1,4})d:([A-Z_]{1,40})")

Rule = Mapping[str, Any]  # as PutBucketLifecycleConfiguration takes it


@dataclass(frozen=True, slots=True)
class Step:
    """A move of objects that were stored so long ago."""

    days: int
    to: str  # of READ_AT_ONCE

    def __str__(self) -> str:
        return f"{self.days}d:{self.to}"


def read(text: str, setting: str) -> tuple[Step, ...]:
    """What `30d:STANDARD_IA,180d:GLACIER_IR` says. Raises UsageError, naming the setting."""
    steps: list[Step] = []
    for item in (part.strip() for part in text.split(",")):
        match = _STEP.fullmatch(item)
        if match is None:
            raise UsageError(
                f"{setting}: {item!r} is no age and class; write 30d:STANDARD_IA,180d:GLACIER_IR"
            )
        step = Step(int(match[1]), match[2])
        if step.to in _NEED_A_THAW:
            raise UsageError(
                f"{setting}: what is in {step.to} cannot be read for hours, so no restore or check reads it;"
                f" choose {_listed()}"
            )
        if step.to not in READ_AT_ONCE:
            raise UsageError(f"{setting}: {step.to} is not a class that it knows; choose {_listed()}")
        if not _LEAST_DAYS <= step.days <= _MOST_DAYS:
            raise UsageError(
                f"{setting}: {step} must be {_LEAST_DAYS} to {_MOST_DAYS} days; stores refuse an earlier move"
            )
        if steps and (
            step.days < steps[-1].days + _LEAST_DAYS
            or READ_AT_ONCE.index(step.to) <= READ_AT_ONCE.index(steps[-1].to)
        ):
            raise UsageError(
                f"{setting}: {step} must follow {steps[-1]} by {_LEAST_DAYS} days or more,"
                f" in the order {', '.join(READ_AT_ONCE)}"
            )
        steps.append(step)
    return tuple(steps)


def written(steps: Sequence[Step]) -> str:
    """The setting that `read` reads as the same."""
    return ",".join(map(str, steps))


def _listed() -> str:
    return f"{', '.join(READ_AT_ONCE[:-1])} or {READ_AT_ONCE[-1]}"


def rule(prefix: str, steps: Sequence[Step]) -> Rule:
    """The rule for what is stored under a prefix of the bucket ("": all of it)."""
    larger = {"ObjectSizeGreaterThan": LEAST_BYTES}
    return {
        "ID": RULE,
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": f"{prefix}/", **larger}} if prefix else larger,
        "Transitions": [{"Days": step.days, "StorageClass": step.to} for step in steps],
    }


def merged(rules: Sequence[Rule], ours: Rule | None) -> list[Rule]:
    """All rules of a bucket with ours in the place of an earlier one; None: without it."""
    others = [one for one in rules if one.get("ID") != RULE]
    return others if ours is None else [*others, ours]


def is_there(rules: Sequence[Rule], ours: Rule | None) -> bool:
    """Whether the bucket has exactly our rule; None: whether it has none of ours."""
    found = [_plain(one) for one in rules if one.get("ID") == RULE]
    return found == ([] if ours is None else [_plain(ours)])


def archiving(rules: Sequence[Rule]) -> list[str]:
    """The ids of rules that move objects to where they cannot be read at once."""
    return [
        str(one.get("ID") or "a rule without an id")
        for one in rules
        if one.get("Status") == "Enabled"
        and any(move.get("StorageClass") in _NEED_A_THAW for move in one.get("Transitions", ()))
    ]


def _plain(one: Rule) -> dict[str, Any]:
    """What a rule says, however a store orders it."""
    chosen = one.get("Filter", {})
    moves = one.get("Transitions", ())
    return {
        "status": one.get("Status"),
        "filter": dict(chosen.get("And", chosen)),
        "moves": sorted((move.get("Days", -1), move.get("StorageClass", "")) for move in moves),
        "more": sorted(one.keys() - {"ID", "Status", "Filter", "Transitions", "Prefix"}),
    }
