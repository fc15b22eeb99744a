"""What a repo held at a moment: its refs, commits, files, differences, and lost commits."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from markupsafe import Markup
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mirror.browse import moments
from mirror.browse.moments import Blob, Raw
from mirror.core import words
from mirror.core.errors import NotFound, UsageError
from mirror.core.formats import objects
from mirror.core.model import RefName
from mirror.core.rules import render
from mirror.core.times import when
from mirror.core.times.when import When
from mirror.git.reader.questions import Readme, Source
from mirror.restore import moment
from mirror.store.browse import gone_refs
from mirror.store.browse.gone_refs import Gone
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.repos.repo import ShownMoment, bytes_of, glob_of, moment_at, number_of, raw_path

REFS: Final = 100
BESIDE: Final = 3  # refs that are gone beside a search among those there are
COUNTED: Final = 500  # moves whose lost commits are counted beside the refs that are gone
COMMITS: Final = 50
LINES: Final = 3000  # of a difference that are shown
MOST: Final = 400  # lines of one file's difference that are shown at once
RAW_POLICY: Final = "default-src 'none'; sandbox"


async def refs(context: RequestContext) -> Response:
    """The refs of a moment, a page at a time: those there are, those gone, or all there ever were."""
    at = await moment_at(context, stays=True)
    search = context.query.get("q", "")[:500]
    state = context.query.get("state", "")
    if state == "gone":
        return await _gone(context, at, search)
    if state == "ever":
        return await _ever(context, at, search)
    glob = glob_of(search)
    page = await moments.refs_at(
        context.services,
        at.repo,
        at.saved,
        after=bytes_of(context, "after"),
        limit=REFS,
        globs=[glob] if glob else [],
    )
    lost: list[Gone] = []
    if glob and not context.query.get("after"):
        lost = await gone_refs.gone(
            context.services.db, at.repo.id, at.saved.number, glob=glob, limit=BESIDE + 1
        )
    return context.render(
        "refs.html", at=at, tab="refs", state="", page=page, search=search, gone=lost, beside=BESIDE
    )


async def _gone(context: RequestContext, at: ShownMoment, search: str) -> Response:
    """The refs that are gone. With `part`, the list alone, with the commits that only the vault holds."""
    part = "part" in context.query
    place = tuple(number_of(one) or 0 for one in context.query.get("before", "").split(".")[:2])
    found = await gone_refs.gone(
        context.services.db,
        at.repo.id,
        at.saved.number,
        before=(place[0], place[1]) if len(place) == 2 else gone_refs.LAST,
        glob=glob_of(search),
        limit=REFS + 1,
    )
    held: dict[tuple[RefName, int], int] = {}
    counted = False
    if part and found:
        lost = await moments.lost(context.services, at.repo, at.saved, limit=COUNTED, shown=1)
        held = {(one.logged.change.name, one.logged.snapshot): one.count for one in lost.items}
        counted = lost.whole and lost.total <= COUNTED
    return context.render(
        "refs_gone.html" if part else "refs.html",
        at=at,
        tab="refs",
        state="gone",
        search=search,
        found=found[:REFS],
        more=len(found) > REFS,
        held=held,
        counted=counted,
        part=part,
    )


async def _ever(context: RequestContext, at: ShownMoment, search: str) -> Response:
    """Every ref there was up to the moment."""
    found = await gone_refs.ever(
        context.services.db,
        at.repo.id,
        at.saved.number,
        after=bytes_of(context, "after"),
        glob=glob_of(search),
        limit=REFS + 1,
    )
    return context.render(
        "refs.html",
        at=at,
        tab="refs",
        state="ever",
        search=search,
        found=found[:REFS],
        more=len(found) > REFS,
    )


async def commits(context: RequestContext) -> Response:
    """The commits of a branch, tag or id, newest first; with a path, those that changed it."""
    at = await moment_at(context, stays=True)
    rev, path = bytes_of(context, "ref"), bytes_of(context, "path")
    number = number_of(context.query.get("page", "")) or 1
    found, more = await moments.commits(
        context.services, at.repo, at.saved, rev, path=path, skip=(number - 1) * COMMITS, limit=COMMITS
    )
    return context.render(
        "commits.html", at=at, tab="commits", commits=found, more=more, number=number, rev=rev, path=path
    )


async def commit(context: RequestContext) -> Response:
    """One commit with its changes."""
    at = await moment_at(context, stays=True)
    shown = await moments.commit(context.services, at.repo, at.saved, str(context.path["oid"]).encode())
    return context.render("commit.html", at=at, tab="commits", shown=shown, **_drawn(shown.changes))


def _drawn(changes: objects.Changes | None) -> dict[str, Any]:
    """The lines of changed files, as many as fit on a page."""
    budget = LINES
    drawn: list[list[render.Block] | None] = []
    shut: set[int] = set()
    for number, change in enumerate(changes.files if changes else ()):
        size = sum(len(hunk.lines) for hunk in change.hunks)
        if size <= budget:
            budget -= size
            drawn.append(render.difference(change))
            if size > MOST:
                shut.add(number)
        else:
            drawn.append(None)
    return {"drawn": drawn, "shut": shut}


async def files(context: RequestContext) -> Response:
    """A folder with its README, or a file."""
    at = await moment_at(context, stays=True)
    rev, path = bytes_of(context, "ref"), _below(context, "files")
    try:
        folder = await moments.tree(context.services, at.repo, at.saved, rev, path)
    except NotFound:
        if not path:
            raise
        return await _file(context, at, rev, path)
    readme = None
    if folder.readme is not None:
        below = b"/".join(part for part in (folder.path, folder.readme.name) if part)
        blob = await moments.blob(context.services, at.repo, at.saved, rev, below, limit=render.README)
        readme = await _readme(context, at, rev, blob)
    return context.render(
        "files.html",
        at=at,
        tab="files",
        folder=folder,
        readme=readme,
        rev=rev,
        path=folder.path,
        crumbs=_crumbs(folder.path),
    )


async def _readme(context: RequestContext, at: ShownMoment, rev: bytes, blob: Blob) -> Markup | None:
    if blob.text is None:
        return None
    text = blob.text[: render.README]
    places = at.place("files", ref=rev), at.place("raw", ref=rev)
    return Markup(await moments.made(context.services, Readme(text, blob.path, *places)) or "")


async def _lines(context: RequestContext, blob: Blob) -> list[Markup] | None:
    if blob.text is None:
        return None
    made = await moments.made(context.services, Source(blob.text, blob.path))
    if made is None:  # too much for a reader process: shown as it is, without colours
        made = await moments.made(context.services, Source(blob.text, b""))
    return [Markup(line) for line in made or ()]


async def _file(context: RequestContext, at: ShownMoment, rev: bytes, path: bytes) -> Response:
    blob = await moments.blob(context.services, at.repo, at.saved, rev, path)
    prose = render.picture_type(path) is None and path.lower().endswith((b".md", b".markdown"))
    as_source = "source" in context.query or not prose
    return context.render(
        "file.html",
        at=at,
        tab="files",
        blob=blob,
        lines=await _lines(context, blob) if as_source else None,
        prose=await _readme(context, at, rev, blob) if not as_source else None,
        is_prose=prose,
        picture=render.picture_type(path) if blob.text is None and blob.entry.kind != "submodule" else None,
        rev=rev,
        path=blob.path,
        crumbs=_crumbs(blob.path),
    )


def _crumbs(path: bytes) -> list[tuple[bytes, bytes]]:
    """Each part of a path, and the path up to it."""
    parts = path.split(b"/") if path else []
    return [(part, b"/".join(parts[: number + 1])) for number, part in enumerate(parts)]


async def raw(context: RequestContext) -> Response:
    """A file as it is. The headers tell a browser to run nothing in it."""
    at = await moment_at(context)
    path = _below(context, "raw")
    return RawFile(moments.raw(context.services, at.repo, at.saved, bytes_of(context, "ref"), path), path)


async def raw_object(context: RequestContext) -> Response:
    """An object as git stores it, for what is too large for a page."""
    at = await moment_at(context)
    oid = str(context.path["oid"])
    return RawFile(moments.raw_object(context.services, at.repo, at.saved, oid), oid.encode())


class RawFile(Response):
    """A file's bytes, sent while the view that holds them is open."""

    def __init__(self, opened: AbstractAsyncContextManager[Raw], path: bytes) -> None:
        super().__init__()
        self._opened = opened
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened as found:
            first = await anext(found.chunks, b"")
            answer = StreamingResponse(_after(first, found.chunks), headers=raw_headers(self._path, first))
            answer.headers["content-length"] = str(found.size)
            await answer(scope, receive, send)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def raw_headers(path: bytes, beginning: bytes) -> dict[str, str]:
    """Text is shown as text, pictures as pictures; everything else is only to be saved."""
    picture = render.picture_type(path)
    binary = objects.is_binary(beginning)
    kind = picture or ("application/octet-stream" if binary else "text/plain; charset=utf-8")
    name = quote(path.rpartition(b"/")[2], safe="")
    how = "attachment" if binary and not picture else "inline"
    return {
        "content-type": kind,
        "content-disposition": f"{how}; filename*=UTF-8''{name}",
        "content-security-policy": RAW_POLICY,
        "cross-origin-resource-policy": "same-origin",
        "x-content-type-options": "nosniff",
    }


async def difference(context: RequestContext) -> Response:
    """What differs between two moments."""
    at = await moment_at(context, stays=True)
    snapshot = at.saved
    asked = context.query.get("from", "").strip()[:100]
    ref = bytes_of(context, "ref")
    earlier: When = max(snapshot.number - 1, 1)
    wrong = ""
    try:
        wanted = when.parse(asked, context.now, context.zone) if asked else earlier
        before = await moment.snapshot_at(context.services, at.repo, wanted)
    except (UsageError, NotFound) as error:  # said at the field; the page stays
        context.status, wrong = 422, words.sentence(error)
        before = await moment.snapshot_at(context.services, at.repo, earlier)
    found = await moments.difference(context.services, at.repo, before, snapshot, ref=ref or None)
    return context.render(
        "difference.html",
        at=at,
        tab="difference",
        before=before,
        asked=asked,
        wrong=wrong,
        found=found,
        ref=ref,
        **_drawn(found.files),
    )


async def lost(context: RequestContext) -> Response:
    """For each force-push and deletion, the commits that are no longer on any ref. With `part`, a summary."""
    at = await moment_at(context, stays=True)
    part = "part" in context.query
    found = await moments.lost(
        context.services,
        at.repo,
        at.saved,
        ref=bytes_of(context, "ref") or None,
        limit=3 if part else 50,
        shown=4 if part else 20,
    )
    return context.render(
        "lost_list.html" if part else "lost.html",
        at=at,
        tab="lost",
        found=found,
        ref=bytes_of(context, "ref"),
        back={one.logged: moments.bring_back_name(one.logged) for one in found.items},
        part=part,
    )


def _below(context: RequestContext, page: str) -> bytes:
    """The path after the page's name, as its original bytes."""
    _, mark, path = raw_path(context).partition(f"/-/{page}/".encode())
    return unquote_to_bytes(path).strip(b"/") if mark else b""


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final = (
    Endpoint("GET", f"{_REPO}/-/refs", refs, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/commits", commits, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/commit/{{oid}}", commit, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/files", files, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/files/{{path:path}}", files, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/raw/{{path:path}}", raw, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/object/{{oid}}", raw_object, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/difference", difference, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/lost", lost, Needs.VIEWER, reads=True),
)
