"""The settings, read and checked once at the start: a wrong value gives a one-line error."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args
from urllib.parse import urlsplit

from mirror.core import locks, peer, prices, quotas, smtp, storage_classes
from mirror.core.errors import UsageError
from mirror.core.locks import Locking
from mirror.core.prices import Prices
from mirror.core.quotas import Limits
from mirror.core.smtp import Smtp
from mirror.core.storage_classes import Step

EXAMPLE: Final = "0123456789abcdef" * 4  # a key as the documentation shows one: nobody's secret
LISTING_BYTES: Final = 64 << 20  # of refs that a remote may list; some 900,000 of them
FETCH_BYTES: Final = 20 << 30  # of a pack that a remote may send at once
NO_REDIS: Final = "none"  # as REDIS_URL: run without one
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})

Product = Literal["github", "gitlab"]
Signup = Literal["open", "invited", "closed"]  # who may make an account: anybody, who is invited, nobody
LogForm = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class App:
    """A forge that people connect, and our OAuth app there."""

    forge: Product
    url: str  # of its web pages, without a slash at the end
    api_url: str
    client_id: str | None = None  # None: no OAuth app; people connect with a token
    client_secret: str | None = field(repr=False, default=None)

    @property
    def host(self) -> str:
        """Its name in rows and pages: the host of its web pages, with the port if that is unusual."""
        return urlsplit(self.url).netloc

    @property
    def registered(self) -> bool:
        """Whether people can sign in and connect through OAuth."""
        return bool(self.client_id and self.client_secret)


GITHUB: Final = App("github", "https://github.com", "https://api.github.com")
GITLAB: Final = App("gitlab", "https://gitlab.com", "https://gitlab.com/api/v4")


def app_at(forge: Product, url: str, api_url: str | None = None) -> App:
    """The forge at this address, with its API at the product's usual place unless given.

    https://docs.github.com/en/enterprise-server/rest/quickstart (`/api/v3`), https://docs.gitlab.com/api/rest/
    """
    url = url.rstrip("/")
    if forge == "gitlab":
        return App(forge, url, (api_url or f"{url}/api/v4").rstrip("/"))
    if api_url is None and url == GITHUB.url:
        return GITHUB
    return App(forge, url, (api_url or f"{url}/api/v3").rstrip("/"))


@dataclass(frozen=True, slots=True)
class Place:
    """A store that holds the vault, or a copy of it."""

    name: str  # by which the database and people know it: lower-case letters, digits and hyphens
    url: str | None  # without credentials; None: the directory `vault` under the data directory


FIRST: Final = Place("vault", None)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the environment decides. `repr` shows no secret."""

    data: str  # the directory for pools, scratch space and embedded services
    team: str | None = None  # by name or id, of which a command is; None: the command line's own
    database_url: str | None = field(repr=False, default=None)  # None: the embedded PostgreSQL
    redis_url: str | None = field(repr=False, default=None)  # None: the embedded Redis; NO_REDIS: none at all
    vault_url: str | None = None  # None: the directory `vault` under `data`
    vault_lock: Locking | None = None  # how stores lock what is written (S3 Object Lock); None: not at all
    vault_name: str = FIRST.name  # what the vault at vault_url is called beside its copies
    vault_copies: tuple[Place, ...] = ()  # other stores that hold the same objects; each name once
    require_worm: bool = False  # write only to stores that were proved to enforce Object Lock
    base_url: str | None = None
    port: int = 8000
    secret_keys: tuple[str, ...] = field(repr=False, default=())  # newest first
    metrics_token: str | None = field(repr=False, default=None)  # None: only this machine reads /metrics
    allow_private_remotes: bool = False  # private and loopback addresses, http, file:// and paths
    git: str = "git"  # which git
    listing_bytes: int = LISTING_BYTES  # that a remote may list of its refs
    fetch_bytes: int = FETCH_BYTES  # that a remote may send in one pack
    pool_bytes: int | None = None  # what pools may take of a disk; None: half of what is free and theirs
    forwarded: peer.Networks = peer.THIS_MACHINE  # the proxies whose X-Forwarded-For is believed
    apps: tuple[App, ...] = (GITHUB, GITLAB)  # the forges that people connect; each host once
    signup: Signup = "open"
    limits: Limits = field(
        default_factory=lambda: quotas.ROOMY
    )  # of each team of which nothing else was said
    person_teams: int = quotas.PERSON_TEAMS_ROOMY  # that one person may own
    log: LogForm = "text"  # how every line of the log is written
    metrics_teams: bool = False  # /metrics names each team
    ping_url: str | None = field(repr=False, default=None)  # told every 5 minutes that all is well
    timestamp_url: str | None = field(repr=False, default=None)  # of an authority (RFC 3161)
    storage_class_after: tuple[Step, ...] = ()  # where old objects move to, by a rule of the bucket
    prices: Prices | None = None  # of the store, for the page of costs; None: it shows no money
    smtp: Smtp | None = None  # the server that mails are handed to; None: no mail is sent
    smtp_url: str | None = field(
        repr=False, default=None
    )  # as it was given, for the processes of `everref up`


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
    if redis_url and redis_url != NO_REDIS and urlsplit(redis_url).scheme not in ("redis", "rediss", "unix"):
        raise UsageError("REDIS_URL must begin with redis://, rediss:// or unix://, or be none")
    first = place(get("VAULT_URL"), "VAULT_URL")
    copies = copies_of(get("VAULT_COPIES"), first)
    lock, moves = get("VAULT_LOCK"), get("STORAGE_CLASS_AFTER")
    require_worm = _flag("REQUIRE_WORM", get("REQUIRE_WORM"), False)
    if require_worm and lock is None and "lock=" not in (first.url or ""):
        raise UsageError("REQUIRE_WORM needs VAULT_LOCK, such as VAULT_LOCK=compliance:90d")
    keys = tuple(key.strip() for key in (get("SECRET_KEYS") or "").split(",") if key.strip())
    if any(len(key) < 32 for key in keys):
        raise UsageError("SECRET_KEYS: every key must have 32 characters or more")
    if EXAMPLE in keys:
        raise UsageError(
            "SECRET_KEYS holds the example key of the documentation; make one with openssl rand -hex 32"
        )
    allow_private = _flag("ALLOW_PRIVATE_REMOTES", get("ALLOW_PRIVATE_REMOTES"), database_url is None)
    smtp_url, price_table = get("SMTP_URL"), get("PRICES")
    apps = (*_apps("github", get, allow_private), *_apps("gitlab", get, allow_private))
    for app in apps:
        if sum(app.host == other.host for other in apps) > 1:
            raise UsageError(f"GITHUB_URL and GITLAB_URL: the host {app.host} is named twice")
    signup = _signup(get("SIGNUP"), "open" if database_url is None else "invited")
    strict = signup == "open" and database_url is not None  # strangers may come
    return Settings(
        data=get("EVERREF_DATA") or default_data,
        team=get("EVERREF_TEAM"),
        database_url=database_url,
        redis_url=redis_url,
        vault_url=first.url,
        vault_name=first.name,
        vault_copies=copies,
        require_worm=require_worm,
        vault_lock=None if lock is None else locks.read(lock, "VAULT_LOCK"),
        base_url=get("BASE_URL"),
        port=_port(get("PORT")),
        secret_keys=keys,
        allow_private_remotes=allow_private,
        metrics_token=get("METRICS_TOKEN"),
        git=get("EVERREF_GIT") or "git",
        listing_bytes=_bytes("EVERREF_LISTING_BYTES", get("EVERREF_LISTING_BYTES"), LISTING_BYTES),
        fetch_bytes=_size("EVERREF_FETCH_BYTES", get("EVERREF_FETCH_BYTES")) or FETCH_BYTES,
        pool_bytes=_size("EVERREF_POOL_BYTES", get("EVERREF_POOL_BYTES")),
        forwarded=_networks("FORWARDED_ALLOW_IPS", get("FORWARDED_ALLOW_IPS")),
        apps=apps,
        signup=signup,
        limits=_limits(get, quotas.defaults(strict)),
        person_teams=_count("EVERREF_PERSON_TEAMS", get("EVERREF_PERSON_TEAMS"))
        or (quotas.PERSON_TEAMS_STRICT if strict else quotas.PERSON_TEAMS_ROOMY),
        log=_log(get("EVERREF_LOG")),
        metrics_teams=_flag("EVERREF_METRICS_TEAMS", get("EVERREF_METRICS_TEAMS"), False),
        ping_url=_address("PING_URL", get("PING_URL"), allow_private),
        timestamp_url=_address("TIMESTAMP_URL", get("TIMESTAMP_URL"), allow_private),
        storage_class_after=() if moves is None else storage_classes.read(moves, "STORAGE_CLASS_AFTER"),
        prices=None if price_table is None else prices.read(price_table),
        smtp=None if smtp_url is None else smtp.read(smtp_url, allow_private),
        smtp_url=smtp_url,
    )


_NAMED: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,39})=(.+)", re.DOTALL)


def place(text: str | None, setting: str) -> Place:
    """The store that a URL names, which may follow `NAME=`. None: the one that needs no setting.

    Without a name, the last part of its path is one. Raises UsageError with this setting.
    """
    if text is None:
        return FIRST
    named = _NAMED.fullmatch(text.strip())
    name, url = (named[1], named[2]) if named else ("", text.strip())
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError(f"{setting} is not a URL; write file:///dir or s3://bucket/prefix") from None
    if parts.scheme not in ("file", "s3"):
        raise UsageError(f"{setting} must begin with file:// or s3://")
    if not name:
        last = parts.path.rstrip("/").rpartition("/")[2] or parts.netloc
        name = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40].strip("-") or FIRST.name
    return Place(name, url)


def copies_of(text: str | None, first: Place) -> tuple[Place, ...]:
    """The stores that VAULT_COPIES names. Raises UsageError where two share a name or an address."""
    found = tuple(place(item, "VAULT_COPIES") for item in _items(text) if item)
    known = [first]
    for one in found:
        if any(one.url == other.url for other in known):
            raise UsageError("VAULT_COPIES names a store that VAULT_URL, or it, names already")
        if any(one.name == other.name for other in known):
            raise UsageError(
                f"VAULT_COPIES: two stores are called {one.name}; name them, as in offsite=s3://bucket/prefix"
            )
        known.append(one)
    return found


def _apps(forge: Product, get: Callable[[str], str | None], allow_private: bool) -> list[App]:
    """The hosts of one forge. Several are given as lists of the same length; an empty item is a default.

    A host without a client id is connected with a token only.
    """
    name = forge.upper()
    settings = ("URL", "API_URL") if forge == "github" else ("URL",)
    columns = {
        setting: _items(get(f"{name}_{setting}")) for setting in (*settings, "CLIENT_ID", "CLIENT_SECRET")
    }
    length = len(columns["URL"]) or max(1, len(columns["CLIENT_ID"]))
    for setting, items in columns.items():
        if items and len(items) != length:
            raise UsageError(f"{name}_{setting} names {len(items)} where {name}_URL names {length}")
    known = GITHUB if forge == "github" else GITLAB
    found = []
    for place in range(length):
        url, api_url, client_id, secret = (
            columns[setting][place] if columns.get(setting) else ""
            for setting in ("URL", "API_URL", "CLIENT_ID", "CLIENT_SECRET")
        )
        if bool(client_id) != bool(secret):
            raise UsageError(f"{name}_CLIENT_ID and {name}_CLIENT_SECRET go together; set both or none")
        for setting, text in ((f"{name}_URL", url), (f"{name}_API_URL", api_url)):
            _check_url(setting, text, allow_private)
        plain = app_at(forge, url or known.url, api_url or None)
        found.append(App(forge, plain.url, plain.api_url, client_id or None, secret or None))
    return found


def _items(text: str | None) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


def _check_url(setting: str, text: str, allow_private: bool) -> None:
    if not text:
        return
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise UsageError(f"{setting} cannot be read; write https://host") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise UsageError(f"{setting} must begin with https://")
    if parts.scheme == "http" and not allow_private:
        raise UsageError(f"{setting} must begin with https://: http would expose tokens on the way")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"{setting} has a user name, a query or a fragment; write https://host")


def _port(text: str | None) -> int:
    if text is None:
        return 8000
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"PORT must be a number from 1 to 65535, not {text!r}")
    return int(text)


def _networks(name: str, text: str | None) -> peer.Networks:
    if text is None:
        return peer.THIS_MACHINE
    if text.strip().lower() == "none":
        return ()
    try:
        return peer.networks(_items(text))
    except ValueError:
        raise UsageError(
            f"{name} must name your proxies by address or network, as in 10.0.0.7,172.18.0.0/16, or be none; "
            f"not {text!r}"
        ) from None


def _bytes(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 12 or int(text) < 1 << 20:
        raise UsageError(f"{name} must be a number of bytes, {1 << 20} or more, not {text!r}")
    return int(text)


_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)(i?B)?")


def _size(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{name} must be a number of bytes such as 20G or 500M, not {text!r}")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def _signup(text: str | None, default: Signup) -> Signup:
    if text is None:
        return default
    for one in get_args(Signup):
        if text.lower() == one:
            return cast(Signup, one)
    raise UsageError(f"SIGNUP must be one of {', '.join(get_args(Signup))}, not {text!r}")


def _address(name: str, text: str | None, allow_private: bool) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise UsageError(f"{name} cannot be read; write https://host/path") from None
    if parts.scheme not in (("https", "http") if allow_private else ("https",)) or not parts.hostname:
        raise UsageError(f"{name} must begin with https://")
    if "@" in parts.netloc or not text.isascii() or " " in text:
        raise UsageError(f"{name} has a user name, a space or another character that must be encoded")
    return text.partition("#")[0]


def _log(text: str | None) -> LogForm:
    if text is None:
        return "text"
    for one in get_args(LogForm):
        if text.lower() == one:
            return cast(LogForm, one)
    raise UsageError(f"EVERREF_LOG must be one of {', '.join(get_args(LogForm))}, not {text!r}")


def _limits(get: Callable[[str], str | None], defaults: Limits) -> Limits:
    found = dict(defaults)
    for limit in quotas.LIMITS.values():
        if (text := get(limit.setting)) is not None:
            found[limit.name] = quotas.read(limit, text, limit.setting)
    return found


def _count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < len(text) < 10 or int(text) == 0:
        raise UsageError(f"{name} must be a number, 1 or more, not {text!r}")
    return int(text)


def _flag(name: str, text: str | None, default: bool) -> bool:
    if text is None:
        return default
    if text.lower() not in TRUE | FALSE:
        raise UsageError(f"{name} must be one of 1, true, yes, on, 0, false, no, off, not {text!r}")
    return text.lower() in TRUE
