"""The home of a team: whether everything is protected, what needs attention, and every repo."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from math import log2
from typing import Final, cast, get_args
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from mirror.core import words
from mirror.core.model import RepoId
from mirror.core.rules.health.causes import repositories as repositories_in_words
from mirror.core.times import zones
from mirror.discovery import webhooks
from mirror.store.browse import causes, found, home, predictions
from mirror.store.browse.causes import Forced, Settlement, Settling
from mirror.store.browse.found import FoundCommit, FoundRef
from mirror.store.browse.home import Day, Order, Summary, Wanted
from mirror.store.notify import sendings
from mirror.store.people import notices, quotas, teams
from mirror.store.people.teams import Team
from mirror.store.repos import State
from mirror.store.upkeep import outages, vaults
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.live import follow
from mirror.web.pages import needs as causes_shown
from mirror.web.pages.needs import AWAY, UNSAVED, Act, Need, Told

ROWS: Final = 50  # repos on a page
DAYS: Final = 90  # of the strip
LATELY: Final = timedelta(days=7)  # for which a force-push, and what was settled, is news
SETTLED: Final = 10  # lines of what was settled
FOUND: Final = 20  # refs, and commits, that a search shows
HOLDING: Final = frozenset({"unknown", "unsaved", "vault", "disk", "over"})  # during which nothing is saved
WIDE: Final = 1000  # of the bar, in its own unit
SLIM: Final = 8  # of a part of it that would be too small to be seen
ORDERS: Final[Mapping[Order, str]] = {
    "trouble": "What matters",
    "name": "Name",
    "state": "Worst first",
    "saved": "Last saved",
    "size": "Largest first",
}
STATES: Final[Mapping[str, str]] = {
    "protected": "protected",
    "behind": "being saved",
    "late": "late",
    "failing": "failing",
    "never": "not saved yet",
    "damaged": "damaged",
    "paused": "paused",
    "archived": "gone",
}


@dataclass(frozen=True, slots=True)
class Part:
    """The repos in one state: a part of the bar, and of the sentence."""

    state: str  # in an address
    label: str
    number: int
    tone: str  # its class
    left: int = 0  # of WIDE
    width: int = 0


@dataclass(frozen=True, slots=True)
class Strip:
    """The last days as paths of an SVG, by what they stand for, and the same in words."""

    rest: str  # a line under all days
    saved: str
    forced: str
    late: str
    words: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a team stands: the sentence, the bar, and what needs attention."""

    team: Team
    summary: Summary
    title: str
    parts: Sequence[Part]
    needs: Sequence[Need]
    forced: Sequence[Forced] = ()

    def address(self, **asked: str) -> str:
        """The team's home, asked for some of it."""
        return templating.url(f"/{self.team.name}", **asked)


async def start(context: RequestContext) -> Response:
    """The person's own team; all of them, where there are several; or the sign-in page."""
    if context.person is None:
        return RedirectResponse("/sign-in", 303)
    if len(context.memberships) > 1:
        held = await _held_up(context)
        return context.render(
            "teams.html",
            standings=[await _standing(context, one.team, held) for one in context.memberships],
            wide=WIDE,
            most=3,
        )
    team = await teams.home(context.services.db, context.person.id)
    return RedirectResponse("/account" if team is None else f"/{quote(team.name)}", 303)


async def _standing(context: RequestContext, team: Team, held_up: Need | None) -> Standing:
    db, now = context.services.db, context.now
    summary = await home.summary(db, team.id, now)
    forced = await causes.forced_lately(db, team.id, now - LATELY)
    told = Told(
        troubles=await causes.troubles(db, team.id, now, causes_shown.NAMES),
        forced=forced,
        notices=await notices.open_of(db, team.id),
        over=await quotas.is_over(db, team.id),
        dead=await sendings.dead(db, team.id),
    )
    listed = causes_shown.needs(team.name, now, told)
    if held_up:  # which is why
        listed = [one for one in listed if one.key != "unchecked"]
    first = [one for one in (held_up, *listed[:1]) if one and one.key in HOLDING]
    return Standing(
        team,
        summary,
        first[0].title if first else sentence(summary),
        parts(summary, bool(first)),
        [*([held_up] if held_up else []), *listed],
        forced,
    )


async def repositories(context: RequestContext) -> Response:
    """The home of a team; with a search or a filter, what it finds comes first."""
    db, team = context.services.db, context.of_team()
    asked = {name: context.query.get(name, "")[:200].strip() for name in ("q", "state", "cause", "sort")}
    unknown = await _unknown(context)
    standing = await _standing(context, team, unknown or await _held_up(context))
    if not standing.summary.total:
        return context.render(
            "home.html",
            summary=standing.summary,
            mark=mark(standing.summary, unknown),
            title="The history is missing" if unknown else "Nothing is backed up yet",
            unknown=unknown,
            needs=[one for one in standing.needs if one.key.startswith(("notice-", "token:"))],
            first=causes_shown.FIRST,
            settled=[],
            registered=[app for app in context.services.settings.apps if app.registered],
        )
    state, order = _state(asked["state"]), _order(asked["sort"])
    number = _number(context.query.get("page", ""))
    rows, matches = await home.page(
        db,
        team.id,
        Wanted(
            asked["q"],
            None if state == "forced" else cast(State | None, state),
            await _only(context, state, asked["cause"], standing.forced),
            order=order,
            first=[one.repo_id for one in standing.forced],
        ),
        ROWS,
        (number - 1) * ROWS,
        now=context.now,
    )
    refs, commits = await _found(context, asked["q"])
    if "go" in context.query and len(rows) == matches == 1 and not refs and not commits:
        return context.redirect(templating.repo_url(team.name, rows[0].name))
    today = context.now.astimezone(context.zone).date()
    first = zones.moment_of(datetime.combine(today - timedelta(days=DAYS - 1), time()), context.zone)
    days = await home.strips(db, [row.id for row in rows], first, context.zone.key)
    narrowed = bool(asked["q"] or asked["cause"] or state)
    settled = [] if narrowed else await causes.settled_lately(db, team.id, context.now - LATELY, SETTLED)
    return context.render(
        "home.html",
        title=standing.title,
        summary=standing.summary,
        parts=standing.parts,
        wide=WIDE,
        mark=mark(standing.summary, *standing.needs[:1]),
        on_their_way=on_their_way(standing.summary.hooks_waiting, context.now),
        needs=standing.needs,
        first=causes_shown.FIRST,
        settled=causes_shown.done(team.name, settled),
        soon=[] if narrowed else await predictions.of_team(db, team.id),
        rows=rows,
        matches=matches,
        refs=refs,
        commits=commits,
        commit_id=found.commit_id(asked["q"]),
        shown=FOUND,
        strips={
            row.id: strip(
                days[row.id],
                today,
                row.failure.since.astimezone(context.zone).date() if row.failure else None,
            )
            for row in rows
        },
        forced={one.repo_id: one for one in standing.forced},
        state=state,
        cause=next((one for one in standing.needs if one.key == asked["cause"]), None),
        narrowed=narrowed,
        order=order,
        orders=ORDERS,
        number=number,
        numbers=templating.pages(number, max(1, -(-matches // ROWS))),
        asked=asked,
        address=lambda **changes: templating.url(f"/{team.name}", **(asked | changes)),
        page_address=lambda n: templating.url(f"/{team.name}", **asked, page=n),
    )


async def _only(
    context: RequestContext, state: str | None, cause: str, forced: Sequence[Forced]
) -> list[RepoId] | None:
    """The repos among which the list is, by a cause or by a force-push. None: all."""
    if cause:
        return await causes.of_cause(context.services.db, context.of_team().id, context.now, cause)
    return [one.repo_id for one in forced] if state == "forced" else None


async def _found(context: RequestContext, text: str) -> tuple[Sequence[FoundRef], Sequence[FoundCommit]]:
    """The refs and commits of all the team's repos that a search means."""
    db, team = context.services.db, context.of_team()
    if not text:
        return [], []
    commits = await found.commits(db, team.id, text, FOUND + 1)
    return await found.refs(db, team.id, text, FOUND + 1), commits


async def live(context: RequestContext) -> Response:
    """Tell the page that something changed, so that it loads itself again."""

    async def look() -> tuple[str, bool]:
        db, team = context.services.db, context.of_team()
        summary = await home.summary(db, team.id, context.services.clock())  # time alone makes repos late
        return mark(summary, await _unknown(context) or await _held_up(context)), False

    return await follow(context, look)


async def _unknown(context: RequestContext) -> Need | None:
    """That the database was lost, shown to the team of whoever runs Everref. None: it was not."""
    number = await vaults.unknown(context.services.db) if context.of_team().name == teams.DEFAULT else 0
    if not number:
        return None
    return Need(
        key="unknown",
        title="This database does not know the history of this vault",
        link="/status",
        chip="the database was lost",
        tone="lost",
        why=words.sentence(words.not_known(number)) + " That brings back every backup that the vault has.",
        acts=(Act("See what is wrong", "/status"),),
    )


async def _held_up(context: RequestContext) -> Need | None:
    """Why nothing new is saved for any repo: no worker runs, or a shared part is away. None: it is saved."""
    alone, one = await outages.held_up(context.services.db)
    if alone:
        return UNSAVED
    if one is None:
        return None
    return replace(
        UNSAVED,
        key=str(one.origin),
        chip=AWAY[one.origin],
        why="Pushes wait, and are saved once it is back; until then, none is. This started",
        since=one.since,
    )


def mark(summary: Summary, held_up: Need | None = None) -> str:
    """A text that differs whenever the home page has something new to show."""
    saved = "" if summary.saved_at is None else summary.saved_at.isoformat()
    held = held_up.chip if held_up and held_up.key in HOLDING - {"over"} else ""
    numbers = (str(number) for number in summary.states.values())
    return " ".join([saved, held, *numbers, summary.news])


async def dismiss(context: RequestContext) -> Response:
    """Settle a notice."""
    number = str(context.path["notice"])
    if not number.isdecimal() or len(number) > 18:
        raise HTTPException(404, "there is no such notice")
    db, team = context.services.db, context.of_team()
    notice = next((one for one in await notices.open_of(db, team.id) if one.id == int(number)), None)
    if await notices.seen(db, team.id, int(number), context.now) and notice:
        repos = [notice.repo_id] if notice.repo_id else None
        await _settle(context, "notice", words.sentence(notice.message), repos)
    return context.redirect(templating.url(f"/{team.name}"))


async def settle(context: RequestContext) -> Response:
    """Settle a force-push, or repositories that are gone or have no webhook; it is recorded who did."""
    db, team = context.services.db, context.of_team()
    form = await context.form()
    kind, _, _ = (cause := str(form.get("cause", ""))).partition(":")
    if kind in ("archived", "hook"):
        repos = await causes.of_cause(db, team.id, context.now, cause)
        if repos:
            subject = f"{repositories_in_words(len(repos))} without a webhook"
            if kind == "archived":
                subject = f"{repositories_in_words(len(repos))} no longer at their hosts"
            await _settle(context, cast(Settling, kind), subject, repos)
    else:
        name, number = str(form.get("repo", "")), str(form.get("snapshot", ""))
        forced = await causes.forced_lately(db, team.id, context.now - LATELY)
        one = next((one for one in forced if one.repo == name), None)
        if one and number.isdecimal() and len(number) < 10 and int(number) >= one.snapshot:
            await _settle(context, "forced", causes_shown.settled_as(one), [one.repo_id], one.snapshot)
    return context.redirect(templating.url(f"/{team.name}"))


async def _settle(
    context: RequestContext,
    kind: Settling,
    subject: str,
    repos: Sequence[RepoId] | None,
    snapshot: int | None = None,
) -> None:
    done = Settlement(kind, subject, context.owner().id, context.now)
    await causes.settle(context.services.db, context.of_team().id, done, repos, snapshot)
    await context.audit("need.settle", subject, repos[0] if repos and len(repos) == 1 else None)


def parts(summary: Summary, held_up: bool = False) -> list[Part]:
    """The states that some repo is in, in the order of the bar; they add up to all repos.

    `held_up`: nothing new is saved for any repo, so that none is shown as well.
    """
    counts = {str(state): number for state, number in summary.states.items()}
    shown = [
        Part(state, label, counts[state], "late" if held_up and state == "protected" else state)
        for state, label in STATES.items()
        if counts[state]
    ]
    if held_up:
        shown = [
            replace(one, label="saved before that") if one.state == "protected" else one for one in shown
        ]
    widths = [max(SLIM, WIDE * one.number // summary.total) for one in shown]
    widest = max(range(len(widths)), key=lambda n: widths[n]) if widths else 0
    if widths:
        widths[widest] += WIDE - sum(widths)
    return [replace(one, left=sum(widths[:place]), width=widths[place]) for place, one in enumerate(shown)]


def sentence(summary: Summary) -> str:
    """Whether everything is protected, in one line that adds up."""
    shown = parts(summary)
    if not shown:
        return "Nothing is backed up yet"
    if summary.total == 1:
        return f"1 repository, {shown[0].label}"
    all_of_them = repositories_in_words(summary.total)
    if len(shown) == 1:
        return f"{all_of_them}, {'none saved yet' if shown[0].state == 'never' else f'all {shown[0].label}'}"
    told = [f"{one.number:,} {one.label}" for one in shown]
    if shown[0].state != "protected":
        told.insert(0, "none protected")
    return f"{all_of_them}: {', '.join(told)}"


def on_their_way(waiting: int, now: datetime) -> str | None:
    """What to say about webhooks that wait to be registered. None: there are none."""
    if not waiting:
        return None
    minutes = round((webhooks.registered_by(waiting, now) - now).total_seconds() / 60)
    many = "1 webhook is" if waiting == 1 else f"{waiting:,} webhooks are"
    return f"{many} being registered (within {minutes} min); until then pushes are found on a schedule."


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


def _state(text: str) -> str | None:
    return text if text in STATES or text == "forced" else None


def _order(text: str) -> Order:
    return cast(Order, text) if text in get_args(Order) else "trouble"


def _number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdecimal() and len(text) < 7 else 1


ENDPOINTS: Final = (
    Endpoint("GET", "/", start, Needs.NOTHING),
    Endpoint("GET", "/{team}", repositories, Needs.VIEWER),
    Endpoint("GET", "/{team}/-/live", live, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/settle", settle, Needs.OPERATOR),
    Endpoint("POST", "/{team}/-/notices/{notice}/seen", dismiss, Needs.OPERATOR),
)
