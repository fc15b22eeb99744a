"""What is kept, as JSON: policies, previews, legal holds and kept snapshots."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.core.rules.keeping.retention import Policy
from mirror.shapes.base import Answer
from mirror.store.backup.epochs import Epoch
from mirror.store.upkeep.keeping import Hold, Pin
from mirror.upkeep.retention import Preview

At = datetime


class RetentionPolicy(Answer, frozen=True, kw_only=True):
    """How long snapshots are kept; one stays if any of the numbers keeps it."""

    for_ever: Annotated[bool, Meta(description="everything is kept; then the numbers are 0")]
    keep_last: Annotated[int, Meta(description="the newest n snapshots")]
    days: Annotated[int, Meta(description="everything of the last n days")]
    daily: Annotated[int, Meta(description="the last of each of the last n days that have one, by UTC")]
    weekly: Annotated[int, Meta(description="likewise: ISO weeks")]
    monthly: int
    yearly: int
    words: str

    @classmethod
    def of(cls, policy: Policy) -> "RetentionPolicy":
        return cls(for_ever=policy.for_ever, words=str(policy), **policy.numbers)


class KeptSnapshot(Answer, frozen=True, kw_only=True):
    """A snapshot that stays."""

    snapshot: int
    taken_at: At
    because: list[str]


class GoingSnapshot(Answer, frozen=True, kw_only=True):
    """A snapshot that would go."""

    snapshot: int
    taken_at: At


class RetentionPreview(Answer, frozen=True, kw_only=True):
    """What a policy would do to a repo now."""

    repo: str
    policy: RetentionPolicy
    kept: list[KeptSnapshot]
    going: list[GoingSnapshot]
    stored_bytes: int
    freed_bytes_at_most: Annotated[
        int, Meta(description="an upper bound: what the going snapshots brought, later ones may need")
    ]
    earliest_before: At | None
    earliest_after: At | None
    next_rewrite: Annotated[
        bool, Meta(description="whether they go with the next turn, or wait until more do")
    ]
    stopped: Annotated[str | None, Meta(description="why nothing is dropped now although something would go")]

    @classmethod
    def of(cls, found: Preview) -> "RetentionPreview":
        plan = found.plan
        return cls(
            repo=found.repo.name,
            policy=RetentionPolicy.of(plan.policy),
            kept=[
                KeptSnapshot(snapshot=one.number, taken_at=one.at, because=list(one.because))
                for one in plan.kept
            ],
            going=[GoingSnapshot(snapshot=one.number, taken_at=one.at) for one in plan.dropped],
            stored_bytes=found.size.stored,
            freed_bytes_at_most=found.size.at_most,
            earliest_before=found.earliest_before,
            earliest_after=found.earliest_after,
            next_rewrite=found.worth,
            stopped=plan.stopped,
        )


class LegalHold(Answer, frozen=True, kw_only=True):
    """A legal hold that stands: nothing of the repo goes."""

    reason: str
    set_by: str
    set_at: At

    @classmethod
    def of(cls, hold: Hold) -> "LegalHold":
        return cls(reason=hold.reason, set_by=hold.set_by, set_at=hold.set_at)


class KeptByHand(Answer, frozen=True, kw_only=True):
    """A snapshot that somebody keeps, whatever the policy says."""

    snapshot: int
    note: str
    by: str
    at: At

    @classmethod
    def of(cls, pin: Pin) -> "KeptByHand":
        return cls(snapshot=pin.snapshot, note=pin.note, by=pin.by, at=pin.at)


class Rewrite(Answer, frozen=True, kw_only=True):
    """A time when the log of a repo was packed anew without what was dropped."""

    epoch: int
    at: At
    by: str
    why: str
    dropped: Annotated[int, Meta(description="snapshots")]
    bytes_before: int
    bytes_after: int

    @classmethod
    def of(cls, one: Epoch) -> "Rewrite":
        return cls(
            epoch=one.number,
            at=one.began_at,
            by=one.by,
            why=one.why,
            dropped=one.dropped,
            bytes_before=one.bytes_before,
            bytes_after=one.bytes_after,
        )


class RepoRetention(Answer, frozen=True, kw_only=True):
    """What is kept of a repo."""

    own: Annotated[bool, Meta(description="the repo has a policy of its own, and not its team's")]
    preview: RetentionPreview
    hold: LegalHold | None
    kept_by_hand: list[KeptByHand]
    rewrites: list[Rewrite]
