"""The list of an export: which repos and objects a directory holds, written last, so that it is whole."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror.core.errors import Corrupt
from mirror.core.formats import layout
from mirror.core.formats.manifest import FORMAT, Fields, time_text
from mirror.core.formats.notes import lines
from mirror.core.model import RepoId, Sealed

NAME: Final = "export.json"
LIMIT: Final = 1 << 30  # bytes; a million objects have about 200 MB


@dataclass(frozen=True, slots=True)
class ExportedRepo:
    """A repo with its history, as it was exported."""

    id: RepoId
    name: str
    snapshots: int
    sha256: str  # of the newest manifest, which covers all before it
    epoch: int
    held: str | None  # why it was on legal hold; None: it was not


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has."""

    at: datetime
    team: str  # its name
    repos: tuple[ExportedRepo, ...]
    objects: dict[str, Sealed]  # size and sum of each, by its key: a path in the directory

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.objects.values())


def belongs(key: str) -> bool:
    """Whether an object with this key can be in an export: nothing in one is sealed."""
    if layout.is_sealed(key):
        return False
    return (
        key in (layout.README, layout.RESTORE)
        or layout.parse_repo_file(key) is not None
        or layout.parse_bundle_key(key) is not None
        or (layout.is_kept_for_ever(key) and layout.parse_description_key(key) is None)
    )


def encode(one: Exported) -> bytes:
    """The list as it is stored: JSON with a repo or an object a line."""
    repos = [
        {
            "id": str(repo.id),
            "name": repo.name,
            "snapshots": repo.snapshots,
            "sha256": repo.sha256,
            "epoch": repo.epoch,
            "held": repo.held,
        }
        for repo in one.repos
    ]
    objects = [
        {"key": key, "bytes": stored.bytes, "sha256": stored.sha256}
        for key, stored in sorted(one.objects.items())
    ]
    fields = {"format": FORMAT, "at": time_text(one.at), "team": one.team, "repos": repos, "objects": objects}
    return lines(fields)


def decode(stored: bytes) -> Exported:
    """The list in these bytes. Raises Corrupt if anything is wrong with it, or it is of another format."""
    fields = Fields.of(stored, NAME)
    repos = tuple(
        ExportedRepo(
            row.uuid("id"),
            row.text("name"),
            row.count("snapshots", 1),
            row.sha256("sha256"),
            row.count("epoch", 1),
            row.text_or_none("held"),
        )
        for row in fields.rows("repos")
    )
    ids = {repo.id for repo in repos}
    objects = dict[str, Sealed]()
    for row in fields.rows("objects"):
        key = row.text("key")
        owner = layout.repo_of(key)
        if not belongs(key) or key in objects or (owner is not None and owner not in ids):
            raise Corrupt(f"{NAME}: {key[:200]!r} does not belong into an export")
        objects[key] = Sealed(row.count("bytes"), row.sha256("sha256"))
    if not repos or len(ids) < len(repos):
        raise Corrupt(f"{NAME}: it names no repo, or one twice")
    return Exported(fields.time("at"), fields.text("team"), repos, objects)
