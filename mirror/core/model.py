"""Everref's central values, which all other modules take and return."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, NewType
from uuid import UUID

RefName = NewType("RefName", bytes)  # as git writes it: b"refs/heads/main", any bytes git allows, or b"HEAD"
Target = NewType("Target", bytes)  # b"<hex object id>", or b"ref: refs/heads/main" when symbolic
Refs = Mapping[RefName, Target]  # every ref at one moment, and HEAD where the remote told it
RepoId = NewType("RepoId", UUID)
ObjectFormat = Literal["sha1", "sha256"]

HEAD: Final = RefName(b"HEAD")
SYMBOLIC: Final = b"ref: "
_OLDER: Final = re.compile(r"(.+)#before-[0-9a-f]{8}", re.DOTALL)
HEX_LENGTH: Final[Mapping[ObjectFormat, int]] = {"sha1": 40, "sha256": 64}


class Kind(StrEnum):
    """What one ref change was."""

    CREATED = "created"
    FAST_FORWARDED = "fast-forwarded"
    FORCED = "forced"
    DELETED = "deleted"
    MOVED = "moved"  # HEAD, tags, and refs that hold no commit


class Reason(StrEnum):
    """Why a snapshot was taken."""

    MANUAL = "manual"
    PUSH = "push"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class RefChange:
    """One ref's move."""

    name: RefName
    old: Target | None  # None: created
    new: Target | None  # None: deleted
    kind: Kind
    by: str | None = None  # who pushed it; None: nobody told us
    at: datetime | None = None  # when it was pushed; None: not known better than the snapshot's taken_at


@dataclass(frozen=True, slots=True)
class Listing:
    """A listing of a remote's refs."""

    refs: Refs
    object_format: ObjectFormat


@dataclass(frozen=True, slots=True)
class Segment:
    """The run of the pack log that one snapshot added: whole pack entries, without header and trailer."""

    snapshot: int
    entries: int
    bytes: int
    sha256: str  # of these bytes, hex


@dataclass(frozen=True, slots=True)
class Part:
    """A run of the pack log as it is stored: one bundle in the vault."""

    key: str  # relative to the vault
    epoch: int
    first: int  # the first snapshot whose objects it may hold
    last: int
    bytes: int  # of the stored object: bundle header, pack header, entries, pack trailer
    sha256: str  # of the stored bytes, hex
    header_bytes: int  # of the bundle header, before b"PACK"
    entries: int  # pack entries in it
    segments: tuple[Segment, ...]  # in log order; empty for a checkpoint, which is whole or nothing
    complete: bool  # its pack needs no object from outside (first of an epoch, checkpoint)
    index_bytes: int = 0  # size of the `.idx` object beside it; 0: it has none
    index_sha256: str = ""


def label(number: int, moment: int = 0) -> str:
    """The name of a snapshot, or of a moment within it that was passed over: #12, #12.1."""
    return f"#{number}.{moment}" if moment else f"#{number}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole refs map of one repo at one moment."""

    number: int
    taken_at: datetime
    reason: Reason
    object_format: ObjectFormat
    head: Target | None  # None: the remote did not tell
    refs_count: int  # without HEAD
    refs_digest: str  # of the whole map, hex; see refs.digest
    changes_count: int
    epoch: int
    log_entries: int  # the boundary in the pack log: entries so far in this epoch
    log_bytes: int
    segment: Segment | None  # None: this snapshot brought no object
    bundle: Part | None  # the part it was born with; None likewise
    manifest_sha256: str  # of the manifest's stored bytes
    previous_sha256: str | None  # None: the first
    verified_at: datetime | None = None  # when its bytes were last read back; None: only stored
    moment: int = 0  # the number of a moment within it, which was passed over when it was taken; 0: itself
    reach: int = 0  # the snapshot up to which such a moment needs the pack log; 0: itself

    @property
    def label(self) -> str:
        """Its name: #12, or #12.1 for the first moment that was passed over within it."""
        return label(self.number, self.moment)

    @property
    def numbers(self) -> dict[str, int]:
        """The same in JSON; a moment within a snapshot has a number of its own."""
        return {"snapshot": self.number} | ({"moment": self.moment} if self.moment else {})

    @property
    def log(self) -> int:
        """The number of the snapshot up to which the pack log has all of its objects."""
        return self.reach or self.number


@dataclass(frozen=True, slots=True)
class Repo:
    """One remote repository that Everref backs up."""

    id: RepoId
    name: str
    url: str  # without credentials; a path for a local one
    object_format: ObjectFormat | None  # None: never seen
    created_at: datetime


def older(url: str, repo_id: RepoId) -> str:
    """The address that an older history gets when a new one was started because the database was lost."""
    return f"{url}#before-{str(repo_id)[:8]}"


def older_of(url: str) -> str | None:
    """The address of which this is an older history. None: it is an ordinary address."""
    match = _OLDER.fullmatch(url)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Secret:
    """A user name and a password or token. Its repr shows neither."""

    username: str  # empty: a token alone, which goes with the name that its host documents
    password: str

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True, slots=True)
class SshAccess:
    """The keys with which a host is reached by ssh."""

    key: str = field(repr=False)  # a private one, as OpenSSH writes it
    host_keys: tuple[str, ...]  # that the host may show: "ssh-ed25519 AAAA..."


@dataclass(frozen=True, slots=True)
class Remote:
    """Where to fetch from or push to, checked and split from its credentials."""

    url: str
    secret: Secret | None = None
    ssh: "SshAccess | None" = None  # None: it is not reached by ssh, or not made ready for it yet
