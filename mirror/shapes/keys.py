"""A team's encryption keys as JSON: no secret is in them."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.core.rules.keeping.recovery_keys import Kind
from mirror.people.keys import Standing
from mirror.shapes.base import Answer
from mirror.store.people.keys import OwnKey, RecoveryKey
from mirror.store.upkeep.reseal import Left


class RecoveryKeyShown(Answer, frozen=True, kw_only=True):
    """Somebody's key that backups are sealed to as well."""

    id: str
    name: str
    kind: Kind
    recipient: Annotated[str, Meta(description="the public half, as age takes it")]
    added_by: Annotated[str | None, Meta(description="null: whoever runs Everref, or somebody who is gone")]
    added_at: datetime
    proved_at: Annotated[datetime | None, Meta(description="null: nothing is sealed to it yet")]
    removed_at: Annotated[
        datetime | None, Meta(description="what was sealed to it before still opens with it")
    ]

    @classmethod
    def of(cls, one: RecoveryKey) -> "RecoveryKeyShown":
        return cls(
            id=str(one.id),
            name=one.name,
            kind=one.kind,
            recipient=one.recipient,
            added_by=one.added_by,
            added_at=one.added_at,
            proved_at=one.proved_at,
            removed_at=one.removed_at,
        )


class OwnKeyShown(Answer, frozen=True, kw_only=True):
    """A key of the team's own, which SECRET_KEYS protects."""

    recipient: str
    made_at: datetime
    retired_at: Annotated[datetime | None, Meta(description="null: it is the one that is sealed to")]
    unreadable_since: Annotated[datetime | None, Meta(description="null: SECRET_KEYS opens it")]

    @classmethod
    def of(cls, one: OwnKey) -> "OwnKeyShown":
        return cls(
            recipient=one.recipient,
            made_at=one.made_at,
            retired_at=one.retired_at,
            unreadable_since=one.unreadable_since,
        )


class PlainLeft(Answer, frozen=True, kw_only=True):
    """What lies unencrypted in the vault although its team seals, as it was last looked at."""

    left_objects: Annotated[
        int, Meta(description="stored before sealing was switched on, still to be sealed")
    ]
    left_bytes: int
    kept_objects: Annotated[int, Meta(description="sealed or replaced by now, and not deleted yet")]
    kept_bytes: int
    kept_until: Annotated[
        datetime | None, Meta(description="when the last of these can be deleted; null: there are none")
    ]
    kept_held: Annotated[bool, Meta(description="a legal hold in a store keeps some, without an end")]

    @classmethod
    def of(cls, found: Left) -> "PlainLeft":
        return cls(
            left_objects=found.objects,
            left_bytes=found.bytes,
            kept_objects=found.kept_objects,
            kept_bytes=found.kept_bytes,
            kept_until=found.kept_until,
            kept_held=found.kept_held,
        )


class TeamKeys(Answer, frozen=True, kw_only=True):
    """To whom a team's backups are sealed."""

    sealed_since: Annotated[datetime | None, Meta(description="null: new objects are stored as they are")]
    own: list[OwnKeyShown]
    recovery: list[RecoveryKeyShown]
    plain: Annotated[PlainLeft | None, Meta(description="null: the team does not seal")]
    plain_unlooked: Annotated[int, Meta(description="repos that were not looked at yet")]
    plain_problem: Annotated[str | None, Meta(description="why something could not be sealed")]

    @classmethod
    def of(cls, found: Standing) -> "TeamKeys":
        return cls(
            sealed_since=found.sealing.since,
            own=[OwnKeyShown.of(one) for one in found.own],
            recovery=[RecoveryKeyShown.of(one) for one in found.recovery],
            plain=PlainLeft.of(found.plain.left) if found.plain else None,
            plain_unlooked=found.plain.unlooked if found.plain else 0,
            plain_problem=found.plain.problem if found.plain else None,
        )


class KeySample(Answer, frozen=True, kw_only=True):
    """What a key is proved with."""

    sample: Annotated[str, Meta(description="sealed to the key by age, armored; what it says is the answer")]


class KeyRemoved(Answer, frozen=True, kw_only=True):
    """What became of a removal."""

    removed: Annotated[bool, Meta(description="false: it was asked for, and takes effect days later")]
