"""The keys of the vault: where each object of a repo is stored, and what a key alone says."""

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from uuid import UUID

from mirror.core.model import RepoId

README: Final = "README.txt"
RESTORE: Final = "restore.sh"
MARKER: Final = "vault.json"
EXPORTS: Final = "exports/"  # what the keys of bundles to download begin with; no repo's id does

UPLOADS: Final = EXPORTS + "upload-"  # likewise of pieces of files that people bring in

SEALED: Final = (
    ".age"  # what the keys of sealed objects end with: files of age, https://age-encryption.org/v1
)

_ID: Final = r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_OF_REPO: Final = re.compile(_ID + r"/")
_SEALED_EXPORT: Final = re.compile(EXPORTS + _ID + r"-")
_STRAIGHT: Final = re.compile(UPLOADS + _ID + r"-")
_BUNDLE: Final = re.compile(
    _ID + r"/bundles/([0-9]{4})-([0-9]{10})-([0-9]{10})-([0-9a-f]{16})\.bundle(?:\.age)?"
)
_WITHDRAWN: Final = ".withdrawn"
_MANIFEST: Final = re.compile(_ID + r"/snapshots/([0-9]{10})\.json(?:\.age)?")
_DESCRIBED: Final = re.compile(_ID + r"/repo\.json(?:\.age)?")
_DESCRIPTION: Final = re.compile(_ID + r"/repo/([0-9]{10})\.json(?:\.age)?")
_NOTE: Final = re.compile(_ID + r"/notes/([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-[0-9a-f]{16}\.json(?:\.age)?")
_EPOCH: Final = re.compile(_ID + r"/retention/([0-9]{4})\.json(?:\.age)?")
_NOTE_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_STATE: Final = re.compile(r"state/([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-[0-9a-f]{16}\.sealed")
STATES: Final = "state/"
KEY_FILES: Final = "keys/"
_KEY_FILE: Final = re.compile(KEY_FILES + _ID + r"/[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{16}\.age")
EVIDENCE_KEYS: Final = "evidence/keys/"
CHECKPOINTS: Final = "evidence/checkpoints/"
EVIDENCE_DAYS: Final = "evidence/days/"
ERASED: Final = "erased/"
_ERASED: Final = re.compile(ERASED + _ID + r"\.json")
_EVIDENCE: Final = re.compile(_ID + r"/evidence/([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)-[0-9a-f]{16}\.json(?:\.age)?")
_DAILY: Final = re.compile(EVIDENCE_DAYS + _ID + r"/[0-9]{8}-[0-9a-f]{16}\.json")
_CHECKPOINT: Final = re.compile(CHECKPOINTS + r"([0-9]{10})\.json")


@dataclass(frozen=True, slots=True)
class BundleKey:
    """What the key of a part says."""

    repo_id: RepoId
    epoch: int
    first: int
    last: int
    unique: str


@dataclass(frozen=True, slots=True)
class NumberedKey:
    """What the key of a manifest, or of a description of a repo, says."""

    repo_id: RepoId
    number: int


@dataclass(frozen=True, slots=True)
class NoteKey:
    """What the key of a note says."""

    repo_id: RepoId
    at: datetime


def guide_key(name: str, number: int) -> str:
    """The key of README.txt or restore.sh: the first as it is, later ones numbered, as README-2.txt."""
    stem, _, ending = name.rpartition(".")
    return name if number == 1 else f"{stem}-{number}.{ending}"


def is_sealed(key: str) -> bool:
    """Whether the object with this key is sealed."""
    return key.endswith(SEALED)


def sealed(key: str, is_sealed: bool = True) -> str:
    """The key under which an object is stored sealed; not `is_sealed`: as it is."""
    return plain(key) + SEALED if is_sealed else plain(key)


def plain(key: str) -> str:
    """The key under which the same object is stored as it is."""
    return key.removesuffix(SEALED)


def key_file(team_id: UUID, at: datetime) -> str:
    """The key of a file with a team's identities, sealed to its recovery keys."""
    return f"{KEY_FILES}{team_id}/{at.astimezone(UTC).strftime(_NOTE_TIME)}-{unique()}.age"


def parse_key_file(key: str) -> UUID | None:
    """The team whose identities are in this file. None: it is another key."""
    match = _KEY_FILE.fullmatch(key)
    return UUID(match[1]) if match else None


def repo_prefix(repo_id: RepoId) -> str:
    """What every key of this repo begins with."""
    return f"{repo_id}/"


def repo_of(key: str) -> RepoId | None:
    """The repo that an object belongs to. None: none."""
    match = _OF_REPO.match(key)
    return RepoId(UUID(match[1])) if match else None


def sealed_for(key: str) -> RepoId | None:
    """The repo whose team's keys open an object that is sealed. None: its key does not say it."""
    match = _SEALED_EXPORT.match(key)
    return RepoId(UUID(match[1])) if match else repo_of(key)


def repo_file(repo_id: RepoId) -> str:
    """The key of repo.json, the first description."""
    return f"{repo_id}/repo.json"


def parse_repo_file(key: str) -> RepoId | None:
    """The repo of this repo.json. None: it is another key."""
    match = _DESCRIBED.fullmatch(key)
    return RepoId(UUID(match[1])) if match else None


def erased_key(repo_id: RepoId) -> str:
    """The key of the object that says that this repo is gone, and that nothing of it is to come back."""
    return f"{ERASED}{repo_id}.json"


def parse_erased_key(key: str) -> RepoId | None:
    """The repo of which this key says that it is gone. None: it is another key."""
    match = _ERASED.fullmatch(key)
    return RepoId(UUID(match[1])) if match else None


def description_key(repo_id: RepoId, number: int) -> str:
    """The key of a description that follows `repo.json` and those before it; the highest number holds."""
    return f"{repo_id}/repo/{number:010d}.json"


def parse_description_key(key: str) -> NumberedKey | None:
    """What the key of a numbered description says. None: it is another key."""
    return _numbered(_DESCRIPTION, key)


def bundles_prefix(repo_id: RepoId) -> str:
    """What the keys of this repo's parts and their indexes begin with."""
    return f"{repo_id}/bundles/"


def manifests_prefix(repo_id: RepoId) -> str:
    """What the keys of this repo's manifests begin with."""
    return f"{repo_id}/snapshots/"


def manifest_key(repo_id: RepoId, number: int, is_sealed: bool = False) -> str:
    """The key of the manifest of snapshot `number`; keys sort as the numbers do."""
    return sealed(f"{repo_id}/snapshots/{number:010d}.json", is_sealed)


def notes_prefix(repo_id: RepoId) -> str:
    """What the keys of this repo's notes begin with."""
    return f"{repo_id}/notes/"


def note_key(repo_id: RepoId, at: datetime, unique: str) -> str:
    """The key of a note that was written then; keys sort as the moments do."""
    return f"{repo_id}/notes/{at.astimezone(UTC):{_NOTE_TIME}}-{unique}.json"


def epochs_prefix(repo_id: RepoId) -> str:
    """What the keys of the records of this repo's epochs begin with."""
    return f"{repo_id}/retention/"


def epoch_key(repo_id: RepoId, epoch: int) -> str:
    """The key of the record of an epoch, which says what was dropped; the first epoch has none."""
    return f"{repo_id}/retention/{epoch:04d}.json"


def parse_epoch_key(key: str) -> NumberedKey | None:
    """What the key of the record of an epoch says. None: it is another key."""
    return _numbered(_EPOCH, key)


def evidence_prefix(repo_id: RepoId) -> str:
    """What the keys of this repo's statements begin with."""
    return f"{repo_id}/evidence/"


def evidence_key(repo_id: RepoId, at: datetime, unique: str) -> str:
    """The key of a statement about what ended then; keys sort as the moments do."""
    return f"{repo_id}/evidence/{at.astimezone(UTC):{_NOTE_TIME}}-{unique}.json"


def is_evidence(key: str) -> bool:
    """Whether this is the key of a statement about a repo."""
    return _EVIDENCE.fullmatch(key) is not None


def daily_prefix(team_id: UUID, day: date) -> str:
    """What the key of a statement about a team and a day begins with."""
    return f"{EVIDENCE_DAYS}{team_id}/{day:%Y%m%d}-"


def daily_key(team_id: UUID, day: date, unique: str) -> str:
    """The key of a statement about what was read of a team's repos on one day (UTC)."""
    return f"{daily_prefix(team_id, day)}{unique}.json"


def is_daily(key: str) -> bool:
    """Whether this is the key of a statement about a day."""
    return _DAILY.fullmatch(key) is not None


def signing_key_key(at: datetime, key_id: str) -> str:
    """The key of the statement that introduces a key that signs evidence."""
    return f"{EVIDENCE_KEYS}{at.astimezone(UTC):{_NOTE_TIME}}-{key_id[:16]}.json"


def checkpoint_key(number: int) -> str:
    """The key of a checkpoint; `number`: 1, 2, 3..."""
    return f"{CHECKPOINTS}{number:010d}.json"


def leaves_key(number: int) -> str:
    """The key of what a checkpoint's root was made of."""
    return f"{CHECKPOINTS}{number:010d}.leaves.jsonl"


def stamp_key(number: int) -> str:
    """The key of an authority's time stamp of a checkpoint (TimeStampResp of RFC 3161, DER)."""
    return f"{CHECKPOINTS}{number:010d}.tsr"


def parse_checkpoint_key(key: str) -> int | None:
    """The number of the checkpoint with this key. None: it is another key."""
    match = _CHECKPOINT.fullmatch(key)
    return int(match[1]) if match else None


def export_key(sealed_for: RepoId | None = None) -> str:
    """A new key for a bundle to download, which nobody can guess.

    `sealed_for`: the repo whose team's keys seal it; None: it is stored as it is.
    """
    if sealed_for is None:
        return f"{EXPORTS}{secrets.token_hex(32)}.bundle"
    return f"{EXPORTS}{sealed_for}-{secrets.token_hex(32)}.bundle{SEALED}"


def upload_key() -> str:
    """A new key for a piece of a file that somebody uploads, which nobody can guess."""
    return f"{UPLOADS}{secrets.token_hex(32)}"


def straight_upload_key(upload: UUID, start: int, sha256: bytes) -> str:
    """The key of a piece of an upload that goes straight to the store: only these bytes belong there."""
    return f"{straight_uploads(upload)}{start}-{sha256.hex()[:32]}"


def straight_uploads(upload: UUID) -> str:
    """What the keys of an upload's pieces that went straight to the store begin with."""
    return f"{UPLOADS}{upload}-"


def upload_of(key: str) -> UUID | None:
    """The upload of which this is such a piece. None: it is something else."""
    match = _STRAIGHT.match(key)
    return UUID(match[1]) if match else None


def unique() -> str:
    """16 hex digits for a new key: nothing in the vault is ever overwritten."""
    return secrets.token_hex(8)


def bundle_key(
    repo_id: RepoId, epoch: int, first: int, last: int, unique: str, is_sealed: bool = False
) -> str:
    """The key of the part with the snapshots first..last; `unique` is 16 hex digits, never used twice."""
    key = sealed(f"{repo_id}/bundles/{epoch:04d}-{first:010d}-{last:010d}-{unique}.bundle", is_sealed)
    if not _BUNDLE.fullmatch(key):
        raise ValueError(f"no key of a part: {key}")
    return key


def index_key(key: str) -> str:
    """The key of the `.idx` beside the part of this key."""
    return sealed(f"{plain(key).removesuffix('.bundle')}.idx", is_sealed(key))


def is_index(key: str) -> bool:
    """Whether this is the key of an `.idx`."""
    return plain(key).endswith(".idx")


def withdrawn_key(key: str) -> str:
    """The key that says, while it exists, that the part of this key counts no more, whatever its `.idx` says.

    For an `.idx` that a store does not let anybody delete yet (Object Lock).
    """
    return f"{plain(key).removesuffix('.bundle').removesuffix('.idx')}{_WITHDRAWN}"


def counting(keys: Collection[str]) -> list[str]:
    """Those of a repo's bundles and indexes that were not withdrawn, and no other keys."""
    there = frozenset(keys)
    return [key for key in keys if parse_bundle_key(key) and withdrawn_key(key) not in there]


def parse_bundle_key(key: str) -> BundleKey | None:
    """What the key of a part, or of the index beside one, says. None: it is neither."""
    match = _BUNDLE.fullmatch(f"{plain(key).removesuffix('.idx')}.bundle" if is_index(key) else key)
    if not match:
        return None
    repo_id, epoch, first, last, unique = match.groups()
    return BundleKey(RepoId(UUID(repo_id)), int(epoch), int(first), int(last), unique)


def parse_manifest_key(key: str) -> NumberedKey | None:
    """What the key of a manifest says. None: it is another key."""
    return _numbered(_MANIFEST, key)


def _numbered(pattern: re.Pattern[str], key: str) -> NumberedKey | None:
    match = pattern.fullmatch(key)
    return NumberedKey(RepoId(UUID(match[1])), int(match[2])) if match else None


def parse_note_key(key: str) -> NoteKey | None:
    """What the key of a note says. None: it is another key."""
    match = _NOTE.fullmatch(key)
    at = _time(match[2]) if match else None
    return NoteKey(RepoId(UUID(match[1])), at) if match and at else None


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _NOTE_TIME).replace(tzinfo=UTC)
    except ValueError:  # the 31st of February
        return None


def state_key(at: datetime, unique: str) -> str:
    """The key of the state as it was exported then; keys sort as the moments do."""
    return f"{STATES}{at.astimezone(UTC):{_NOTE_TIME}}-{unique}.sealed"


def state_about_key(key: str) -> str:
    """The key of what can be read of an export without any key of the application."""
    return f"{key.removesuffix('.sealed')}.json"


def parse_state_key(key: str) -> datetime | None:
    """When the state with this key was exported. None: it is another key."""
    match = _STATE.fullmatch(key)
    return _time(match[1]) if match else None


def is_kept_for_ever(key: str) -> bool:
    """Whether this is a manifest, a note, a statement, a description or an epoch's record."""
    return any(
        kind.fullmatch(key) for kind in (_MANIFEST, _DESCRIBED, _DESCRIPTION, _NOTE, _EVIDENCE, _EPOCH)
    )
