"""A repo at any moment: its snapshots, refs, changes, commits, files, differences and lost commits."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta
from starlette.responses import Response

from mirror.browse import moments
from mirror.core.errors import UsageError
from mirror.core.model import Kind, Repo, Snapshot
from mirror.core.times import when
from mirror.restore import moment
from mirror.restore.archive import Format, Wanted
from mirror.shapes.base import Base64, Page, git
from mirror.shapes.browse import (
    Changes,
    Commit,
    CommitShown,
    Difference,
    Entry,
    File,
    Folder,
    LostCommits,
    LostThere,
    RefDifference,
)
from mirror.shapes.repos import Change, LostPushed, Push, Ref, RefsAt, TakenSnapshot, WentAway
from mirror.store.backup import history, reported_updates, snapshots
from mirror.store.browse import gone_refs, refs_shown, timeline
from mirror.web.api.call import Call, Query, Small, begin, call, cursor
from mirror.web.api.repos import REPO, repo_of
from mirror.web.api.shapes import Paged, Text, When, Words
from mirror.web.dispatch import Needs, RequestContext
from mirror.web.pages.repos.archive import archived
from mirror.web.pages.repos.browse import RawFile

RAW: Final = "application/octet-stream"
_SHOWN: Final = 20  # changes of one push, and commits of one loss

Glob = Annotated[str, Meta(max_length=500, description="a glob of ref names: release-*")]
MoveKind = Literal["created", "fast-forwarded", "forced", "deleted", "moved"]


class At(Query, frozen=True, kw_only=True):
    """Which moment."""

    at: When | None = None


class RefsAsked(Paged, frozen=True, kw_only=True):
    """Which refs of which moment."""

    at: When | None = None
    glob: list[Glob] = []
    state: Annotated[
        Literal["now", "gone", "ever"],
        Meta(description="gone: those deleted by then, newest first, with at most one glob; ever: all names"),
    ] = "now"


class ChangesAsked(Paged, frozen=True, kw_only=True):
    """Which ref changes."""

    since: When | None = None
    kind: list[MoveKind] = []


class PushesAsked(Paged, frozen=True, kw_only=True):
    """Which pushes."""

    ref: Glob | None = None
    by: Words | None = None
    kind: list[MoveKind] = []


class LostAsked(At, frozen=True, kw_only=True):
    """Which lost commits."""

    ref: Text | None = None
    ref_b64: Base64 | None = None
    limit: Annotated[int, Meta(ge=1, le=50)] = 20


class Place(At, frozen=True, kw_only=True):
    """A path, in a ref or commit, at a moment."""

    ref: (
        Annotated[Text, Meta(description="a ref's name, whole or short, or an object id; else HEAD")] | None
    ) = None
    ref_b64: Base64 | None = None
    path: Text | None = None
    path_b64: Base64 | None = None


class ArchiveAsked(Place, frozen=True, kw_only=True):
    """Which files, and in which format."""

    format: Format = "tar.gz"


class CommitsAsked(Place, frozen=True, kw_only=True):
    """Which commits: with a path, those that changed it."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(max_length=2000)] | None = None


class DifferenceAsked(At, frozen=True, kw_only=True):
    """Between which moments."""

    since: (
        Annotated[When, Meta(description="the moment to compare with; default: the previous snapshot")] | None
    ) = None
    ref: Text | None = None
    ref_b64: Base64 | None = None


async def list_snapshots(context: RequestContext, asked: Paged) -> Page[TakenSnapshot]:
    """A repo's snapshots, newest first."""
    found = await snapshots.page(
        context.services.db, (await repo_of(context)).id, begin(asked.cursor, Small), asked.limit + 1
    )
    shown = found[: asked.limit]
    more = cursor(shown[-1].number) if len(found) > asked.limit else None
    return Page(items=[TakenSnapshot.of(one) for one in shown], next=more)


async def snapshot(context: RequestContext) -> TakenSnapshot:
    """One snapshot, by its number."""
    text = str(context.path["number"])
    found = await repo_of(context)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 11 else 0
    return TakenSnapshot.of(await moment.snapshot_at(context.services, found, number))


async def refs(context: RequestContext, asked: RefsAsked) -> RefsAt:
    """The refs of a moment, HEAD too, in the order of their names."""
    found, then = await moment_of(context, asked.at)
    if asked.state != "now":
        return await _once(context, found, then, asked)
    rows = await refs_shown.refs_page(
        context.services.db,
        found.id,
        then.number,
        then.moment,
        after=_bytes(begin(asked.cursor, str)),
        globs=asked.glob,
        limit=asked.limit + 1,
    )
    shown = rows[: asked.limit]
    more = cursor(base64.b64encode(shown[-1][0]).decode()) if len(rows) > asked.limit else None
    items = [Ref.of(name, target) for name, target in shown]
    return RefsAt(
        items=items, next=more, snapshot=then.number, moment=then.moment or UNSET, taken_at=then.taken_at
    )


async def _once(context: RequestContext, found: Repo, then: Snapshot, asked: RefsAsked) -> RefsAt:
    """The refs that were gone at a moment, or every one there had been by then."""
    if len(asked.glob) > 1:
        raise UsageError("give one glob at the most for refs that are gone", field="glob")
    db, glob = context.services.db, asked.glob[0] if asked.glob else None
    more: str | None = None
    if asked.state == "gone":
        place = begin(asked.cursor, tuple[Small, Small]) or gone_refs.LAST
        gone = await gone_refs.gone(db, found.id, then.number, before=place, glob=glob, limit=asked.limit + 1)
        items = [Ref.of(one.name, one.target, WentAway.of(one)) for one in gone[: asked.limit]]
        more = cursor(gone[asked.limit - 1].place) if len(gone) > asked.limit else None
    else:
        after = _bytes(begin(asked.cursor, str))
        ever = await gone_refs.ever(db, found.id, then.number, after=after, glob=glob, limit=asked.limit + 1)
        items = [
            Ref.of(one.name, one.target, UNSET if one.last is None else WentAway(last=one.last))
            for one in ever[: asked.limit]
        ]
        more = (
            cursor(base64.b64encode(ever[asked.limit - 1].name).decode()) if len(ever) > asked.limit else None
        )
    return RefsAt(
        items=items, next=more, snapshot=then.number, moment=then.moment or UNSET, taken_at=then.taken_at
    )


async def changes(context: RequestContext, asked: ChangesAsked) -> Page[Change]:
    """Every change of every ref, newest first."""
    since = when.parse(asked.since, context.now) if asked.since else None
    if isinstance(since, int | when.Within):
        raise UsageError("give a time for since, such as 2026-03-02 or 2h ago")
    place = begin(asked.cursor, tuple[Small, Small])
    found = await history.page(
        context.services.db,
        (await repo_of(context)).id,
        before=place,
        since=since,
        kinds=[Kind(kind) for kind in asked.kind],
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    more = cursor(shown[-1][0]) if len(found) > asked.limit else None
    return Page(items=[Change.of(one) for _, one in shown], next=more)


async def pushes(context: RequestContext, asked: PushesAsked) -> Page[Push]:
    """Every push, newest first, with the first of its changes."""
    found = await timeline.feed(
        context.services.db,
        (await repo_of(context)).id,
        before=begin(asked.cursor, Small),
        limit=asked.limit + 1,
        kinds=[Kind(kind) for kind in asked.kind],
        glob=asked.ref,
        by=asked.by,
        shown=_SHOWN,
    )
    shown = found[: asked.limit]
    more = cursor(shown[-1].snapshot) if len(found) > asked.limit else None
    return Page(items=[Push.of(one) for one in shown], next=more)


async def lost(context: RequestContext, asked: LostAsked) -> LostThere:
    """For each force-push and deletion, the commits that were no longer on any ref at a moment."""
    found, then = await moment_of(context, asked.at)
    told = await moments.lost(
        context.services,
        found,
        then,
        ref=_named(asked.ref, asked.ref_b64) or None,
        limit=asked.limit,
        shown=_SHOWN,
    )
    gone = await reported_updates.lost(context.services.db, found.id)
    return LostThere(
        snapshot=then.number,
        items=[LostCommits.of(one) for one in told.items],
        total=told.total,
        commits=told.commits,
        whole=told.whole,
        pushes=[LostPushed.of(one) for one in gone if one.snapshot <= then.number],
    )


async def commits(context: RequestContext, asked: CommitsAsked) -> Page[Commit]:
    """The commits of a ref or id, newest first."""
    found, then = await moment_of(context, asked.at)
    skip = begin(asked.cursor, Small) or 0
    rows, more = await moments.commits(
        context.services,
        found,
        then,
        _named(asked.ref, asked.ref_b64),
        path=_named(asked.path, asked.path_b64),
        skip=skip,
        limit=asked.limit,
    )
    return Page(items=[Commit.of(one) for one in rows], next=cursor(skip + len(rows)) if more else None)


async def commit(context: RequestContext, asked: At) -> CommitShown:
    """One commit, and what it changed against its first parent."""
    found, then = await moment_of(context, asked.at)
    shown = await moments.commit(context.services, found, then, str(context.path["oid"]).encode())
    return CommitShown(commit=Commit.of(shown.commit), changes=Changes.of(shown.changes))


async def tree(context: RequestContext, asked: Place) -> Folder:
    """A folder."""
    found, then = await moment_of(context, asked.at)
    folder = await moments.tree(
        context.services, found, then, _named(asked.ref, asked.ref_b64), _named(asked.path, asked.path_b64)
    )
    return Folder(
        snapshot=then.number,
        oid=folder.oid.decode(),
        entries=[Entry.of(one) for one in folder.entries],
        total=folder.total,
        **git("path", folder.path),
    )


async def blob(context: RequestContext, asked: Place) -> File:
    """A file; for a large one, the first MiB."""
    found, then = await moment_of(context, asked.at)
    ref, path = _named(asked.ref, asked.ref_b64), _named(asked.path, asked.path_b64)
    return File.of(await moments.blob(context.services, found, then, ref, path), then)


async def raw(context: RequestContext, asked: Place) -> Response:
    """A file as it is."""
    found, then = await moment_of(context, asked.at)
    path = _named(asked.path, asked.path_b64)
    return RawFile(moments.raw(context.services, found, then, _named(asked.ref, asked.ref_b64), path), path)


async def raw_object(context: RequestContext, asked: At) -> Response:
    """An object as git stores it, by its whole id, for what is too large to show."""
    found, then = await moment_of(context, asked.at)
    oid = str(context.path["oid"])
    return RawFile(moments.raw_object(context.services, found, then, oid), oid.encode())


async def archive_(context: RequestContext, asked: ArchiveAsked) -> Response:
    """The files of a ref or commit, or one directory of them, as a tar or zip."""
    found, then = await moment_of(context, asked.at)
    ref, path = _named(asked.ref, asked.ref_b64), _named(asked.path, asked.path_b64)
    return await archived(context, found, then, Wanted(asked.format, ref, path))


async def difference(context: RequestContext, asked: DifferenceAsked) -> Difference:
    """What differs between two moments: refs, commits, and the files of one ref."""
    found, after = await moment_of(context, asked.at)
    before = when.parse(asked.since, context.now) if asked.since else max(after.number - 1, 1)
    then = await moment.snapshot_at(context.services, found, before)
    ref = _named(asked.ref, asked.ref_b64) or None
    told = await moments.difference(context.services, found, then, after, ref=ref)
    return Difference(
        before=then.number,
        after=after.number,
        refs=[RefDifference.of(one) for one in told.refs],
        total=told.total,
        files=None if told.files is None else Changes.of(told.files),
        **git("ref", told.ref),
    )


async def moment_of(context: RequestContext, at: str | None) -> tuple[Repo, Snapshot]:
    """The path's repo, and its snapshot at this moment. Raises NotFound, UsageError."""
    found = await repo_of(context)
    wanted = when.parse(at, context.now) if at and at.strip() else None
    return found, await moment.snapshot_at(context.services, found, wanted)


def _named(text: str | None, coded: str | None) -> bytes:
    """A name of git out of its two parameters, as the bytes that it was."""
    return _bytes(coded) if coded is not None else (text or "").encode()


def _bytes(coded: str | None) -> bytes:
    try:
        return base64.b64decode(coded or "", validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("this is no base64; leave it out where the name is UTF-8") from None


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{REPO}/snapshots", list_snapshots, Needs.VIEWER),
    call("GET", f"{REPO}/snapshots/{{number}}", snapshot, Needs.VIEWER),
    call("GET", f"{REPO}/refs", refs, Needs.VIEWER),
    call("GET", f"{REPO}/changes", changes, Needs.VIEWER),
    call("GET", f"{REPO}/pushes", pushes, Needs.VIEWER),
    call("GET", f"{REPO}/lost", lost, Needs.VIEWER, reads=True),
    call("GET", f"{REPO}/commits", commits, Needs.VIEWER, reads=True),
    call("GET", f"{REPO}/commits/{{oid}}", commit, Needs.VIEWER, reads=True),
    call("GET", f"{REPO}/tree", tree, Needs.VIEWER, reads=True),
    call("GET", f"{REPO}/blob", blob, Needs.VIEWER, reads=True),
    call("GET", f"{REPO}/raw", raw, Needs.VIEWER, media=RAW, reads=True),
    call("GET", f"{REPO}/objects/{{oid}}", raw_object, Needs.VIEWER, media=RAW, reads=True),
    call("GET", f"{REPO}/archive", archive_, Needs.VIEWER, media=RAW, reads=True),
    call("GET", f"{REPO}/difference", difference, Needs.VIEWER, reads=True),
)
