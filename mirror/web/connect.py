"""Where a team's repositories come from: its connections, choosing from them, and any git URL."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast
from urllib.parse import quote
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror import choosing
from mirror.config import Product, app_at
from mirror.errors import EverrefError, NotFound, Refused, UsageError
from mirror.flows import choose, connections, people, relist, sshaccess
from mirror.flows.choose import By, Chosen
from mirror.flows.hookcare import Outcome
from mirror.forges.contract import Purpose, Tokens
from mirror.job import SYNC
from mirror.model import RepoId, Secret
from mirror.people import Role
from mirror.store import connections as store
from mirror.store import listed
from mirror.store import people as people_rows
from mirror.store.connections import Connection, ConnectionId
from mirror.web.frame import Needs, Visit, Way

ROWS: Final = 100  # repositories on a page
KINDS: Final = ("private", "archived", "fork", "chosen")  # by which the list is filtered
AFTER: Final = "\t"  # between the two halves of where a page begins


async def page(visit: Visit, error: EverrefError | None = None, token: bool = False) -> Response:
    """The team's connections, and the ways to make one."""
    apps = visit.edges.settings.apps
    return visit.render(
        "connect.html",
        200 if error is None else 422,
        error=error,
        connections=await store.of_team(visit.edges.db, visit.of_team().id),
        registered=[app for app in apps if app.registered],
        hosts=[app.host for app in apps],
        by_token=token,
    )


async def by_token(visit: Visit) -> Response:
    """Connect by a personal access token."""
    form = await visit.form()
    product, host = str(form.get("forge", "")), str(form.get("host", "")).strip().lower()
    raw = str(form.get("token", "")).strip()
    try:
        if product not in ("github", "gitlab"):
            raise UsageError("say whether it is GitHub or GitLab")
        if not raw or not raw.isascii() or not raw.isprintable():
            raise UsageError("paste the token as the forge showed it")
        known = [app for app in visit.edges.settings.apps if app.forge == product]
        app = next((one for one in known if host in ("", one.host)), None)
        app = app or app_at(cast(Product, product), f"https://{_host(host)}")
        connection = await connections.connect(
            visit.edges, visit.of_team().id, visit.owner().id, app, Tokens(raw), "token"
        )
    except EverrefError as error:
        return await page(visit, error, token=True)
    await visit.audit("connection.add", f"{connection.login} at {connection.host}", detail={"by": "token"})
    return visit.redirect(_address(visit, connection))


async def repositories(visit: Visit) -> Response:
    """What a connection can see, to choose from. The first time it is listed while the person waits."""
    connection = await _connection(visit)
    if connection.listed_at is None and connection.state == "works":
        _list(visit, connection)
    busy = visit.outside.background.is_busy(_about(connection))
    search = visit.query.get("q", "")[:200]
    kinds = {kind: _either(visit.query.get(kind)) for kind in KINDS}
    after = visit.query.get("after", "")
    rows = await listed.page(
        visit.edges.db,
        connection.id,
        search=search,
        after=_begin(after),
        limit=ROWS + 1,
        **kinds,
    )
    forge = visit.edges.forges.at(connection.forge, connection.host)
    oauth = connection.grant_kind == "oauth" and forge.app.registered
    return visit.render(
        "choose.html",
        connection=connection,
        rows=rows[:ROWS],
        more=f"{rows[ROWS - 1].full_name}{AFTER}{rows[ROWS - 1].repository_id}" if len(rows) > ROWS else None,
        counts=await listed.counts(visit.edges.db, connection.id),
        busy=busy,
        asked={"q": search} | {kind: visit.query.get(kind, "") for kind in KINDS},
        missing=connections.missing_scopes(visit.edges, connection, Purpose.HOOKS),
        oauth=oauth,
        offered=await _signs_in_by(visit, connection) is False,
        manages=visit.may(Role.ADMIN),
    )


async def _signs_in_by(visit: Visit, connection: Connection) -> bool | None:
    """Whether who looks signs in by the account that they connected. None: it is nothing of theirs to say."""
    if connection.grant_kind != "oauth" or connection.person_id != visit.owner().id:
        return None
    found = await people_rows.by_identity(
        visit.edges.db, connection.forge, connection.host, connection.account_id
    )
    return None if found is not None and found.id != visit.owner().id else found is not None


async def sign_in_by(visit: Visit) -> Response:
    """Let who connected an account sign in by it too; the forge has said whose it is."""
    connection = await _connection(visit)
    if await _signs_in_by(visit, connection) is None:
        raise Refused("only who connected an account by consent adds it to their ways to sign in")
    await people.link_identity(
        visit.edges.db,
        visit.by(),
        connection.forge,
        connection.host,
        connection.account_id,
        connection.login,
    )
    said = f"You sign in by {connection.login} at {connection.host} from now on, too."
    return visit.redirect(_address(visit, connection), said)


async def chose(visit: Visit) -> Response:
    """Keep the repositories that were ticked."""
    connection = await _connection(visit)
    ids = [str(one) for one in (await visit.form()).getlist("repository")]
    if not ids:
        return visit.redirect(_address(visit, connection), "Tick the repositories to keep, then press Keep.")
    done = await choose.choose(visit.edges, connection.id, _by(visit), ids, hint=_hint(visit))
    return visit.redirect(f"/{visit.of_team().name}", told(done))


async def rule(visit: Visit) -> Response:
    """Keep everything, now and later; or what matches; or only what is chosen one by one."""
    connection = await _connection(visit)
    form = await visit.form()
    which, patterns = str(form.get("rule", "")), str(form.get("patterns", "")).split()
    try:
        if which == "everything":
            done = await choose.choose_everything(
                visit.edges, connection.id, _by(visit), True, hint=_hint(visit)
            )
        else:
            if which == "patterns" and not patterns:
                raise UsageError("say which repositories, as in acme/* or */api; nothing was changed")
            given = choosing.patterns(patterns if which == "patterns" else ())
            done = await choose.choose_pattern(
                visit.edges, connection.id, _by(visit), given, hint=_hint(visit)
            )
    except UsageError as error:
        return visit.redirect(_address(visit, connection), str(error))
    await visit.audit(
        "connection.rule", f"{connection.login} at {connection.host}", detail={"rule": which or "none"}
    )
    if left := await choose.passed_over(visit.edges, connection.id):
        said = told(done) if done else "The rule is saved."
        verb = "was" if left == 1 else "were"
        said += f" {left} of what it means {verb} let go or disconnected before, and stay as they are: "
        return visit.redirect(_address(visit, connection), said + "tick below what shall be kept again.")
    if done:
        return visit.redirect(f"/{visit.of_team().name}", told(done))
    return visit.redirect(_address(visit, connection), "The rule is saved; nothing new matches it now.")


async def list_anew(visit: Visit) -> Response:
    """Ask the forge again what there is."""
    connection = await _connection(visit)
    _list(visit, connection)
    return visit.redirect(_address(visit, connection))


async def disconnect(visit: Visit) -> Response:
    """End a connection. What is kept stays."""
    connection = await _connection(visit)
    left = await choose.disconnect(visit.edges, connection.id, _by(visit))
    await visit.audit("connection.remove", f"{connection.login} at {connection.host}")
    said = f"{connection.login} at {connection.host} is disconnected; every backup stays."
    lines = [said, *(f"{one}." for one in left[:3])]
    return visit.redirect(f"/{visit.of_team().name}/-/connect", " ".join(lines))


async def url_page(
    visit: Visit, error: EverrefError | None = None, url: str = "", name: str = ""
) -> Response:
    """A form for any git address."""
    return visit.render(
        "url.html",
        200 if error is None else 422,
        error=error,
        url=url,
        name=name,
        deploy_key=await sshaccess.known_key(visit.edges, visit.of_team().id),
    )


async def make_ssh_key(visit: Visit) -> Response:
    """Make the team's deploy key for hosts that are reached by ssh; there is one at the most."""
    team = visit.of_team()
    await sshaccess.team_key(visit.edges, team.id)
    await visit.audit("ssh-key.make", team.name)
    return visit.redirect(f"/{team.name}/-/connect/url")


async def add_url(visit: Visit) -> Response:
    """Keep any git remote."""
    form = await visit.form()
    url, name = str(form.get("url", "")).strip(), str(form.get("name", "")).strip()
    token, username = str(form.get("token", "")).strip(), str(form.get("username", "")).strip()
    key = str(form.get("key", "")).replace("\r\n", "\n").strip()
    secret = Secret(username or "", token or key) if token or key else None
    try:
        repo = await choose.add_url(
            visit.edges, visit.of_team().id, _by(visit), url, secret, name or None, hint=_hint(visit)
        )
    except EverrefError as error:
        shown = "" if "@" in url else url  # it may hold a password
        return await url_page(visit, error, shown, name)
    return visit.redirect(f"/{visit.of_team().name}/{quote(repo.name)}", "Its first backup begins now.")


def told(done: Sequence[Chosen]) -> str:
    """What became of a choice, in a line or two."""
    number = len(done)
    said = "1 repository is" if number == 1 else f"{number} repositories are"
    said += " kept from now on; the first backups have begun."
    refused = [one for one in done if one.hook is Outcome.REFUSED]
    if refused:
        which = "It" if number == 1 else f"{len(refused)} of them"
        verb = "is" if len(refused) == 1 else "are"
        why = refused[0].why
        said += f" {which} will not tell us of pushes ({why}) and {verb} looked at on schedule instead."
    return said


def _list(visit: Visit, connection: Connection) -> None:
    work = relist.relist(visit.edges, connection.id, hint=_hint(visit))
    visit.outside.background.begin(_about(connection), work)


def _about(connection: Connection) -> str:
    return f"listing of {connection.id}"


async def _connection(visit: Visit) -> Connection:
    """The path's connection, of this team. Raises NotFound."""
    try:
        chosen = ConnectionId(UUID(str(visit.path["connection"])))
    except ValueError:
        raise NotFound("there is no such connection") from None
    found = await store.find(visit.edges.db, visit.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such connection")
    return found


def _address(visit: Visit, connection: Connection) -> str:
    return f"/{visit.of_team().name}/-/connect/{connection.id}"


def _by(visit: Visit) -> By:
    return By(visit.owner().id, visit.actor, visit.address)


def _hint(visit: Visit) -> Callable[[RepoId], Awaitable[None]]:
    async def hint(repo_id: RepoId) -> None:
        await visit.hint(SYNC, str(repo_id))

    return hint


def _host(text: str) -> str:
    host = text.removeprefix("https://").rstrip("/")
    if not host or any(one in host for one in "/@?#\\ ") or not host.isascii():
        raise UsageError("say at which host, as in gitlab.example.org")
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


WAYS: Final[Sequence[Way]] = (
    Way("GET", "/{team}/-/connect", page, Needs.VIEWER),
    Way("POST", "/{team}/-/connect/token", by_token, Needs.ADMIN),
    Way("GET", "/{team}/-/connect/url", url_page, Needs.ADMIN),
    Way("POST", "/{team}/-/connect/url", add_url, Needs.ADMIN),
    Way("POST", "/{team}/-/connect/ssh-key", make_ssh_key, Needs.ADMIN),
    Way("GET", "/{team}/-/connect/{connection}", repositories, Needs.ADMIN),
    Way("POST", "/{team}/-/connect/{connection}/choose", chose, Needs.ADMIN, large=True),
    Way("POST", "/{team}/-/connect/{connection}/rule", rule, Needs.ADMIN),
    Way("POST", "/{team}/-/connect/{connection}/list", list_anew, Needs.ADMIN),
    Way("POST", "/{team}/-/connect/{connection}/sign-in", sign_in_by, Needs.ADMIN, sure=True),
    Way("POST", "/{team}/-/connect/{connection}/disconnect", disconnect, Needs.ADMIN, sure=True),
)
