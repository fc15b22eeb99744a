"""What lies plain in the vault of a team that seals: what is to be sealed, and what waits to be deleted."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mirror.core.formats import layout
from mirror.core.words import count, size


@dataclass(frozen=True, slots=True)
class Lying:
    """An object as the vault lists it."""

    key: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Plain:
    """The plain objects of a repo that whoever reads the bucket can read."""

    parts: tuple[Lying, ...]  # bundles that are live, and their indexes
    records: tuple[Lying, ...]  # manifests, notes, descriptions, records of epochs
    kept: tuple[Lying, ...]  # what was replaced or sealed, and is still there

    @property
    def objects(self) -> int:
        """How many are to be sealed."""
        return len(self.parts) + len(self.records)

    @property
    def bytes(self) -> int:
        """Their bytes."""
        return sum(one.bytes for one in (*self.parts, *self.records))


def sort(listed: Iterable[Lying], live: Collection[str], buried: Collection[str]) -> Plain:
    """What of a repo's objects is plain.

    `live`: the keys of the live parts; `buried`: those of plain records that are sealed by now.
    Statements are left out: they stay readable, as they name no refs.
    """
    parts, records, kept = list[Lying](), list[Lying](), list[Lying]()
    beside = {layout.index_key(key) for key in live}
    for one in listed:
        if layout.is_sealed(one.key) or layout.is_evidence(one.key):
            continue
        if one.key in buried:
            kept.append(one)
        elif layout.parse_bundle_key(one.key):
            (parts if one.key in live or one.key in beside else kept).append(one)
        elif layout.is_kept_for_ever(one.key):
            records.append(one)
    return Plain(tuple(parts), tuple(records), tuple(kept))


def left(objects: int, bytes: int) -> str:
    """What is still to be sealed, in words: 12 objects (3.4 MB)."""
    return f"{count(objects, 'object')} ({size(bytes)})"
