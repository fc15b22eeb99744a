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
_PUSHED_TO: Final = "everref:"  # what the address of a repo without a remote begins with
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
class Sealed:
    """What the vault has where an object is sealed: an age file. All else describes what is in it."""

    bytes: int
    sha256: str  # hex


@dataclass(frozen=True, slots=True)
class Part:
    """A run of the pack log as it is stored: one bundle in the vault."""

    key: str  # relative to the vault
    epoch: int
    first: int  # the first snapshot whose objects it may hold
    last: int
    bytes: int  # of the bundle: bundle header, pack header, entries, pack trailer
    sha256: str  # of these bytes, hex
    header_bytes: int  # of the bundle header, before b"PACK"
    entries: int  # pack entries in it
    segments: tuple[Segment, ...]  # in log order; empty for a checkpoint, which is whole or nothing
    complete: bool  # its pack needs no object from outside (first of an epoch, checkpoint)
    index_bytes: int = 0  # size of the `.idx` object beside it; 0: it has none
    index_sha256: str = ""
    sealed: Sealed | None = None  # the bundle as it is stored; None: as it is
    sealed_index: Sealed | None = None  # likewise the `.idx`

    @property
    def stored(self) -> Sealed:
        """Size and sum of the object that is in the vault under this part's key."""
        return self.sealed or Sealed(self.bytes, self.sha256)

    @property
    def stored_index(self) -> Sealed:
        """Size and sum of the `.idx` object beside it; 0 bytes: it has none."""
        return self.sealed_index or Sealed(self.index_bytes, self.index_sha256)

    @property
    def stored_bytes(self) -> int:
        """Of the object that is in the vault, without the `.idx`."""
        return self.stored.bytes

    @property
    def stored_sha256(self) -> str:
        """Of the object that is in the vault, hex."""
        return self.stored.sha256


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
    manifest_sha256: str  # of the manifest's bytes, before it was sealed
    previous_sha256: str | None  # None: the first
    verified_at: datetime | None = None  # when its bytes were last read back; None: only stored
    moment: int = 0  # the number of a moment within it, which was passed over when it was taken; 0: itself
    reach: int = 0  # the snapshot up to which such a moment needs the pack log; 0: itself
    sealed: Sealed | None = None  # the manifest as it is stored; None: as it is
    dropped_at: datetime | None = None  # when it went, on purpose; None: it is kept
    dropped_why: str | None = None  # who wanted that and why, in words
    manifest_epoch: int | None = None  # the epoch that its manifest names; None: the same

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
    """One repository that Everref backs up."""

    id: RepoId
    name: str
    url: str  # without credentials; a path for a local one; `pushed_to(id)` where it has no remote
    object_format: ObjectFormat | None  # None: never seen
    created_at: datetime


def pushed_to(repo_id: RepoId) -> str:
    """The address of a repo without a remote, which people and programs push to: nothing is fetched there."""
    return f"{_PUSHED_TO}{repo_id}"


def has_remote(url: str) -> bool:
    """Whether there is a remote at a repo's address; False: it is pushed to directly (`pushed_to`)."""
    return not url.startswith(_PUSHED_TO)


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
    here: Repo | None = None  # not a remote after all: a repo that is pushed to. None: a remote

    @property
    def shown(self) -> str:
        """What people know it by."""
        return self.here.name if self.here else self.url
