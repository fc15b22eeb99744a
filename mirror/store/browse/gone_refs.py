"""The refs that a repo once had: those that are gone, newest deletion first, and every name ever."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mirror.core.globs import check
from mirror.core.model import RefName, RepoId, Target
from mirror.store.browse.refs_shown import meant, patterns
from mirror.store.database import Db, query, translating

Place = tuple[int, int]  # a snapshot, and the position of a move in it
LAST: Place = ((1 << 31) - 1, (1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Gone:
    """A ref that is gone, and how it went."""

    name: RefName
    target: Target  # what it held at last
    snapshot: int  # that found it gone
    position: int  # of the move in it
    at: datetime
    by: str | None  # None: nobody told us
    stood: bool  # whether the snapshot before had it; else it came and went within one

    @property
    def place(self) -> Place:
        """Where the next page goes on."""
        return self.snapshot, self.position

    @property
    def label(self) -> str:
        """The last moment that had it."""
        return f"#{self.snapshot - 1}"


@dataclass(frozen=True, slots=True)
class Known:
    """A ref that a repo has, or once had."""

    name: RefName
    target: Target  # what it holds, or held at last
    last: int | None  # the last snapshot that had it; None: it is there


@translating
async def gone(
    db: Db, repo_id: RepoId, upto: int, *, before: Place = LAST, glob: str | None = None, limit: int = 100
) -> list[Gone]:
    """The refs that were gone at a snapshot, newest deletion first: at most `limit` that match."""
    globs = [glob] if glob else []
    check(globs)
    likes = patterns(glob) if glob else None

    async def read(last: Any, most: int) -> Sequence[Any]:
        place = (last["snapshot"], last["position"]) if last else before
        return await db.fetch(query("gone_refs"), repo_id, upto, *place, likes, most)

    return [
        Gone(
            name=RefName(row["name"]),
            target=Target(row["old"]),
            snapshot=row["snapshot"],
            position=row["position"],
            at=row["pushed_at"] or row["taken_at"],
            by=row["pushed_by"],
            stood=row["stood"],
        )
        for row in await meant(globs, limit, read)
    ]


@translating
async def ever(
    db: Db, repo_id: RepoId, upto: int, *, after: bytes = b"", glob: str | None = None, limit: int = 100
) -> list[Known]:
    """Every ref there was up to a snapshot after this name, in name order: at most `limit` that match."""
    globs = [glob] if glob else []
    check(globs)
    likes = patterns(glob) if glob else None

    async def read(last: Any, most: int) -> Sequence[Any]:
        return await db.fetch(query("ever_refs"), repo_id, upto, last["name"] if last else after, likes, most)

    return [
        Known(RefName(row["name"]), Target(row["target"]), row["last"])
        for row in await meant(globs, limit, read)
    ]
