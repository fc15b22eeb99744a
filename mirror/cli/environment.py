"""What the command finds round itself: settings, tokens, the terminal, the clock."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mirror.core.errors import UsageError

if TYPE_CHECKING:
    from mirror.core.config import Settings

_LARGEST_TOKEN: Final = 64 * 1024  # bytes; a file larger than that is another file


def now() -> datetime:
    """This moment, aware, in UTC."""
    return datetime.now(UTC)


def settings(env: Mapping[str, str], data: str | None) -> "Settings":
    """The settings, with `--data` before EVERREF_DATA. Raises UsageError."""
    from mirror.core.config import from_env

    if data is not None:
        env = {name: value for name, value in env.items() if name != "EVERREF_DATA_FILE"} | {
            "EVERREF_DATA": str(absolute(data))
        }
    return from_env(env, _read_file, default_data(env))


def default_data(env: Mapping[str, str]) -> str:
    """Where the XDG base directory specification puts a user's data."""
    base = env.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # the specification: a relative one is to be ignored
        base = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "everref")


def absolute(path: str) -> Path:
    """A path as seen from where the command was called."""
    return Path(os.path.abspath(path))


def _read_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def read_token(path: str, stdin_fd: int = 0) -> str:
    """The token in a file, or on standard input for "-", where a person is asked. Raises UsageError."""
    if path == "-" and os.isatty(stdin_fd):
        from getpass import getpass

        try:
            text = getpass("Token: ")
        except EOFError:
            text = ""
    else:
        text = _token_text(stdin_fd if path == "-" else path)
    token = text.strip()
    if not token:
        raise UsageError("--token-file: there is no token in it")
    if len(token.split()) != 1 or not token.isprintable():
        raise UsageError("--token-file: it must hold one token and nothing else")
    return token


def read_key(path: str) -> str:
    """The private key in a file, or on standard input for "-". Raises UsageError."""
    text = _token_text(0 if path == "-" else path).strip()
    if not text.startswith("-----BEGIN ") or "PRIVATE KEY-----" not in text:
        raise UsageError("--token-file: for an ssh address it must hold a private key, without a passphrase")
    return text


def _token_text(source: str | int) -> str:
    try:
        with open(source, "rb", closefd=isinstance(source, str)) as file:
            content = file.read(_LARGEST_TOKEN + 1)
    except OSError as error:
        raise UsageError(f"--token-file: {source} cannot be read: {error.strerror}") from None
    try:
        if len(content) <= _LARGEST_TOKEN:
            return content.decode()
    except UnicodeDecodeError:
        pass
    raise UsageError("--token-file: it must hold one token and nothing else")


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Whether a switch such as EVERREF_DEBUG is on."""
    return env.get(name, "").lower() in ("1", "true", "yes", "on")


def has_colour(env: Mapping[str, str], is_terminal: bool) -> bool:
    """Whether to colour what goes to this stream; see https://no-color.org."""
    return is_terminal and not env.get("NO_COLOR") and not is_dumb(env)


def is_dumb(env: Mapping[str, str]) -> bool:
    """Whether the terminal cannot move its cursor."""
    return env.get("TERM", "dumb") in ("dumb", "")
