"""Git's smart HTTP in an event loop: git's own upload-pack and receive-pack over a forge's repository."""

import asyncio
import gzip
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from starlette.requests import Request
from starlette.types import Send

from tests.parts.githttp import CHUNK
from tests.parts.repos import ENVIRONMENT

UPLOAD, RECEIVE = "git-upload-pack", "git-receive-pack"

# Wanting any id is allowed, as both forges do; what they make themselves cannot be pushed.
_CONFIG = (
    "uploadpack.allowFilter=true",
    "uploadpack.allowAnySHA1InWant=true",
    "receive.hideRefs=refs/pull",
    "receive.hideRefs=refs/merge-requests",
    "receive.denyDeleteCurrent=refuse",  # both keep their default branch
    "receive.denyCurrentBranch=ignore",
)


async def advertise(path: Path, service: str, request: Request, send: Send) -> None:
    """Answer `GET info/refs`: https://git-scm.com/docs/http-protocol"""
    version = request.headers.get("git-protocol", "")
    greeting = b""
    if "version=2" not in version or service == RECEIVE:
        line = b"# service=%s\n" % service.encode()
        greeting = b"%04x%s0000" % (len(line) + 4, line)
    await _answer(path, service, ("--http-backend-info-refs",), version, b"", greeting, send, lambda: None)


async def serve(
    path: Path,
    service: str,
    request: Request,
    send: Send,
    pushed: Callable[[], None] = lambda: None,
    rules: tuple[str, ...] = (),
) -> None:
    """Answer `POST git-upload-pack` or `git-receive-pack`; `pushed` is called before the client knows.

    `rules` are settings of git for this caller.
    """
    body = await request.body()
    if request.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    version = request.headers.get("git-protocol", "")
    await _answer(path, service, (), version, body, b"", send, pushed, rules)


async def _answer(
    path: Path,
    service: str,
    options: tuple[str, ...],
    version: str,
    body: bytes,
    greeting: bytes,
    send: Send,
    pushed: Callable[[], None],
    rules: tuple[str, ...] = (),
) -> None:
    words = [word for setting in _CONFIG + rules for word in ("-c", setting)]
    words += [service.removeprefix("git-"), "--stateless-rpc", *options, str(path)]
    child = await asyncio.create_subprocess_exec(
        "git",
        *words,
        env={**ENVIRONMENT, "GIT_PROTOCOL": version},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=CHUNK,
    )
    assert child.stdin and child.stdout
    feeding = asyncio.create_task(_feed(child.stdin, body))
    try:
        kind = "advertisement" if options else "result"
        headers = [
            (b"content-type", f"application/x-{service}-{kind}".encode()),
            (b"cache-control", b"no-cache, max-age=0, must-revalidate"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if service == RECEIVE:
            report = greeting + await child.stdout.read()
            await child.wait()
            pushed()
            await send({"type": "http.response.body", "body": report, "more_body": False})
            return
        chunk = greeting or await child.stdout.read(CHUNK)
        while chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = await child.stdout.read(CHUNK)
        await child.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except BaseException:
        with suppress(ProcessLookupError):
            child.kill()
        raise
    finally:
        await feeding
        await child.wait()


async def _feed(stdin: asyncio.StreamWriter, body: bytes) -> None:
    try:
        stdin.write(body)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        pass  # git ended before it had read all
