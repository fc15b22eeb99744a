"""Commits, files and differences at a moment as JSON."""

import base64
from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from mirror.browse import moments
from mirror.core import refs
from mirror.core.formats import objects
from mirror.core.model import Snapshot
from mirror.shapes.base import Answer, Base64, git
from mirror.shapes.repos import Change, LostPushed


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


class LostThere(Answer, frozen=True, kw_only=True):
    """What only the vault still holds at a moment."""

    snapshot: int
    items: list[LostCommits]
    total: int
    commits: int
    whole: Annotated[bool, Meta(description="false: there is more history than was read")]
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
    why: Annotated[str | None, Meta(description="why its lines are missing or incomplete here")]
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
