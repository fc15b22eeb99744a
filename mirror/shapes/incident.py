"""Ref changes of a whole team, and rollbacks of them, as the API and the command line give them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from mirror.browse.plan_commits import NONE, PlanCommits, RefCommits
from mirror.core.model import RepoId
from mirror.core.rules.history.rollback import State as RefState
from mirror.core.rules.history.rollback import Strangers, Wanted, What
from mirror.jobs.rollbacks import Line, State
from mirror.shapes.base import Answer, Base64, git
from mirror.shapes.repos import Change
from mirror.shapes.work import NOT_COUNTED, CommitLine, commits_told
from mirror.store.browse import incidents
from mirror.store.restore import rollbacks

COLUMNS = (*("at", "repo", "ref", "what", "by", "old", "new", "snapshot"),)  # of the table of ref changes


class TeamRefChange(Change, frozen=True, kw_only=True):
    """One ref's move in one of a team's repos."""

    repo: str
    repo_id: str
    what: Annotated[What, Meta(description="a tag that was moved is `tag`, a move of HEAD `default`")]
    dropped: Annotated[bool, Meta(description="its snapshot is no longer kept")]

    @classmethod
    def of_team(cls, one: incidents.Changed) -> "TeamRefChange":
        move = one.change
        return cls(
            repo=one.repo,
            repo_id=str(one.repo_id),
            what=one.what,
            dropped=one.is_dropped,
            snapshot=one.logged.snapshot,
            moment=one.logged.moment or UNSET,
            at=one.logged.at,
            kind=move.kind.value,
            by=move.by,
            **git("name", move.name),
            **git("old", move.old),
            **git("new", move.new),
        )


class AccountChanges(Answer, frozen=True, kw_only=True):
    """An account, and how many ref changes are its."""

    name: str
    changes: int


class TeamRefChanges(Answer, frozen=True, kw_only=True):
    """The newest ref changes of a team that are meant."""

    since: datetime
    until: datetime
    items: list[TeamRefChange]
    more: Annotated[bool, Meta(description="there are more than this: ask for a shorter time")]
    unknown_actors: Annotated[
        list[str],
        Meta(description="of the accounts that were asked for: they never pushed to this team"),
    ] = []
    accounts: Annotated[
        list[AccountChanges],
        Meta(description="with unknown actors: who pushed in this time, the nearest spelling first"),
    ] = []

    @classmethod
    def of(cls, wanted: Wanted, found: incidents.Found, strangers: Strangers | None) -> "TeamRefChanges":
        return cls(
            since=wanted.since,
            until=wanted.until,
            items=[TeamRefChange.of_team(one) for one in found.changes],
            more=found.more,
            unknown_actors=list(strangers.names) if strangers else [],
            accounts=[AccountChanges(name=name, changes=number) for name, number in strangers.accounts]
            if strangers
            else [],
        )


def rows(found: incidents.Found) -> list[dict[str, Any]]:
    """Ref changes as lines of a table, by COLUMNS."""
    told = [TeamRefChange.of_team(one) for one in found.changes]
    return [
        {column: one.name if column == "ref" else getattr(one, column) for column in COLUMNS} for one in told
    ]


class RolledRef(Answer, frozen=True, kw_only=True):
    """What a rollback does with one ref."""

    place: Annotated[int, Meta(description="names the ref where a rollback is begun with some of its refs")]
    name: str
    name_b64: Base64 | UnsetType = UNSET
    now: Annotated[str | None, Meta(description="what the plan saw; it is touched only while it is that")]
    target: Annotated[str | None, Meta(description="what it gets; null: it did not exist, and is deleted")]
    state: Annotated[
        RefState,
        Meta(
            description="ready; moved: others pushed to it since; back: it is so already; dropped: no longer"
            " kept; fixed: no push can write it"
        ),
    ]
    why: str
    chosen: bool
    gains: Annotated[int, Meta(description=f"commits that the ref gets{NOT_COUNTED}")] | UnsetType = UNSET
    loses: Annotated[int, Meta(description=f"commits that it drops{NOT_COUNTED}")] | UnsetType = UNSET
    gained: Annotated[list[CommitLine], Meta(description="the newest of them")] | UnsetType = UNSET
    lost: Annotated[list[CommitLine], Meta(description="the newest of them")] | UnsetType = UNSET

    @classmethod
    def of(cls, one: rollbacks.PlannedRef, commits: RefCommits | None = None) -> "RolledRef":
        ref = one.ref
        name, now, target = git("name", ref.name), git("now", ref.expected), git("target", ref.target)
        return cls(
            place=one.place,
            **name,
            now=now["now"],
            target=target["target"],
            state=ref.state,
            why=ref.why,
            chosen=one.chosen,
            **commits_told(commits),
        )


class RolledRepo(Answer, frozen=True, kw_only=True):
    """One repo of a rollback."""

    repo: str
    repo_id: str
    problem: Annotated[str | None, Meta(description="why its host could not be asked, or it is not done")]
    state: Annotated[str | None, Meta(description="of its job; null: it has none")]
    job: Annotated[str | None, Meta(description="the last job that rolls it back, or undoes that")]
    counts: Annotated[dict[str, int], Meta(description="how many refs came to what")]
    refs: list[RolledRef]

    @classmethod
    def of(cls, one: rollbacks.PlannedRepo, line: Line | None, commits: PlanCommits) -> "RolledRepo":
        job = (line.undone or line.job) if line else None
        return cls(
            repo=one.repo,
            repo_id=str(one.repo_id),
            problem=(line.problem if line else one.problem) or None,
            state=job.state if job else None,
            job=str(job.id) if job else None,
            counts=line.counts if line else {},
            refs=[RolledRef.of(each, commits.by_name.get(each.ref.name)) for each in one.refs],
        )


class Rollback(Answer, frozen=True, kw_only=True):
    """A plan to put refs of several repos back, and how far it is."""

    id: str
    asked: Annotated[dict[str, Any], Meta(description="which ref changes it puts back")]
    planned_at: datetime
    begun_at: Annotated[datetime | None, Meta(description="null: nothing was done")]
    state: Annotated[
        Literal["planning", "planned", "running", "done", "failed", "undone"],
        Meta(description="planning: some of its repos are still to be read, and it cannot begin"),
    ]
    sentence: Annotated[str, Meta(description="how far it is, in words")]
    refs_chosen: int
    repos: list[RolledRepo]

    @classmethod
    def of(cls, one: State, commits: dict[RepoId, PlanCommits] | None = None) -> "Rollback":
        lines = {line.planned.repo_id: line for line in one.lines} if one.rollback.begun_at else {}
        return cls(
            id=str(one.rollback.id),
            asked=dict(one.rollback.asked),
            planned_at=one.rollback.planned_at,
            begun_at=one.rollback.begun_at,
            state=one.name,
            sentence=one.sentence,
            refs_chosen=one.rollback.chosen,
            repos=[
                RolledRepo.of(each, lines.get(each.repo_id), (commits or {}).get(each.repo_id, NONE))
                for each in one.rollback.repos
            ],
        )
