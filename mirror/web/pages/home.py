"""The home of a team: whether everything is protected, what needs attention, and every repo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from math import log2
from typing import Final, Literal, cast, get_args
from urllib.parse import quote
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from mirror.core import words
from mirror.core.errors import Origin
from mirror.core.model import older_of
from mirror.core.rules import standing
from mirror.discovery import webhooks
from mirror.store.browse import home
from mirror.store.browse.home import Broken, Day, Forced, Order, RepoOverview, State, Summary
from mirror.store.jobs import runs
from mirror.store.people import notices, quotas, teams
from mirror.store.people.notices import Notice
from mirror.store.people.quotas import Over
from mirror.store.upkeep import outages, vaults
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.live import follow

Tone = Literal["lost", "late", "proved", ""]

ROWS: Final = 50  # repos on a page
DAYS: Final = 90  # of the strip
LATELY: Final = timedelta(days=7)  # for which a force-push is news
PATIENCE: Final = timedelta(minutes=10)  # that a sync request may wait before somebody should look
GONE: Final = timedelta(days=30)  # for which it is news that a repo is no longer at its forge
NEEDS: Final = 8  # lines of what needs attention, before "and more"
TOLD: Final = frozenset(
    {"mass-deletion", "moved", "audit", "damage", "sign-in"}
)  # notices; of the others the states of repos tell
ORDERS: Final[Mapping[Order, str]] = {
    "name": "Name",
    "state": "Worst first",
    "saved": "Last saved",
    "size": "Largest first",
}
STATES: Final[Mapping[str, str]] = {
    "protected": "Protected",
    "damaged": "Damaged",
    "behind": "Behind",
    "failing": "Failing",
    "never": "Not saved yet",
    "forced": "Force-pushed",
    "archived": "Archived",
}


@dataclass(frozen=True, slots=True)
class Need:
    """Something that needs attention: what, why, and a link to do something about it."""

    title: str
    link: str  # of the title
    chip: str
    tone: Tone
    why: str
    action: str  # what the button says
    to: str  # where it leads
    notice: int | None = None  # that can be dismissed; None: the line goes away by itself
    again: UUID | None = None  # the connection whose token the button replaces; None: it is a link


UNSAVED: Final = Need(
    title="Nothing new is being saved",
    link="/status",
    chip="no worker is running",
    tone="lost",
    why="Start a worker: it saves what was pushed meanwhile and is still there.",
    action="See",
    to="/status",
)


AWAY: Final[Mapping[Origin, str]] = {
    Origin.VAULT: "the vault does not answer",
    Origin.DISK: "a worker's disk is full or broken",
}


@dataclass(frozen=True, slots=True)
class Strip:
    """The last days as paths of an SVG, by what they stand for, and the same in words."""

    rest: str  # a line under all days
    saved: str
    forced: str
    late: str
    words: str


async def start(context: RequestContext) -> Response:
    """The person's own team, or the sign-in page."""
    if context.person is None:
        return RedirectResponse("/sign-in", 303)
    team = await teams.home(context.services.db, context.person.id)
    return RedirectResponse("/account" if team is None else f"/{quote(team.name)}", 303)


async def repositories(context: RequestContext) -> Response:
    """The home of a team."""
    db, team = context.services.db, context.of_team()
    asked = {name: context.query.get(name, "")[:200] for name in ("q", "state", "sort")}
    summary = await home.summary(db, team.id)
    unknown = await _unknown(context)
    if not summary.total:
        title = "The history is missing" if unknown else "Nothing is backed up yet"
        told = [one for one in await notices.open_of(db, team.id) if one.kind in TOLD]
        return context.render(
            "home.html",
            summary=summary,
            mark=mark(summary, unknown),
            title=title,
            unknown=unknown,
            needs=[_told(team.name, one, context.now) for one in told],
            most=NEEDS,
            registered=[app for app in context.services.settings.apps if app.registered],
        )
    first_of_all = [one for one in (unknown, await _held_up(context)) if one]
    forced = await home.forced_lately(db, team.id, context.now - LATELY)
    number = _number(context.query.get("page", ""))
    state, order = _state(asked["state"]), _order(asked["sort"])
    rows, matches = await home.page(
        db,
        team.id,
        search=asked["q"],
        state=None if state in (None, "forced") else cast(State, state),
        only=[one.repo_id for one in forced] if state == "forced" else None,
        order=order,
        limit=ROWS,
        offset=(number - 1) * ROWS,
    )
    first = context.now - timedelta(days=DAYS - 1)
    days = await home.strips(
        db, [row.id for row in rows], first.replace(hour=0, minute=0, second=0, microsecond=0)
    )
    return context.render(
        "home.html",
        title=first_of_all[0].title if first_of_all else sentence(summary),
        summary=summary,
        mark=mark(summary, *first_of_all[:1]),
        on_their_way=on_their_way(summary.hooks_waiting, context.now),
        needs=[*first_of_all, *await _needs(context, summary, forced)],
        most=NEEDS,
        rows=rows,
        matches=matches,
        strips={
            row.id: strip(days[row.id], context.now.date(), row.failure.since.date() if row.failure else None)
            for row in rows
        },
        forced={one.repo_id: one for one in forced},
        filters=_filters(summary, len(forced)),
        state=state,
        order=order,
        orders=ORDERS,
        number=number,
        numbers=templating.pages(number, max(1, -(-matches // ROWS))),
        asked=asked,
        address=lambda **changes: templating.url(f"/{team.name}", **(asked | changes)),
        page_address=lambda n: templating.url(f"/{team.name}", **asked, page=n),
    )


async def live(context: RequestContext) -> Response:
    """Tell the page that something changed, so that it loads itself again."""

    async def look() -> tuple[str, bool]:
        summary = await home.summary(context.services.db, context.of_team().id)
        return mark(summary, await _unknown(context) or await _held_up(context)), False

    return await follow(context, look)


async def _unknown(context: RequestContext) -> Need | None:
    """That the database was lost, shown to the team of whoever runs Everref. None: it was not."""
    number = await vaults.unknown(context.services.db) if context.of_team().name == teams.DEFAULT else 0
    if not number:
        return None
    return Need(
        title="This database does not know the history of this vault",
        link="/status",
        chip="the database was lost",
        tone="lost",
        why=words.sentence(words.not_known(number)) + " That brings back every backup that the vault has.",
        action="See",
        to="/status",
    )


async def _held_up(context: RequestContext) -> Need | None:
    """Why nothing new is saved for any repo: no worker runs, or a shared part is away. None: it is saved."""
    if not await runs.is_anyone_alive(context.services.db):
        return UNSAVED
    for one in await outages.now(context.services.db):
        began = words.ago(one.since, context.now)
        return replace(
            UNSAVED,
            chip=AWAY[one.origin],
            why=f"This started {began}. Pushes wait, and are saved once it is back; until then, none is.",
        )
    return None


def mark(summary: Summary, held_up: Need | None = None) -> str:
    """A text that differs whenever the home page has something new to show."""
    saved = "" if summary.saved_at is None else summary.saved_at.isoformat()
    return " ".join(
        [saved, held_up.chip if held_up else "", *(str(number) for number in summary.states.values())]
    )


async def dismiss(context: RequestContext) -> Response:
    """Dismiss a notice."""
    number = str(context.path["notice"])
    if not number.isdecimal() or len(number) > 18:
        raise HTTPException(404, "there is no such notice")
    await notices.seen(context.services.db, context.of_team().id, int(number), context.now)
    return context.redirect(templating.url(f"/{context.of_team().name}"))


async def _needs(context: RequestContext, summary: Summary, forced: Sequence[Forced]) -> list[Need]:
    db, team = context.services.db, context.of_team()
    troubled: list[RepoOverview] = []
    over = None
    if any(summary.states[state] for state in ("damaged", "failing", "never", "behind")):
        troubled, _ = await home.page(db, team.id, order="state", limit=NEEDS * 2)
        over = await quotas.is_over(db, team.id)
    if summary.states["archived"]:
        gone, _ = await home.page(db, team.id, state="archived", limit=NEEDS)
        troubled += gone
    return needs(
        team.name,
        context.now,
        connections=await home.broken_connections(db, team.id),
        hooks=await home.broken_hooks(db, team.id),
        told=[one for one in await notices.open_of(db, team.id) if one.kind in TOLD],
        troubled=troubled,
        forced=forced,
        over=over,
    )


def sentence(summary: Summary) -> str:
    """Whether everything is protected, in one line."""
    kept = "1 repository" if summary.total == 1 else f"{summary.total:,} repositories"
    good = summary.states["protected"] - summary.paused
    if summary.paused:
        kept += f", {summary.paused:,} paused"
    if damaged := summary.states["damaged"]:
        if summary.total == 1:
            return f"{kept}, damaged"
        return f"{kept}, {good or 'none'} protected, {damaged:,} damaged"
    if good == summary.total:
        return f"{kept}, {'protected' if good == 1 else 'all protected'}"
    return (
        f"{kept}, {good or 'not'} protected" if summary.total == 1 else f"{kept}, {good or 'none'} protected"
    )


def needs(
    team: str,
    now: datetime,
    *,
    connections: Sequence[Broken] = (),
    hooks: Sequence[Broken] = (),
    told: Sequence[Notice] = (),
    troubled: Sequence[RepoOverview] = (),
    forced: Sequence[Forced] = (),
    over: Over | None = None,
) -> list[Need]:
    """What needs attention, the worst first: what stops backups, what was lost, what is late."""
    found: list[Need] = []
    if over:
        found.append(_over(team, over, now))
    connect = templating.url(f"/{team}/-/connect")
    for one in connections:
        why = one.why or f"{one.where} no longer accepts the token"
        found.append(
            Need(
                f"{one.who} at {one.where}",
                connect,
                "sign in again",
                "late",
                words.sentence(why),
                "Sign in again",
                connect,
                again=one.connection_id,
            )
        )
    failing = [one for one in troubled if one.failure and one.state in ("damaged", "failing", "never")]
    found += [_failing(team, one, now) for one in failing]
    found += [_told(team, one, now) for one in told]
    found += [_forced(team, one, now) for one in forced if one.is_default]
    if hooks:
        found.append(_unhooked(team, hooks))
    if not over:  # which is why
        found += [_behind(team, one, now) for one in troubled if _is_late(one, now)]
    for repo in troubled:
        if repo.archived_at and now - repo.archived_at < GONE:
            link = templating.repo_url(team, repo.name)
            why = f"No longer at its forge; archived {words.ago(repo.archived_at, now)}. Every backup stays."
            if at := older_of(repo.url):
                why = f"An older history of {at}, from before the database was lost. Every snapshot stays."
            found.append(Need(repo.name, link, "archived", "", why, "See", link))
    return found


def _over(team: str, over: Over, now: datetime) -> Need:
    link = templating.url(f"/{team}/-/settings")
    why = f"This started {words.ago(over.since, now)}: {over.message}."
    return Need("Nothing new is being saved", link, "limit reached", "lost", why, "See the limits", link)


def _failing(team: str, repo: RepoOverview, now: datetime) -> Need:
    assert repo.failure is not None
    link = templating.repo_url(team, repo.name)
    again = repo.connection_id if repo.failure.kind == standing.CREDENTIALS else None
    stands = standing.told(standing.of(repo), now)
    return Need(
        repo.name,
        link,
        "failing" if repo.protected_as_of else "first backup failed",
        "late",
        f"{words.sentence(repo.failure.message)} {stands}".rstrip(),
        "Sign in again" if again else "See",
        link,
        again=again,
    )


def _told(team: str, notice: Notice, now: datetime) -> Need:
    link = templating.repo_url(team, notice.repo) if notice.repo else templating.url(f"/{team}")
    if notice.kind == "audit":
        link = templating.url(f"/{team}/-/settings/audit")
    deleted = notice.kind == "mass-deletion"
    found = f" Found {words.ago(notice.at, now)}." if notice.kind == "damage" else ""
    lost = notice.kind in ("mass-deletion", "damage")
    return Need(
        notice.repo or team,
        link,
        notice.kind.replace("-", " "),
        "lost" if lost or notice.kind == "audit" else "late",
        words.sentence(notice.message) + found,
        "See what was lost" if deleted and notice.repo else "See",
        templating.repo_url(team, notice.repo, "lost") if deleted and notice.repo else link,
        None if notice.kind == "sign-in" else notice.id,  # it goes away only with a new password
    )


def _forced(team: str, one: Forced, now: datetime) -> Need:
    who = one.by or "Somebody"
    also = f" This is one of {one.many} force-pushes this week." if one.many > 1 else ""
    return Need(
        one.repo,
        templating.repo_url(team, one.repo),
        "force-pushed",
        "lost",
        f"{who} replaced {templating.refname(one.ref)} by a force-push {words.ago(one.at, now)}. "
        f"The old commits are kept.{also}",
        "See what was lost",
        templating.repo_url(team, one.repo, "lost"),
    )


def _is_late(repo: RepoOverview, now: datetime) -> bool:
    """Whether a sync request has waited for so long that somebody should look."""
    waits = repo.state in ("behind", "never") and repo.failure is None and not repo.at_work
    return waits and repo.behind_since is not None and now - repo.behind_since > PATIENCE


def _unhooked(team: str, hooks: Sequence[Broken]) -> Need:
    """One line for the webhooks that their hosts refused or switched off; pushes are still found."""
    first = hooks[0]
    link = templating.repo_url(team, first.where)
    why = words.sentence(first.why or "the host has switched the webhook off")
    if len(hooks) == 1:
        said = f"{why} Everref checks it on a schedule instead."
    else:
        said = f"{why} This concerns {len(hooks):,} repositories. Everref checks them on a schedule instead."
    return Need(first.where, link, "no webhook", "late", said, "See", link)


def on_their_way(waiting: int, now: datetime) -> str | None:
    """What to say about webhooks that wait to be registered. None: there are none."""
    if not waiting:
        return None
    minutes = round((webhooks.registered_by(waiting, now) - now).total_seconds() / 60)
    many = "1 webhook is" if waiting == 1 else f"{waiting:,} webhooks are"
    return f"{many} being registered (within {minutes} min); until then pushes are found on a schedule."


def _behind(team: str, repo: RepoOverview, now: datetime) -> Need:
    assert repo.behind_since is not None
    link = templating.repo_url(team, repo.name)
    since = words.ago(repo.behind_since, now).removesuffix(" ago")
    why = f"It has waited {since} for a worker; check that one is running. {standing.held(standing.of(repo))}"
    return Need(repo.name, link, f"behind {since}", "late", why.rstrip(), "See", link)


def strip(days: Sequence[Day], today: date, failing_since: date | None) -> Strip:
    """The last days as a picture: a bar where something was saved, red where a branch was force-pushed."""
    begin = today - timedelta(days=DAYS - 1)
    shown = [one for one in days if begin <= one.day <= today]
    late = 0 if failing_since is None else min(DAYS, (today - failing_since).days + 1)
    backups, forced = sum(one.backups for one in shown), sum(1 for one in shown if one.forced)
    said = f"{words.count(backups, 'backup')} on {words.count(len(shown), 'day')} of the last {DAYS}"
    if forced:
        said += f"; force-pushes on {words.count(forced, 'day')}"
    if late:
        said += f"; failing for {words.count(late, 'day')}"
    return Strip(
        rest=f"M0 21h{3 * DAYS}",
        saved="".join(_bar(one, begin) for one in shown if not one.forced),
        forced="".join(_bar(one, begin) for one in shown if one.forced),
        late=f"M{3 * (DAYS - late)} 21h{3 * late}" if late else "",
        words=said,
    )


def _bar(one: Day, begin: date) -> str:
    height = min(22, 5 + round(3 * log2(one.backups)))
    return f"M{3 * (one.day - begin).days + 1} 22v-{height}"


def _filters(summary: Summary, forced: int) -> list[tuple[str, str, int]]:
    """The states that some repo is in: the word of the address, what people read, and how many."""
    counts = {"forced": forced} | {str(state): number for state, number in summary.states.items()}
    return [(state, label, counts[state]) for state, label in STATES.items() if counts[state]]


def _state(text: str) -> str | None:
    return text if text in STATES else None


def _order(text: str) -> Order:
    return cast(Order, text) if text in get_args(Order) else "name"


def _number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 7 else 1


ENDPOINTS: Final = (
    Endpoint("GET", "/", start, Needs.NOTHING),
    Endpoint("GET", "/{team}", repositories, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/live", live, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/notices/{notice}/seen", dismiss, Needs.OPERATOR),
)
