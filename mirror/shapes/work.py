"""Jobs, plans, restores, drills and reports as JSON."""

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType, field

from mirror.browse.plan_commits import NONE, PlanCommits, RefCommits
from mirror.core.errors import Origin
from mirror.core.formats.objects import Commit
from mirror.core.words import name
from mirror.restore import restore as restoring
from mirror.restore import undo as undoing
from mirror.shapes.base import Answer, Base64, git
from mirror.shapes.repos import Failure
from mirror.store.browse import proofs, report
from mirror.store.jobs import jobs
from mirror.store.restore import drills, restores
from mirror.store.upkeep import readings

NOT_COUNTED: Final = "; left out where they were not counted"


class JobFailure(Failure, frozen=True, kw_only=True):
    """Why a job failed."""

    origin: Annotated[Origin | None, Meta(description="whose failure it was")]


class Phase(Answer, frozen=True, kw_only=True):
    """A phase of a job that has ended."""

    phase: str
    seconds: float
    bytes: int


class Job(Answer, frozen=True, kw_only=True):
    """A piece of work on a repo."""

    id: str
    repo_id: str
    repo: str
    kind: jobs.Kind
    state: jobs.State
    asked: dict[str, Any]
    person_id: str | None
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    phase: str | None
    done: int | None
    total: int | None
    unit: str | None
    bytes: int
    phases: list[Phase]
    notes: list[str]
    result: dict[str, Any] | None
    failure: JobFailure | None

    @classmethod
    def of(cls, one: jobs.Job, repo: str) -> "Job":
        return cls(
            id=str(one.id),
            repo_id=str(one.repo_id),
            repo=repo,
            kind=one.kind,
            state=one.state,
            asked=dict(one.asked),
            person_id=None if one.person_id is None else str(one.person_id),
            queued_at=one.queued_at,
            started_at=one.started_at,
            finished_at=one.finished_at,
            attempt=one.attempt,
            phase=one.phase,
            done=one.done,
            total=one.total,
            unit=one.unit,
            bytes=one.bytes,
            phases=[
                Phase(phase=phase.name, seconds=phase.seconds, bytes=phase.bytes) for phase in one.phases
            ],
            notes=list(one.notes),
            result=None if one.result is None else {k: v for k, v in one.result.items() if k != "export"},
            failure=None
            if one.failure is None
            else JobFailure(kind=one.failure.kind, message=one.failure.message, origin=one.failure.origin),
        )


class CommitLine(Answer, frozen=True, kw_only=True):
    """A commit in one line."""

    oid: str
    summary: str
    author: str

    @classmethod
    def of(cls, one: Commit) -> "CommitLine":
        return cls(oid=one.oid.decode(), summary=one.summary, author=one.author)


def commits_told(commits: RefCommits | None) -> dict[str, Any]:
    """The fields of what a ref gains and loses, as far as that was counted."""
    told: dict[str, Any] = {}
    if commits and commits.gains is not None:
        told |= {"gains": commits.gains, "gained": [CommitLine.of(one) for one in commits.gained]}
    if commits and commits.loses is not None:
        told |= {"loses": commits.loses, "lost": [CommitLine.of(one) for one in commits.lost]}
    return told


class RefOutcome(Answer, frozen=True, kw_only=True):
    """What becomes of one ref."""

    name: str
    name_b64: Base64 | UnsetType = UNSET
    target: str
    target_b64: Base64 | UnsetType = UNSET
    result: restoring.Result
    why: str | None
    old: Annotated[str | None, Meta(description="what the target holds under that name")]
    old_b64: Base64 | UnsetType = UNSET
    gains: Annotated[int, Meta(description=f"commits that the ref gets{NOT_COUNTED}")] | UnsetType = UNSET
    loses: Annotated[int, Meta(description=f"commits that it drops{NOT_COUNTED}")] | UnsetType = UNSET
    gained: Annotated[list[CommitLine], Meta(description="the newest of them")] | UnsetType = UNSET
    lost: Annotated[list[CommitLine], Meta(description="the newest of them")] | UnsetType = UNSET

    @classmethod
    def of(cls, one: restoring.RefResult, commits: RefCommits | None = None) -> "RefOutcome":
        return cls(
            result=one.result,
            why=one.why,
            **git("name", one.name),
            **git("target", one.target),
            **git("old", one.old),
            **commits_told(commits),
        )


class DefaultMove(Answer, frozen=True, kw_only=True):
    """A change of a target's default branch."""

    old: str
    new: str


class UndoPlan(Answer, frozen=True, kw_only=True):
    """What undoing a restore would do."""

    to: str
    refs: list[RefOutcome]
    default_branch: Annotated[DefaultMove | None, Meta(description="how it changes; null: not at all")]

    @classmethod
    def of(cls, one: undoing.UndoPlan) -> "UndoPlan":
        move = one.default
        told = DefaultMove(old=name(move.old), new=name(move.new)) if move else None
        return cls(to=one.to.shown, refs=[RefOutcome.of(ref) for ref in one.refs], default_branch=told)


class Plan(Answer, frozen=True, kw_only=True):
    """What a restore would do."""

    repo: str
    snapshot: int
    moment: Annotated[int, Meta(description="which moment within the snapshot, as #12.1")] | UnsetType = UNSET
    taken_at: datetime
    to: str | None
    steps: list[str]
    refs: list[RefOutcome]
    bytes: Annotated[int, Meta(description="bytes of the vault's parts to read, the most that is sent")]
    commits_uncounted: Annotated[
        int,
        Meta(description="refs that would change but whose commits were not counted, because there are many"),
    ]

    @classmethod
    def of(cls, one: restoring.RestorePlan, to: str | None, commits: PlanCommits = NONE) -> "Plan":
        return cls(
            repo=one.repo.name,
            snapshot=one.snapshot.number,
            moment=one.snapshot.moment or UNSET,
            taken_at=one.snapshot.taken_at,
            to=to,
            steps=list(one.steps),
            refs=[RefOutcome.of(ref, commits.by_name.get(ref.name)) for ref in one.refs],
            bytes=one.bytes,
            commits_uncounted=commits.uncounted,
        )


class Restore(Answer, frozen=True, kw_only=True):
    """A restore that ended."""

    snapshot: int
    moment: Annotated[int, Meta(description="the number of a moment within the snapshot; 0: itself")]
    destination: str
    results: dict[str, int]
    verified: bool
    finished_at: datetime

    @classmethod
    def of(cls, one: restores.Restore) -> "Restore":
        return cls(
            snapshot=one.snapshot,
            moment=one.moment,
            destination=one.destination,
            results=dict(one.results),
            verified=one.verified,
            finished_at=one.finished_at,
        )


class Drill(Answer, frozen=True, kw_only=True):
    """The evidence of one drill."""

    repo: str
    snapshot: int
    moment: Annotated[int, Meta(description="the number of a moment within the snapshot; 0: itself")]
    refs: int
    bytes: int
    seconds: float
    problems: list[str]
    findings: Annotated[
        list[str], Meta(description="what git dislikes in objects as their host has them; no damage")
    ]
    finished_at: datetime

    @classmethod
    def of(cls, one: drills.Drill | report.Drilled, repo: str) -> "Drill":
        return cls(
            repo=repo,
            snapshot=one.snapshot,
            moment=one.moment,
            refs=one.refs,
            bytes=one.bytes,
            seconds=one.seconds,
            problems=list(one.problems),
            findings=list(one.findings),
            finished_at=one.finished_at,
        )


class Coverage(Answer, frozen=True, kw_only=True):
    """How much of what is stored was read back within its period."""

    days: Annotated[int, Meta(description="the period; 0: nothing is read again by itself")]
    total: Annotated[int, Meta(description="bytes of the parts and their indexes")]
    read: Annotated[int, Meta(description="of these, read back and found as they were stored")]
    fresh: Annotated[int, Meta(description="stored within the period and not read back yet")]
    ratio: Annotated[float, Meta(description="of `read` and `fresh` together to `total`")]
    oldest_at: Annotated[datetime | None, Meta(description="when the longest unread was read or stored")]
    repos: int
    repos_read: Annotated[int, Meta(description="whose manifests and notes were read in time")]
    damaged: Annotated[int, Meta(description="parts that are missing or changed")]

    @classmethod
    def of(cls, one: readings.Coverage) -> "Coverage":
        return cls(**{name: getattr(one, name) for name in cls.__struct_fields__})


class Proof(Answer, frozen=True, kw_only=True):
    """How one repo was last proved to be restorable."""

    repo: str
    drilled_at: datetime | None
    failed: Annotated[bool, Meta(description="whether that drill found something broken")]
    rto: Annotated[
        float | None, Meta(description="seconds of a restore: the median of the last 5 drills that passed")
    ]
    drill_at: Annotated[datetime | None, Meta(description="when it is drilled next, where that is planned")]

    @classmethod
    def of(cls, one: proofs.Proof) -> "Proof":
        return cls(**{name: getattr(one, name) for name in cls.__struct_fields__})


class Proofs(Answer, frozen=True, kw_only=True):
    """How the repos of a team were last proved to be restorable."""

    total: int
    undrilled: int
    stale: Annotated[int, Meta(description="whose last drill is longer ago than the period")]
    failing: Annotated[int, Meta(description="whose last drill failed")]
    repos: Annotated[
        list[Proof], Meta(description="the first 1,000: what failed, then what was not proved for longest")
    ]

    @classmethod
    def of(cls, found: proofs.Proofs) -> "Proofs":
        counts = {name: getattr(found, name) for name in ("total", "undrilled", "stale", "failing")}
        return cls(**counts, repos=[Proof.of(one) for one in found.lines])


class ReportLine(Answer, frozen=True, kw_only=True):
    """One repo in one period."""

    repo_id: str
    repo: str
    url: str
    snapshots: int
    changes: int
    forced: int
    bytes: int
    restores: Annotated[int, Meta(description="without bundles and undos")]
    restores_verified: int
    drills: int
    drills_failed: int
    last_drill_at: datetime | None
    protected_as_of: datetime | None
    failing_since: datetime | None
    failure: str | None
    archived_at: datetime | None
    state: str
    paused: bool
    damaged_at: datetime | None

    @classmethod
    def of(cls, one: report.Line) -> "ReportLine":
        told = {name: getattr(one, name) for name in cls.__struct_fields__}
        return cls(**(told | {"repo_id": str(one.repo_id)}))


class Report(Answer, frozen=True, kw_only=True):
    """What was protected, behind, restored and drilled in a period."""

    team: str
    start: datetime = field(name="from")
    end: datetime = field(name="to")
    repos: list[ReportLine]
