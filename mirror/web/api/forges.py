"""Where a team's repositories come from: its connections, what they see, and what is chosen of it."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from mirror import choosing
from mirror.config import app_at
from mirror.errors import NotFound, UsageError
from mirror.flows import choose, relist
from mirror.flows import connections as connecting
from mirror.forges.contract import Tokens
from mirror.store import connections, listed
from mirror.store.connections import ConnectionId
from mirror.web.api.call import Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.repos import by, hint
from mirror.web.api.shapes import Chosen, Connection, ListedRepository, Nothing, Page, Paged, Told, Words
from mirror.web.api.team import TEAM
from mirror.web.frame import Needs, Visit

CONNECTION: Final = f"{TEAM}/connections/{{connection}}"


class ConnectionWanted(Body, frozen=True, kw_only=True):
    """An account to connect by a token that its owner made."""

    forge: Literal["github", "gitlab"]
    token: Annotated[str, Meta(min_length=1, max_length=10_000)]
    host: (
        Annotated[Words, Meta(description="of a self-managed one; else github.com or gitlab.com")] | None
    ) = None


class ListedAsked(Paged, frozen=True, kw_only=True):
    """Which repositories."""

    q: Words | None = None
    private: bool | None = None
    archived: bool | None = None
    fork: bool | None = None
    chosen: bool | None = None


class Choice(Body, frozen=True, kw_only=True):
    """Which repositories to keep."""

    repositories: Annotated[list[Words], Meta(min_length=1, max_length=1000)]


class Rule(Body, frozen=True, kw_only=True):
    """What to keep by itself, now and later: everything, or what matches one of the patterns, or nothing."""

    everything: bool = False
    patterns: Annotated[list[Words], Meta(max_length=100)] = []


async def list_connections(visit: Visit) -> Page[Connection]:
    """The team's connections."""
    found = await connections.of_team(visit.edges.db, visit.of_team().id)
    return Page(items=[Connection.of(one) for one in found], next=None)


async def connect(visit: Visit, body: ConnectionWanted) -> Connection:
    """Connect an account by a personal access token; its repositories are listed in the background."""
    if not body.token.isascii() or not body.token.isprintable():
        raise UsageError("give the token as the forge showed it")
    host = _host(body.host)
    known = [app for app in visit.edges.settings.apps if app.forge == body.forge]
    app = next((one for one in known if host in (None, one.host)), None)
    if app is None and host is None:
        raise UsageError(f"say at which host; none is known for {body.forge}")
    app = app or app_at(body.forge, f"https://{host}")
    made = await connecting.connect(
        visit.edges, visit.of_team().id, visit.owner().id, app, Tokens(body.token), "token"
    )
    await visit.audit("connection.add", f"{made.login} at {made.host}", detail={"by": "token"})
    _list(visit, made)
    return Connection.of(made)


async def connection(visit: Visit) -> Connection:
    """A connection, and whether it works."""
    return Connection.of(await connection_of(visit))


async def list_repositories(visit: Visit, asked: ListedAsked) -> Page[ListedRepository]:
    """What a connection sees at its forge, by name."""
    found = await listed.page(
        visit.edges.db,
        (await connection_of(visit)).id,
        search=asked.q or "",
        private=asked.private,
        archived=asked.archived,
        fork=asked.fork,
        chosen=asked.chosen,
        after=begin(asked.cursor, tuple[str, str]),
        limit=asked.limit + 1,
    )
    shown = found[: asked.limit]
    more = None
    if len(found) > asked.limit:
        more = cursor((shown[-1].full_name, shown[-1].repository_id))
    return Page(items=[ListedRepository.of(one) for one in shown], next=more)


async def list_anew(visit: Visit, body: Nothing) -> Connection:
    """Ask the forge again what there is; it is listed in the background."""
    found = await connection_of(visit)
    _list(visit, found)
    return Connection.of(found)


async def choose_repositories(visit: Visit, body: Choice) -> Page[Chosen]:
    """Keep these repositories from now on."""
    found = await connection_of(visit)
    done = await choose.choose(visit.edges, found.id, by(visit), body.repositories, hint=hint(visit))
    return Page(items=[Chosen.of(one) for one in done], next=None)


async def set_rule(visit: Visit, body: Rule) -> Page[Chosen]:
    """Say what is kept by itself, now and later; what it means now is kept at once."""
    found = await connection_of(visit)
    if body.everything and body.patterns:
        raise UsageError("say everything, or patterns, not both")
    patterns = choosing.patterns(body.patterns)
    if body.everything:
        done = await choose.choose_everything(visit.edges, found.id, by(visit), True, hint=hint(visit))
    else:
        done = await choose.choose_pattern(visit.edges, found.id, by(visit), patterns, hint=hint(visit))
    rule = "everything" if body.everything else "patterns" if patterns else "none"
    await visit.audit("connection.rule", f"{found.login} at {found.host}", detail={"rule": rule})
    return Page(items=[Chosen.of(one) for one in done], next=None)


async def disconnect(visit: Visit) -> Told:
    """End a connection. Every backup stays."""
    found = await connection_of(visit)
    left = await choose.disconnect(visit.edges, found.id, by(visit))
    await visit.audit("connection.remove", f"{found.login} at {found.host}")
    return Told(notes=list(left))


def _list(visit: Visit, found: connections.Connection) -> None:
    work = relist.relist(visit.edges, found.id, hint=hint(visit))
    visit.outside.background.begin(f"listing of {found.id}", work)


async def connection_of(visit: Visit) -> connections.Connection:
    """The path's connection, of this team. Raises NotFound."""
    chosen = ConnectionId(uuid_of(visit, "connection", "connection"))
    found = await connections.find(visit.edges.db, visit.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such connection")
    return found


def _host(text: str | None) -> str | None:
    if not text or not text.strip():
        return None
    host = text.strip().lower().removeprefix("https://").rstrip("/")
    if not host or any(one in host for one in "/@?#\\ ") or not host.isascii() or not host.isprintable():
        raise UsageError("say at which host, as in gitlab.example.org")
    return host


CALLS: Final[Sequence[Call]] = (
    call("GET", f"{TEAM}/connections", list_connections, Needs.VIEWER),
    call("POST", f"{TEAM}/connections", connect, Needs.ADMIN, "admin", status=201),
    call("GET", CONNECTION, connection, Needs.VIEWER),
    call("DELETE", CONNECTION, disconnect, Needs.ADMIN, "admin", sure=True),
    call("GET", f"{CONNECTION}/repositories", list_repositories, Needs.ADMIN, "admin"),
    call("POST", f"{CONNECTION}/list", list_anew, Needs.ADMIN, "admin", status=202),
    call("POST", f"{CONNECTION}/choose", choose_repositories, Needs.ADMIN, "admin"),
    call("PUT", f"{CONNECTION}/rule", set_rule, Needs.ADMIN, "admin"),
)
