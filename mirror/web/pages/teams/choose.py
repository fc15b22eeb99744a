"""Choosing what a connection backs up: by a rule, and by ticks that searches and pages keep.

One form says all of it. Without a script, each search and each page sends the form, and what
was ticked elsewhere comes back as boxes of its own; with one, the list alone is fetched.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from mirror.core import words
from mirror.core.errors import EverrefError, UsageError
from mirror.core.rules import choosing
from mirror.core.rules.roles import Role
from mirror.discovery import choose, connections, discover
from mirror.discovery.choose import Chosen
from mirror.discovery.webhooks import Outcome
from mirror.forges.contract import Purpose
from mirror.store.discovery import discovered
from mirror.store.discovery.connections import Connection
from mirror.store.discovery.discovered import DiscoveredRepository
from mirror.store.people import people as people_rows
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.people.connections import address_of, connection_of

ROWS: Final = 100  # repositories on a page
TICKS: Final = 4000  # that one form can have, beside its other fields (FORM_FIELDS)
KINDS: Final = ("private", "archived", "fork", "chosen")  # by which the list is filtered
AFTER: Final = "\t"  # between the two halves of where a page begins
RULES: Final = ("none", "everything", "patterns")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of the list somebody wants to see."""

    search: str
    kinds: Mapping[str, bool | None]  # None: both
    after: tuple[str, str] | None  # name and number of the last one of the page before; None: the first page

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Asked":
        """As an address or a form says it."""
        return cls(
            str(given.get("q", ""))[:200],
            {kind: {"yes": True, "no": False}.get(str(given.get(kind, ""))) for kind in KINDS},
            _begin(str(given.get("after", ""))),
        )

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the form as they were sent."""
        told = {True: "yes", False: "no", None: ""}
        return {"q": self.search} | {kind: told[value] for kind, value in self.kinds.items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody has entered so far."""

    ticked: Collection[str]  # by the forge's number
    rule: str  # one of RULES
    patterns: str

    @classmethod
    def stored(cls, connection: Connection) -> "Choice":
        """What applies now."""
        rule = "everything" if connection.everything else "patterns" if connection.patterns else "none"
        return cls((), rule, " ".join(connection.patterns))

    @classmethod
    def sent(cls, form: FormData, connection: Connection) -> "Choice":
        """What a form says."""
        kept = cls.stored(connection)
        rule = str(form.get("rule", kept.rule))
        return cls(
            dict.fromkeys(str(one) for one in form.getlist("repository")),
            rule if rule in RULES else kept.rule,
            str(form.get("patterns", kept.patterns)),
        )


async def page(context: RequestContext) -> Response:
    """The repositories that a connection can see, to choose from. The first visit lists them."""
    connection = await connection_of(context)
    if connection.listed_at is None and connection.state == "works":
        relist(context, connection)
    asked = Asked.of(context.query)
    if context.query.get("part") == "matching":
        return JSONResponse(dict(await _matching(context, connection, asked)))
    return await _page(context, connection, asked, Choice.stored(connection))


async def turn(context: RequestContext) -> Response:
    """Search, filter or turn a page without a script; what is ticked stays ticked."""
    connection, form = await connection_of(context), await context.form()
    asked, choice = Asked.of(form), Choice.sent(form, connection)
    if form.get("tick") == "all":
        more = [number for number, _ in await _matching(context, connection, asked)]
        choice = Choice(dict.fromkeys((*choice.ticked, *more)), choice.rule, choice.patterns)
    elif form.get("tick") == "none":
        choice = Choice((), choice.rule, choice.patterns)
    return await _page(context, connection, asked, choice)


async def _matching(context: RequestContext, connection: Connection, asked: Asked) -> list[tuple[str, str]]:
    """Number and name of what a search finds that is not backed up yet; of very many, none."""
    kinds = {kind: value for kind, value in asked.kinds.items() if kind != "chosen"}
    if asked.kinds["chosen"]:
        return []
    found = await discovered.matching(
        context.services.db, connection.id, asked.search, limit=TICKS + 1, **kinds
    )
    return found if len(found) <= TICKS else []


async def _page(
    context: RequestContext,
    connection: Connection,
    asked: Asked,
    choice: Choice,
    error: EverrefError | None = None,
) -> Response:
    db = context.services.db
    rows = await discovered.page(
        db, connection.id, search=asked.search, after=asked.after, limit=ROWS + 1, **asked.kinds
    )
    shown, more = rows[:ROWS], len(rows) > ROWS
    here = {row.repository_id for row in shown}
    elsewhere: Sequence[DiscoveredRepository] = ()
    if others := [number for number in choice.ticked if number not in here]:
        elsewhere = [row for row in await discovered.of(db, connection.id, others) if not row.chosen]
    forge = context.services.forges.at(connection.forge, connection.host)
    listing = context.query.get("part") == "list"
    return context.render(
        "choose_list.html" if listing else "choose.html",
        200 if error is None else 422,
        connection=connection,
        rows=shown,
        next_after=f"{shown[-1].full_name}{AFTER}{shown[-1].repository_id}" if more else None,
        begun=asked.after is not None,
        matching=len(await _matching(context, connection, asked)),
        counts=await discovered.counts(db, connection.id),
        busy=context.outside.background.is_busy(_about(connection)),
        asked=asked.fields,
        choice=choice,
        ticked=len(elsewhere) + sum(not row.chosen and row.repository_id in choice.ticked for row in shown),
        elsewhere=elsewhere,
        error=error,
        wrong=words.sentence(error) if isinstance(error, UsageError) and error.field == "patterns" else "",
        missing=connections.missing_scopes(context.services, connection, Purpose.HOOKS),
        oauth=connection.grant_kind == "oauth" and forge.app.registered,
        offered=not listing and await signs_in_by(context, connection) is False,
        manages=context.may(Role.ADMIN),
    )


async def signs_in_by(context: RequestContext, connection: Connection) -> bool | None:
    """Whether this person signs in with the account that they connected. None: somebody else connected it."""
    if connection.grant_kind != "oauth" or connection.person_id != context.owner().id:
        return None
    found = await people_rows.by_identity(
        context.services.db, connection.forge, connection.host, connection.account_id
    )
    return None if found is not None and found.id != context.owner().id else found is not None


async def chose(context: RequestContext) -> Response:
    """Back up what the form says: by its rule, now and later, and what is ticked."""
    connection, form = await connection_of(context), await context.form()
    choice = Choice.sent(form, connection)
    try:
        done = await _done(context, connection, choice)
    except EverrefError as error:
        return await _page(context, connection, Asked.of(form), choice, error)
    if left := await choose.passed_over(context.services, connection.id):
        said = told(done) if done else "Saved."
        verb = "was" if left == 1 else "were"
        stay = "stays so" if left == 1 else "stay so"
        said += f" {left} of the matching repositories {verb} paused or stopped before, and {stay}: "
        return context.redirect(address_of(context, connection), said + "tick below what to back up again.")
    if done:
        return context.redirect(f"/{context.of_team().name}", told(done))
    later = {
        "everything": "Everything is backed up already; repositories added later will be, too.",
        "patterns": "The patterns are saved. No other repository matches them yet.",
        "none": "Saved. Repositories added later are not backed up until somebody chooses them.",
    }
    return context.redirect(address_of(context, connection), later[choice.rule])


async def _done(context: RequestContext, connection: Connection, choice: Choice) -> list[Chosen]:
    """Save the rule where it is another one, then choose what is ticked and not backed up by that.

    Raises UsageError where nothing is chosen.
    """
    by, hint = context.as_logged(), context.hint
    kept = Choice.stored(connection)
    done: list[Chosen] = []
    if choice.rule == "everything":
        done = await choose.choose_everything(context.services, connection.id, by, True, hint=hint)
    elif choice.rule == "patterns":
        given = choice.patterns.split()
        if not given:
            raise UsageError("enter patterns, such as acme/* or */api", field="patterns")
        try:
            patterns = choosing.patterns(given)
        except UsageError as error:
            raise UsageError(str(error), field="patterns") from None
        done = await choose.choose_pattern(context.services, connection.id, by, patterns, hint=hint)
    elif kept.rule != "none":
        await choose.choose_pattern(context.services, connection.id, by, (), hint=hint)
    elif not choice.ticked:
        raise UsageError("nothing is chosen yet: tick the repositories to back up")
    if choice.rule != "none" or kept.rule != "none":
        await context.audit(
            "connection.rule", f"{connection.login} at {connection.host}", detail={"rule": choice.rule}
        )
    rows = await discovered.of(context.services.db, connection.id, list(choice.ticked))
    saved = {row.repository_id for row in rows if row.chosen}
    if ids := [number for number in choice.ticked if number not in saved]:
        done += await choose.choose(context.services, connection.id, by, ids, hint=hint)
    return done


async def list_anew(context: RequestContext) -> Response:
    """Ask the forge again what there is."""
    connection = await connection_of(context)
    relist(context, connection)
    return context.redirect(address_of(context, connection))


def told(done: Sequence[Chosen]) -> str:
    """What was done with a choice, in a line or two."""
    number = len(done)
    said = "1 repository is" if number == 1 else f"{number:,} repositories are"
    said += " backed up from now on; the first backups have started."
    refused = [one for one in done if one.hook is Outcome.REFUSED]
    if refused:
        which = "It" if number == 1 else f"{len(refused)} of them"
        verb = "is" if len(refused) == 1 else "are"
        why = refused[0].why
        said += f" {which} cannot have a webhook ({why}) and {verb} checked on a schedule instead."
    return said


def relist(context: RequestContext, connection: Connection) -> None:
    """List the repositories in the background."""
    work = discover.relist(context.services, connection.id, hint=context.hint)
    context.outside.background.begin(_about(connection), work)


def _about(connection: Connection) -> str:
    return f"listing of {connection.id}"


def _begin(text: str) -> tuple[str, str] | None:
    name, mark, number = text.rpartition(AFTER)
    if not text:
        return None
    if not mark:
        raise HTTPException(400, "this list has no such page")
    return name, number


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/connect/{connection}", page, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}", turn, Needs.ADMIN, large=True),
    Endpoint("POST", "/{team}/-/connect/{connection}/choose", chose, Needs.ADMIN, large=True),
    Endpoint("POST", "/{team}/-/connect/{connection}/list", list_anew, Needs.ADMIN),
)
