"""The web application: at this stage the page and the addresses that say whether everything works."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import asyncpg
from arq.constants import default_queue_name, health_check_key_suffix
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ANSWER_SECONDS: Final = 3  # for a server that is asked whether it is there
_ANSWERS: Final = "<span class='chip'>answers</span>"
_AWAY: Final = "<span class='chip late'>does not answer</span>"
HERE: Final = Path(__file__).parent
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Health:
    """Which parts answer."""

    database: bool
    queue: bool
    worker: bool  # one of them at least said so of late

    @property
    def ready(self) -> bool:
        """Whether requests can be served; a worker is not needed for that."""
        return self.database and self.queue


def application(db: asyncpg.Pool, queue: Redis, receiver: ASGIApp | None = None) -> Starlette:
    """The application over an open database and an open queue, with the webhook receiver if it is given."""
    app = Starlette(
        routes=[
            Route("/", home),
            Route("/style.css", style),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            *([Mount("/", receiver)] if receiver else ()),
        ],
        middleware=[Middleware(SafeHeaders)],
    )
    app.state.db = db
    app.state.queue = queue
    return app


async def home(request: Request) -> Response:
    """Whether everything works, for people."""
    health = await look(request.app.state.db, request.app.state.queue)
    return HTMLResponse(page(health), status_code=200 if health.ready else 503)


async def style(request: Request) -> Response:
    return FileResponse(HERE / "style.css", headers={"cache-control": "max-age=300"})


async def healthz(request: Request) -> Response:
    """This process answers."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """What this process needs answers too."""
    health = await look(request.app.state.db, request.app.state.queue)
    parts = {"database": health.database, "queue": health.queue, "worker": health.worker}
    return JSONResponse({"ready": health.ready} | parts, status_code=200 if health.ready else 503)


async def look(db: asyncpg.Pool, queue: Redis) -> Health:
    """Ask every part whether it is there."""
    database, queued = await asyncio.gather(_database_answers(db), _workers(queue))
    return Health(database=database, queue=queued is not None, worker=bool(queued))


async def _database_answers(db: asyncpg.Pool) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return bool(await db.fetchval("select true"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # TimeoutError is an OSError
        return False


async def _workers(queue: Redis) -> int | None:
    """Whether a worker has said of late that it lives; None: the queue does not answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return int(await queue.exists(default_queue_name + health_check_key_suffix))
    except (RedisError, OSError):
        return None


def page(health: Health) -> str:
    """The home page."""
    parts = (
        ("Database", "PostgreSQL, the index of what the vault holds", health.database),
        ("Queue", "Redis, where pushes become jobs", health.queue),
        ("Worker", "fetches, stores and verifies", health.worker),
    )
    well = all(works for _, _, works in parts)
    rows = "".join(
        f"<tr><td>{escape(name)}<div class='small soft'>{escape(what)}</div></td>"
        f"<td class='num'>{_ANSWERS if works else _AWAY}</td></tr>"
        for name, what, works in parts
    )
    title = "Everref is up" if well else "Everref is not complete"
    lede = (
        "Every part answers. Repositories are added with <code>everref backup URL</code>."
        if well
        else "What does not answer is started again by itself; this page shows the state of a moment ago."
    )
    return (HERE / "home.html").read_text().format(title=title, lede=lede, rows=rows)


class SafeHeaders:
    """Sends the headers with every answer that keep a page from being abused."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
