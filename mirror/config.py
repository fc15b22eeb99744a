"""The settings, read once at the edge and checked at the start: a wrong value is one clear line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mirror.errors import UsageError

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides. `repr` shows no secret."""

    data: str  # the directory for pools, scratch space and embedded services
    database_url: str | None = field(repr=False, default=None)  # None: the embedded PostgreSQL
    redis_url: str | None = field(repr=False, default=None)  # None: the embedded Redis
    vault_url: str | None = None  # None: the directory `vault` under `data`
    base_url: str | None = None
    port: int = 8000
    secret_keys: tuple[str, ...] = field(repr=False, default=())  # newest first
    allow_private_remotes: bool = False  # private and loopback addresses, http, file:// and paths
    git: str = "git"  # which git


def from_env(env: Mapping[str, str], read_file: Callable[[str], str], default_data: str) -> Settings:
    """The settings of an environment; each NAME may be given as NAME_FILE, whose contents are the value.

    Raises UsageError, naming the setting and never its value where that could be secret.
    """

    def get(name: str) -> str | None:
        path = env.get(f"{name}_FILE")
        if path:
            if env.get(name):
                raise UsageError(f"{name} and {name}_FILE are both set; set one")
            try:
                return read_file(path).strip() or None
            except (OSError, UnicodeDecodeError):
                raise UsageError(f"{name}_FILE names a file that cannot be read: {path}") from None
        return env.get(name) or None

    database_url = get("DATABASE_URL")
    if database_url and urlsplit(database_url).scheme not in ("postgres", "postgresql"):
        raise UsageError("DATABASE_URL must begin with postgresql://")
    redis_url = get("REDIS_URL")
    if redis_url and urlsplit(redis_url).scheme not in ("redis", "rediss", "unix"):
        raise UsageError("REDIS_URL must begin with redis://, rediss:// or unix://")
    vault_url = get("VAULT_URL")
    if vault_url and urlsplit(vault_url).scheme not in ("file", "s3"):
        raise UsageError("VAULT_URL must begin with file:// or s3://")
    keys = tuple(key.strip() for key in (get("SECRET_KEYS") or "").split(",") if key.strip())
    if any(len(key) < 32 for key in keys):
        raise UsageError("SECRET_KEYS: every key needs 32 characters or more")
    return Settings(
        data=get("EVERREF_DATA") or default_data,
        database_url=database_url,
        redis_url=redis_url,
        vault_url=vault_url,
        base_url=get("BASE_URL"),
        port=_port(get("PORT")),
        secret_keys=keys,
        allow_private_remotes=_flag(
            "ALLOW_PRIVATE_REMOTES", get("ALLOW_PRIVATE_REMOTES"), database_url is None
        ),
        git=get("EVERREF_GIT") or "git",
    )


def _port(text: str | None) -> int:
    if text is None:
        return 8000
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"PORT must be a number from 1 to 65535, not {text!r}")
    return int(text)


def _flag(name: str, text: str | None, default: bool) -> bool:
    if text is None:
        return default
    if text.lower() not in TRUE | FALSE:
        raise UsageError(f"{name} must be one of 1, true, yes, on, 0, false, no, off, not {text!r}")
    return text.lower() in TRUE
