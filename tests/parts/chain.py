"""Snapshots for tests of the store, recorded one after another without a remote and a vault."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg

from mirror.core import refs
from mirror.core.formats import layout
from mirror.core.model import HEAD, Part, Reason, RefChange, RefName, Repo, Segment, Snapshot, Target
from mirror.store import leases, repos
from mirror.store.backup import snapshots
from mirror.store.leases import Lease
from mirror.store.people import teams

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
MAIN = RefName(b"refs/heads/main")
SIDE = RefName(b"refs/heads/side")


def oid(word: object) -> Target:
    """The id of an object that this word stands for."""
    return Target(hashlib.sha1(str(word).encode()).hexdigest().encode())


def sha256(word: object) -> str:
    """The sum of bytes that this word stands for."""
    return hashlib.sha256(str(word).encode()).hexdigest()


def moves(old: Mapping[RefName, Target], new: Mapping[RefName, Target]) -> list[RefChange]:
    """The changes between two maps; what moved, moved by force."""
    found = refs.diff(old, new)
    return refs.classify(found, frozenset(), frozenset(name for name, _, _ in found))


@dataclass
class Chain:
    """One repo's history as it grows; every snapshot is a minute after the one before."""

    db: asyncpg.Pool
    repo: Repo
    lease: Lease
    taken: list[Snapshot] = field(default_factory=list)
    maps: list[dict[RefName, Target]] = field(default_factory=lambda: [{}])  # by number; 0: nothing yet

    def next(
        self,
        refs_now: Mapping[RefName, Target],
        changes: Sequence[RefChange],
        objects: bool = True,
    ) -> Snapshot:
        """The snapshot that follows, not recorded."""
        number = len(self.taken) + 1
        last = self.taken[-1] if self.taken else None
        entries, size = (3, 100) if objects else (0, 0)
        segment = Segment(number, entries, size, sha256(f"segment {number}")) if objects else None
        return Snapshot(
            number=number,
            taken_at=START + timedelta(minutes=number),
            reason=Reason.MANUAL,
            object_format="sha1",
            head=refs_now.get(HEAD),
            refs_count=len(refs_now) - (HEAD in refs_now),
            refs_digest=refs.digest(refs_now),
            changes_count=len(changes),
            epoch=1,
            log_entries=(last.log_entries if last else 0) + entries,
            log_bytes=(last.log_bytes if last else 0) + size,
            segment=segment,
            bundle=self.part(number, number, (segment,)) if segment else None,
            manifest_sha256=sha256(f"manifest {number}"),
            previous_sha256=last.manifest_sha256 if last else None,
        )

    def part(self, first: int, last: int, segments: tuple[Segment, ...], unique: int = 0) -> Part:
        """A part of the log; without segments it is a checkpoint."""
        return Part(
            key=layout.bundle_key(self.repo.id, 1, first, last, f"{unique:016x}"),
            epoch=1,
            first=first,
            last=last,
            bytes=132 + sum(segment.bytes for segment in segments),
            sha256=sha256(f"bundle {first} {last}"),
            header_bytes=100,
            entries=sum(segment.entries for segment in segments) or 3,
            segments=segments,
            complete=first == 1,
            index_bytes=50 if first == 1 else 0,
            index_sha256=sha256("index") if first == 1 else "",
        )

    async def take(
        self,
        refs_now: Mapping[RefName, Target],
        changes: Sequence[RefChange] | None = None,
        objects: bool = True,
    ) -> Snapshot:
        """Record the snapshot that follows; without `changes` they are the difference to the last."""
        changes = moves(self.maps[-1], refs_now) if changes is None else changes
        snapshot = self.next(refs_now, changes, objects)
        await snapshots.record(self.db, self.lease, self.repo.id, snapshot, changes)
        self.taken.append(snapshot)
        self.maps.append(dict(refs_now))
        return snapshot


async def begin(db: asyncpg.Pool, name: str = "alice/garden") -> Chain:
    """A repo that is kept, with nothing recorded, and the turn at it."""
    team = await teams.default(db)
    repo = await repos.add(db, team, name, f"https://forge.example/{name}", START)
    lease = await leases.acquire(db, repo.id)
    assert lease is not None
    return Chain(db, repo, lease)
