"""Files that are uploaded to bring a repository in, as JSON."""

import base64
from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.core.keyring import Envelope
from mirror.shapes.base import Answer
from mirror.store.backup import uploads
from mirror.vault import PutLink


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


class PieceKey(Answer, frozen=True, kw_only=True):
    """How one piece of a file is encrypted before it goes straight to the store.

    What is sent is `head`, a nonce of 12 random bytes, and the piece as AES-256-GCM encrypts it with that
    nonce and `context` as additional data, with the tag of 16 bytes at its end.
    """

    offset: Annotated[int, Meta(description="of the piece's first byte in the file")]
    key: Annotated[str, Meta(description="32 bytes, base64")]
    head: Annotated[str, Meta(description="base64")]
    context: Annotated[str, Meta(description="base64")]

    @classmethod
    def of(cls, offset: int, one: Envelope) -> "PieceKey":
        return cls(offset=offset, key=_text(one.key), head=_text(one.head), context=_text(one.context))


class Straight(Answer, frozen=True, kw_only=True):
    """An upload that goes straight to the store, as far as it has come."""

    upload: Upload
    next: Annotated[PieceKey | None, Meta(description="the key of the next piece; null: all have come")]


class PieceLink(Answer, frozen=True, kw_only=True):
    """Where to send an encrypted piece, by PUT, within ten minutes."""

    url: str
    headers: Annotated[dict[str, str], Meta(description="to send with it")]

    @classmethod
    def of(cls, one: PutLink) -> "PieceLink":
        return cls(url=one.url, headers=dict(one.headers))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
