"""The refs that a repo once had: those that are gone, newest deletion first, and every name ever."""

from dataclasses import dataclass
from datetime import datetime

from mirror.core import refs
from mirror.core.globs import check
from mirror.core.model import RefName, RepoId, Target
from mirror.store.browse.refs_shown import patterns, wider
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
    check([glob] if glob else [])
    likes = patterns(glob) if glob else None
    found: list[Gone] = []
    number = limit
    while True:
        rows = await db.fetch(query("gone_refs"), repo_id, upto, *before, likes, number)
        read = [
            Gone(
                name=RefName(row["name"]),
                target=Target(row["old"]),
                snapshot=row["snapshot"],
                position=row["position"],
                at=row["pushed_at"] or row["taken_at"],
                by=row["pushed_by"],
                stood=row["stood"],
            )
            for row in rows
        ]
        meant = await refs.meant_by([one.name for one in read], [glob]) if glob else None
        found += [one for one in read if meant is None or one.name in meant]
        if len(read) < number or len(found) >= limit:
            return found[:limit]
        before, number = read[-1].place, wider(number)


@translating
async def ever(
    db: Db, repo_id: RepoId, upto: int, *, after: bytes = b"", glob: str | None = None, limit: int = 100
) -> list[Known]:
    """Every ref there was up to a snapshot after this name, in name order: at most `limit` that match."""
    check([glob] if glob else [])
    likes = patterns(glob) if glob else None
    found: list[Known] = []
    number = limit
    while True:
        rows = await db.fetch(query("ever_refs"), repo_id, upto, after, likes, number)
        read = [Known(RefName(row["name"]), Target(row["target"]), row["last"]) for row in rows]
        meant = await refs.meant_by([one.name for one in read], [glob]) if glob else None
        found += [one for one in read if meant is None or one.name in meant]
        if len(read) < number or len(found) >= limit:
            return found[:limit]
        after, number = read[-1].name, wider(number)
