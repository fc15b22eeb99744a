"""Mirrors as JSON."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta

from mirror.core.rules.mirrors import State
from mirror.shapes.base import Answer
from mirror.store.restore import mirrors as rows


class Mirror(Answer, frozen=True, kw_only=True):
    """Where a repo, or every repo of a team, lives too."""

    id: str
    repo: Annotated[str | None, Meta(description="null: every repo of the team")]
    address: Annotated[str, Meta(description="without credentials; a team's has {name}")]
    connection: Annotated[str | None, Meta(description="whose token pushes; null: none")]
    own_credentials: bool
    makes: Annotated[bool, Meta(description="its host makes repositories that are missing")]
    deletes: Annotated[bool, Meta(description="what is deleted at the source is deleted there")]
    overwrites: Annotated[bool, Meta(description="what others change there is overwritten")]
    paused_at: datetime | None
    created_at: datetime
    created_by: str

    @classmethod
    def of(cls, one: rows.Mirror, repo: str | None) -> "Mirror":
        return cls(**_mirror(one, repo))


def _mirror(one: rows.Mirror, repo: str | None) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "repo": repo,
        "address": one.address,
        "connection": str(one.connection_id) if one.connection_id else None,
        "own_credentials": one.lent,
        "makes": one.makes is not None,
        "deletes": one.deletes,
        "overwrites": one.overwrites,
        "paused_at": one.paused_at,
        "created_at": one.created_at,
        "created_by": one.created_by,
    }


class TeamMirror(Mirror, frozen=True, kw_only=True):
    """A mirror, with how it is doing at all of its repos."""

    repos: int
    states: dict[str, int]
    lag_seconds: Annotated[float, Meta(description="of the repo that is behind for longest")]
    pushed_at: datetime | None

    @classmethod
    def standing(cls, one: rows.Standing) -> "TeamMirror":
        """It, as of now."""
        return cls(
            **_mirror(one.mirror, one.repo),
            repos=one.targets,
            states={str(name): number for name, number in one.states.items()},
            lag_seconds=one.lag.total_seconds(),
            pushed_at=one.pushed_at,
        )


class MirrorRef(Answer, frozen=True, kw_only=True):
    """A ref that a mirror has not as the source has it."""

    name: str
    name_b64: Annotated[str | None, Meta(description="base64 of the name where it is no UTF-8")] = None
    result: Annotated[str, Meta(description="diverged, refused or skipped")]
    why: str | None
    old: Annotated[str | None, Meta(description="what the mirror holds there")] = None


class MirrorPush(Answer, frozen=True, kw_only=True):
    """A push that wrote something or failed."""

    snapshot: int
    began_at: datetime
    ended_at: datetime
    counts: dict[str, int]
    failure: str | None

    @classmethod
    def of(cls, one: rows.PushRecord) -> "MirrorPush":
        return cls(
            snapshot=one.snapshot,
            began_at=one.began_at,
            ended_at=one.ended_at,
            counts=dict(one.counts),
            failure=one.failure,
        )


class RepoMirror(Answer, frozen=True, kw_only=True):
    """A repo at a mirror."""

    mirror: Mirror
    url: str
    state: State
    snapshot: Annotated[int, Meta(description="that was pushed last; 0: none")]
    behind: Annotated[int, Meta(description="snapshots that are not there yet")]
    lag_seconds: Annotated[float, Meta(description="how long the first of them waits")]
    pushed_at: datetime | None
    due_at: Annotated[datetime | None, Meta(description="when it is pushed or compared next")]
    failure: str | None
    failing_since: datetime | None
    counts: Annotated[dict[str, int], Meta(description="how many refs came to what, in the last push")]
    refs: Annotated[list[MirrorRef], Meta(description="those that differ, the first 200")]
    notes: list[str]
    pushes: list[MirrorPush]

    @classmethod
    def of(cls, one: rows.MirrorTarget, pushes: Sequence[rows.PushRecord], now: datetime) -> "RepoMirror":
        return cls(
            mirror=Mirror.of(one.mirror, one.repo if one.mirror.repo_id else None),
            url=one.url,
            state=one.state,
            snapshot=one.pushed,
            behind=one.behind,
            lag_seconds=one.lag(now).total_seconds(),
            pushed_at=one.pushed_at,
            due_at=one.due_at,
            failure=one.failing.message if one.failing else None,
            failing_since=one.failing.since if one.failing else None,
            counts=dict(one.counts),
            refs=[
                MirrorRef(
                    name=ref["name"],
                    name_b64=ref.get("name_b64"),
                    result=ref["result"],
                    why=ref["why"],
                    old=ref.get("old"),
                )
                for ref in one.refs
            ],
            notes=list(one.notes),
            pushes=[MirrorPush.of(push) for push in pushes],
        )
