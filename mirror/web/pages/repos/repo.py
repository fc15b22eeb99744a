"""A repo's page: every ref over time, its pushes, and the moment that an address names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from zoneinfo import ZoneInfo

from starlette.responses import Response

from mirror.browse import moments
from mirror.browse.commit_counts import Brought, brought, remembered
from mirror.core import words
from mirror.core.errors import NotFound, UsageError
from mirror.core.model import Kind, RefChange, Repo, RepoId, Snapshot, has_remote, older_of
from mirror.core.rules.history.pushes import Lost
from mirror.core.rules.history.timeline import Cut, Lane, Push
from mirror.discovery import create
from mirror.git.reader.questions import RepositoryView
from mirror.jobs import run as work
from mirror.restore import moment
from mirror.store.backup import reported_updates, snapshots
from mirror.store.browse import home, predictions, timeline
from mirror.store.browse.home import RepoOverview
from mirror.store.browse.timeline import Neighbours, Pushed
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import Job
from mirror.web import asked, templating
from mirror.web.asked import Asked
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.live import follow
from mirror.web.pages.repos import timeline_svg

LANES: Final = 16  # of the picture
DENSE: Final = 1000  # pushes of a picture, unless somebody asks for more
AROUND: Final = 12  # pushes beside the picture
AFTER: Final = 3  # of them after the moment
PUSHES: Final = 40  # on a page
WINDOWS: Final = {"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}  # days
KEPT: Final = frozenset(
    {
        *("ref", "path", "q", "from", "window", "source", "by", "kind", "as", "commit", "state"),
        *("where", "connection", "repo", "owner", "name", "private", "url", "username", "force", "archive"),
    }  # the second line is what a restore is planned with
)
TAKEN: Final = (Kind.FORCED, Kind.DELETED)


@dataclass(frozen=True, slots=True)
class ShownMoment:
    """A repo at the moment that the address names."""

    team: str
    repo: Repo
    asked: str  # the moment as an address has it, the same for everybody; empty: now
    row: RepoOverview
    span: tuple[datetime, datetime] | None  # of the first and the latest snapshot; None: there is none
    snapshot: Snapshot | None  # None: nothing was saved yet
    around: Neighbours | None
    note: str  # what makes this moment one to look at; mostly nothing
    counted: bool  # whether the note says how many commits go, as far as there are any to count
    here: str  # the address of this page, without its query
    kept: tuple[tuple[str, bytes], ...]  # of its query, what goes on to mean the same at another moment
    typed: str = ""  # what the person wrote, for the field
    answer: str = ""  # what that was taken to mean, and what was found; empty: nobody asked for a time
    wrong: str = ""  # why that is no moment, to stand at the field: then this is the present one

    barred: ClassVar = frozenset(  # the pages that have the moment's bar
        {"overview", "files", "commits", "refs", "pushes", "lost", "difference", "clone"}
    )

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
            what_next = "wait for its first backup" if has_remote(self.repo.url) else "push to it first"
            raise NotFound(f"nothing of {self.repo.name} has been saved yet; {what_next}")
        return self.snapshot

    @property
    def before(self) -> str:
        """The kept snapshot before the one that is shown; empty: it is the first."""
        if self.around is not None:
            return f"#{self.around.before[0]}" if self.around.before else ""
        return f"#{self.row.kept_before}" if self.snapshot and self.row.kept_before else ""

    @property
    def after(self) -> str:
        """The kept snapshot after it; empty: it is the latest."""
        return f"#{self.around.after[0]}" if self.around and self.around.after else ""

    @property
    def host(self) -> str:
        """Where it is fetched from, in short."""
        url = older_of(self.repo.url) or self.repo.url
        if not has_remote(url):
            return "none: it is pushed to"
        parts = urlsplit(url)
        return (parts.hostname or "") + parts.path.removesuffix(".git") if parts.hostname else url


async def overview(context: RequestContext) -> Response:
    """Every ref over time, the moment that was chosen, and what happened around it. Reads no git."""
    at = await moment_at(context, stays=True)
    db = context.services.db
    beside = await home.beside(db, at.repo.id, at.snapshot)
    soon = [] if at.asked else await predictions.of_team(db, context.of_team().id, at.repo.id)
    if at.snapshot is None or at.span is None:
        return context.render(
            "repo.html",
            at=at,
            tab="overview",
            hook=beside.hook,
            soon=soon,
            push_to=None
            if has_remote(at.repo.url)
            else create.address_at(context.outside.origin, context.of_team().name, at.repo),
            **_under_way(at.row, beside.open_jobs),
        )
    chosen = at.snapshot.taken_at if at.asked else context.now
    length = context.query.get("window", "")
    if length not in (*WINDOWS, "all"):
        length = await _telling(context, at.row, at.span)
    name, start, end = window(length, at.span[0], chosen, context.now)
    shown = await timeline.lanes(db, at.repo.id, start, end, limit=LANES)
    said = templating.moment(chosen, context.now, context.zone, seconds=False) if at.asked else "now"
    pushes = await _around(context, at)
    return context.render(
        "repo.html",
        at=at,
        tab="overview",
        hook=beside.hook,
        drill=beside.drill,
        rto=beside.rto,
        own_drill=beside.own_drill,
        picture=timeline_svg.figure(
            shown,
            handle=_handle(at, min(max(chosen, start), end), said),
            said=_said(at, context.now, context.zone),
            zone=context.zone,
        ),
        shown=shown,
        window=name,
        windows=_windows(at.span[0], context.now),
        slider=Slider(start, end, chosen),
        left=timeline_svg.LABELS,
        width_of_lanes=timeline_svg.WIDTH - timeline_svg.LABELS,
        pushes=pushes,
        told={},
        lost_pushes=_lost_at(pushes, beside.lost),
        soon=soon,
        **_under_way(at.row, beside.open_jobs),
    )


def _handle(at: ShownMoment, chosen: datetime, said: str) -> timeline_svg.Handle:
    """The handle, with the snapshots beside it."""
    before, after = (
        timeline_svg.Link(at.moved(other), other) if other else None for other in (at.before, at.after)
    )
    return timeline_svg.Handle(chosen, said, before, after)


def _said(at: ShownMoment, now: datetime, zone: ZoneInfo) -> timeline_svg.Said:
    """What the picture says of a push, and of a cut, which leads to the moment just before it."""

    def clock(then: datetime) -> str:
        return templating.moment(then, now, zone, seconds=False)

    def push(lane: Lane, push: Push) -> str:
        number = f"{words.count(push.moves, 'push')}, last " if push.moves > 1 else ""
        who = f" by {push.by}" if push.by else ""
        return f"{timeline_svg.label(lane)}: {number}#{push.snapshot}{who}, {clock(push.at)}"

    def cut(lane: Lane, cut: Cut) -> timeline_svg.Link:
        did = "deleted" if cut.kind == "deleted" else "force-pushed"
        who = f" by {cut.by}" if cut.by else ""
        said = f"{timeline_svg.label(lane)} {did}{who}, {clock(cut.at)}: go to just before"
        return timeline_svg.Link(at.moved(f"#{max(cut.snapshot - 1, 1)}"), said)

    return timeline_svg.Said(push, cut)


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
    at = await moment_at(context, stays=True)
    snapshot = at.saved
    part = "part" in context.query
    glob, by = context.query.get("ref", "")[:500], context.query.get("by", "")[:300]
    kind = context.query.get("kind", "")
    if part:
        found, more = await _around(context, at), False
    else:
        before = number_of(context.query.get("before", "")) or (snapshot.number + 1 if at.asked else None)
        found = await timeline.feed(
            context.services.db,
            at.repo.id,
            before=before,
            limit=PUSHES + 1,
            kinds=TAKEN if kind == "taken" else (),
            glob=glob_of(glob),
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


def glob_of(search: str) -> str | None:
    """A glob of what a person typed: a word means names that contain it."""
    search = search.strip()
    if not search:
        return None
    return search if any(char in search for char in "*?[") else f"*{search}*"


async def back_up(context: RequestContext) -> Response:
    """Back up now: store the request and tell a worker."""
    repo = await context.repo()
    person = context.person
    await work.ask(
        context.services, repo.id, "sync", {"reason": "manual"}, person_id=person.id if person else None
    )
    await context.hint(repo.id)
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
    """The repo as it is now, which is later than a stream of it began."""
    wanted, now = home.Wanted(only=[repo_id]), context.services.clock()
    rows, _ = await home.page(context.services.db, context.of_team().id, wanted, 1, now=now)
    if not rows:
        raise NotFound("this repository has just been removed")
    return rows[0]


async def moment_at(context: RequestContext, *, stays: bool = False) -> ShownMoment:
    """The repo of the path, and the moment: `?at=WHEN`, `?picked=` a time, or `@WHEN` after the name.

    Where that is no moment, a page that `stays` is shown at the present one, with what is wrong at
    the field. Raises UsageError and NotFound elsewhere: a restore takes no other moment.
    """
    repo, row, after = await _named(context)
    typed, wrong = asked.typed_in(context, after), ""
    try:
        wanted = asked.read(context, after)
        snapshot = await _snapshot(context, repo, row, wanted)
    except (UsageError, NotFound) as error:
        if not stays or not typed:
            raise
        context.status, wrong = 422, words.sentence(str(error))
        wanted = asked.Asked()
        snapshot = await _snapshot(context, repo, row, wanted)
    db = context.services.db
    span = (row.first_at, row.saved_at) if row.first_at and row.saved_at else None
    around, note, counted, answer = None, "", True, ""
    if snapshot is not None and wanted.when is not None:
        answer = asked.answer(wanted, snapshot, row.protected_as_of, context.now, context.zone)
        around = await timeline.moment(db, repo.id, snapshot.number)
        lost = _lost_then(around)
        note, counted = _note(around, lost), lost is not None
    team = context.of_team().name
    below = raw_path(context).partition(b"/-/")[2].decode("ascii", "replace")
    here = templating.repo_url(team, repo.name) + (f"/-/{below}" if below else "")
    kept = tuple((name, value) for name, value in _query(context).items() if name in KEPT and value)
    return ShownMoment(
        *(team, repo, wanted.name, row, span, snapshot, around, note, counted, here, kept),
        *(typed, answer, wrong),
    )


async def _snapshot(context: RequestContext, repo: Repo, row: RepoOverview, wanted: Asked) -> Snapshot | None:
    """The snapshot of this moment; None: nothing was saved yet. Raises NotFound."""
    if wanted.when is not None:
        time, first = wanted.time, row.first_at and row.first_at.replace(microsecond=0)
        if time is not None and first is not None and time < first:
            raise NotFound(asked.too_early(repo, time, first, context.now, context.zone))
        return await moment.snapshot_at(context.services, repo, wanted.up_to)
    return await snapshots.latest(context.services.db, repo.id) if row.saved_at else None


async def _named(context: RequestContext) -> tuple[Repo, RepoOverview, str]:
    """The repo of the path, and what stands after an @ that ends its name."""
    db, team = context.services.db, context.of_team()
    text, after = str(context.path["repo"]), ""
    found = await home.named(db, team.id, text, context.now)
    if found is None:
        name, sign, after = text.rpartition("@")
        found = await home.named(db, team.id, name, context.now) if sign else None
    if found is None:
        raise NotFound(f"there is no repository {text} in {team.name}")
    context.found = found[0]
    return *found, after


def _lost_then(around: Neighbours | None) -> int | None:
    """How many commits went right after the moment; None: nobody has counted them yet."""
    change = around.took if around else None
    known: Brought | None = remembered(change) if change else None
    return known.lost if known and change and change.kind is Kind.FORCED else None


def _note(around: Neighbours | None, lost: int | None) -> str:
    """What happened right after the moment, if commits were lost by it."""
    change = around.took if around else None
    if change is None:
        return ""
    did = "replaced" if change.kind is Kind.FORCED else "deleted"
    goes = "" if lost is None else f": {words.count(lost, 'commit')} {'goes' if lost == 1 else 'go'}"
    return f"just before {change.by or 'somebody'} {did} {templating.refname(change.name)}{goes}"


async def said(context: RequestContext) -> Response:
    """What the moment is, in a sentence, with the commits that went right after it: the part of a page."""
    at = await moment_at(context)
    change = at.around.took if at.around else None
    if change is not None and not at.counted:
        at = replace(
            at, note=_note(at.around, await _count_lost(context, at.repo, at.saved.number + 1, change))
        )
    return context.render("moment_said.html", at=at)


async def _count_lost(context: RequestContext, repo: Repo, number: int, change: RefChange) -> int | None:
    """How many commits a push took from a ref; of a deleted one, those that no other ref had then."""
    after = await moment.snapshot_at(context.services, repo, number)
    if change.kind is Kind.FORCED:
        told = await brought(context.services, repo, after, [change])
        found = told.get((change.old, change.new))
        return found.lost if found else None
    lost = await moments.lost(context.services, repo, after, ref=change.name, limit=1, shown=1)
    return next((one.count for one in lost.items if one.logged.snapshot == number), 0)


async def caption(context: RequestContext) -> Response:
    """Who pushed what to a ref, when, and how many commits it brought and took: the part of a page."""
    repo = await context.repo()
    number, name = number_of(str(context.path["number"])) or 0, context.query.get("ref", "")[:5000]
    found = await timeline.feed(context.services.db, repo.id, before=number + 1, limit=1)
    push = found[0] if found and found[0].snapshot == number else None
    if push is None:
        raise NotFound(f"there is no push #{number} of {repo.name}")
    meant = [one for one in push.changes if _is_of(one.change.name, name)] or list(push.changes)
    latest = await snapshots.latest(context.services.db, repo.id)
    told = await brought(context.services, repo, latest, [meant[0].change]) if latest else {}
    change = meant[0].change
    return context.render(
        "caption.html",
        push=push,
        logged=meant[0],
        brought=told.get((change.old, change.new)),
        more=push.count - 1,
    )


def _is_of(ref: bytes, lane: str) -> bool:
    """Whether a ref is that of a lane, or below its folder."""
    name = words.name(ref)
    return name.startswith(lane) if lane.endswith("/") else name == lane


def number_of(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and 0 < len(text) < 10 else None


def bytes_of(context: RequestContext, name: str) -> bytes:
    """A part of the query as its original bytes: git names can be in any encoding."""
    return _query(context).get(name, b"")


def _query(context: RequestContext) -> dict[str, bytes]:
    text = bytes(context.request.scope["query_string"]).decode("ascii", "replace")
    return {name: value.encode("latin-1", "replace") for name, value in parse_qsl(text, encoding="latin-1")}


def raw_path(context: RequestContext) -> bytes:
    """The path as it was sent, with what is quoted in it."""
    found = context.request.scope.get("raw_path") or quote(context.request.url.path).encode()
    return bytes(found).partition(b"?")[0]


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final = (
    Endpoint("GET", f"{_REPO}/-/pushes", push_list, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/said", said, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/pushes/{{number}}", caption, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_REPO}/-/progress", progress, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/live", live, Needs.VIEWER),
    Endpoint("POST", f"{_REPO}/-/backup", back_up, Needs.OPERATOR),
    Endpoint("GET", _REPO, overview, Needs.VIEWER),
)
