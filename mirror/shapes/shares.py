"""Share links as JSON."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mirror.core.rules.shares import WHY, Form, State
from mirror.shapes.base import Answer
from mirror.store.restore import shares


class ShareUse(Answer, frozen=True, kw_only=True):
    """What one address did with a share link in one minute."""

    at: Annotated[datetime, Meta(description="the beginning of the minute")]
    address: str
    what: Annotated[shares.Act, Meta(description="password: a wrong one was given")]
    times: int

    @classmethod
    def of(cls, use: shares.Use) -> "ShareUse":
        return cls(at=use.at, address=use.address, what=use.what, times=use.times)


class Share(Answer, frozen=True, kw_only=True):
    """A share link, without its token."""

    id: str
    repo_id: str
    repo: str
    snapshot: int
    moment: Annotated[int, Meta(description="within the snapshot; 0: the snapshot itself")]
    refs: Annotated[list[str], Meta(description="patterns; none: all refs of the moment")]
    forms: list[Form]
    password: Annotated[bool, Meta(description="it has one")]
    once: bool
    state: State
    why: Annotated[str, Meta(description="the state in words")]
    made_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    uses: Annotated[int, Meta(description="downloads and clones that were begun")]
    bytes: Annotated[int, Meta(description="that were sent")]
    first_used_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def of(cls, share: shares.Share) -> "Share":
        return cls(
            id=str(share.id),
            repo_id=str(share.repo_id),
            repo=share.repo_name,
            snapshot=share.snapshot,
            moment=share.moment,
            refs=list(share.globs),
            forms=list(share.forms),
            password=share.password_hash is not None,
            once=share.once,
            state=share.state,
            why=WHY[share.state],
            made_by=share.issuer,
            created_at=share.created_at,
            expires_at=share.expires_at,
            revoked_at=share.revoked_at,
            revoked_by=share.revoked_by,
            uses=share.uses,
            bytes=share.bytes,
            first_used_at=share.first_used_at,
            last_used_at=share.last_used_at,
        )


class NewShare(Answer, frozen=True, kw_only=True):
    """A share link that was just made."""

    url: Annotated[str, Meta(description="shown only here")]
    about: Share
