"""A message into a chat or a pager, through apprise, in a process of its own.

`python -m mirror.channels.chat`: the address is a stranger's and the library reaches many
services, so the process that runs it has little memory and time, no secret but that address,
no file but its own code, and no way to an address that is not public. What it is to send comes on standard
input, and what became of it goes to standard output.
"""

import asyncio
import json
import logging
import os
import re
import resource
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from mirror.channels.wire import Wire
from mirror.core.channels import NotDelivered, Undeliverable
from mirror.core.errors import UsageError
from mirror.core.messages import Message
from mirror.net.reach import is_ours, is_public

SECONDS: Final = 25.0  # for a delivery, with the start of its process
LONGEST: Final = 4096  # characters of an address
AT_ONCE: Final = 3  # processes of one program of ours
_MEMORY: Final = 1 << 30  # bytes of address space, some 60 MB of which are used
_CPU: Final = 20  # seconds
_ANSWER: Final = 64 << 10  # bytes
_KEPT_ENV: Final = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ")
_REPOS: Final = 10  # names that a message lists
_REFUSED: Final = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
    *("os.listdir", "os.scandir", "os.kill", "ctypes.dlopen", "socket.bind", "socket.sendmsg"),
)
_UNKNOWN: Final = (
    "this is no address of a chat service that Everref can reach; write it as the examples show, "
    "or as https://appriseit.com/services/ has it"
)


@dataclass(frozen=True, slots=True)
class Service:
    """What anybody may see of a chat's address."""

    name: str  # Slack, Discord, ntfy...
    host: str | None  # None: the service's own

    @property
    def shown(self) -> str:
        return f"{self.name} at {self.host}" if self.host else self.name


async def check(url: str, allow_private: bool) -> Service:
    """Which service the address is of; nothing is sent. Raises UsageError, which shows nothing of it."""
    if len(url) > LONGEST or "://" not in url or not url.isprintable():
        raise UsageError(_UNKNOWN, field="to")
    told = await _told({"url": url, "private": allow_private, "check": True}, _checks)
    if not told.get("service"):
        raise UsageError(_UNKNOWN, field="to")
    return Service(told["service"], told.get("host"))


async def send(wire: Wire, url: str, message: Message) -> str:
    """Send it; returns that the service took it. Raises NotDelivered, Undeliverable."""
    told = await _told(
        {
            "url": url,
            "private": wire.allow_private,
            "title": message.subject,
            "body": "\n\n".join(_paragraphs(message)),
            "urgent": message.urgent,
        },
        _sends,
    )
    if not told.get("service"):
        raise Undeliverable("the address of this chat no longer names a service that Everref can reach")
    if not told.get("sent"):
        raise NotDelivered(told.get("said") or f"{told['service']} did not take the message")
    return f"{told['service']} took it"


def _paragraphs(message: Message) -> list[str]:
    said = list(message.lines)
    if message.repos:
        names = list(message.repos[:_REPOS])
        more = max(message.many, len(message.repos)) - len(names)
        said.append("\n".join([*(f"- {name}" for name in names), *([f"- and {more} more"] if more else [])]))
    if message.team:
        said.append(f"Team: {message.team}")
    if message.link:
        said.append(f"{message.link.label}: {message.link.url}")
    return said


Turns = dict[asyncio.AbstractEventLoop, asyncio.Semaphore]
_sends: Final[Turns] = {}
_checks: Final[Turns] = {}  # which reach nobody, so that they wait for no service that is slow


async def _told(asked: Mapping[str, Any], turns: Turns) -> dict[str, Any]:
    """What the process answers. Raises NotDelivered where it does not."""
    loop = asyncio.get_running_loop()
    for old in [one for one in turns if one.is_closed()]:
        del turns[old]
    async with turns.setdefault(loop, asyncio.Semaphore(AT_ONCE)):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-B", "-m", "mirror.channels.chat"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENV if name in os.environ} | _python_path(),
            limit=_ANSWER,
        )
        try:
            async with asyncio.timeout(SECONDS):
                out, _ = await process.communicate(json.dumps(asked).encode())
        except TimeoutError:
            raise NotDelivered(f"the chat service did not answer within {SECONDS:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    try:
        told = json.loads(out)
    except ValueError:
        raise NotDelivered("the chat service could not be asked; try again later") from None
    return told if isinstance(told, dict) else {}


def _python_path() -> dict[str, str]:
    """Where this program found its modules, for a checkout that is not installed."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


# From here on: what runs in the process of its own.


def main() -> None:
    """Answer the one question on standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(2, 1)  # so that no stray print spoils the answer
    asked = json.loads(sys.stdin.buffer.read(1 << 20))
    answer = _answer(asked)
    os.write(out, json.dumps(answer).encode())


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What became of one question; from here on this process reaches only what a chat service needs."""
    told = confine(bool(asked["private"]))
    return tell(asked, told)


def confine(private: bool) -> "_LastLine":
    """Load the library and lose every right but to connect to what is public (`private`: to anything)."""
    import apprise
    import requests

    if os.environ.get("SSL_CERT_FILE"):
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"]
    last = _LastLine(logging.WARNING)
    logging.getLogger("apprise").handlers = [last]
    manager: Any = apprise.NotificationManager  # has no types
    plugins = manager()
    plugins.load_modules()
    for plugin in plugins.plugins(
        include_disabled=True
    ):  # those that speak HTTP, and nothing of this machine
        if getattr(sys.modules[plugin.__module__], "requests", None) is not requests:
            plugin.enabled = False
    sys.addaudithook(_guard(private, _readable()))
    return last


def tell(asked: Mapping[str, Any], last: "_LastLine") -> dict[str, Any]:
    """Which service the address is of, and, unless only that was asked, what became of the message."""
    import apprise

    asset = apprise.AppriseAsset(app_id="Everref", app_desc="Everref", app_url="", storage_mode="memory")
    service = apprise.Apprise.instantiate(asked["url"], asset=asset, suppress_exceptions=True)
    if service is None or not service.enabled:
        return {}
    known = {"service": str(service.service_name), "host": _host(service)}
    if asked.get("check"):
        return known
    urgent = apprise.NotifyType.WARNING if asked["urgent"] else apprise.NotifyType.INFO
    sent = service.notify(title=asked["title"], body=asked["body"], notify_type=urgent, body_format="text")
    return {**known, "sent": bool(sent), "said": _redacted(last.text, asked["url"])}


def _guard(private: bool, readable: tuple[str, ...]) -> Any:
    """Refuses what a chat service needs nothing of: other programs, files, and what is not public."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto"):
            address = args[1]
            host = address[0] if isinstance(address, tuple) else ""
            if not isinstance(address, tuple) or not (private or _is_allowed(str(host))):
                raise PermissionError("cannot be reached from here")
        elif event == "open":
            path, mode = args[0], args[1]
            if isinstance(path, int):
                return
            if not os.path.abspath(os.fsdecode(path)).startswith(readable) or (
                mode and set(mode) & set("wax+")
            ):
                raise PermissionError("no file is read here")
        elif event in _REFUSED or event.startswith("shutil."):
            if event == "socket.bind" and args[1][1] == 0:  # a probe for is_ours, which binds to no port
                return
            if event in ("os.listdir", "os.scandir") and str(args[0]).startswith(readable):
                return  # an import
            raise PermissionError(event)

    return hook


def _is_allowed(host: str) -> bool:
    return is_public(host) and not is_ours(host)


def _readable() -> tuple[str, ...]:
    """Where code and the certificates of authorities are; imports read these."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    bundles = (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return (
        *(f"{path}{os.sep}" for path in paths if path),
        *(path for path in bundles if path),
        *("/etc/ssl/", "/etc/pki/", "/usr/share/zoneinfo/", "/etc/localtime", "/etc/mime.types"),
    )


def _host(service: Any) -> str | None:
    """The host that the address names; None: it is the service's own, or a key stands in its place."""
    host = getattr(service, "host", None)
    has_one = any(
        "{host}" in one for one in service.templates
    )  # others have a token there, which may have dots
    named = has_one and isinstance(host, str) and ("." in host or host == "localhost" or ":" in host)
    return host if named else None


class _LastLine(logging.Handler):
    """Keeps the last warning: why a service did not take a message."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def _redacted(text: str, url: str) -> str:
    """The line without any part of the address that could be a key."""
    rest = url.partition("://")[2]
    for part in sorted(set(re.split(r"[/:@?&=#,]", rest) + re.split(r"[/:@?&=#,]", unquote(rest))), key=len):
        if len(part) > 3:
            text = text.replace(part, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


if __name__ == "__main__":
    main()
