"""A moment's refs, and the moves that took something away, as pages need them: by index, a page at a time."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Final

from mirror.core import refs
from mirror.core.globs import check
from mirror.core.model import Kind, RefChange, RefName, RepoId, Target
from mirror.store.backup import history
from mirror.store.backup.history import Logged
from mirror.store.database import Db, query, translating

READ: Final = 5000  # rows at most that are read at once to fill a page


@translating
async def refs_page(
    db: Db,
    repo_id: RepoId,
    number: int,
    moment: int = 0,
    *,
    after: bytes = b"",
    globs: Sequence[str] = (),
    limit: int = 100,
) -> list[tuple[RefName, Target]]:
    """The refs of a snapshot after this name, in name order, with HEAD: at most `limit` that match.

    `moment`, here and below, is the number of a moment within the snapshot; 0: the snapshot itself.
    """
    check(globs)
    if moment:
        held = await history.refs_at(db, repo_id, number, moment)
        left = [name for name in held if name > after]
        mine = await refs.meant_by(left, globs) if globs else held.keys()
        return [(name, held[name]) for name in islice((one for one in left if one in mine), limit)]
    likes = [pattern for glob in globs for pattern in patterns(glob)] or None

    async def read(last: Any, most: int) -> Sequence[Any]:
        asked = (repo_id, number, last["name"] if last else after, likes, most)
        return await db.fetch("select * from refs_page($1, $2, $3, $4, $5)", *asked)

    return [(RefName(row["name"]), Target(row["target"])) for row in await meant(globs, limit, read)]


async def meant(
    globs: Sequence[str], limit: int, read: Callable[[Any, int], Awaitable[Sequence[Any]]]
) -> list[Any]:
    """The first rows whose `name` the globs mean, at most `limit`; no globs mean all.

    `read` gives the rows after the last one that was read (None: from the start), at most so many.
    """
    found: list[Any] = []
    last, most = None, limit
    while True:
        rows = await read(last, most)
        names = await refs.meant_by([RefName(row["name"]) for row in rows], globs) if globs else None
        found += [row for row in rows if names is None or row["name"] in names]
        if len(rows) < most or len(found) >= limit:
            return found[:limit]
        last, most = rows[-1], wider(most)


def wider(number: int) -> int:
    """How many rows to read next where so many had too few that a glob means.

    A pattern can match all names of a repo and its glob none: they are not to be read one at a time then.
    """
    return max(number, min(4 * number, READ))


def patterns(glob: str) -> list[bytes]:
    """LIKE patterns that match at least what the glob matches; see refs.matches."""
    pattern = bytearray()
    inside = False  # a class in brackets, which LIKE does not have: anything may follow from there
    for byte in glob.encode("utf-8", "surrogateescape"):
        char = bytes([byte])
        if char == b"[":
            inside = True
            break
        pattern += {b"*": b"%", b"?": b"_"}.get(char) or (b"\\" + char if char in b"%_\\" else char)
    if inside:
        pattern += b"%"
    if glob.startswith("*"):  # which also matches where the beginning is left out
        return [bytes(pattern)]
    return [start + bytes(pattern) for start in (b"", b"refs/", b"refs/heads/", b"refs/tags/")]


@translating
async def targets_at(
    db: Db, repo_id: RepoId, names: Sequence[RefName], number: int, moment: int = 0
) -> dict[RefName, Target]:
    """These refs as they were at a snapshot; those that did not exist are left out."""
    if moment:
        held = await history.refs_at(db, repo_id, number, moment)
        return {name: held[name] for name in names if name in held}
    rows = await db.fetch(query("targets_at"), repo_id, list(names), number)
    return {RefName(row[0]): Target(row[1]) for row in rows}


@translating
async def held_at(db: Db, repo_id: RepoId, number: int, moment: int = 0) -> list[Target]:
    """Every object id that a ref pointed at in a snapshot, once."""
    if moment:
        held = await history.refs_at(db, repo_id, number, moment)
        return list({target for target in held.values() if not refs.is_symbolic(target)})
    return [Target(row[0]) for row in await db.fetch(query("held_at"), repo_id, number)]


@translating
async def leaving(db: Db, repo_id: RepoId, upto: int, limit: int) -> list[Logged]:
    """The moves up to a snapshot that can have left commits behind, newest first, at most `limit`."""
    return [
        Logged(
            row["snapshot"],
            row["taken_at"],
            RefChange(
                RefName(row["name"]),
                row["old"],
                row["new"],
                Kind(row["kind"]),
                row["pushed_by"],
                row["pushed_at"],
            ),
        )
        for row in await db.fetch(query("leaving"), repo_id, upto, limit)
    ]


@translating
async def moved_between(db: Db, repo_id: RepoId, after: int, upto: int) -> list[RefName]:
    """The refs that moved after one snapshot and up to another, even if they moved back, in name order."""
    rows = await db.fetch(
        """
        select name from ref where id in (
          select ref_id from ref_change where repo_id = $1 and snapshot > $2 and snapshot <= $3
        )
        """,
        repo_id,
        after,
        upto,
    )
    return sorted(RefName(row[0]) for row in rows)
