"""An incident: what was pushed to all repos of a team, by whom, and putting it back by one plan.

The page lists ref changes; a plan of them has a page of its own, which is also the receipt once it was begun.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.browse import plan_commits
from mirror.browse.plan_commits import NONE, PlanCommits, RefCommits
from mirror.core import words
from mirror.core.errors import EverrefError, UsageError
from mirror.core.formats.spreadsheet import csv_of
from mirror.core.model import RepoId
from mirror.core.refs import Move
from mirror.core.rules.history.rollback import MANY, Strangers, Wanted, What, accounts_of
from mirror.jobs.rollbacks import State, is_old
from mirror.restore import rollback
from mirror.shapes.base import encoded
from mirror.shapes.incident import COLUMNS, TeamRefChanges, rows
from mirror.store.browse import incidents
from mirror.store.browse.incidents import Changed, Found
from mirror.store.restore import rollbacks as rollback_rows
from mirror.store.restore.rollbacks import PlannedRef, PlannedRepo
from mirror.web import rollbacks, templating
from mirror.web.dispatch import AskAgain, Endpoint, Needs, RequestContext
from mirror.web.live import follow
from mirror.web.pages.teams.report import sent

READ: Final = 2000  # changes that the page reads; it counts more
REFS: Final = 400  # that the page lists
REPOS: Final = 100
OPEN: Final = 100  # refs that are shown at once; with more, repositories unfold
TYPED: Final = 1000  # characters of a field
EARLIER: Final = 5  # rollbacks that are listed
READING: Final = 2.0  # seconds that the page waits for commits; a plan has its own
MEASURED: Final = 8  # repos whose commits the page reads
KINDS: Final[Mapping[What, str]] = {
    "forced": "force-pushed",
    "deleted": "deleted",
    "tag": "tag moved",
    "default": "default branch changed",
    "created": "created",
    "pushed": "pushed",
}
LOST: Final[frozenset[What]] = frozenset({"forced", "deleted", "tag"})


@dataclass(frozen=True, slots=True)
class Line:
    """All that happened to one ref, as far as it is meant."""

    first: Changed
    last: Changed
    changes: int
    kinds: tuple[What, ...]
    by: tuple[str, ...]  # as the host named them
    commits: RefCommits | None = None  # None: they were not read

    @property
    def move(self) -> Move | None:
        """What all of it did to the ref. None: nothing."""
        old, new = self.first.change.old, self.last.change.new
        return None if old == new else (self.first.change.name, old, new)


@dataclass(frozen=True, slots=True)
class Group:
    """One repo, with its refs that moved."""

    repo_id: RepoId
    repo: str
    lines: tuple[Line, ...]  # the first of them
    refs: int
    kinds: Mapping[What, int]  # changes of each kind

    @property
    def mass(self) -> bool:
        """Whether so many refs were deleted that it was no tidying up."""
        return self.kinds.get("deleted", 0) >= MANY


@dataclass(frozen=True, slots=True)
class Typed:
    """What the form holds."""

    since: str
    until: str
    actor: str
    untold: bool
    kinds: Sequence[str]
    repo: str
    ref: str

    @property
    def given(self) -> dict[str, list[str]]:
        """The same as it is understood."""
        return {
            "since": [self.since],
            "until": [self.until],
            "actor": accounts_of(self.actor),
            "untold": ["yes"] if self.untold else [],
            "kind": list(self.kinds),
            "repo": self.repo.replace(",", " ").split(),
            "ref": self.ref.replace(",", " ").split(),
        }

    @property
    def query(self) -> dict[str, object]:
        """The same as the query of an address, of which `kind` may come more than once."""
        return {
            "since": self.since,
            "until": self.until,
            "actor": self.actor,
            "untold": "yes" if self.untold else "",
            "kind": " ".join(self.kinds),
            "repo": self.repo,
            "ref": self.ref,
        }


def _typed(given: Mapping[str, str], kinds: Sequence[str]) -> Typed:
    since, until, actor, repo, ref = (
        given.get(name, "").strip()[:TYPED] for name in ("since", "until", "actor", "repo", "ref")
    )
    chosen = [kind for one in kinds for kind in one.split()]
    return Typed(since, until, actor, bool(given.get("untold")), chosen, repo, ref)


async def page(context: RequestContext) -> Response:
    """What was pushed to the team's repos, by account, repo and ref: as a page, CSV or JSON."""
    form, team = context.query.get("as", "page"), context.of_team()
    typed = _typed(context.query, context.request.query_params.getlist("kind"))
    wrong: dict[str, str] = {}
    found = Found()
    meant, strangers = None, None
    try:
        meant = rollbacks.wanted(context, typed.given)
        read = READ if form == "page" else incidents.MOST
        found = await incidents.changes(context.services.db, team.id, meant, read=read)
        strangers = await incidents.strangers(context.services.db, team.id, meant)
    except UsageError as error:
        if form != "page":
            raise
        context.status, wrong = 422, {error.field or "since": words.sentence(error)}
    if meant is not None and form in ("csv", "json"):
        return _file(context, meant, found, strangers, form)
    groups = grouped(found.changes)
    told: dict[RepoId, PlanCommits] = {}
    if typed.actor and groups:
        told = await plan_commits.of_repos(context.services, _moves(groups[:MEASURED]), READING)
    return context.render(
        "incident.html",
        typed=typed,
        meant=meant,
        wrong=wrong,
        found=found,
        strangers=strangers,
        groups=[_with(one, told.get(one.repo_id, NONE)) for one in groups[:REPOS]],
        read=len(groups),
        refs=sum(one.refs for one in groups),
        kinds=KINDS,
        lost=LOST,
        open=OPEN,
        earlier=await rollback_rows.latest(context.services.db, team.id, EARLIER),
        base=f"/{team.name}/-/incident",
    )


def _file(
    context: RequestContext, meant: Wanted, found: Found, strangers: Strangers | None, form: str
) -> Response:
    name = f"{context.of_team().name}-pushes-{meant.since:%Y%m%d}-{meant.until:%Y%m%d}"
    if form == "csv":
        return sent(csv_of(COLUMNS, rows(found)), "text/csv; charset=utf-8", f"{name}.csv")
    told = TeamRefChanges.of(meant, found, strangers)
    return sent(encoded(told).decode() + "\n", "application/json", f"{name}.json")


def grouped(changes: Sequence[Changed]) -> list[Group]:
    """Ref changes, newest first, by repo and ref: the repos in which most was taken away come first."""
    by_ref: dict[RepoId, dict[int, list[Changed]]] = {}
    for one in changes:
        by_ref.setdefault(one.repo_id, {}).setdefault(one.ref_id, []).append(one)
    found = []
    left = REFS
    for repo_id, refs in by_ref.items():
        lines = sorted((_line(some) for some in refs.values()), key=_rank)
        counted = Counter(one.what for some in refs.values() for one in some)
        kinds = {kind: counted[kind] for kind in KINDS if counted[kind]}
        shown, left = tuple(lines[:left]), max(0, left - len(lines))
        found.append(Group(repo_id, lines[0].first.repo, shown, len(lines), kinds))
    return sorted(found, key=lambda one: (-sum(one.kinds.get(kind, 0) for kind in LOST), one.repo))


def _line(some: Sequence[Changed]) -> Line:
    kinds = tuple(kind for kind in KINDS if any(one.what == kind for one in some))
    by = tuple(dict.fromkeys(one.change.by or "" for one in reversed(some)))
    return Line(some[-1], some[0], len(some), kinds, by)


def _rank(line: Line) -> tuple[int, bytes]:
    return list(KINDS).index(line.kinds[0]), line.first.change.name


def _moves(groups: Sequence[Group]) -> list[tuple[RepoId, list[Move]]]:
    return [(one.repo_id, [line.move for line in one.lines if line.move]) for one in groups]


def _with(group: Group, told: PlanCommits) -> Group:
    lines = [
        Line(one.first, one.last, one.changes, one.kinds, one.by, told.by_name.get(one.first.change.name))
        for one in group.lines
    ]
    return Group(group.repo_id, group.repo, tuple(lines), group.refs, group.kinds)


# The plan and its receipt


@dataclass(frozen=True, slots=True)
class Row:
    """One ref of a plan, with the commits that it would gain and lose."""

    one: PlannedRef
    commits: RefCommits | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """One repo of a plan: what can be put back, what is so already, and what cannot be."""

    repo: PlannedRepo
    rows: Sequence[Row]
    back: int
    uncounted: int = 0  # of these, whose commits were not counted
    left: Sequence[PlannedRef] = field(default=())  # no longer kept, or no push can write it

    @property
    def ticked(self) -> int:
        """The refs that are put back unless somebody unticks them."""
        return sum(row.one.chosen for row in self.rows)

    @property
    def moved(self) -> int:
        """The refs that somebody else pushed to, too."""
        return sum(row.one.ref.state == "moved" for row in self.rows)


async def plan(context: RequestContext) -> Response:
    """Plan to put back what the page shows. Nothing is written to any host."""
    form = await context.form()
    given = {key: str(value) for key, value in form.items()}
    typed = _typed(given, [str(one) for one in form.getlist("kind")])
    created, moved = bool(given.get("created")), bool(given.get("moved"))
    try:
        meant = rollbacks.wanted(context, typed.given)
        made = await rollbacks.start(context, meant, created=created, moved=moved)
    except EverrefError as error:  # what was typed is in the address, so that Back asks for nothing again
        to = templating.url(f"/{context.of_team().name}/-/incident", **typed.query)
        return context.redirect(to, warned=words.sentence(error))
    return context.redirect(_address(context, str(made)))


async def one(context: RequestContext) -> Response:
    """A rollback: what it would do, ref by ref, once that is known; once begun, what came of it."""
    found = await rollbacks.state(context)
    rollbacks.read_on(context, found.rollback)
    told: dict[RepoId, PlanCommits] = {}
    if found.name == "planned":
        told = await plan_commits.of_repos(context.services, rollback.moves(found.rollback))
    shown = _shown(found, told)
    return context.render(
        "rollback.html",
        **_told(context, found),
        shown=shown,
        total=sum(len(each.rows) for each in shown),
        ticked=sum(each.ticked for each in shown),
        by_hand=any(_is_by_hand(found, row.one) for each in shown for row in each.rows),
        old=is_old(found.rollback, context.now),
        kinds=KINDS,
        open=OPEN,
    )


def _is_by_hand(found: State, one: PlannedRef) -> bool:
    made = found.rollback
    return one.chosen != one.ref.chosen(created=made.created, moved=made.moved)


async def events(context: RequestContext) -> Response:
    """The same while it is planned, or under way."""
    template = context.outside.pages.get_template("rollback_now.html")

    async def look() -> tuple[str, bool]:
        found = await rollbacks.state(context)
        rollbacks.read_on(context, found.rollback)
        now: datetime = context.services.clock()
        ended = not (found.under_way or found.reading)
        return template.render(context=context, now=now, **_told(context, found)), ended

    return await follow(context, look)


def _told(context: RequestContext, found: State) -> dict[str, Any]:
    made = found.rollback
    return {
        "state": found,
        "rollback": made,
        "since": datetime.fromisoformat(made.asked["since"]),
        "until": datetime.fromisoformat(made.asked["until"]),
        "base": _address(context, str(made.id)),
    }


def _shown(found: State, told: Mapping[RepoId, PlanCommits]) -> list[Shown]:
    shown = []
    for one in found.rollback.repos:
        commits = told.get(one.repo_id, NONE)
        rows_ = [
            Row(ref, commits.by_name.get(ref.ref.name)) for ref in one.refs if ref.ref.state in rollback.SHOWN
        ]
        back = sum(ref.ref.state == "back" for ref in one.refs)
        left = [ref for ref in one.refs if ref.ref.state in ("dropped", "fixed")]
        shown.append(Shown(one, rows_, back, commits.uncounted, left))
    return shown


async def begin(context: RequestContext) -> Response:
    """Put the ticked refs back. What was ticked is kept, also where that is refused or must wait."""
    form = await context.form()
    places = [int(one) for one in map(str, form.getlist("place")) if one.isdecimal() and len(one) < 8]
    await rollbacks.choose(context, places)
    if not context.is_sure:
        context.check_not_let_in()
        raise AskAgain
    try:
        await rollbacks.begin(context, places)
    except EverrefError as error:
        return context.redirect(_here(context), warned=words.sentence(error))
    except HTTPException as error:  # too many restores within an hour
        return context.redirect(_here(context), warned=words.sentence(error.detail))
    return context.redirect(_here(context))


async def again(context: RequestContext) -> Response:
    """Go on with the repositories whose refs are not all back."""
    return await _done(context, rollbacks.again)


async def undo(context: RequestContext) -> Response:
    """Undo all that it wrote."""
    return await _done(context, rollbacks.undo)


async def _done(context: RequestContext, do: Any) -> Response:
    try:
        await do(context)
    except EverrefError as error:
        return context.redirect(_here(context), warned=words.sentence(error))
    return context.redirect(_here(context))


def _here(context: RequestContext) -> str:
    return _address(context, str(rollbacks.id_of(context)))


def _address(context: RequestContext, rollback_id: str) -> str:
    return f"/{context.of_team().name}/-/incident/{rollback_id}"


_ONE: Final = "/{team}/-/incident/{rollback}"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/incident", page, Needs.VIEWER, reads=True),
    Endpoint("POST", "/{team}/-/incident/plan", plan, Needs.OPERATOR, sure=True),
    Endpoint("GET", _ONE, one, Needs.VIEWER, reads=True),
    Endpoint("GET", f"{_ONE}/events", events, Needs.VIEWER),
    Endpoint("POST", f"{_ONE}/begin", begin, Needs.OPERATOR),  # which asks for `sure` itself
    Endpoint("POST", f"{_ONE}/again", again, Needs.OPERATOR, sure=True),
    Endpoint("POST", f"{_ONE}/undo", undo, Needs.OPERATOR, sure=True),
)
