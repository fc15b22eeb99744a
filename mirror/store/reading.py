"""A moment's refs, and the moves that took something away, as pages ask for them: by index, in pages."""

from collections.abc import Sequence

from mirror import refs
from mirror.model import Kind, RefChange, RefName, RepoId, Target
from mirror.store.database import Db, query, transaction, translating
from mirror.store.history import Logged


@translating
async def refs_page(
    db: Db, repo_id: RepoId, number: int, *, after: bytes = b"", globs: Sequence[str] = (), limit: int = 100
) -> list[tuple[RefName, Target]]:
    """The refs of a snapshot after this name, in name order, HEAD too: at most `limit` of these globs."""
    likes = [pattern for glob in globs for pattern in patterns(glob)] or None
    found: list[tuple[RefName, Target]] = []
    while True:
        async with transaction(db) as connection:
            # Read along the index and stop at the limit, also while no statistics say that this is best.
            await connection.execute(
                "set local enable_seqscan = off; set local enable_bitmapscan = off;"
                " set local enable_sort = off"
            )
            rows = await connection.fetch(query("refs_page"), repo_id, number, after, likes, limit)
        read = [(RefName(row[0]), Target(row[1])) for row in rows]
        found += [one for one in read if not globs or refs.matches(one[0], globs)]
        if len(rows) < limit or len(found) >= limit:
            return found[:limit]
        after = read[-1][0]


def patterns(glob: str) -> list[bytes]:
    """LIKE patterns that let through at least what the glob means; see refs.matches."""
    pattern = bytearray()
    inside = False  # a class in brackets, which LIKE has not: from there on anything may follow
    for byte in glob.encode("utf-8", "surrogateescape"):
        char = bytes([byte])
        if char == b"[":
            inside = True
            break
        pattern += {b"*": b"%", b"?": b"_"}.get(char) or (b"\\" + char if char in b"%_\\" else char)
    if inside:
        pattern += b"%"
    return [start + bytes(pattern) for start in (b"", b"refs/", b"refs/heads/", b"refs/tags/")]


@translating
async def targets_at(db: Db, repo_id: RepoId, names: Sequence[RefName], number: int) -> dict[RefName, Target]:
    """These refs as they were at a snapshot; what was not there is left out."""
    rows = await db.fetch(query("targets_at"), repo_id, list(names), number)
    return {RefName(row[0]): Target(row[1]) for row in rows}


@translating
async def held_at(db: Db, repo_id: RepoId, number: int) -> list[Target]:
    """Every object id that a ref pointed at in a snapshot, once."""
    return [Target(row[0]) for row in await db.fetch(query("held_at"), repo_id, number)]


@translating
async def leaving(db: Db, repo_id: RepoId, upto: int, limit: int) -> list[Logged]:
    """The moves up to a snapshot that can have left commits behind, newest first, at most so many."""
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
    """The refs that moved after one snapshot and up to another, wherever they ended, in name order."""
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
