"""Where a team's repositories come from: its connections, and any git URL."""

from collections.abc import Sequence
from typing import Final, cast
from urllib.parse import quote

from starlette.responses import Response

from mirror.core import words
from mirror.core.config import Product, app_at
from mirror.core.errors import EverrefError, Refused, UsageError
from mirror.core.model import Secret
from mirror.discovery import choose, connections, create
from mirror.forges.contract import Tokens
from mirror.people import accounts
from mirror.services import ssh_access
from mirror.store.discovery import connections as store
from mirror.store.discovery.connections import Connection
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext
from mirror.web.pages.people import oauth
from mirror.web.pages.people.connections import address_of, connection_of
from mirror.web.pages.teams import choose as choosing_pages
from mirror.web.pages.teams.choose import signs_in_by


async def page(
    context: RequestContext, error: EverrefError | None = None, typed: tuple[str, str] | None = None
) -> Response:
    """The team's connections, and the ways to make one."""
    apps = context.services.settings.apps
    return context.render(
        "connect.html",
        200 if error is None else 422,
        wrong=templating.wrong(error) or ({"token": words.sentence(error)} if error else {}),
        typed=typed,
        connections=await store.of_team(context.services.db, context.of_team().id),
        registered=[app for app in apps if app.registered],
        hosts=[app.host for app in apps],
    )


async def by_token(context: RequestContext) -> Response:
    """Connect by a personal access token."""
    form = await context.form()
    product, host = str(form.get("forge", "")), str(form.get("host", "")).strip().lower()
    try:
        if product not in ("github", "gitlab"):
            raise UsageError("choose GitHub or GitLab", field="forge")
        raw = _token(str(form.get("token", "")))
        known = [app for app in context.services.settings.apps if app.forge == product]
        app = next((one for one in known if host in ("", one.host)), None)
        app = app or app_at(cast(Product, product), f"https://{_host(host)}")
        connection = await connections.connect(
            context.services, context.of_team().id, context.owner().id, app, Tokens(raw), "token"
        )
    except EverrefError as error:
        return await page(context, error, (product, host))
    await context.audit("connection.add", f"{connection.login} at {connection.host}", detail={"by": "token"})
    await connections.request_refused(context.services, connection.id, context.hint)
    return context.redirect(address_of(context, connection))


async def again(context: RequestContext) -> Response:
    """Let a forge accept a connection's token again: to its consent, or to the field for a pasted token."""
    connection = await connection_of(context)
    back = address_of(context, connection)
    to = oauth.local(str((await context.form()).get("next", "")), back)
    app = context.services.forges.at(connection.forge, connection.host).app
    if connection.grant_kind == "oauth" and app.registered:
        return oauth.ask_again(context, connection, to)
    return context.redirect(templating.url(f"{back}/token", next=to))


async def token_page(context: RequestContext) -> Response:
    """The field for another personal access token of a connection's account."""
    return _token_page(context, await connection_of(context), context.query.get("next", ""))


def _token_page(
    context: RequestContext, connection: Connection, to: str, error: EverrefError | None = None
) -> Response:
    return context.render(
        "token.html",
        200 if error is None else 422,
        connection=connection,
        next=oauth.local(to, address_of(context, connection)),
        wrong=words.sentence(error) if error else "",
    )


async def replace_token(context: RequestContext) -> Response:
    """Take another personal access token for a connection's account, and start what failed without it."""
    connection, form = await connection_of(context), await context.form()
    to = str(form.get("next", ""))
    try:
        token = _token(str(form.get("token", "")))
        now = await connections.connect_again(context.services, connection, context.owner().id, token)
    except EverrefError as error:
        return _token_page(context, connection, to, error)
    await context.audit("connection.add", f"{now.login} at {now.host}", detail={"by": "token"})
    started = await connections.request_refused(context.services, now.id, context.hint)
    app = context.services.forges.at(now.forge, now.host).app
    return context.redirect(
        oauth.local(to, address_of(context, now)), oauth.accepted(app, now.login, started)
    )


async def sign_in_by(context: RequestContext) -> Response:
    """Let the person who connected an account also sign in with it; the forge has said whose it is."""
    connection = await connection_of(context)
    if await signs_in_by(context, connection) is None:
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
    return context.redirect(address_of(context, connection), said)


async def disconnect(context: RequestContext) -> Response:
    """Remove a connection. Every backup stays."""
    connection = await connection_of(context)
    left = await choose.disconnect(context.services, connection.id, context.as_logged())
    await context.audit("connection.remove", f"{connection.login} at {connection.host}")
    said = f"{connection.login} at {connection.host} is disconnected. Every backup stays."
    lines = [said, *(f"{one}." for one in left[:3])]
    return context.redirect(f"/{context.of_team().name}/-/connect", " ".join(lines))


async def url_page(
    context: RequestContext,
    error: EverrefError | None = None,
    url: str = "",
    name: str = "",
    username: str = "",
) -> Response:
    """A form for any git address."""
    return context.render(
        "url.html",
        200 if error is None else 422,
        wrong=templating.wrong(error) or ({"url": words.sentence(error)} if error else {}),
        url=url,
        name=name,
        username=username,
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
        return await url_page(context, error, shown, name, username)
    return context.redirect(f"/{context.of_team().name}/{quote(repo.name)}", "Its first backup starts now.")


async def push_page(context: RequestContext, error: EverrefError | None = None, name: str = "") -> Response:
    """A form for a repository to push to."""
    return context.render(
        "push.html", 200 if error is None else 422, wrong=templating.wrong(error), error=error, name=name
    )


async def add_push(context: RequestContext) -> Response:
    """Create a repository to push to."""
    name = str((await context.form()).get("name", "")).strip()
    try:
        repo = await create.create(context.services, context.of_team().id, context.as_logged(), name)
    except EverrefError as error:
        return await push_page(context, error, name)
    return context.redirect(templating.repo_url(context.of_team().name, repo.name))


def _token(text: str) -> str:
    raw = text.strip()
    if not raw or not raw.isascii() or not raw.isprintable():
        raise UsageError("paste the token exactly as the host showed it", field="token")
    return raw


def _host(text: str) -> str:
    host = text.removeprefix("https://").rstrip("/")
    if not host or any(one in host for one in "/@?#\\ ") or not host.isascii():
        raise UsageError("enter the host, such as gitlab.example.org", field="host")
    return host


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/{team}/-/connect", page, Needs.VIEWER),
    Endpoint("POST", "/{team}/-/connect/token", by_token, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/connect/url", url_page, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/url", add_url, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/connect/push", push_page, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/push", add_push, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/ssh-key", make_ssh_key, Needs.ADMIN),
    *choosing_pages.ENDPOINTS,
    Endpoint("POST", "/{team}/-/connect/{connection}/again", again, Needs.ADMIN),
    Endpoint("GET", "/{team}/-/connect/{connection}/token", token_page, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/token", replace_token, Needs.ADMIN),
    Endpoint("POST", "/{team}/-/connect/{connection}/sign-in", sign_in_by, Needs.ADMIN, sure=True),
    Endpoint("POST", "/{team}/-/connect/{connection}/disconnect", disconnect, Needs.ADMIN, sure=True),
)
