"""Notes: small objects in the vault for facts that no manifest has; never changed or overwritten.

Each tells one thing of a repo, such as who made a push whose report came late, and
lets it survive the loss of the database. Each kind has its own fields.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mirror.core.formats.manifest import FORMAT, Fields
from mirror.core.model import RepoId

LIMIT: Final = 256 << 20  # bytes of a note: it can tell of every ref of a snapshot


@dataclass(frozen=True, slots=True)
class Note:
    """One note as it is stored."""

    repo: RepoId
    kind: str
    fields: Fields  # all of it, to be asked for what this kind has


def encode(repo: RepoId, kind: str, fields: Mapping[str, object]) -> bytes:
    """A note as it is stored: JSON with one row of each list a line, as manifests have it."""
    return lines({"format": FORMAT, "repo": str(repo), "kind": kind, **fields})


def lines(fields: Mapping[str, object]) -> bytes:
    """JSON with one field a line, and one row of each list."""
    found = [f'"{key}":{_value(value)}' for key, value in fields.items()]
    return ("{\n" + ",\n".join(found) + "\n}\n").encode()


def _value(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(map(_json, value)) + "\n]"
    return _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def decode(stored: bytes) -> Note:
    """Parse a note of any kind. Raises Corrupt if anything is wrong."""
    fields = Fields.of(stored, "note")
    return Note(fields.uuid("repo"), fields.text("kind"), fields)
