"""The least that a webhook receiver can do and keep its word: verify, parse, one insert, one hint.

What `hooks` is measured against, in a process of its own, on the same server
loop, database and queue: `python -m bench.reference --listen DESCRIPTOR`.
"""

import hashlib
import hmac
import json
import sys
from typing import Final

import asyncpg
from arq.connections import RedisSettings, create_pool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mirror.core.config import Settings
from mirror.services import startup
from mirror.services.server.serve import serve
from mirror.services.startup import Ties

SECRET: Final = "a secret of the reference"
PATH: Final = "/hook"


async def main(settings: Settings, ties: Ties) -> None:
    """Serve until a signal says stop."""
    assert settings.database_url and settings.redis_url
    queue = await create_pool(RedisSettings.from_dsn(settings.redis_url))
    async with asyncpg.create_pool(settings.database_url, min_size=10, max_size=10) as db:
        await db.execute("create table if not exists reference (repo text, delivery text, body jsonb)")

        async def take(request: Request) -> Response:
            body = await request.body()
            signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            if not hmac.compare_digest(f"sha256={signature}", request.headers.get("x-hub-signature-256", "")):
                return Response(status_code=404)
            repo = json.loads(body)["repository"]["full_name"]
            delivery = request.headers.get("x-github-delivery")
            await db.execute("insert into reference values ($1, $2, $3)", repo, delivery, body.decode())
            await queue.enqueue_job("sync", repo)
            return JSONResponse({"ok": True}, 202)

        await serve(Starlette(routes=[Route(PATH, take, methods=["POST"])]), settings, ties)


if __name__ == "__main__":
    sys.exit(startup.begin("bench.reference", main))
