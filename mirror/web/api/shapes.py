"""The JSON of the API: what goes out, made of what the flows and the store return.

Names, targets and paths of git are bytes: where they are no UTF-8, their base64 is
given as well, under the same key with `_b64`. Times are RFC 3339 in UTC, ids are strings.
"""

import base64
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from msgspec import UNSET, Meta, UnsetType, field

from mirror.browse import moments
from mirror.core import refs
from mirror.core.errors import Origin
from mirror.core.formats import objects
from mirror.core.model import RefChange, Snapshot
from mirror.core.rules.pushes import Lost as LostPush
from mirror.core.rules.roles import Role, Scope
from mirror.discovery import choose as choosing
from mirror.restore import restore as restoring
from mirror.store.backup import history
from mirror.store.browse import home, report, timeline
from mirror.store.discovery import connections, discovered
from mirror.store.jobs import jobs
from mirror.store.people import audit, invitations, notices, people, sessions, teams, tokens
from mirror.store.restore import drills, restores
from mirror.web.api.call import Answer, Body, Query

T = TypeVar("T")

Base64 = Annotated[str, Meta(description="base64 of the bytes; only there where they are no UTF-8")]
Limit = Annotated[int, Meta(ge=1, le=200, description="how many to give at most")]
Cursor = Annotated[str, Meta(max_length=2000, description="`next` of the page before")]
When = Annotated[
    str,
    Meta(
        max_length=100, description="a moment: #12, 2024-05-01T12:00:00Z, 2024-05-01, 2h ago; else the latest"
    ),
]
Words = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]


def git(key: str, value: bytes | None) -> dict[str, Any]:
    """Bytes of git under this key, and under the same with `_b64` where they are no UTF-8."""
    return {key: None} if value is None else dict(refs.shown_as(key, value))


class Page(Answer, Generic[T], frozen=True, kw_only=True):
    """Some of many."""

    items: list[T]
    next: str | None  # the cursor of the page after this one; null: this is the last


class Paged(Query, frozen=True, kw_only=True):
    """Which page of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class Problem(Answer, frozen=True, kw_only=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: Annotated[str, Meta(description="what is wrong, and what to do about it")]
    kind: Annotated[str, Meta(description="the class of the error")] = field(name="class")
    retry: Annotated[bool, Meta(description="whether the same may work later")]


# People and teams.


class Access(Answer, frozen=True, kw_only=True):
    """What a program that signed in sends, and what it renews that with."""

    access_token: Annotated[str, Meta(description="for the header Authorization: Bearer")]
    token_type: str
    expires_in: Annotated[int, Meta(description="seconds")]
    refresh_token: Annotated[str, Meta(description="good once, till two weeks after the sign-in")]


class Membership(Answer, frozen=True, kw_only=True):
    """A team and one's role in it."""

    id: str
    name: str
    role: Role

    @classmethod
    def of(cls, one: teams.Membership) -> "Membership":
        return cls(id=str(one.team.id), name=one.team.name, role=one.role)


class Identity(Answer, frozen=True, kw_only=True):
    """An account at a forge by which a person signs in."""

    forge: str
    host: str
    account_id: str
    login: str
    seen_at: datetime
    doubted_at: Annotated[
        datetime | None, Meta(description="since when it signs nobody in, as you have not confirmed it")
    ]

    @classmethod
    def of(cls, one: people.Identity) -> "Identity":
        return cls(
            forge=one.forge,
            host=one.host,
            account_id=one.account_id,
            login=one.login,
            seen_at=one.seen_at,
            doubted_at=one.doubted_at,
        )


class Profile(Answer, frozen=True, kw_only=True):
    """Who somebody is."""

    id: str
    name: str
    email: str | None
    email_proved: Annotated[bool, Meta(description="whether mail reached them there: not yet, ever")]
    zone: str | None
    created_at: datetime
    has_password: bool
    identities: list[Identity]
    teams: list[Membership]


class Session(Answer, frozen=True, kw_only=True):
    """Where somebody is signed in."""

    id: str
    agent: str
    address: str
    created_at: datetime
    seen_at: datetime
    current: bool

    @classmethod
    def of(cls, one: sessions.Session, current: sessions.Session | None) -> "Session":
        return cls(
            id=one.key.hex(),
            agent=one.agent,
            address=one.address,
            created_at=one.created_at,
            seen_at=one.seen_at,
            current=current is not None and one.key == current.key,
        )


class Member(Answer, frozen=True, kw_only=True):
    """One of a team's people."""

    id: str
    name: str
    email: str | None
    role: Role
    since: datetime

    @classmethod
    def of(cls, one: teams.Member) -> "Member":
        return cls(id=str(one.person_id), name=one.name, email=one.email, role=one.role, since=one.since)


class Invitation(Answer, frozen=True, kw_only=True):
    """A link that makes whoever opens it, signed in, a member."""

    id: str
    team: str
    role: Role
    email: str | None
    invited_by: str | None
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, one: invitations.Invitation) -> "Invitation":
        return cls(
            id=str(one.id),
            team=one.team.name,
            role=one.role,
            email=one.email,
            invited_by=one.inviter,
            created_at=one.created_at,
            expires_at=one.expires_at,
        )


class Invited(Answer, frozen=True, kw_only=True):
    """An invitation that was just made. Its link is told this once."""

    invitation: Invitation
    url: str
    code: Annotated[str, Meta(description="what /api/v1/invitations/{invitation} takes")]


class Token(Answer, frozen=True, kw_only=True):
    """An API token, without itself."""

    id: str
    name: str
    person: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None

    @classmethod
    def of(cls, one: tokens.ApiToken) -> "Token":
        return cls(
            id=str(one.id),
            name=one.name,
            person=one.person.name,
            scopes=sorted(one.scopes),
            created_at=one.created_at,
            expires_at=one.expires_at,
            used_at=one.used_at,
        )


class NewToken(Answer, frozen=True, kw_only=True):
    """An API token that was just made. It is told this once."""

    token: str
    about: Token


class AuditEntry(Answer, frozen=True, kw_only=True):
    """That somebody did something."""

    number: int
    at: datetime
    person_id: str | None
    actor: str
    action: str
    subject: str
    repo_id: str | None
    detail: dict[str, Any]
    address: str | None
    result: str
    previous: str | None
    sha256: str

    @classmethod
    def of(cls, one: audit.Recorded) -> "AuditEntry":
        entry = one.entry
        return cls(
            number=one.number,
            at=one.at,
            person_id=None if entry.person_id is None else str(entry.person_id),
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            repo_id=None if entry.repo_id is None else str(entry.repo_id),
            detail=dict(entry.detail),
            address=entry.address,
            result=entry.result,
            previous=one.previous,
            sha256=one.sha256,
        )


class Notice(Answer, frozen=True, kw_only=True):
    """Something that somebody should see."""

    id: str
    repo_id: str | None
    repo: str | None
    kind: str
    message: str
    at: datetime
    seen_at: datetime | None

    @classmethod
    def of(cls, one: notices.Notice) -> "Notice":
        return cls(
            id=str(one.id),
            repo_id=None if one.repo_id is None else str(one.repo_id),
            repo=one.repo,
            kind=one.kind,
            message=one.message,
            at=one.at,
            seen_at=one.seen_at,
        )


# Repos and their history.


class Failure(Answer, frozen=True, kw_only=True):
    """Why something failed."""

    kind: str = field(name="class")
    message: str


class JobFailure(Failure, frozen=True, kw_only=True):
    """Why a job failed."""

    origin: Annotated[Origin | None, Meta(description="whose failure it was")]


class RepoFailure(Failure, frozen=True, kw_only=True):
    """Why a repo's last run failed."""

    since: datetime


class RepoDamage(Answer, frozen=True, kw_only=True):
    """What a verification or a drill found broken of what is kept of a repo."""

    message: str
    found_at: datetime


class Repo(Answer, frozen=True, kw_only=True):
    """A repo, what is kept of it, and how it is doing."""

    id: str
    name: str
    url: str
    state: home.State
    protected_as_of: datetime | None
    damage: Annotated[RepoDamage | None, Meta(description="until what is kept is proven whole again")]
    behind_since: datetime | None
    failure: RepoFailure | None
    archived_at: datetime | None
    paused_at: datetime | None
    snapshots: int
    saved_at: datetime | None
    refs: int
    bytes: int
    proved_at: datetime | None
    at_work: bool
    large_files_not_saved: Annotated[int, Meta(description="files that Git LFS keeps outside git")]

    @classmethod
    def of(cls, one: home.RepoOverview) -> "Repo":
        failure, damage = None, None
        if one.damage is not None:
            damage = RepoDamage(message=one.damage.message, found_at=one.damage.at)
        if one.failure is not None:
            failure = RepoFailure(kind=one.failure.kind, message=one.failure.message, since=one.failure.since)
        return cls(
            id=str(one.id),
            name=one.name,
            url=one.url,
            state=one.state,
            protected_as_of=one.protected_as_of,
            damage=damage,
            behind_since=one.behind_since,
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
    """When a repo is looked at, and what is left out."""

    schedule: Annotated[str | None, Meta(description="15m, 6h, 1d, a cron expression; null: by activity")]
    look_at: Annotated[datetime | None, Meta(description="when the next look is due; null: at once")]
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


class Ref(Answer, frozen=True, kw_only=True):
    """A ref as it was."""

    name: str
    name_b64: Base64 | UnsetType = UNSET
    target: str
    target_b64: Base64 | UnsetType = UNSET

    @classmethod
    def of(cls, name: bytes, target: bytes) -> "Ref":
        return cls(**git("name", name), **git("target", target))


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
    count: Annotated[int, Meta(description="changes of the snapshot, also those that are not shown")]
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


class Commit(Answer, frozen=True, kw_only=True):
    """A commit as its author wrote it."""

    oid: str
    summary: str
    body: str
    author: str
    author_email: str
    authored_at: datetime | None
    committer: str
    committed_at: datetime | None
    parents: list[str]
    tree: str

    @classmethod
    def of(cls, one: objects.Commit) -> "Commit":
        return cls(
            oid=one.oid.decode(),
            summary=_sound(one.summary),
            body=_sound(one.body),
            author=_sound(one.author),
            author_email=_sound(one.author_email),
            authored_at=one.authored_at,
            committer=_sound(one.committer),
            committed_at=one.committed_at,
            parents=[parent.decode() for parent in one.parents],
            tree=one.tree.decode(),
        )


def _sound(text: str) -> str:
    """Text without halves of characters, which JSON cannot say."""
    return text.encode("utf-8", "replace").decode()


class LostCommits(Answer, frozen=True, kw_only=True):
    """A move that took commits away, and those of them that no ref has held since."""

    change: Change
    tip: str
    count: int
    commits: Annotated[list[Commit], Meta(description="the newest of them")]
    bring_back_as: Annotated[str, Meta(description="a name for a branch that brings them back")]

    @classmethod
    def of(cls, one: moments.LostCommits) -> "LostCommits":
        return cls(
            change=Change.of(one.logged),
            tip=one.tip.decode(),
            count=one.count,
            commits=[Commit.of(commit) for commit in one.commits],
            bring_back_as=refs.shown_text(moments.bring_back_name(one.logged)),
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


class LostThere(Answer, frozen=True, kw_only=True):
    """What only the vault holds at a moment."""

    snapshot: int
    items: list[LostCommits]
    total: int
    commits: int
    whole: Annotated[bool, Meta(description="false: there is more history than was looked at")]
    pushes: Annotated[list[LostPushed], Meta(description="that nobody can bring back")]


class Line(Answer, frozen=True, kw_only=True):
    """A line of a hunk."""

    sign: objects.Sign
    old: int | None
    new: int | None
    text: str
    text_b64: Base64 | UnsetType = UNSET
    ends: bool


class Hunk(Answer, frozen=True, kw_only=True):
    """A run of changed lines with what stands around them."""

    old_start: int
    old_lines: int
    new_start: int
    new_lines: int
    lines: list[Line]


class FileChange(Answer, frozen=True, kw_only=True):
    """What became of one file."""

    path: str
    path_b64: Base64 | UnsetType = UNSET
    old_path: str | None
    old_path_b64: Base64 | UnsetType = UNSET
    status: objects.Status
    old_oid: str | None
    new_oid: str | None
    additions: int | None
    deletions: int | None
    binary: bool
    why: Annotated[str | None, Meta(description="why its lines are not, or not all, here")]
    hunks: list[Hunk]

    @classmethod
    def of(cls, one: objects.FileChange) -> "FileChange":
        return cls(
            status=one.status,
            old_oid=None if one.old_oid is None else one.old_oid.decode(),
            new_oid=None if one.new_oid is None else one.new_oid.decode(),
            additions=one.additions,
            deletions=one.deletions,
            binary=one.binary,
            why=one.why,
            hunks=[
                Hunk(
                    old_start=hunk.old_start,
                    old_lines=hunk.old_lines,
                    new_start=hunk.new_start,
                    new_lines=hunk.new_lines,
                    lines=[
                        Line(
                            sign=line.sign,
                            old=line.old,
                            new=line.new,
                            ends=line.ends,
                            **git("text", line.text),
                        )
                        for line in hunk.lines
                    ],
                )
                for hunk in one.hunks
            ],
            **git("path", one.path),
            **git("old_path", one.old_path),
        )


class Changes(Answer, frozen=True, kw_only=True):
    """What differs between two trees."""

    files: list[FileChange]
    total: int
    whole: bool

    @classmethod
    def of(cls, one: objects.Changes) -> "Changes":
        return cls(files=[FileChange.of(change) for change in one.files], total=one.total, whole=one.whole)


class CommitShown(Answer, frozen=True, kw_only=True):
    """A commit and what it changed against its first parent."""

    commit: Commit
    changes: Changes


class Entry(Answer, frozen=True, kw_only=True):
    """A line of a folder."""

    name: str
    name_b64: Base64 | UnsetType = UNSET
    kind: objects.EntryKind
    mode: Annotated[str, Meta(description="octal, as git writes it")]
    oid: str
    size: int | None

    @classmethod
    def of(cls, one: objects.Entry) -> "Entry":
        return cls(
            kind=one.kind,
            mode=f"{one.mode:06o}",
            oid=one.oid.decode(),
            size=one.size,
            **git("name", one.name),
        )


class Folder(Answer, frozen=True, kw_only=True):
    """A folder at a moment, folders first."""

    snapshot: int
    path: str
    path_b64: Base64 | UnsetType = UNSET
    oid: str
    entries: list[Entry]
    total: int


class File(Answer, frozen=True, kw_only=True):
    """A file at a moment; of a large one the beginning."""

    snapshot: int
    path: str
    path_b64: Base64 | UnsetType = UNSET
    entry: Entry
    size: int
    whole: bool
    encoding: str | None
    text: Annotated[str | None, Meta(description="null: it is binary")]
    data_b64: Annotated[str | UnsetType, Meta(description="base64 of what is binary")] = UNSET
    lfs_sha256: str | None
    lfs_size: int | None

    @classmethod
    def of(cls, one: moments.Blob, snapshot: Snapshot) -> "File":
        return cls(
            snapshot=snapshot.number,
            entry=Entry.of(one.entry),
            size=one.size,
            whole=one.whole,
            encoding=one.encoding,
            text=None if one.text is None else _sound(one.text),
            data_b64=UNSET if one.text is not None else base64.b64encode(one.data).decode(),
            lfs_sha256=None if one.lfs is None else one.lfs.sha256,
            lfs_size=None if one.lfs is None else one.lfs.size,
            **git("path", one.path),
        )


class RefDifference(Answer, frozen=True, kw_only=True):
    """What became of one ref between two moments."""

    name: str
    name_b64: Base64 | UnsetType = UNSET
    kind: str
    old: str | None
    old_b64: Base64 | UnsetType = UNSET
    new: str | None
    new_b64: Base64 | UnsetType = UNSET
    lost: Annotated[int | None, Meta(description="commits that only the old one reaches; null: not counted")]
    gained: int | None

    @classmethod
    def of(cls, one: moments.RefDifference) -> "RefDifference":
        return cls(
            kind=one.kind.value,
            lost=one.lost,
            gained=one.gained,
            **git("name", one.name),
            **git("old", one.old),
            **git("new", one.new),
        )


class Difference(Answer, frozen=True, kw_only=True):
    """What differs between two moments."""

    before: int
    after: int
    refs: list[RefDifference]
    total: int
    ref: Annotated[str | None, Meta(description="whose files are compared")]
    ref_b64: Base64 | UnsetType = UNSET
    files: Changes | None


# Work.


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

    @classmethod
    def of(cls, one: restoring.RefResult) -> "RefOutcome":
        return cls(
            result=one.result,
            why=one.why,
            **git("name", one.name),
            **git("target", one.target),
            **git("old", one.old),
        )


class UndoPlan(Answer, frozen=True, kw_only=True):
    """What undoing a restore would do."""

    to: str
    refs: list[RefOutcome]


class Owner(Answer, frozen=True, kw_only=True):
    """Under whose name a repository can be made."""

    id: str
    login: str
    name: str
    personal: bool


class Plan(Answer, frozen=True, kw_only=True):
    """What a restore would do."""

    repo: str
    snapshot: int
    taken_at: datetime
    to: str | None
    steps: list[str]
    refs: list[RefOutcome]

    @classmethod
    def of(cls, one: restoring.RestorePlan, to: str | None) -> "Plan":
        return cls(
            repo=one.repo.name,
            snapshot=one.snapshot.number,
            taken_at=one.snapshot.taken_at,
            to=to,
            steps=list(one.steps),
            refs=[RefOutcome.of(ref) for ref in one.refs],
        )


class Restore(Answer, frozen=True, kw_only=True):
    """A restore that came to its end."""

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
            finished_at=one.finished_at,
        )


class ReportLine(Answer, frozen=True, kw_only=True):
    """One repo in one period."""

    repo_id: str
    repo: str
    url: str
    snapshots: int
    changes: int
    forced: int
    bytes: int
    restores: int
    restores_verified: int
    drills: int
    drills_failed: int
    last_drill_at: datetime | None
    protected_as_of: datetime | None
    failing_since: datetime | None
    failure: str | None
    archived_at: datetime | None
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


# Where repositories come from.


class Hook(Answer, frozen=True, kw_only=True):
    """A repo's webhook, as it is pasted into the forge's settings."""

    forge: str
    url: str
    state: str
    why: str | None
    delivered_at: datetime | None
    secret: Annotated[str | None, Meta(description="told once, when it is made")]


class SshKey(Answer, frozen=True, kw_only=True):
    """A team's deploy key for hosts that are reached by ssh."""

    public_key: str


class Connection(Answer, frozen=True, kw_only=True):
    """An account at a forge, as a team uses it."""

    id: str
    forge: str
    host: str
    login: str
    grant_kind: str
    scopes: list[str]
    state: str
    why: str | None
    everything: bool
    patterns: list[str]
    created_at: datetime
    listed_at: datetime | None
    list_failed_at: Annotated[
        datetime | None, Meta(description="since when listing it fails; null: the last listing went well")
    ]
    list_failure: str | None

    @classmethod
    def of(cls, one: connections.Connection) -> "Connection":
        return cls(
            id=str(one.id),
            forge=one.forge,
            host=one.host,
            login=one.login,
            grant_kind=one.grant_kind,
            scopes=list(one.scopes),
            state=one.state,
            why=one.why,
            everything=one.everything,
            patterns=list(one.patterns),
            created_at=one.created_at,
            listed_at=one.listed_at,
            list_failed_at=one.list_failed_at,
            list_failure=one.list_failure,
        )


class ListedRepository(Answer, frozen=True, kw_only=True):
    """A repository that a connection sees."""

    id: str
    full_name: str
    clone_url: str
    web_url: str
    private: bool
    archived: bool
    fork: bool
    admin: bool
    bytes: int | None
    pushed_at: datetime | None
    chosen: bool
    repo_id: str | None

    @classmethod
    def of(cls, one: discovered.DiscoveredRepository) -> "ListedRepository":
        return cls(
            id=one.repository_id,
            full_name=one.full_name,
            clone_url=one.clone_url,
            web_url=one.web_url,
            private=one.private,
            archived=one.archived,
            fork=one.fork,
            admin=one.admin,
            bytes=one.bytes,
            pushed_at=one.pushed_at,
            chosen=one.chosen,
            repo_id=None if one.repo_id is None else str(one.repo_id),
        )


class Chosen(Answer, frozen=True, kw_only=True):
    """A repository that is kept from now on."""

    repo_id: str
    repo: str
    hook: str
    why: str | None

    @classmethod
    def of(cls, one: choosing.Chosen) -> "Chosen":
        return cls(repo_id=str(one.repo.id), repo=one.repo.name, hook=one.hook.value, why=one.why)


class Told(Answer, frozen=True, kw_only=True):
    """What somebody should know about what was done."""

    notes: list[str]


class Nothing(Body, frozen=True, kw_only=True):
    """Nothing is to be said."""
