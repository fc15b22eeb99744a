"""Where a team's repositories come from: its connections, what they can see, and what is chosen."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from mirror.core.config import app_at
from mirror.core.errors import NotFound, UsageError
from mirror.core.rules import choosing
from mirror.discovery import choose, discover
from mirror.discovery import connections as connecting
from mirror.forges.contract import Tokens
from mirror.shapes.base import Page
from mirror.shapes.discovery import Chosen, Connection, ListedRepository
from mirror.store.discovery import connections, discovered
from mirror.store.discovery.connections import ConnectionId
from mirror.web.api.call import Body, Call, begin, call, cursor, uuid_of
from mirror.web.api.shapes import Nothing, Paged, Told, Words
from mirror.web.api.team import TEAM
from mirror.web.dispatch import Needs, RequestContext

CONNECTION: Final = f"{TEAM}/connections/{{connection}}"


class ConnectionWanted(Body, frozen=True, kw_only=True):
    """An account to connect with a token that its owner made."""

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
    """Which repositories to back up."""

    repositories: Annotated[list[Words], Meta(min_length=1, max_length=1000)]


class Rule(Body, frozen=True, kw_only=True):
    """What to back up automatically, now and later: everything, or what matches a pattern, or nothing."""

    everything: bool = False
    patterns: Annotated[list[Words], Meta(max_length=100)] = []


async def list_connections(context: RequestContext) -> Page[Connection]:
    """The team's connections."""
    found = await connections.of_team(context.services.db, context.of_team().id)
    return Page(items=[Connection.of(one) for one in found], next=None)


async def connect(context: RequestContext, body: ConnectionWanted) -> Connection:
    """Connect an account by a personal access token; its repositories are listed in the background."""
    if not body.token.isascii() or not body.token.isprintable():
        raise UsageError("send the token exactly as the host showed it")
    host = _host(body.host)
    known = [app for app in context.services.settings.apps if app.forge == body.forge]
    app = next((one for one in known if host in (None, one.host)), None)
    if app is None and host is None:
        raise UsageError(f"give the host; none is known for {body.forge}")
    app = app or app_at(body.forge, f"https://{host}")
    made = await connecting.connect(
        context.services, context.of_team().id, context.owner().id, app, Tokens(body.token), "token"
    )
    await context.audit("connection.add", f"{made.login} at {made.host}", detail={"by": "token"})
    _list(context, made)
    return Connection.of(made)


async def connection(context: RequestContext) -> Connection:
    """A connection, and whether it works."""
    return Connection.of(await connection_of(context))


async def list_repositories(context: RequestContext, asked: ListedAsked) -> Page[ListedRepository]:
    """The repositories that a connection can see at its host, by name."""
    found = await discovered.page(
        context.services.db,
        (await connection_of(context)).id,
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


async def list_anew(context: RequestContext, body: Nothing) -> Connection:
    """List the repositories at the host again, in the background."""
    found = await connection_of(context)
    _list(context, found)
    return Connection.of(found)


async def choose_repositories(context: RequestContext, body: Choice) -> Page[Chosen]:
    """Back up these repositories from now on."""
    found = await connection_of(context)
    done = await choose.choose(
        context.services, found.id, context.as_logged(), body.repositories, hint=context.hint
    )
    return Page(items=[Chosen.of(one) for one in done], next=None)


async def set_rule(context: RequestContext, body: Rule) -> Page[Chosen]:
    """Set what is backed up automatically, now and later; what matches now is backed up at once."""
    found = await connection_of(context)
    if body.everything and body.patterns:
        raise UsageError("send either everything or patterns, not both")
    patterns = choosing.patterns(body.patterns)
    if body.everything:
        done = await choose.choose_everything(
            context.services, found.id, context.as_logged(), True, hint=context.hint
        )
    else:
        done = await choose.choose_pattern(
            context.services, found.id, context.as_logged(), patterns, hint=context.hint
        )
    rule = "everything" if body.everything else "patterns" if patterns else "none"
    await context.audit("connection.rule", f"{found.login} at {found.host}", detail={"rule": rule})
    return Page(items=[Chosen.of(one) for one in done], next=None)


async def disconnect(context: RequestContext) -> Told:
    """Remove a connection. Every backup stays."""
    found = await connection_of(context)
    left = await choose.disconnect(context.services, found.id, context.as_logged())
    await context.audit("connection.remove", f"{found.login} at {found.host}")
    return Told(notes=list(left))


def _list(context: RequestContext, found: connections.Connection) -> None:
    work = discover.relist(context.services, found.id, hint=context.hint)
    context.outside.background.begin(f"listing of {found.id}", work)


async def connection_of(context: RequestContext) -> connections.Connection:
    """The path's connection, of this team. Raises NotFound."""
    chosen = ConnectionId(uuid_of(context, "connection", "connection"))
    found = await connections.find(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such connection")
    return found


def _host(text: str | None) -> str | None:
    if not text or not text.strip():
        return None
    host = text.strip().lower().removeprefix("https://").rstrip("/")
    if not host or any(one in host for one in "/@?#\\ ") or not host.isascii() or not host.isprintable():
        raise UsageError("give the host, such as gitlab.example.org")
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
