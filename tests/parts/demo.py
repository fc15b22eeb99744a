"""`make demo`: Everref beside a GitHub and a GitLab of its own, to click through without an account.

The doubles of tests/parts/forges play the forges; a page of buttons plays the
people who push. Everything is in a temporary directory and gone afterwards.
"""

import argparse
import asyncio
import ctypes
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mirror.core.model import Target
from tests.parts.forges import WRITE, GitHub, GitLab, Person, Repository, serving
from tests.parts.forges.host import Host
from tests.parts.forges.serve import answering
from tests.parts.mail import Postbox, postbox
from tests.parts.repos import MAIN

STOP_SECONDS = 60  # for Everref to hand back what it is at
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Demo:
    """Where everything is."""

    url: str
    sign_in: str
    github: str
    gitlab: str
    pushes: str  # the page of buttons

    def words(self) -> str:
        return (
            f"\nEverref is at  {self.sign_in}\n"
            f"GitHub is at   {self.github}  (alice, bob; acme)\n"
            f"GitLab is at   {self.gitlab}  (alice, bob; acme, acme/tools)\n"
            f"Push there at  {self.pushes}\n\n"
            "Sign in, connect one of them, choose repositories, then push and watch. Ctrl-C stops it all."
        )


# The world


def people_of(host: Host) -> tuple[Person, Person]:
    return host.add_person("alice", "Alice Example"), host.add_person("bob", "Bob Example")


def fill_github(github: GitHub) -> None:
    """Two people, an organisation, and seven repositories with small histories."""
    alice, bob = people_of(github)
    github.add_org("acme", owners=[alice], members=[bob])
    garden = github.add_repository("alice/garden", commits=0)
    garden.description = "What grows where"
    for month in ("march", "april", "may", "june"):
        _write(garden, f"{month}.md", f"# {month.title()}\n\nSow, water, wait.\n", f"Plan {month}")
    garden.work.tag("v1.0", message="The first season")
    garden.work.commit(
        "beds", {"beds.svg": b"<svg/>\n"}, message="Draw the beds", parents=[garden.work.tip()]
    )
    forced = github.add_repository("alice/experiments", commits=3)
    first = forced.work.git("rev-list", "--max-parents=0", "main").decode().strip()
    forced.work.commit("idea", {"idea.txt": b"try it\n"}, message="Try an idea", parents=[forced.work.tip()])
    forced.work.delete("idea")  # nothing points to it any more
    forced.work.commit("main", {"README.md": b"again\n"}, message="Begin anew", parents=[_target(first)])
    github.add_repository("alice/notes", private=True, commits=5)
    github.add_repository("alice/old-site", archived=True, commits=2)
    handbook = github.add_repository("acme/handbook", commits=4)
    handbook.work.tag("2026-01")
    api = github.add_repository("acme/api", private=True, commits=6)
    for name in ("login", "search", "speed"):
        api.work.commit(name, {f"{name}.py": b"pass\n"}, message=f"Begin {name}", parents=[api.work.tip()])
    github.add_repository("bob/dotfiles", commits=2, access={alice: WRITE})
    for repository in github.repositories:
        repository.settle()


def fill_gitlab(gitlab: GitLab) -> None:
    """The same two people, a group with one below it, and five projects."""
    alice, bob = people_of(gitlab)
    gitlab.add_org("acme", owners=[alice], members=[bob])
    gitlab.add_org("acme/tools")
    gitlab.add_repository("alice/recipes", private=True, commits=3)
    gitlab.add_repository("acme/website", commits=4).work.tag("live", message="What visitors see")
    gitlab.add_repository("acme/tools/builder", private=True, commits=5)
    gitlab.add_repository("acme/tools/attic", archived=True, commits=1)
    gitlab.add_repository("bob/thesis", private=True, commits=2)
    for project in gitlab.repositories:
        project.settle()


def _write(repository: Repository, file: str, text: str, message: str) -> None:
    repository.work.commit("main", {file: text.encode()}, message=message)


def _target(oid: str) -> Target:
    return Target(oid.encode())


# The page of buttons


def commit(repository: Repository) -> None:
    repository.commit(message="One more change")


def force(repository: Repository) -> None:
    """Leave the newest commit of main behind."""
    tip = repository.work.tip().decode()
    parents = repository.work.git("rev-list", "--parents", "-1", tip).decode().split()[1:]
    repository.commit(message="Say it otherwise", parents=[_target(oid) for oid in parents[:1]])


def branch(repository: Repository) -> None:
    name = f"idea-{secrets.token_hex(2)}"
    repository.commit(name, message="Have an idea", parents=[repository.work.tip()])


def tag(repository: Repository) -> None:
    repository.push(f"refs/tags/v-{secrets.token_hex(2)}", repository.work.tip())


def tidy(repository: Repository) -> None:
    """Delete every branch but main."""
    for name in [name for name in repository.work.refs() if name.startswith(b"refs/heads/idea-")]:
        repository.push(name, None)


def rename(repository: Repository) -> None:
    repository.host.rename(repository, f"{repository.name.rstrip('0123456789')}{secrets.randbelow(90) + 10}")


BUTTONS: dict[str, Callable[[Repository], None]] = {
    "Push a commit": commit,
    "Force-push": force,
    "New branch": branch,
    "Delete branches": tidy,
    "New tag": tag,
    "Rename": rename,
}


def desk(hosts: list[Host]) -> Starlette:
    """One form for each repository of these forges."""

    async def show(request: Request) -> Response:
        rows = "".join(_row(host, repository) for host in hosts for repository in host.repositories)
        return HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Push something</title><main>'
            "<h1>Push something</h1><p>What people do at the forges; the receivers hear of it at once.</p>"
            f"<table>{rows}</table></main></html>"
        )

    async def push(request: Request) -> Response:
        form = await request.form()
        host = next((one for one in hosts if one.kind == form.get("forge")), None)
        repository = host.repository(str(form.get("repository"))) if host else None
        button = BUTTONS.get(str(form.get("do")))
        if repository is None or button is None:
            return PlainTextResponse("there is no such repository or button\n", 404)
        if repository.archived or MAIN not in repository.work.refs():
            return PlainTextResponse("it is archived, or there is nothing on main yet\n", 409)
        button(repository)
        return RedirectResponse("/", 303)

    return Starlette(routes=[Route("/", show), Route("/", push, methods=["POST"])])


def _row(host: Host, repository: Repository) -> str:
    off = " disabled" if repository.archived else ""
    buttons = " ".join(f'<button name="do" value="{name}"{off}>{name}</button>' for name in BUTTONS)
    marks = [
        mark for mark, is_so in (("private", repository.private), ("archived", repository.archived)) if is_so
    ]
    heard = sum(delivery.status is not None for delivery in host.deliveries(repository))
    told = f"{len(repository.hooks)} hooks, {heard} deliveries" if repository.hooks else "no hook"
    name = escape(repository.full_name)
    return (
        f"<tr><th scope=row>{host.kind} {name}</th><td>{', '.join(marks)}</td><td>{told}</td><td>"
        f'<form method="post"><input type="hidden" name="forge" value="{host.kind}">'
        f'<input type="hidden" name="repository" value="{name}">{buttons}</form></td></tr>'
    )


# All of it


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs: the doubles are in this process, Everref is one of its own."""

    here: Demo
    github: GitHub
    gitlab: GitLab
    everref: asyncio.subprocess.Process
    data: Path  # of Everref, with its database
    box: Postbox  # what Everref mails


@asynccontextmanager
async def running(port: int, room: Path) -> AsyncIterator[Stage]:
    """The forges, the page of buttons and Everref."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with (
        serving(GitHub, room / "github") as github,
        serving(GitLab, room / "gitlab") as gitlab,
        postbox(tls=False, auth=False) as box,
        answering(desk([github, gitlab]), listener),
    ):
        pushes = f"http://127.0.0.1:{listener.getsockname()[1]}"
        fill_github(github)
        fill_gitlab(gitlab)
        port = port or _free_port()
        everref = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror.cli", "up", "--json", "--port", str(port)),
            env=_environment(github, gitlab, f"http://127.0.0.1:{port}", room / "everref", box),
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us, and we stop it
            preexec_fn=_stop_with_parent,
        )
        try:
            assert everref.stdout
            said = await everref.stdout.readline()
            if not said:
                raise SystemExit(f"everref up ended with {await everref.wait()}")
            told = json.loads(said)
            sign_in = told.get("sign_in") or told["url"]
            here = Demo(told["url"], sign_in, github.url, gitlab.url, pushes)
            yield Stage(here, github, gitlab, everref, room / "everref", box)
        finally:
            await _stop(everref)


def _environment(github: GitHub, gitlab: GitLab, url: str, data: Path, box: Postbox) -> dict[str, str]:
    """Nothing of the person's own settings, and where the forges and the mail server are."""
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "EVERREF_DATA": str(data),
        "BASE_URL": url,
        "SMTP_URL": f"smtp://127.0.0.1:{box.port}?from=everref@everref.example&tls=none",
        "GITHUB_URL": github.url,
        "GITHUB_API_URL": github.api_url,
        "GITHUB_CLIENT_ID": github.client_id,
        "GITHUB_CLIENT_SECRET": github.client_secret,
        "GITLAB_URL": gitlab.url,
        "GITLAB_CLIENT_ID": gitlab.client_id,
        "GITLAB_CLIENT_SECRET": gitlab.client_secret,
    }


def _free_port() -> int:
    """8000, or any that is free."""
    for port in (8000, 0):
        with socket.socket() as one, suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
            return int(one.getsockname()[1])
    raise SystemExit("no port is free")


def _stop_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.communicate(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.communicate()


async def demo(port: int, as_json: bool) -> None:
    """Run until a signal, or until Everref ends by itself."""
    with tempfile.TemporaryDirectory(prefix="everref-demo-", ignore_cleanup_errors=True) as room:
        task = asyncio.create_task(_show(port, Path(room), as_json))
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

        def stop() -> None:
            for number in signals:  # a second one does not hurry
                asyncio.get_running_loop().add_signal_handler(number, lambda: None)
            task.cancel()

        for number in signals:
            asyncio.get_running_loop().add_signal_handler(number, stop)
        with suppress(asyncio.CancelledError):
            await task


async def _show(port: int, room: Path, as_json: bool) -> None:
    async with running(port, room) as stage:
        print(json.dumps(asdict(stage.here)) if as_json else stage.here.words(), flush=True)
        await stage.everref.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.parts.demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="say where everything is as one line of JSON")
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("PORT") or 0,
        help="where Everref's pages are (default: PORT, else 8000, or any that is free)",
    )
    given = parser.parse_args()
    asyncio.run(demo(given.port, given.json))


if __name__ == "__main__":
    main()
