"""The vault's JSON: manifests of snapshots, descriptions of repos, the first line of an `.idx`.

The format is written line by line in a fixed order, one ref or change a line with
its name first, so that the shell script in the vault can read it with sed and awk.
A reader ignores keys that it does not know; a change that old readers would take
wrongly gets a new `format`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from json.encoder import encode_basestring
from typing import Final, TypeVar
from uuid import UUID

from mirror.core.errors import Corrupt
from mirror.core.formats.layout import parse_bundle_key
from mirror.core.model import (
    HEX_LENGTH,
    Kind,
    ObjectFormat,
    Part,
    Reason,
    RefChange,
    RefName,
    Refs,
    RepoId,
    Sealed,
    Segment,
    Snapshot,
    Target,
)
from mirror.core.refs import check_name, from_shown, is_symbolic, shown_as, symbolic_target

FORMAT: Final = 1
LIMIT: Final = 1 << 30  # bytes; a manifest with a million refs has about 200 MB
WHOLE_MAP_EVERY: Final = 64  # snapshots, of a repo with few refs
WHOLE_MAP_LINES: Final = 8  # refs a snapshot, which whole maps may cost on average

_HEX: Final = re.compile(r"[0-9a-f]+")
_SHA256: Final = 64  # hex digits

Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One snapshot as stored in the vault."""

    repo: RepoId
    number: int
    taken_at: datetime
    reason: Reason
    object_format: ObjectFormat
    head: Target | None  # None: the remote did not tell
    refs_count: int  # without HEAD
    refs_digest: str  # of the whole map, hex; see refs.digest
    epoch: int
    log_entries: int  # the boundary in the pack log: entries so far in this epoch
    log_bytes: int
    bundle: Part | None  # the part it was born with; None: this snapshot brought no object
    previous: str | None  # SHA-256 of the previous manifest, before it was sealed; None: the first
    changes: tuple[RefChange, ...]  # against the snapshot before
    refs: Refs | None  # the whole map, HEAD included; None where has_whole_map says no

    @property
    def segment(self) -> Segment | None:
        """The run of the pack log that this snapshot added. None: it brought no object."""
        return self.bundle.segments[0] if self.bundle else None


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A repo's description, as in `repo.json` and the numbered descriptions after it."""

    repo: RepoId
    name: str
    url: str  # without credentials; a path for a local one
    object_format: ObjectFormat | None  # None: not seen when this was written
    at: datetime | None = None  # when it was written; None: by a version that did not say
    team: UUID | None = None  # None likewise, for this and all that follow
    team_name: str | None = None
    created_at: datetime | None = None
    forge: str = "generic"
    host: str | None = None
    repository_id: str | None = None  # the forge's number
    private: bool | None = None
    paused_at: datetime | None = None
    archived_at: datetime | None = None
    schedule: str | None = None
    excluded: tuple[str, ...] = ()  # patterns of refs that are not kept


def has_whole_map(number: int, refs_count: int) -> bool:
    """Whether the manifest of this number holds every ref, so that a reader can begin there.

    The more refs, the seldomer: what a push adds to the vault grows with what it changed,
    not with the repo. No reader needs to know this rule, by which older ones were written
    every 64 snapshots.
    """
    every = WHOLE_MAP_EVERY
    while every * WHOLE_MAP_LINES < refs_count:
        every *= 2
    return number % every == 0


def snapshot_of(manifest: Manifest, sha256: str, sealed: Sealed | None = None) -> Snapshot:
    """The snapshot that a manifest describes; `sha256` is that of the manifest's bytes, hex.

    `sealed`: what is stored where it is sealed; None: it is not.
    """
    return Snapshot(
        number=manifest.number,
        taken_at=manifest.taken_at,
        reason=manifest.reason,
        object_format=manifest.object_format,
        head=manifest.head,
        refs_count=manifest.refs_count,
        refs_digest=manifest.refs_digest,
        changes_count=len(manifest.changes),
        epoch=manifest.epoch,
        log_entries=manifest.log_entries,
        log_bytes=manifest.log_bytes,
        segment=manifest.segment,
        bundle=manifest.bundle,
        manifest_sha256=sha256,
        previous_sha256=manifest.previous,
        sealed=sealed,
    )


def encode(manifest: Manifest) -> bytes:
    """A manifest as it is stored."""
    m = manifest
    part, segment = m.bundle, m.segment
    lines = [
        "{",
        f'"format":{FORMAT},',
        f'"repo":"{m.repo}",',
        f'"number":{m.number},',
        f'"taken_at":"{time_text(m.taken_at)}",',
        f'"reason":"{m.reason}",',
        f'"object_format":"{m.object_format}",',
        _field("head", m.head) + ",",
        f'"refs_count":{m.refs_count},',
        f'"refs_digest":"{m.refs_digest}",',
        f'"epoch":{m.epoch},',
        f'"log":{{"entries":{m.log_entries},"bytes":{m.log_bytes}}},',
        f'"segment":{_json(_segment(segment)) if segment else "null"},',
        f'"bundle":{_json(_bundle(part)) if part else "null"},',
        '"sealed_to":null,',
        f'"previous":{_json(m.previous)},',
        '"changes":[',
        *_rows(_change(change) for change in m.changes),
        "],",
    ]
    if m.refs is None:
        lines.append('"refs":null')
    else:
        lines += ['"refs":[', *_rows(_ref(name, m.refs[name]) for name in sorted(m.refs)), "]"]
    lines.append("}\n")
    return "\n".join(lines).encode()


def _rows(rows: Iterator[str]) -> Iterator[str]:
    """Every row but the last gets its comma."""
    last = next(rows, None)
    for row in rows:
        yield f"{last},"
        last = row
    if last is not None:
        yield last


def _change(change: RefChange) -> str:
    by = "null" if change.by is None else encode_basestring(change.by)
    at = "null" if change.at is None else f'"{time_text(change.at)}"'
    return (
        f"{{{_field('name', change.name)},{_field('old', change.old)},{_field('new', change.new)},"
        f'"kind":"{change.kind}","by":{by},"at":{at}}}'
    )


def _ref(name: RefName, target: Target) -> str:
    return f"{{{_field('name', name)},{_field('target', target)}}}"


def _field(key: str, value: bytes | None) -> str:
    if value is None:
        return f'"{key}":null'
    return ",".join(f'"{k}":{encode_basestring(v)}' for k, v in shown_as(key, value).items())


def _segment(segment: Segment) -> dict[str, object]:
    return {"entries": segment.entries, "bytes": segment.bytes, "sha256": segment.sha256}


def _bundle(part: Part) -> dict[str, object]:
    return {
        "key": part.key,
        "bytes": part.bytes,
        "sha256": part.sha256,
        "header_bytes": part.header_bytes,
        "first": part.first,
        "last": part.last,
        "complete": part.complete,
        "index_bytes": part.index_bytes,
        "index_sha256": part.index_sha256,
    } | {
        name: _sealed(sealed)
        for name, sealed in (("sealed", part.sealed), ("sealed_index", part.sealed_index))
        if sealed
    }


def _sealed(sealed: Sealed) -> dict[str, object]:
    return {"bytes": sealed.bytes, "sha256": sealed.sha256}


def _decoded_sealed(fields: "Fields", name: str) -> Sealed | None:
    if name not in fields.fields:
        return None
    inner = fields.inner(name)
    return Sealed(inner.count("bytes", 1), inner.sha256("sha256"))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def time_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def decode(stored: bytes) -> Manifest:
    """Parse a manifest's stored bytes. Raises Corrupt if anything is wrong."""
    fields = Fields.of(stored, "manifest")
    object_format = fields.object_format("object_format")
    number, epoch = fields.count("number", 1), fields.count("epoch", 1)
    repo = fields.uuid("repo")
    refs = None
    if fields.optional("refs") is not None:
        refs = {row.name(): row.target("target", object_format) for row in fields.rows("refs")}
    log = fields.inner("log")
    return Manifest(
        repo=repo,
        number=number,
        taken_at=fields.time("taken_at"),
        reason=fields.one_of("reason", Reason),
        object_format=object_format,
        head=fields.target_or_none("head", object_format),
        refs_count=fields.count("refs_count"),
        refs_digest=fields.sha256("refs_digest"),
        epoch=epoch,
        log_entries=log.count("entries"),
        log_bytes=log.count("bytes"),
        bundle=_decoded_part(fields, epoch, number),
        previous=None if fields.optional("previous") is None else fields.sha256("previous"),
        changes=tuple(_decoded_change(row, object_format) for row in fields.rows("changes")),
        refs=refs,
    )


def _decoded_part(fields: "Fields", epoch: int, number: int) -> Part | None:
    if fields.optional("segment") is None and fields.optional("bundle") is None:
        return None
    added, part = fields.inner("segment"), fields.inner("bundle")
    segment = Segment(number, added.count("entries", 1), added.count("bytes", 1), added.sha256("sha256"))
    index_bytes = part.count("index_bytes")
    first, last = part.count("first", 1), part.count("last", 1)
    if last != number or first > last:
        raise Corrupt(f"manifest #{number}: its bundle has the snapshots {first} to {last}")
    return Part(
        key=part.text("key"),
        epoch=epoch,
        first=first,
        last=last,
        bytes=part.count("bytes", 1),
        sha256=part.sha256("sha256"),
        header_bytes=part.count("header_bytes"),
        entries=segment.entries,
        segments=(segment,),
        complete=part.flag("complete"),
        index_bytes=index_bytes,
        index_sha256=part.sha256("index_sha256") if index_bytes else "",
        sealed=_decoded_sealed(part, "sealed"),
        sealed_index=_decoded_sealed(part, "sealed_index"),
    )


def _decoded_change(row: "Fields", object_format: ObjectFormat) -> RefChange:
    old, new = row.target_or_none("old", object_format), row.target_or_none("new", object_format)
    if old is None and new is None:
        raise Corrupt(f"{row.what}: a change without an old or a new target")
    return RefChange(
        name=row.name(),
        old=old,
        new=new,
        kind=row.one_of("kind", Kind),
        by=None if row.optional("by") is None else row.text("by"),
        at=None if row.optional("at") is None else row.time("at"),
    )


def encode_repo(about: RepoFile) -> bytes:
    """`repo.json`, or a numbered description, as it is stored: one field a line."""
    fields = {
        "format": FORMAT,
        "repo": str(about.repo),
        "name": about.name,
        "forge": about.forge,
        "url": about.url,
        "object_format": about.object_format,
        "at": _time_or_none(about.at),
        "team": None if about.team is None else str(about.team),
        "team_name": about.team_name,
        "created_at": _time_or_none(about.created_at),
        "host": about.host,
        "repository_id": about.repository_id,
        "private": about.private,
        "paused_at": _time_or_none(about.paused_at),
        "archived_at": _time_or_none(about.archived_at),
        "schedule": about.schedule,
        "excluded": list(about.excluded),
    }
    return f"{json.dumps(fields, ensure_ascii=False, indent=0)}\n".encode("utf-8", "surrogateescape")


def _time_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else time_text(moment)


def decode_repo(stored: bytes) -> RepoFile:
    """`repo.json`, or a numbered description, out of its stored bytes. Raises Corrupt."""
    return repo_of(Fields.of(stored, "repo.json", errors="surrogateescape"))


def repo_of(fields: "Fields") -> RepoFile:
    """The description that these fields make. Raises Corrupt."""
    about = RepoFile(
        repo=fields.uuid("repo"),
        name=fields.text("name"),
        url=fields.text("url"),
        object_format=None
        if fields.optional("object_format") is None
        else fields.object_format("object_format"),
    )
    if "at" not in fields.fields:  # of a version that said no more
        return about
    return replace(
        about,
        at=fields.time_or_none("at"),
        team=None if fields.optional("team") is None else fields.uuid("team"),
        team_name=fields.text_or_none("team_name"),
        created_at=fields.time_or_none("created_at"),
        forge=fields.text("forge"),
        host=fields.text_or_none("host"),
        repository_id=fields.text_or_none("repository_id"),
        private=None if fields.optional("private") is None else fields.flag("private"),
        paused_at=fields.time_or_none("paused_at"),
        archived_at=fields.time_or_none("archived_at"),
        schedule=fields.text_or_none("schedule"),
        excluded=tuple(fields.texts("excluded")),
    )


def encode_index(part: Part) -> bytes:
    """The first line of the `.idx` beside this part, with its newline."""
    fields = {
        "format": FORMAT,
        "bytes": part.bytes,
        "sha256": part.sha256,
        "header_bytes": part.header_bytes,
        "entries": part.entries,
        "segments": [[s.snapshot, s.entries, s.bytes, s.sha256] for s in part.segments],
        "complete": part.complete,
    } | ({"sealed": _sealed(part.sealed)} if part.sealed else {})
    return f"{_json(fields)}\n".encode()


def decode_index(key: str, line: bytes) -> Part:
    """The part with this key, as the first line of its `.idx` describes it. Raises Corrupt if that is wrong.

    The size and sum of the `.idx` itself are for the reader to add.
    """
    place = parse_bundle_key(key)
    if place is None:
        raise Corrupt(f"{key} is not the key of a part")
    fields = Fields.of(line, f"the index of {key}")
    segments = tuple(_decoded_segment(fields, row) for row in fields.items("segments"))
    numbers = [segment.snapshot for segment in segments]
    if numbers != sorted(set(numbers)) or not all(place.first <= n <= place.last for n in numbers):
        raise Corrupt(f"the index of {key}: its segments are out of order")
    part = Part(
        key=key,
        epoch=place.epoch,
        first=place.first,
        last=place.last,
        bytes=fields.count("bytes", 1),
        sha256=fields.sha256("sha256"),
        header_bytes=fields.count("header_bytes"),
        entries=fields.count("entries"),
        segments=segments,
        complete=fields.flag("complete"),
        sealed=_decoded_sealed(fields, "sealed"),
    )
    if segments and part.entries != sum(segment.entries for segment in segments):
        raise Corrupt(f"the index of {key}: its segments do not add up")
    return part


def _decoded_segment(fields: "Fields", row: object) -> Segment:
    if not isinstance(row, list) or len(row) != 4:
        raise Corrupt(f"{fields.what}: a segment is not a list of four")
    named = Fields(dict(zip(("snapshot", "entries", "bytes", "sha256"), row, strict=True)), fields.what)
    return Segment(
        named.count("snapshot", 1), named.count("entries", 1), named.count("bytes", 1), named.sha256("sha256")
    )


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object whose fields are read by type; a wrong field raises Corrupt and is named."""

    fields: Mapping[str, object]
    what: str  # for the message

    @staticmethod
    def of(stored: bytes, what: str, errors: str = "strict") -> "Fields":
        try:
            found = json.loads(stored.decode("utf-8", errors))
        except (ValueError, RecursionError):
            raise Corrupt(f"{what}: this is not JSON") from None
        if not isinstance(found, dict):
            raise Corrupt(f"{what}: this is not a JSON object")
        fields = Fields(found, what)
        if fields.fields.get("format") != FORMAT:
            raise Corrupt(f"{what}: its format is not {FORMAT}; a newer Everref may read it")
        return fields

    def optional(self, key: str) -> object:
        """The field, or None if it is null. A missing field is an error."""
        if key not in self.fields:
            raise self.off(key)
        return self.fields[key]

    def off(self, key: str) -> Corrupt:
        return Corrupt(f"{self.what}: its {key!r} is missing or wrong")

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise self.off(key)
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self.optional(key) is None else self.text(key)

    def texts(self, key: str) -> list[str]:
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            raise self.off(key)
        return [str(value) for value in values]

    def number(self, key: str) -> float:
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.off(key)
        return float(value)

    def count(self, key: str, least: int = 0) -> int:
        value = self.fields.get(key)
        if type(value) is not int or not least <= value < 1 << 63:
            raise self.off(key)
        return value

    def flag(self, key: str) -> bool:
        value = self.fields.get(key)
        if not isinstance(value, bool):
            raise self.off(key)
        return value

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if len(value) != _SHA256 or not _HEX.fullmatch(value):
            raise self.off(key)
        return value

    def uuid(self, key: str) -> RepoId:
        try:
            return RepoId(UUID(self.text(key)))
        except ValueError:
            raise self.off(key) from None

    def time(self, key: str) -> datetime:
        text = self.text(key)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self.off(key) from None
        if moment.tzinfo is None or time_text(moment) != text:
            raise self.off(key)
        return moment

    def time_or_none(self, key: str) -> datetime | None:
        return None if self.optional(key) is None else self.time(key)

    def one_of(self, key: str, words: type[Word]) -> Word:
        try:
            return words(self.text(key))
        except ValueError:
            raise self.off(key) from None

    def object_format(self, key: str) -> ObjectFormat:
        value = self.text(key)
        for known in HEX_LENGTH:
            if value == known:
                return known
        raise self.off(key)

    def name(self) -> RefName:
        name = from_shown(self.fields)
        check_name(name)
        return RefName(name)

    def target_or_none(self, key: str, object_format: ObjectFormat | None = None) -> Target | None:
        return None if self.optional(key) is None else self.target(key, object_format)

    def target(self, key: str, object_format: ObjectFormat | None = None) -> Target:
        """Where a ref pointed; without an object format, in any of them."""
        lengths = [HEX_LENGTH[object_format]] if object_format else HEX_LENGTH.values()
        target = from_shown(self.fields, key)
        if is_symbolic(target):
            check_name(symbolic_target(target))
        elif len(target) not in lengths or target.strip(b"0123456789abcdef"):
            raise self.off(key)
        return Target(target)

    def inner(self, key: str) -> "Fields":
        value = self.fields.get(key)
        if not isinstance(value, dict):
            raise self.off(key)
        return Fields(value, f"{self.what}, {key!r}")

    def items(self, key: str) -> Sequence[object]:
        value = self.fields.get(key)
        if not isinstance(value, list):
            raise self.off(key)
        return value

    def rows(self, key: str) -> Iterator["Fields"]:
        for row in self.items(key):
            if not isinstance(row, dict):
                raise self.off(key)
            yield Fields(row, f"{self.what}, {key!r}")
