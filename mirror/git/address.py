"""Which addresses Everref connects to: parsed from what a person typed, checked again before each connection.

A user-supplied address could point at something that only this machine can reach (server-side
request forgery). So a name is resolved once, every address it resolves to is checked, and only
checked addresses are connected to: by aiohttp through `CheckedResolver`, by git through
`http.curloptResolve` with the result of `check`.
"""

import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from aiohttp.abc import AbstractResolver, ResolveResult

from mirror.core.errors import NetworkError, NotFound, UsageError
from mirror.core.model import Remote, Secret
from mirror.net.reach import resolved

SSH_PORT: Final = 22
USER: Final = "git"  # of an ssh address that names none
HOME: Final = "/./"  # how the path of an ssh address begins that is meant from the account's home directory
NO_PATHS: Final = (
    "only the person who runs Everref may use a path on this machine, "
    "in the command line's own team and with ALLOW_PRIVATE_REMOTES=1; "
    "use the repository's https:// or ssh:// address"
)
FROM_ROOT: Final = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org")  # to whom both are the same

_PORTS: Final = {"https": 443, "http": 80, "ssh": SSH_PORT}
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
_SCP: Final = re.compile(r"(?:([^/:@\s]+)@)?(\[[0-9A-Fa-f:.]+\]|[^/:@\s\[]+):(?!//)(.+)")
_PATH: Final = "/%:@!$&'()*+,;=~"  # what stays as it is in a path
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def parse_remote(text: str, allow_private: bool, *, paths: bool = True) -> Remote:
    """The remote that a person means, its credentials cut out of the address.

    https and ssh are always allowed; with `allow_private` also http, and with `paths` as well
    file:// and paths. Without `paths`, nothing on this machine is looked at, so that the
    answer reveals nothing of what is there. Raises UsageError for anything else,
    NotFound for a path without a repository. No message repeats the credentials.
    """
    paths = paths and allow_private
    text = text.strip()
    if not text or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UsageError("the address is empty or contains control characters; enter a URL or a path")
    if "://" not in text and (scp := _scp(text, paths)):
        text = scp
    if "://" not in text:
        return _path(text, paths)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError("the address cannot be read; write https://host/owner/name.git") from None
    scheme = parts.scheme.lower()
    if scheme == "file":
        if not paths:
            raise UsageError(NO_PATHS)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise UsageError("a file address has no host: write file:///path/to/repository")
        return _path(unquote(parts.path), paths)
    if scheme == "ssh":
        return Remote(_ssh(parts, port, allow_private))
    if scheme not in _PORTS:
        known = "https:// or ssh://" if not paths else "https://, ssh://, http://, file:// or a path"
        raise UsageError(f"{scheme}:// addresses are not supported; use {known}")
    if scheme == "http" and not allow_private:
        raise UsageError("http:// would expose credentials to everybody on the way; use https://")
    if not allow_private and port is not None and port != 443 and port < 1024:
        raise UsageError(f"no git host answers on port {port}; leave the port out of the address")
    return Remote(_plain(parts, scheme, port), _secret(parts))


def _scp(text: str, paths: bool) -> str | None:
    """An address as scp writes it, as an URL. None: it is none, or, with `paths`, there is such a path.

    Its path is meant from the account's home directory, as git reads it:
    https://git-scm.com/docs/git-clone#_git_urls
    """
    found = _SCP.fullmatch(text)
    if found is None or (found[1] is None and ("." not in found[2] or (paths and os.path.exists(text)))):
        return None
    user, host, path = found.groups()
    if not path.startswith(("/", "~")):
        path = f"/{path}" if host.lower() in FROM_ROOT else f"{HOME}{path}"
    elif path.startswith("~"):
        path = f"{HOME}{path}"
    return f"ssh://{user or USER}@{host}{quote(path, safe=_PATH)}"


def _ssh(parts: SplitResult, port: int | None, allow_private: bool) -> str:
    """An ssh address as it is kept. Raises UsageError."""
    if parts.password:
        raise UsageError("an ssh address cannot hold a password; Everref signs in there with a key")
    user = unquote(parts.username or USER)
    if not _USER.fullmatch(user):
        raise UsageError("the user name in the ssh address is not valid; at most hosts it is git")
    if not allow_private and port is not None and port != SSH_PORT and port < 1024 and port != 443:
        raise UsageError(f"no git host offers ssh on port {port}; leave the port out of the address")
    plain = urlsplit(_plain(parts, "ssh", port))
    return urlunsplit((plain.scheme, f"{user}@{plain.netloc}", plain.path, "", ""))


def _plain(parts: SplitResult, scheme: str, port: int | None) -> str:
    host = (parts.hostname or "").rstrip(".")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in unquote(parts.path)):
        raise UsageError("the address contains control characters; remove them")
    if not host.isascii():
        with suppress(UnicodeError):
            host = host.encode("idna").decode()
    if not host or not _HOST.fullmatch(host):
        raise UsageError("the address has no host; write https://host/owner/name.git")
    if parts.query or parts.fragment:
        raise UsageError("the address has a query or a fragment; leave out everything from the ? or # on")
    if parts.path.strip("/") == "":
        raise UsageError(f"the address names no repository; write {scheme}://{host}/owner/name.git")
    place = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[scheme]:
        place += f":{port}"
    return urlunsplit((scheme, place, quote(parts.path.rstrip("/"), safe=_PATH), "", ""))


def _secret(parts: SplitResult) -> Secret | None:
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Secret(user, password) if user or password else None


def _path(text: str, allowed: bool) -> Remote:
    if not allowed:
        raise UsageError(NO_PATHS)
    path = Path(os.path.abspath(os.path.expanduser(text)))
    try:
        path.stat()
    except FileNotFoundError:
        raise NotFound(
            f"there is nothing at {path}; enter a repository's path or its https:// address"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}; use a path that this user can read"
        ) from None
    if git_directory(path) is None:
        raise UsageError(f"{path} is not a git repository; enter a repository's path or its https:// address")
    return Remote(str(path))


def git_directory(path: Path) -> Path | None:
    """The directory with the objects and refs of the repository at this path. None: there is none."""
    for found in (path, path / ".git"):
        if (found / "HEAD").is_file() and (found / "objects").is_dir():
            return found
    return path / ".git" if (path / ".git").is_file() else None  # a linked work tree or a submodule


def is_path(url: str) -> bool:
    """Whether a remote's URL is a path on this machine."""
    return url.startswith("/")


def is_ssh(url: str) -> bool:
    """Whether a remote is reached by ssh."""
    return url.startswith("ssh://")


def name_from_url(url: str) -> str:
    """A repo's default name: `owner/name`, or the last directory of a path."""
    if is_path(url):
        parts = [part for part in url.split("/") if part]
        if parts and parts[-1] == ".git":
            parts.pop()
        return parts[-1].removesuffix(".git") or parts[-1] if parts else "repository"
    parts = [part for part in unquote(urlsplit(url).path).split("/") if part not in ("", ".")]
    return "/".join(parts[-2:]).removesuffix(".git")


async def check(url: str, allow_private: bool) -> list[str]:
    """The addresses of this URL's host, each of them allowed; none for a path.

    Raises NetworkError if there is none, or if one of them is private and
    that is not allowed: the caller does not learn which.
    """
    if is_path(url):
        return []
    parts = urlsplit(url)
    return await resolved(parts.hostname or "", parts.port or _PORTS[parts.scheme], allow_private)


async def check_literal(url: str, allow_private: bool) -> None:
    """`check` for a host written as an IP address: aiohttp asks no resolver about those."""
    host = urlsplit(url).hostname or ""
    if ":" in host or host.replace(".", "").isdigit():
        await check(url, allow_private)


def pinned(url: str, addresses: list[str]) -> dict[str, str]:
    """The git configuration that lets git connect to these addresses only; none for a path."""
    parts = urlsplit(url)
    if not addresses or ":" in (parts.hostname or ""):  # an address itself leaves nothing to look up
        return {}
    port = parts.port or _PORTS[parts.scheme]
    places = ",".join(f"[{one}]" if ":" in one else one for one in addresses)
    return {"http.curloptResolve": f"{parts.hostname}:{port}:{places}"}


class CheckedResolver(AbstractResolver):
    """A resolver for aiohttp that returns only checked addresses."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of the host. Raises OSError, as aiohttp expects, if none is allowed."""
        try:
            addresses = await resolved(host, port, self._allow_private)
        except NetworkError as error:
            raise OSError(str(error)) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """There is nothing to close."""
