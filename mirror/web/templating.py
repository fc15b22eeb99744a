"""The template environment of every page, and the filters that put values into words."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from mirror.core import refs, words
from mirror.core.errors import UsageError
from mirror.core.model import SYMBOLIC, has_remote, older_of
from mirror.core.rules.health import causes, objective, standing
from mirror.core.rules.history.rollback import one_field
from mirror.core.times import zones

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"
SHORT: Final = 10  # digits of an id that people compare by eye
BRANCHES: Final = "refs/heads/"
_REORDERING: Final = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")


@cache
def environment() -> Environment:
    """The environment of all pages: an undefined value is an error, and output is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_in_order,
    )
    made.filters |= {
        "unsaved": words.unsaved,
        "has_remote": has_remote,
        "older_of": older_of,
        "not_known": words.not_known,
        "ago": ago,
        "called": called,
        "clock": clock,
        "coded": coded,
        "count": words.count,
        "day": day,
        "iso": iso,
        "letters": letters,
        "local": local,
        "lasted": words.lasted,
        "span": objective.said,
        "mend": words.mend,
        "sentence": words.sentence,
        "oid": oid,
        "one_field": one_field,
        "path": path,
        "percent": words.percent,
        "refname": refname,
        "repositories": causes.repositories,
        "size": words.size,
        "standing": standing_now,
        "text": text,
    }
    made.globals |= {"static": static, "url": url, "repo_url": repo_url, "slash": b"/", "ref_to": SYMBOLIC}
    return made


def _in_order(printed: object) -> object:
    """What a page prints, without the characters that show the rest of a line in another order.

    An author, a message or a line of code with one could make a sentence of ours say something else:
    https://trojansource.codes
    """
    if not isinstance(printed, str) or printed.isascii():
        return printed
    return printed.translate(_REORDERING)


@cache
def static(name: str) -> str:
    """The address of a file of ours; it changes with what is in it, so that it can be kept for ever."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def url(path: str, /, **query: object) -> str:
    """An address of ours: the parts of the path quoted, of the query what is not None and not empty."""
    asked = [
        (key, value if isinstance(value, bytes) else str(value))
        for key, value in query.items()
        if value not in (None, "", b"")
    ]
    return quote(path, safe="/:") + (f"?{urlencode(asked)}" if asked else "")


def repo_url(team: str, repo: str, page: str = "", /, **query: object) -> str:
    """The address of a repo's page: `files/src` is below it at `/-/files/src`."""
    return url(f"/{team}/{repo}" + (f"/-/{page}" if page else ""), **query)


@pass_context
def ago(context: Context, then: datetime | None, never: str = "never") -> str:
    """How long ago, with the exact time as a tooltip; the page's script keeps it fresh."""
    if then is None:
        return never
    said = words.ago(then, context["now"])
    return Markup('<time datetime="{}" title="{}" data-ago>{}</time>').format(
        iso(then), shown(then, _zone(context)), said
    )


@pass_context
def standing_now(context: Context, repo: standing.Backup) -> str:
    """What is saved of a repo that is not backed up at the moment, and what comes next."""
    return standing.told(standing.of(repo), context["now"])


@pass_context
def clock(context: Context, then: datetime, seconds: bool = True) -> str:
    """The exact time in the person's zone, which it names, with the year when it is another one."""
    zone = _zone(context)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        iso(then), shown(then, zone), moment(then, context["now"], zone, seconds)
    )


@pass_context
def day(context: Context, then: datetime) -> str:
    """A time with its year and zone, so that it is still clear on paper and years later."""
    zone = _zone(context)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        iso(then),
        shown(then, zone),
        f"{then.astimezone(zone):%Y-%m-%d %H:%M} {zones.abbreviation(then, zone)}",
    )


@pass_context
def letters(context: Context, start: datetime, end: datetime) -> str:
    """How the person's zone is called between two times, for a script that shows times: `1762063200 EST`…"""
    return " ".join(f"{since} {name}" for since, name in zones.abbreviations(start, end, _zone(context)))


@pass_context
def local(context: Context, then: datetime) -> str:
    """A time as <input type=datetime-local> holds it, on the clocks of the person; `picked` sends it back."""
    return f"{then.astimezone(_zone(context)):%Y-%m-%dT%H:%M:%S}"


def moment(then: datetime, now: datetime, zone: ZoneInfo, seconds: bool = True) -> str:
    """`2 March, 09:13:40 CET`, and the year when it is another one."""
    there = then.astimezone(zone)
    year = "" if there.year == now.astimezone(zone).year else f" {there.year}"
    told = (
        f"{there.day} {there:%B}{year}, {there:%H:%M:%S}"
        if seconds
        else f"{there.day} {there:%b}{year}, {there:%H:%M}"
    )
    return f"{told} {zones.abbreviation(then, zone)}"


def shown(then: datetime, zone: ZoneInfo) -> str:
    """The whole time, to the second, with its zone."""
    return f"{then.astimezone(zone):%Y-%m-%d %H:%M:%S} {zones.abbreviation(then, zone)}"


def iso(then: datetime) -> str:
    """A time for programs: RFC 3339, in UTC, to the second, so that WHEN takes it."""
    return f"{then.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _zone(context: Context) -> ZoneInfo:
    """The time zone of the person who looks."""
    request = context.get("context")
    return zones.named(None) if request is None else request.zone


def wrong(error: object | None) -> dict[str, str]:
    """The field of a form that an error is about, with the message for it; empty: no single field."""
    field = error.field if isinstance(error, UsageError) else None
    return {field: words.sentence(error)} if field else {}


def coded(said: str) -> str:
    """Words in which backticks mark code, as they look on a page."""
    parts = said.split("`")
    if len(parts) % 2 == 0:  # one is left over: they mark nothing
        return said
    marked = [Markup("<code>{}</code>").format(one) if n % 2 else one for n, one in enumerate(parts)]
    return Markup("").join(marked)


def called(app: Any) -> str:
    """A forge as people call it, with its host where it is not the cloud's; `app` has a forge and a host."""
    return causes.called(app.forge, app.host)


def oid(target: bytes | str | None) -> str:
    """An object id as people compare it: its beginning, with the whole in the title."""
    if target is None:
        return "nothing"
    whole = target if isinstance(target, str) else text(target)
    if whole.startswith("ref: "):
        return refname(whole.removeprefix("ref: ").encode())
    return Markup('<code class="oid" title="{}">{}</code>').format(whole, whole[:SHORT])


def refname(name: bytes) -> str:
    """A ref as people call it: branches and tags without what git puts before them."""
    whole = refs.shown_text(name)
    return whole.removeprefix(BRANCHES).removeprefix("refs/tags/")


def text(raw: bytes) -> str:
    """Bytes of git as text."""
    return words.name(raw)


def path(raw: bytes) -> str:
    """Bytes of git as a part of an address, which decodes to the same bytes."""
    return quote(raw, safe="/")


def pages(number: int, last: int) -> Sequence[int | None]:
    """Which page numbers a pager offers: the ends, and those around this one; None is a gap."""
    wanted = sorted({1, last} | {n for n in range(number - 1, number + 2) if 1 <= n <= last})
    found: list[int | None] = []
    for n in wanted:
        before = found[-1] if found else None
        if before is not None and n - before > 1:
            found.append(before + 1 if n - before == 2 else None)
        found.append(n)
    return found
