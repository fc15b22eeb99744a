"""Starting a long-running program (web, hooks, worker): its settings, log, and link to `everref up`."""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mirror.core import logs, prices, quotas, storage_classes
from mirror.core.config import NO_REDIS, App, Settings, from_env
from mirror.core.errors import EverrefError, UsageError
from mirror.core.redact import Redactor
from mirror.services.embedded import programs

PR_SET_PDEATHSIG = 1  # linux/prctl.h
READY = b"ready\n"
SETTINGS = (
    *("DATABASE_URL", "REDIS_URL", "VAULT_URL", "BASE_URL", "PORT", "SECRET_KEYS", "SMTP_URL", "PING_URL"),
    *("TIMESTAMP_URL", "VAULT_COPIES", "VAULT_LOCK", "REQUIRE_WORM", "PRICES", "STORAGE_CLASS_AFTER"),
    *("ALLOW_PRIVATE_REMOTES", "EVERREF_GIT", "EVERREF_DATA"),
    *("EVERREF_LISTING_BYTES", "EVERREF_FETCH_BYTES", "EVERREF_POOL_BYTES", "FORWARDED_ALLOW_IPS"),
    *("SIGNUP", "EVERREF_PERSON_TEAMS", "EVERREF_LOG", "EVERREF_METRICS_TEAMS"),
    *(limit.setting for limit in quotas.LIMITS.values()),
    *("GITHUB_URL", "GITHUB_API_URL", "GITHUB_CLIENT_ID", "GITHUB_CLIENT_SECRET"),
    *("GITLAB_URL", "GITLAB_CLIENT_ID", "GITLAB_CLIENT_SECRET"),
)

log = logging.getLogger("mirror.services.startup")


@dataclass(frozen=True, slots=True)
class Ties:
    """What `everref up` passes to a process that it starts."""

    parent: int | None = None  # its process id; None: started by somebody else
    listen: int | None = None  # the descriptor of a listening socket; None: make one

    def arguments(self) -> list[str]:
        """These values as `begin` reads them."""
        given = {"--parent": self.parent, "--listen": self.listen}
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]

    def say_ready(self) -> None:
        """Tell `everref up`, once, that the program is ready. Standard output is a pipe to it until then."""
        if self.parent is not None:
            os.write(1, READY)
            os.dup2(2, 1)


def begin(program: str, main: Callable[[Settings, Ties], Awaitable[None]]) -> int:
    """Run `main` with the settings of the environment until it ends; returns the exit code.

    A failure is one log record on standard error. With a parent given, the
    process is told to stop when the parent has died for any reason.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    for name in ("--parent", "--listen"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    ties = Ties(**vars(parser.parse_args()))
    # What is wrong with the settings is told as they want it, too.
    logs.begin(program, "json" if os.environ.get("EVERREF_LOG", "").lower() == "json" else "text")
    if ties.parent is not None:
        _die_with(ties.parent)
    try:
        found = settings("")
        begin_log(program, found)
        if not found.data:
            raise UsageError("EVERREF_DATA is not set; it names the directory for pools and scratch space")
        asyncio.run(_run(main, found, ties))
    except EverrefError as error:
        log.critical("%s", error)
        return error.exit_code
    except Exception:
        log.critical("a bug ended this process; please report it", exc_info=True)
        return 1
    return 0


def begin_log(program: str, settings: Settings) -> None:
    """Configure the log according to these settings, without the secrets that they hold."""
    redact = Redactor()
    redact.learn(os.environ, ())
    for url in (settings.database_url, settings.redis_url, settings.vault_url, settings.smtp_url):
        redact.add_url(url or "", user_alone=False)
    secrets = [
        *settings.secret_keys,
        settings.metrics_token,
        settings.ping_url,
        *(app.client_secret for app in settings.apps),
    ]
    for secret in secrets:
        redact.add(secret or "")
    logs.begin(program, settings.log, redact)


def environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    """An environment from which these settings can be read back; everything else in it is inherited."""
    env = {name: value for name, value in inherited.items() if name.removesuffix("_FILE") not in SETTINGS}
    given = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "VAULT_URL": settings.vault_url and f"{settings.vault_name}={settings.vault_url}",
        "VAULT_COPIES": ",".join(f"{one.name}={one.url}" for one in settings.vault_copies),
        "VAULT_LOCK": str(settings.vault_lock) if settings.vault_lock else None,
        "REQUIRE_WORM": "1" if settings.require_worm else "0",
        "BASE_URL": settings.base_url,
        "SMTP_URL": settings.smtp_url,
        "PING_URL": settings.ping_url,
        "TIMESTAMP_URL": settings.timestamp_url,
        "STORAGE_CLASS_AFTER": storage_classes.written(settings.storage_class_after) or None,
        "PRICES": None if settings.prices is None else prices.written(settings.prices),
        "PORT": str(settings.port),
        "SECRET_KEYS": ",".join(settings.secret_keys),
        "ALLOW_PRIVATE_REMOTES": "1" if settings.allow_private_remotes else "0",
        "EVERREF_GIT": settings.git,
        "EVERREF_DATA": settings.data,
        "EVERREF_LISTING_BYTES": str(settings.listing_bytes),
        "EVERREF_FETCH_BYTES": str(settings.fetch_bytes),
        "EVERREF_POOL_BYTES": None if settings.pool_bytes is None else str(settings.pool_bytes),
        "SIGNUP": settings.signup,
        "EVERREF_PERSON_TEAMS": str(settings.person_teams),
        "EVERREF_LOG": settings.log,
        "EVERREF_METRICS_TEAMS": "1" if settings.metrics_teams else "0",
        **{quotas.LIMITS[name].setting: _most(most) for name, most in settings.limits.items()},
        "FORWARDED_ALLOW_IPS": ",".join(map(str, settings.forwarded)) or "none",
        **_of_apps(settings.apps),
    }
    return env | {name: value for name, value in given.items() if value}


def _most(most: int | None) -> str:
    return quotas.UNLIMITED if most is None else str(most)


def _of_apps(apps: Sequence[App]) -> dict[str, str]:
    """The settings that name these forges, as lists in the same order."""
    found: dict[str, str] = {}
    for forge in ("github", "gitlab"):
        mine = [app for app in apps if app.forge == forge]
        columns = {
            "URL": [app.url for app in mine],
            "API_URL": [app.api_url for app in mine] if forge == "github" else [],
            "CLIENT_ID": [app.client_id or "" for app in mine],
            "CLIENT_SECRET": [app.client_secret or "" for app in mine],
        }
        found |= {f"{forge.upper()}_{name}": ",".join(items) for name, items in columns.items() if any(items)}
    return found


def with_redis_if_any(settings: Settings) -> Settings:
    """These settings; where no Redis is set and none can be started, with none, and a line says so."""
    if settings.redis_url is not None or programs.redis() is not None:
        return settings
    log.warning(
        "there is no Redis here, so workers find what is due up to 2 s later;"
        " install %s, valkey-server or redis-server, or set REDIS_URL",
        programs.EXTRA,
    )
    return replace(settings, redis_url=NO_REDIS)


def settings(data: str) -> Settings:
    """The settings of the environment, with this data directory if it names none. Raises UsageError."""
    return from_env(os.environ, lambda path: Path(path).read_text(encoding="utf-8"), data)


async def _run(main: Callable[[Settings, Ties], Awaitable[None]], settings: Settings, ties: Ties) -> None:
    await main(with_redis_if_any(settings), ties)


def _die_with(parent: int) -> None:
    """Ask the kernel for a signal when the parent dies, also if it already has: prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(1)
