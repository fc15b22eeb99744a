"""Files that are uploaded to bring a repository in, as JSON."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.shapes.base import Answer
from mirror.store.backup import uploads


class Brought(Answer, frozen=True, kw_only=True):
    """What came of a file."""

    new: Annotated[bool, Meta(description="false: the repo had all of it already")]
    snapshot: int
    refs: int
    commits: int
    head: str | None
    large_files: Annotated[int, Meta(description="that Git LFS keeps outside git; they are not saved")]


class Upload(Answer, frozen=True, kw_only=True):
    """A file that somebody brings in, as far as it has come, or what came of it."""

    id: str
    file: str
    name: Annotated[str, Meta(description="of the repo")]
    repo_id: Annotated[str | None, Meta(description="null: not made yet, or gone")]
    keep_refs: bool
    bytes: int
    came: Annotated[int, Meta(description="bytes that are here: where the next piece begins")]
    state: uploads.State
    why: Annotated[str | None, Meta(description="why it was refused or dropped")]
    result: Brought | None
    job_id: Annotated[str | None, Meta(description="that proves it; null: not all has come")]
    began_at: datetime

    @classmethod
    def of(cls, one: uploads.Upload) -> "Upload":
        told = one.result
        return cls(
            id=str(one.id),
            file=one.file,
            name=one.name,
            repo_id=None if one.repo_id is None else str(one.repo_id),
            keep_refs=one.keep_refs,
            bytes=one.bytes,
            came=one.came,
            state=one.state,
            why=one.why,
            result=None
            if told is None
            else Brought(
                new=told["new"],
                snapshot=told["snapshot"],
                refs=told["refs"],
                commits=told["commits"],
                head=told["head"],
                large_files=told["large_files"],
            ),
            job_id=None if one.job_id is None else str(one.job_id),
            began_at=one.began_at,
        )
