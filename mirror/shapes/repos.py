"""Repos, their snapshots and the history of their refs as JSON."""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType, field

from mirror.core.model import RefChange, Snapshot, has_remote
from mirror.core.rules.health import objective
from mirror.core.rules.history.pushes import Lost as LostPush
from mirror.shapes.base import Answer, Base64, Page, git
from mirror.store import repos
from mirror.store.backup import history
from mirror.store.browse import home, timeline
from mirror.store.browse.gone_refs import Gone
from mirror.store.repos import State


class Failure(Answer, frozen=True, kw_only=True):
    """Why something failed."""

    kind: str = field(name="class")
    message: str


class RepoFailure(Failure, frozen=True, kw_only=True):
    """Why a repo's last run failed."""

    since: datetime


class RepoDamage(Answer, frozen=True, kw_only=True):
    """What a verification or a drill found broken in the backup of a repo."""

    message: str
    found_at: datetime


class Repo(Answer, frozen=True, kw_only=True):
    """A repo, its backup, and how it is doing."""

    id: str
    name: str
    url: Annotated[str | None, Meta(description="of its remote; null: it has none and is pushed to")]
    state: State
    protected_as_of: datetime | None
    damage: Annotated[RepoDamage | None, Meta(description="until the backup is proven whole again")]
    rpo: Annotated[str, Meta(description="how old the newest backup may be: 15m, 24h, 7d")]
    outside_rpo: Annotated[bool, Meta(description="whether more could be lost than the objective allows")]
    behind_since: Annotated[
        datetime | None, Meta(description="pushes since then may not be backed up; null: it is not behind")
    ]
    failure: RepoFailure | None
    archived_at: datetime | None
    paused_at: datetime | None
    snapshots: int
    saved_at: datetime | None
    refs: int
    bytes: int
    proved_at: datetime | None
    at_work: bool
    large_files_not_saved: Annotated[int, Meta(description="files that Git LFS stores outside git")]

    @classmethod
    def of(cls, one: home.RepoOverview | repos.Overview) -> "Repo":
        failure, damage, behind = None, None, one.behind_since
        if one.damage is not None:
            damage = RepoDamage(message=one.damage.message, found_at=one.damage.at)
        if one.failure is not None:
            failure = RepoFailure(kind=one.failure.kind, message=one.failure.message, since=one.failure.since)
            behind = min(behind or one.failure.since, one.failure.since)
        if one.state == "late":
            behind = behind or one.protected_as_of
        return cls(
            id=str(one.id),
            name=one.name,
            url=one.url if has_remote(one.url) else None,
            state=one.state,
            protected_as_of=one.protected_as_of,
            damage=damage,
            rpo=objective.written(one.rpo),
            outside_rpo=one.outside_rpo,
            behind_since=None if one.archived_at else behind,
            failure=failure,
            archived_at=one.archived_at,
            paused_at=one.paused_at,
            snapshots=one.snapshots,
            saved_at=one.saved_at,
            refs=one.refs,
            bytes=one.bytes,
            proved_at=one.proved_at,
            at_work=one.at_work,
            large_files_not_saved=one.large_files,
        )


class RepoSettings(Answer, frozen=True, kw_only=True):
    """When a repo is checked, and what is left out."""

    schedule: Annotated[str | None, Meta(description="15m, 6h, 1d, a cron expression; null: by activity")]
    rpo: Annotated[str | None, Meta(description="its own objective: 15m, 24h, 7d; null: the team's")]
    look_at: Annotated[datetime | None, Meta(description="when the next check is due; null: at once")]
    paused_at: datetime | None
    excluded: Annotated[list[str], Meta(description="patterns of refs that are left out")]


class TakenSnapshot(Answer, frozen=True, kw_only=True):
    """The whole refs map of a repo at one moment."""

    number: int
    taken_at: datetime
    reason: str
    object_format: str
    head: str | None
    head_b64: Base64 | UnsetType = UNSET
    refs: int
    refs_digest: str
    changes: int
    bytes: int
    manifest_sha256: str
    previous_sha256: str | None
    verified_at: datetime | None

    @classmethod
    def of(cls, one: Snapshot) -> "TakenSnapshot":
        return cls(
            number=one.number,
            taken_at=one.taken_at,
            reason=one.reason.value,
            object_format=one.object_format,
            refs=one.refs_count,
            refs_digest=one.refs_digest,
            changes=one.changes_count,
            bytes=one.segment.bytes if one.segment else 0,
            manifest_sha256=one.manifest_sha256,
            previous_sha256=one.previous_sha256,
            verified_at=one.verified_at,
            **git("head", one.head),
        )


class WentAway(Answer, frozen=True, kw_only=True):
    """When and by whom a ref was deleted; its `target` is what it held then."""

    last: Annotated[int, Meta(description="the last snapshot that had it, or would have had it")]
    at: datetime | None = None
    by: str | None = None

    @classmethod
    def of(cls, one: Gone) -> "WentAway":
        return cls(last=one.snapshot - 1, at=one.at, by=one.by)


class Ref(Answer, frozen=True, kw_only=True):
    """A ref as it was."""

    name: str
    name_b64: Base64 | UnsetType = UNSET
    target: str
    target_b64: Base64 | UnsetType = UNSET
    gone: WentAway | UnsetType = UNSET

    @classmethod
    def of(cls, name: bytes, target: bytes, gone: WentAway | UnsetType = UNSET) -> "Ref":
        return cls(**git("name", name), **git("target", target), gone=gone)


class RefsAt(Page[Ref], frozen=True, kw_only=True):
    """The refs of a moment, in the order of their names."""

    snapshot: int
    moment: Annotated[int, Meta(description="which moment within the snapshot, as #12.1")] | UnsetType = UNSET
    taken_at: datetime


class Change(Answer, frozen=True, kw_only=True):
    """One ref's move."""

    snapshot: int
    moment: Annotated[int, Meta(description="which moment within the snapshot, as #12.1")] | UnsetType = UNSET
    at: datetime
    name: str
    name_b64: Base64 | UnsetType = UNSET
    old: str | None
    old_b64: Base64 | UnsetType = UNSET
    new: str | None
    new_b64: Base64 | UnsetType = UNSET
    kind: str
    by: str | None

    @classmethod
    def of(cls, one: history.Logged) -> "Change":
        move: RefChange = one.change
        return cls(
            snapshot=one.snapshot,
            moment=one.moment or UNSET,
            at=one.at,
            kind=move.kind.value,
            by=move.by,
            **git("name", move.name),
            **git("old", move.old),
            **git("new", move.new),
        )


class Push(Answer, frozen=True, kw_only=True):
    """What one snapshot found, as one push."""

    snapshot: int
    at: datetime
    taken_at: datetime
    reason: str
    by: list[str]
    count: Annotated[int, Meta(description="all changes of the snapshot, shown or not")]
    changes: list[Change]

    @classmethod
    def of(cls, one: timeline.Pushed) -> "Push":
        return cls(
            snapshot=one.snapshot,
            at=one.at,
            taken_at=one.taken_at,
            reason=one.reason.value,
            by=list(one.by),
            count=one.count,
            changes=[Change.of(change) for change in one.changes],
        )


class LostPushed(Answer, frozen=True, kw_only=True):
    """A push that could not be rescued."""

    name: str
    name_b64: Base64 | UnsetType = UNSET
    old: str | None
    old_b64: Base64 | UnsetType = UNSET
    new: str | None
    new_b64: Base64 | UnsetType = UNSET
    by: str | None
    at: datetime
    snapshot: int
    why: str

    @classmethod
    def of(cls, one: LostPush) -> "LostPushed":
        return cls(
            by=one.by,
            at=one.at,
            snapshot=one.snapshot,
            why=one.why,
            **git("name", one.name),
            **git("old", one.old),
            **git("new", one.new),
        )
