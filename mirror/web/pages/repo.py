"""The pages of a repo: every ref over time, and whatever it held at any moment of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode, urlsplit

from markupsafe import Markup
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mirror.browse import moments
from mirror.browse.commit_counts import brought
from mirror.browse.moments import Blob, Raw
from mirror.core import when
from mirror.core.errors import NotFound, UsageError
from mirror.core.formats import objects
from mirror.core.model import Kind, Repo, RepoId, Snapshot, older_of
from mirror.core.rules import render
from mirror.core.rules.job import SYNC
from mirror.core.rules.pushes import Lost
from mirror.git.reader.questions import Readme, RepositoryView, Source
from mirror.jobs import run as work
from mirror.restore import moment
from mirror.store.backup import reported_updates, snapshots
from mirror.store.browse import home, timeline
from mirror.store.browse.home import RepoOverview
from mirror.store.browse.timeline import Neighbours, Pushed
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.live import follow
from mirror.web.pages import timeline_svg

LANES: Final = 16  # of the picture
DENSE: Final = 1000  # pushes of a picture, unless somebody asks for more
AROUND: Final = 12  # pushes beside the picture
AFTER: Final = 3  # of them after the moment
PUSHES: Final = 40  # on a page
REFS: Final = 100
COMMITS: Final = 50
LINES: Final = 3000  # of a difference that are shown
MOST: Final = 400  # lines of one file's difference that are shown at once
WINDOWS: Final = {"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}  # days
RAW_POLICY: Final = "default-src 'none'; sandbox"
KEPT: Final = frozenset(
    {
        *("ref", "path", "q", "from", "window", "source", "by", "kind", "as", "commit"),
        *("where", "connection", "repo", "owner", "name", "private", "url", "username", "force", "archive"),
    }  # the second line is what a restore is planned with
)
TAKEN: Final = (Kind.FORCED, Kind.DELETED)


@dataclass(frozen=True, slots=True)
class ShownMoment:
    """A repo at the moment that the address names."""

    team: str
    repo: Repo
    asked: str  # the WHEN of the address; empty: now
    row: RepoOverview
    span: tuple[datetime, datetime] | None  # of the first and the latest snapshot; None: there is none
    snapshot: Snapshot | None  # None: nothing was saved yet
    around: Neighbours | None
    note: str  # what makes this moment one to look at; mostly nothing
    here: str  # the address of this page, without its query
    kept: tuple[tuple[str, bytes], ...]  # of its query, what goes on to mean the same at another moment

    def url(self, page: str = "", /, **query: object) -> str:
        """A page of this repo at this moment."""
        return templating.repo_url(self.team, self.repo.name, page, **({"at": self.asked} | query))

    def path(self, page: str, path: bytes = b"", /, **query: object) -> str:
        """A page about a path, at this moment."""
        address = templating.repo_url(self.team, self.repo.name, page)
        below = f"{address}/{quote(path, safe='/')}" if path else address
        asked = templating.url("", **({"at": self.asked} | query))
        return below + asked

    def place(self, page: str, /, **query: object) -> RepositoryView:
        """Where such a page of any path is, at this moment."""
        address = templating.repo_url(self.team, self.repo.name, page)
        return RepositoryView(address + "/", templating.url("", **({"at": self.asked} | query)))

    def moved(self, at: str) -> str:
        """This page at another moment."""
        asked = [*self.kept, *([("at", at.encode())] if at else [])]
        return self.here + (f"?{urlencode(asked)}" if asked else "")

    @property
    def saved(self) -> Snapshot:
        """The snapshot of this moment. Raises NotFound."""
        if self.snapshot is None:
            raise NotFound(f"nothing of {self.repo.name} has been saved yet; wait for its first backup")
        return self.snapshot

    @property
    def host(self) -> str:
        """Where it is fetched from, in short."""
        url = older_of(self.repo.url) or self.repo.url
        parts = urlsplit(url)
        return (parts.hostname or "") + parts.path.removesuffix(".git") if parts.hostname else url


async def overview(context: RequestContext) -> Response:
    """Every ref over time, the moment that was chosen, and what happened around it. Reads no git."""
    at = await moment_at(context)
    db = context.services.db
    beside = await home.beside(db, at.repo.id)
    if at.snapshot is None or at.span is None:
        return context.render(
            "repo.html",
            at=at,
            tab="overview",
            hook=beside.hook,
            **_under_way(at.row, beside.open_jobs),
        )
    chosen = at.snapshot.taken_at if at.asked else context.now
    asked = context.query.get("window", "")
    if asked not in (*WINDOWS, "all"):
        asked = await _telling(context, at.row, at.span)
    name, start, end = window(asked, at.span[0], chosen, context.now)
    shown = await timeline.lanes(db, at.repo.id, start, end, limit=LANES)
    zone = templating.zone_of(context)
    said = templating.moment(chosen, context.now, zone, seconds=False) if at.asked else "now"
    pushes = await _around(context, at)
    return context.render(
        "repo.html",
        at=at,
        tab="overview",
        hook=beside.hook,
        drill=beside.drill,
        picture=timeline_svg.figure(shown, at=min(max(chosen, start), end), said=said),
        shown=shown,
        window=name,
        windows=_windows(at.span[0], context.now),
        slider=Slider(start, end, chosen),
        left=timeline_svg.LABELS,
        width=timeline_svg.WIDTH - timeline_svg.LABELS,
        pushes=pushes,
        told={},
        lost_pushes=_lost_at(pushes, beside.lost),
        **_under_way(at.row, beside.open_jobs),
    )


@dataclass(frozen=True, slots=True)
class Slider:
    """From where to where the slider goes, and where it stands."""

    start: datetime
    end: datetime
    at: datetime


async def _telling(context: RequestContext, row: RepoOverview, span: tuple[datetime, datetime]) -> str:
    """The longest period up to a month with no more pushes than a picture can show apart."""
    names, before = ("month", "week"), [0, 0]
    if row.snapshots > DENSE:
        starts = [context.now - timedelta(days=WINDOWS[name]) for name in names]
        before = await timeline.numbers_at(context.services.db, row.id, starts)
    for name, number in zip(names, before, strict=True):
        if row.snapshots - number <= DENSE:
            return name if context.now - span[0] > timedelta(days=WINDOWS[name]) else "all"
    return "day"


def window(asked: str, first: datetime, chosen: datetime, now: datetime) -> tuple[str, datetime, datetime]:
    """The stretch of time that the picture shows: its name, its start and its end.

    The chosen moment is in it: at the end where it is near to now, else in the middle.
    """
    whole = max(now - first, timedelta(minutes=1))
    if asked not in WINDOWS:
        return "all", first - whole / 50, now
    length = timedelta(days=WINDOWS[asked])
    end = min(now, chosen + length / 2)
    return asked, end - length, end


def _windows(first: datetime, now: datetime) -> list[tuple[str, str]]:
    """The stretches that are shorter than all of it."""
    found = [(name, f"A {name}") for name, days in WINDOWS.items() if timedelta(days=days) < now - first]
    return [*found, ("all", "All time")] if found else []


async def _around(context: RequestContext, at: ShownMoment) -> list[Pushed]:
    before = at.saved.number + 1 + AFTER if at.asked else None
    return await timeline.feed(context.services.db, at.repo.id, before=before, limit=AROUND, shown=8)


def _lost_at(pushes: Sequence[Pushed], lost: Sequence[Lost]) -> dict[int, list[Lost]]:
    """The pushes that could not be rescued, by the snapshot beside which they are listed."""
    found: dict[int, list[Lost]] = {}
    if pushes:
        low, high = pushes[-1].snapshot, pushes[0].snapshot
        for one in lost:
            if low <= one.snapshot <= high:
                found.setdefault(one.snapshot, []).append(one)
    return found


async def push_list(context: RequestContext) -> Response:
    """Every push: who, when, what, how many commits. With `part`, only the list beside the picture."""
    at = await moment_at(context)
    snapshot = at.saved
    part = "part" in context.query
    glob, by = context.query.get("ref", "")[:500], context.query.get("by", "")[:300]
    kind = context.query.get("kind", "")
    if part:
        found, more = await _around(context, at), False
    else:
        before = _number(context.query.get("before", "")) or (snapshot.number + 1 if at.asked else None)
        found = await timeline.feed(
            context.services.db,
            at.repo.id,
            before=before,
            limit=PUSHES + 1,
            kinds=TAKEN if kind == "taken" else (),
            glob=_glob(glob),
            by=by or None,
            shown=8,
        )
        more, found = len(found) > PUSHES, found[:PUSHES]
    latest = await snapshots.latest(context.services.db, at.repo.id) or snapshot
    told = await brought(
        context.services, at.repo, latest, (one.change for push in found for one in push.changes)
    )
    lost = await reported_updates.lost(context.services.db, at.repo.id)
    return context.render(
        "push_list.html" if part else "pushes.html",
        at=at,
        tab="pushes",
        pushes=found,
        told=told,
        lost_pushes=_lost_at(found, lost),
        next=found[-1].snapshot if more else None,
        glob=glob,
        by=by,
        kind=kind,
    )


async def refs(context: RequestContext) -> Response:
    """The refs of a moment, a page at a time."""
    at = await moment_at(context)
    search = context.query.get("q", "")[:500]
    glob = _glob(search)
    page = await moments.refs_at(
        context.services,
        at.repo,
        at.saved,
        after=bytes_of(context, "after"),
        limit=REFS,
        globs=[glob] if glob else [],
    )
    return context.render("refs.html", at=at, tab="refs", page=page, search=search)


def _glob(search: str) -> str | None:
    """A glob of what a person typed: a word means names that contain it."""
    search = search.strip()
    if not search:
        return None
    return search if any(char in search for char in "*?[") else f"*{search}*"


async def commits(context: RequestContext) -> Response:
    """The commits of a branch, tag or id, newest first; with a path, those that changed it."""
    at = await moment_at(context)
    rev, path = bytes_of(context, "ref"), bytes_of(context, "path")
    number = _number(context.query.get("page", "")) or 1
    found, more = await moments.commits(
        context.services, at.repo, at.saved, rev, path=path, skip=(number - 1) * COMMITS, limit=COMMITS
    )
    return context.render(
        "commits.html", at=at, tab="commits", commits=found, more=more, number=number, rev=rev, path=path
    )


async def commit(context: RequestContext) -> Response:
    """One commit with its changes."""
    at = await moment_at(context)
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
    at = await moment_at(context)
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
    at = await moment_at(context)
    snapshot = at.saved
    asked = context.query.get("from", "").strip()[:100]
    ref = bytes_of(context, "ref")
    if asked:
        before = await moment.snapshot_at(context.services, at.repo, when.parse(asked, context.now))
    else:
        before = await moment.snapshot_at(context.services, at.repo, max(snapshot.number - 1, 1))
    found = await moments.difference(context.services, at.repo, before, snapshot, ref=ref or None)
    return context.render(
        "difference.html",
        at=at,
        tab="difference",
        before=before,
        asked=asked,
        found=found,
        ref=ref,
        **_drawn(found.files),
    )


async def lost(context: RequestContext) -> Response:
    """For each force-push and deletion, the commits that are no longer on any ref. With `part`, a summary."""
    at = await moment_at(context)
    part = "part" in context.query
    found = await moments.lost(
        context.services,
        at.repo,
        at.saved,
        ref=bytes_of(context, "ref") or None,
        limit=3 if part else 50,
        shown=4 if part else 20,
    )
    back = {one.logged: moments.bring_back_name(one.logged) for one in found.items}
    return context.render(
        "lost_list.html" if part else "lost.html", at=at, tab="lost", found=found, back=back, part=part
    )


async def back_up(context: RequestContext) -> Response:
    """Back up now: store the request and tell a worker."""
    repo = await context.repo()
    person = context.person
    await work.ask(
        context.services, repo.id, "sync", {"reason": "manual"}, person_id=person.id if person else None
    )
    await context.hint(SYNC, str(repo.id))
    await context.audit("repo.back-up", repo.name, repo.id)
    return context.redirect(templating.repo_url(context.of_team().name, repo.name))


async def progress(context: RequestContext) -> Response:
    """The progress of the repo's jobs, as it happens."""
    repo = await context.repo()

    async def look() -> tuple[str, bool]:
        row = await _row(context, repo.id)
        found = await _now(context, row)
        template = context.outside.pages.get_template("progress.html")
        text = template.render(context=context, now=context.services.clock(), row=row, **found)
        return text, not found["open_jobs"]

    return await follow(context, look)


async def live(context: RequestContext) -> Response:
    """Tell the page that something changed, so that it loads itself again."""
    repo = await context.repo()

    async def look() -> tuple[str, bool]:
        return str((await _now(context, await _row(context, repo.id)))["mark"]), False

    return await follow(context, look)


def mark(row: RepoOverview, open_jobs: Sequence[Job]) -> str:
    """A text that differs whenever the page has something new to show."""
    under_way = sum(job.state == "running" for job in open_jobs)
    return f"{row.state} {row.snapshots} {len(open_jobs)} {under_way}"


async def _now(context: RequestContext, row: RepoOverview) -> dict[str, Any]:
    """What is being done for the repo."""
    return _under_way(row, await jobs.open_of(context.services.db, row.id))


def _under_way(row: RepoOverview, open_jobs: Sequence[Job]) -> dict[str, Any]:
    return {"open_jobs": open_jobs, "mark": mark(row, open_jobs)}


async def _row(context: RequestContext, repo_id: RepoId) -> RepoOverview:
    rows, _ = await home.page(context.services.db, context.of_team().id, only=[repo_id], limit=1)
    if not rows:
        raise NotFound("this repository has just been removed")
    return rows[0]


async def moment_at(context: RequestContext) -> ShownMoment:
    """The repo of the path, and the moment: `?at=WHEN`, or `@WHEN` after the repo's name."""
    repo, row, asked = await _named(context)
    db = context.services.db
    span = (row.first_at, row.saved_at) if row.first_at and row.saved_at else None
    wanted = when.parse(asked, context.now) if asked else None
    snapshot = around = None
    note = ""
    if wanted is not None:
        snapshot = await moment.snapshot_at(context.services, repo, wanted)
    elif span is not None:
        snapshot = await snapshots.latest(db, repo.id)
    if snapshot is not None and asked:
        around = await timeline.moment(db, repo.id, snapshot.number)
        note = _note(around)
    team = context.of_team().name
    below = _raw_path(context).partition(b"/-/")[2].decode("ascii", "replace")
    here = templating.repo_url(team, repo.name) + (f"/-/{below}" if below else "")
    kept = tuple((name, value) for name, value in _query(context).items() if name in KEPT and value)
    return ShownMoment(team, repo, asked, row, span, snapshot, around, note, here, kept)


async def _named(context: RequestContext) -> tuple[Repo, RepoOverview, str]:
    asked = context.query.get("at", "").strip()
    if len(asked) > 100:
        raise UsageError(f"this is not a moment; write one like {when.EXAMPLES}")
    db, team = context.services.db, context.of_team()
    text = str(context.path["repo"])
    found = await home.named(db, team.id, text)
    if found is None:
        name, sign, after = text.rpartition("@")
        found = await home.named(db, team.id, name) if sign else None
        asked = asked or after
    if found is None:
        raise NotFound(f"there is no repository {text} in {team.name}")
    context.found = found[0]
    return *found, asked


def _note(around: Neighbours | None) -> str:
    """What happened right after the moment, if commits were lost by it."""
    change = around.took if around else None
    if change is None:
        return ""
    did = "replaced" if change.kind is Kind.FORCED else "deleted"
    return f"just before {change.by or 'somebody'} {did} {templating.refname(change.name)}"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and 0 < len(text) < 10 else None


def bytes_of(context: RequestContext, name: str) -> bytes:
    """A part of the query as its original bytes: git names can be in any encoding."""
    return _query(context).get(name, b"")


def _query(context: RequestContext) -> dict[str, bytes]:
    text = bytes(context.request.scope["query_string"]).decode("ascii", "replace")
    return {name: value.encode("latin-1", "replace") for name, value in parse_qsl(text, encoding="latin-1")}


def _below(context: RequestContext, page: str) -> bytes:
    """The path after the page's name, as its original bytes."""
    _, mark, path = _raw_path(context).partition(f"/-/{page}/".encode())
    return unquote_to_bytes(path).strip(b"/") if mark else b""


def _raw_path(context: RequestContext) -> bytes:
    """The path as it was sent, with what is quoted in it."""
    found = context.request.scope.get("raw_path") or quote(context.request.url.path).encode()
    return bytes(found).partition(b"?")[0]


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final = (
    Endpoint("GET", f"{_REPO}/-/pushes", push_list, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/refs", refs, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/commits", commits, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/commit/{{oid}}", commit, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/files", files, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/files/{{path:path}}", files, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/raw/{{path:path}}", raw, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/object/{{oid}}", raw_object, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/difference", difference, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/lost", lost, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/progress", progress, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/live", live, Needs.VIEWER),
    Endpoint("POST", f"{_REPO}/-/backup", back_up, Needs.OPERATOR),
    Endpoint("GET", _REPO, overview, Needs.VIEWER),
)
