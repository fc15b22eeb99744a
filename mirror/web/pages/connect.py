"""Where a team's repositories come from: its connections, choosing from them, and any git URL."""

from collections.abc import Sequence
from typing import Final, cast
from urllib.parse import quote
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.core import words
from mirror.core.config import Product, app_at
from mirror.core.errors import EverrefError, NotFound, Refused, UsageError
from mirror.core.model import Secret
from mirror.core.rules import choosing
from mirror.core.rules.roles import Role
from mirror.discovery import choose, connections, discover
from mirror.discovery.choose import Chosen
from mirror.discovery.webhooks import Outcome
from mirror.forges.contract import Purpose, Tokens
from mirror.people import accounts
from mirror.services import ssh_access
from mirror.store.discovery import connections as store
from mirror.store.discovery import discovered
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.people import people as people_rows
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages import oauth

ROWS: Final = 100  # repositories on a page
KINDS: Final = ("private", "archived", "fork", "chosen")  # by which the list is filtered
AFTER: Final = "\t"  # between the two halves of where a page begins


async def page(context: RequestContext, error: EverrefError | None = None, token: bool = False) -> Response:
    """The team's connections, and the ways to make one."""
    apps = context.services.settings.apps
    return context.render(
        "connect.html",
        200 if error is None else 422,
        error=error,
        connections=await store.of_team(context.services.db, context.of_team().id),
        registered=[app for app in apps if app.registered],
        hosts=[app.host for app in apps],
        by_token=token,
    )


async def by_token(context: RequestContext) -> Response:
    """Connect by a personal access token."""
    form = await context.form()
    product, host = str(form.get("forge", "")), str(form.get("host", "")).strip().lower()
    try:
        if product not in ("github", "gitlab"):
            raise UsageError("choose GitHub or GitLab")
        raw = _token(str(form.get("token", "")))
        known = [app for app in context.services.settings.apps if app.forge == product]
        app = next((one for one in known if host in ("", one.host)), None)
        app = app or app_at(cast(Product, product), f"https://{_host(host)}")
        connection = await connections.connect(
            context.services, context.of_team().id, context.owner().id, app, Tokens(raw), "token"
        )
    except EverrefError as error:
        return await page(context, error, token=True)
    await context.audit("connection.add", f"{connection.login} at {connection.host}", detail={"by": "token"})
    await connections.request_refused(context.services, connection.id, context.hint)
    return context.redirect(_address(context, connection))


async def again(context: RequestContext) -> Response:
    """Let a forge accept a connection's token again: to its consent, or to the field for a pasted token."""
    connection = await _connection(context)
    back = _address(context, connection)
    to = oauth.local(str((await context.form()).get("next", "")), back)
    app = context.services.forges.at(connection.forge, connection.host).app
    if connection.grant_kind == "oauth" and app.registered:
        return oauth.ask_again(context, connection, to)
    return context.redirect(templating.url(f"{back}/token", next=to))


async def token_page(context: RequestContext) -> Response:
    """The field for another personal access token of a connection's account."""
    return _token_page(context, await _connection(context), context.query.get("next", ""))


def _token_page(
    context: RequestContext, connection: Connection, to: str, error: EverrefError | None = None
) -> Response:
    return context.render(
        "token.html",
        200 if error is None else 422,
        connection=connection,
        next=oauth.local(to, _address(context, connection)),
        wrong=words.sentence(error) if error else "",
    )


async def replace_token(context: RequestContext) -> Response:
    """Take another personal access token for a connection's account, and start what failed without it."""
    connection, form = await _connection(context), await context.form()
    to = str(form.get("next", ""))
    try:
        token = _token(str(form.get("token", "")))
        now = await connections.connect_again(context.services, connection, context.owner().id, token)
    except EverrefError as error:
        return _token_page(context, connection, to, error)
    await context.audit("connection.add", f"{now.login} at {now.host}", detail={"by": "token"})
    started = await connections.request_refused(context.services, now.id, context.hint)
    app = context.services.forges.at(now.forge, now.host).app
    return context.redirect(oauth.local(to, _address(context, now)), oauth.accepted(app, now.login, started))


async def repositories(context: RequestContext) -> Response:
    """The repositories that a connection can see, to choose from. The first visit lists them."""
    connection = await _connection(context)
    if connection.listed_at is None and connection.state == "works":
        _list(context, connection)
    busy = context.outside.background.is_busy(_about(connection))
    search = context.query.get("q", "")[:200]
    kinds = {kind: _either(context.query.get(kind)) for kind in KINDS}
    after = context.query.get("after", "")
    rows = await discovered.page(
        context.services.db,
        connection.id,
        search=search,
        after=_begin(after),
        limit=ROWS + 1,
        **kinds,
    )
    forge = context.services.forges.at(connection.forge, connection.host)
    oauth = connection.grant_kind == "oauth" and forge.app.registered
    return context.render(
        "choose.html",
        connection=connection,
        rows=rows[:ROWS],
        more=f"{rows[ROWS - 1].full_name}{AFTER}{rows[ROWS - 1].repository_id}" if len(rows) > ROWS else None,
        counts=await discovered.counts(context.services.db, connection.id),
        busy=busy,
        asked={"q": search} | {kind: context.query.get(kind, "") for kind in KINDS},
        missing=connections.missing_scopes(context.services, connection, Purpose.HOOKS),
        oauth=oauth,
        offered=await _signs_in_by(context, connection) is False,
        manages=context.may(Role.ADMIN),
    )


async def _signs_in_by(context: RequestContext, connection: Connection) -> bool | None:
    """Whether this person signs in with the account that they connected. None: somebody else connected it."""
    if connection.grant_kind != "oauth" or connection.person_id != context.owner().id:
        return None
    found = await people_rows.by_identity(
        context.services.db, connection.forge, connection.host, connection.account_id
    )
    return None if found is not None and found.id != context.owner().id else found is not None


async def sign_in_by(context: RequestContext) -> Response:
    """Let the person who connected an account also sign in with it; the forge has said whose it is."""
    connection = await _connection(context)
    if await _signs_in_by(context, connection) is None:
        raise Refused("only the person who connected this account by OAuth can sign in with it")
    await accounts.link_identity(
        context.services.db,
        context.by(),
        connection.forge,
        connection.host,
        connection.account_id,
        connection.login,
    )
    said = f"You can now also sign in with {connection.login} at {connection.host}."
    return context.redirect(_address(context, connection), said)


async def chose(context: RequestContext) -> Response:
    """Back up the repositories that were ticked."""
    connection = await _connection(context)
    ids = [str(one) for one in (await context.form()).getlist("repository")]
    if not ids:
        return context.redirect(
            _address(context, connection), "Nothing was ticked. Tick the repositories to back up."
        )
    done = await choose.choose(context.services, connection.id, context.as_logged(), ids, hint=context.hint)
    return context.redirect(f"/{context.of_team().name}", told(done))


async def rule(context: RequestContext) -> Response:
    """Back up everything, now and later; or what matches; or only what is chosen one by one."""
    connection = await _connection(context)
    form = await context.form()
    which, patterns = str(form.get("rule", "")), str(form.get("patterns", "")).split()
    try:
        if which == "everything":
            done = await choose.choose_everything(
                context.services, connection.id, context.as_logged(), True, hint=context.hint
            )
        else:
            if which == "patterns" and not patterns:
                raise UsageError("nothing was changed: enter patterns, such as acme/* or */api")
            given = choosing.patterns(patterns if which == "patterns" else ())
            done = await choose.choose_pattern(
                context.services, connection.id, context.as_logged(), given, hint=context.hint
            )
    except UsageError as error:
        return context.redirect(_address(context, connection), str(error))
    await context.audit(
        "connection.rule", f"{connection.login} at {connection.host}", detail={"rule": which or "none"}
    )
    if left := await choose.passed_over(context.services, connection.id):
        said = told(done) if done else "The rule is saved."
        verb = "was" if left == 1 else "were"
        stay = "stays so" if left == 1 else "stay so"
        said += f" {left} of the matching repositories {verb} paused or stopped before, and {stay}: "
        return context.redirect(_address(context, connection), said + "tick below what to back up again.")
    if done:
        return context.redirect(f"/{context.of_team().name}", told(done))
    return context.redirect(_address(context, connection), "The rule is saved. No new repository matches it.")


async def list_anew(context: RequestContext) -> Response:
    """Ask the forge again what there is."""
    connection = await _connection(context)
    _list(context, connection)
    return context.redirect(_address(context, connection))


async def disconnect(context: RequestContext) -> Response:
    """Remove a connection. Every backup stays."""
    connection = await _connection(context)
    left = await choose.disconnect(context.services, connection.id, context.as_logged())
    await context.audit("connection.remove", f"{connection.login} at {connection.host}")
    said = f"{connection.login} at {connection.host} is disconnected. Every backup stays."
    lines = [said, *(f"{one}." for one in left[:3])]
    return context.redirect(f"/{context.of_team().name}/-/connect", " ".join(lines))


async def url_page(
    context: RequestContext, error: EverrefError | None = None, url: str = "", name: str = ""
) -> Response:
    """A form for any git address."""
    return context.render(
        "url.html",
        200 if error is None else 422,
        error=error,
        url=url,
        name=name,
        deploy_key=await ssh_access.known_key(context.services, context.of_team().id),
    )


async def make_ssh_key(context: RequestContext) -> Response:
    """Make the team's deploy key for ssh hosts; a team has one at most."""
    team = context.of_team()
    await ssh_access.team_key(context.services, team.id)
    await context.audit("ssh-key.make", team.name)
    return context.redirect(f"/{team.name}/-/connect/url")


async def add_url(context: RequestContext) -> Response:
    """Back up any git remote."""
    form = await context.form()
    url, name = str(form.get("url", "")).strip(), str(form.get("name", "")).strip()
    token, username = str(form.get("token", "")).strip(), str(form.get("username", "")).strip()
    key = str(form.get("key", "")).replace("\r\n", "\n").strip()
    secret = Secret(username or "", token or key) if token or key else None
    try:
        repo = await choose.add_url(
            context.services,
            context.of_team().id,
            context.as_logged(),
            url,
            secret,
            name or None,
            hint=context.hint,
        )
    except EverrefError as error:
        shown = "" if "@" in url else url  # it may contain a password
        return await url_page(context, error, shown, name)
    return context.redirect(f"/{context.of_team().name}/{quote(repo.name)}", "Its first backup starts now.")


def told(done: Sequence[Chosen]) -> str:
    """What was done with a choice, in a line or two."""
    number = len(done)
    said = "1 repository is" if number == 1 else f"{number} repositories are"
    said += " backed up from now on; the first backups have started."
    refused = [one for one in done if one.hook is Outcome.REFUSED]
    if refused:
        which = "It" if number == 1 else f"{len(refused)} of them"
        verb = "is" if len(refused) == 1 else "are"
        why = refused[0].why
        said += f" {which} cannot have a webhook ({why}) and {verb} checked on a schedule instead."
    return said


def _list(context: RequestContext, connection: Connection) -> None:
    work = discover.relist(context.services, connection.id, hint=context.hint)
    context.outside.background.begin(_about(connection), work)


def _about(connection: Connection) -> str:
    return f"listing of {connection.id}"


async def _connection(context: RequestContext) -> Connection:
    """The path's connection, of this team. Raises NotFound."""
    try:
        chosen = ConnectionId(UUID(str(context.path["connection"])))
    except ValueError:
        raise NotFound("there is no such connection") from None
    found = await store.find(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such connection")
    return found


def _address(context: RequestContext, connection: Connection) -> str:
    return f"/{context.of_team().name}/-/connect/{connection.id}"


def _token(text: str) -> str:
    raw = text.strip()
    if not raw or not raw.isascii() or not raw.isprintable():
        raise UsageError("paste the token exactly as the host showed it", field="token")
    return raw


def _host(text: str) -> str:
    host = text.removeprefix("https://").rstrip("/")
    if not host or any(one in host for one in "/@?#\\ ") or not host.isascii():
        raise UsageError("enter the host, such as gitlab.example.org")
    return host


def _either(text: str | None) -> bool | None:
    return {"yes": True, "no": False}.get(text or "")


def _begin(text: str) -> tuple[str, str] | None:
    name, mark, number = text.rpartition(AFTER)
    if not text:
        return None
    if not mark:
        raise HTTPException(400, "this list has no such page")
    return name, number


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/connect", page, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/connect/token", by_token, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/connect/url", url_page, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/url", add_url, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/ssh-key", make_ssh_key, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/connect/{connection}", repositories, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/choose", chose, Needs.ADMIN, large=True),
    Endpoint("POST", "/{team}/-/connect/{connection}/rule", rule, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/again", again, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/connect/{connection}/token", token_page, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/token", replace_token, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/list", list_anew, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/sign-in", sign_in_by, Needs.ADMIN, sure=True),
    Endpoint("POST", "/{team}/-/connect/{connection}/disconnect", disconnect, Needs.ADMIN, sure=True),
)
