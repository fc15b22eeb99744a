"""Costs as JSON: what a team's repos used in a month, and what that costs."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Final

from msgspec import Meta

from mirror.core.rules.keeping import costs
from mirror.core.rules.keeping.costs import KINDS, Bill
from mirror.shapes.base import Answer

Money = Annotated[str | None, Meta(description="in `currency`; null: there is no price table")]


def _told(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"


class RepoCost(Answer, frozen=True, kw_only=True):
    """One repo in one month."""

    repo_id: str
    repo: str
    bytes: Annotated[
        dict[str, int], Meta(description="on average, of parts, indexes, manifests and replaced")
    ]
    classes: Annotated[dict[str, int], Meta(description="the same by storage class")]
    days: Annotated[int, Meta(description="of the month that the repo has been here for")]
    measured_days: Annotated[int, Meta(description="of these; the others are taken to be like them")]
    writes: Annotated[int, Meta(description="requests, estimated")]
    reads: Annotated[int, Meta(description="requests, estimated")]
    restored_bytes: Annotated[int, Meta(description="that restores and downloads read, at most")]
    checked_bytes: Annotated[int, Meta(description="that drills and readings read")]
    storage_cost: Money
    requests_cost: Money
    egress_cost: Money
    cost: Money

    @classmethod
    def of(cls, one: costs.Line) -> "RepoCost":
        return cls(
            repo_id=one.repo_id,
            repo=one.repo,
            bytes={kind: one.average.get(kind, 0) for kind in KINDS},
            classes=dict(one.classes),
            days=one.days,
            measured_days=one.measured,
            writes=one.writes,
            reads=one.reads,
            restored_bytes=one.restored,
            checked_bytes=one.checked,
            storage_cost=_told(one.storage_cost),
            requests_cost=_told(one.requests_cost),
            egress_cost=_told(one.egress_cost),
            cost=_told(one.cost),
        )


class RepoSaved(Answer, frozen=True, kw_only=True):
    """What all snapshots of a repo take in the vault, and what full bundles of them would."""

    repo_id: str
    repo: str
    snapshots: int
    stored_bytes: Annotated[int, Meta(description="live parts and their indexes, now")]
    each_bytes: Annotated[int, Meta(description="a full bundle for each snapshot, estimated")]
    daily_bytes: Annotated[int, Meta(description="a full bundle for each day with a snapshot, estimated")]

    @classmethod
    def of(cls, one: costs.Saved) -> "RepoSaved":
        return cls(
            repo_id=one.repo_id,
            repo=one.repo,
            snapshots=one.snapshots,
            stored_bytes=one.stored,
            each_bytes=one.each,
            daily_bytes=one.daily,
        )


class Costs(Answer, frozen=True, kw_only=True):
    """A team's month."""

    team: str
    month: Annotated[str, Meta(description="such as 2026-11, by UTC")]
    start: date
    is_over: Annotated[bool, Meta(description="false: the month goes on, and so do the figures")]
    currency: Annotated[str | None, Meta(description="null: there is no price table")]
    cost: Money
    exports_bytes: Annotated[int, Meta(description="of bundles to download that are in the vault now")]
    repos: list[RepoCost]
    saved: list[RepoSaved]

    @classmethod
    def of(cls, team: str, bill: Bill) -> "Costs":
        return cls(
            team=team,
            month=bill.month.label,
            start=bill.month.first,
            is_over=bill.is_over,
            currency=bill.prices.currency if bill.prices else None,
            cost=_told(bill.cost),
            exports_bytes=bill.exports,
            repos=[RepoCost.of(line) for line in bill.lines],
            saved=[RepoSaved.of(one) for one in bill.saved],
        )


COLUMNS: Final = (
    *("month", "repo", *KINDS, "days", "measured_days", "writes", "reads"),
    *("restored_bytes", "checked_bytes", "currency", "storage_cost", "requests_cost", "egress_cost", "cost"),
)


def rows(bill: Bill) -> list[dict[str, object]]:
    """A team's month as rows of a table, by COLUMNS."""
    return [
        {
            "month": bill.month.label,
            "repo": line.repo,
            **{kind: line.average.get(kind, 0) for kind in KINDS},
            "days": line.days,
            "measured_days": line.measured,
            "writes": line.writes,
            "reads": line.reads,
            "restored_bytes": line.restored,
            "checked_bytes": line.checked,
            "currency": bill.prices.currency if bill.prices else None,
            "storage_cost": _told(line.storage_cost),
            "requests_cost": _told(line.requests_cost),
            "egress_cost": _told(line.egress_cost),
            "cost": _told(line.cost),
        }
        for line in bill.lines
    ]
