"""One call of the API: the row of which its route, its checks and its part of the document are made.

What a call takes and gives is written once, as the types of the function that
answers it: `asked` is the query, `body` the JSON that was sent, and what it
returns is the answer. Everything is checked against them before it is called.
"""

import base64
import binascii
import hashlib
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.core import peer
from mirror.core.errors import NotFound, TooOften, UsageError
from mirror.core.rules.roles import Scope
from mirror.shapes.base import encoded
from mirror.store.people import attempts, idempotency
from mirror.web.dispatch import LARGE_BODY, Endpoint, Needs, RequestContext, check_text

T = TypeVar("T")

PREFIX: Final = "/api/v1"
BODY: Final = 1 << 20  # bytes of JSON that are read
A_MINUTE: Final = 600  # calls of one token, session or address
KEY: Final = 200  # characters of an Idempotency-Key
JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
OCTETS: Final = "application/octet-stream"
_LONGEST: Final = 2000  # characters of a parameter
_MINUTE: Final = timedelta(minutes=1)

Act = Callable[..., Awaitable[Any]]
Small = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]  # what a cursor may say of an int of PostgreSQL
Big = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of a call."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is sent to a call."""


class NoParameters(Query, frozen=True, kw_only=True):
    """None."""


@dataclass(frozen=True, slots=True)
class Call(Endpoint):
    """An endpoint of the API, and the function that answers it."""

    act: Act = field(kw_only=True)
    asks: type[Query] = field(kw_only=True)
    takes: type[Body] | None = field(kw_only=True)  # None: no body
    gives: Any = field(kw_only=True)  # a type; None: nothing. Of `media` other than JSON: bytes
    status: int = field(kw_only=True)
    media: str = field(kw_only=True)
    creates: bool = field(kw_only=True)  # an Idempotency-Key is respected
    elsewhere: bool = field(kw_only=True)  # the vault's store may hand it over itself
    sends: str = field(kw_only=True, default=JSON)  # of which kind the body is, if there is one

    @property
    def largest(self) -> int:
        return BODY if self.sends == JSON else LARGE_BODY

    @property
    def meant(self) -> bool:
        """Whether it is about a team that the path does not name."""
        return self.needs not in (Needs.NOTHING, Needs.PERSON) and "{team}" not in self.path


def call(
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
    path: str,
    act: Act,
    needs: Needs,
    scope: Scope | Literal["account"] = "read",
    *,
    status: int = 200,
    media: str = JSON,
    sure: bool = False,
    elsewhere: bool = False,
    reads: bool = False,
    anew: bool = False,
    sends: str = JSON,
) -> Call:
    """A row of the table; `path` is below /api/v1. `scope` "account": for people, no API token has it.

    What is sent as anything but JSON is the function's `data`, up to LARGE_BODY.
    """
    told = typing.get_type_hints(act, include_extras=True)
    gives = told["return"]
    return Call(
        method,
        PREFIX + path,
        answer,
        needs,
        scope,
        sure,
        reads,
        anew,
        act=act,
        asks=told.get("asked", NoParameters),
        takes=told.get("body"),
        gives=None if gives is types.NoneType else gives,
        status=204 if gives is types.NoneType else status,
        media=media,
        creates=status in (201, 202) and needs is not Needs.NOTHING,
        elsewhere=elsewhere,
        sends=sends,
    )


async def answer(context: RequestContext) -> Response:
    """Check what was sent, call the function of the row, and send what it returns."""
    made = context.endpoint
    assert isinstance(made, Call)
    await _limit(context)
    given: dict[str, Any] = {}
    asked = _asked(context, made)
    if made.asks is not NoParameters:
        given["asked"] = asked
    raw = b""
    if made.takes is not None:
        raw = await _sent(context)
        given["body"] = _decoded(raw, made.takes)
    elif made.sends != JSON:
        given["data"] = await _sent(context, made.sends)
    key = context.request.headers.get("idempotency-key")
    if made.creates and key is not None:
        return await _once(context, made, given, key, raw)
    return _answer(context, made, await made.act(context, **given))


async def _limit(context: RequestContext) -> None:
    """Count the call. Raises TooOften."""
    if context.token is not None:
        who = f"token {context.token.id}"
    elif context.session is not None:
        who = f"session {context.session.key.hex()}"
    else:
        who = f"address {peer.network(context.address)}"
    if not await attempts.take(context.services.db, f"api {who}", A_MINUTE, _MINUTE, context.now):
        raise TooOften(f"you made more than {A_MINUTE} calls in a minute; wait a minute", 60)


def _asked(context: RequestContext, made: Call) -> Query:
    """The query as what the call asks for. Raises UsageError naming the parameter."""
    kinds = parameters(made.asks)
    given: dict[str, Any] = {}
    for name in context.request.query_params.keys():
        values = context.request.query_params.getlist(name)
        if name == "team" and made.meant:
            continue
        if name not in kinds:
            raise UsageError(f"there is no parameter {name[:100]!r} here")
        if kinds[name] is not list and len(values) > 1:
            raise UsageError(f"the parameter {name} is given more than once")
        read = [_value(name, kinds[name], value) for value in values]
        given[name] = read if kinds[name] is list else read[0]
    try:
        return msgspec.convert(given, made.asks)
    except msgspec.ValidationError as error:
        raise UsageError(f"the parameters are not valid: {error}") from None


@cache
def parameters(asks: type[Query]) -> dict[str, type]:
    """Of what kind each parameter is: a str, an int, a bool, or a list of str."""
    found: dict[str, type] = {}
    for name, told in typing.get_type_hints(asks).items():
        options = [one for one in (typing.get_args(told) or (told,)) if one is not types.NoneType]
        if typing.get_origin(told) in (list, tuple):
            found[name] = list
        elif int in options or bool in options:
            found[name] = bool if bool in options else int
        else:
            found[name] = str
    return found


def _value(name: str, kind: type, text: str) -> Any:
    if len(text) > _LONGEST:
        raise UsageError(f"the parameter {name} is too long")
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"the parameter {name} must be true or false")
        return text == "true"
    if kind is int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
            raise UsageError(f"the parameter {name} must be a whole number")
        return int(text)
    return text


async def _sent(context: RequestContext, wanted: str = JSON) -> bytes:
    """The body. Raises what says that it is not of this kind."""
    request = context.request
    found = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wanted and (found or kind):
        what = "JSON" if wanted == JSON else "the bytes"
        raise HTTPException(415, f"send {what}, with the content type {wanted}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "send the body as it is, not compressed")
    return found


def _decoded(raw: bytes, takes: type[Body]) -> Body:
    """The body as what the call takes; nothing at all is an empty object. Raises UsageError with the path."""
    try:
        found = _decoder(takes).decode(raw or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is not valid: {error}") from None
    if b"\\u0000" in raw:  # no other way to write one in JSON
        check_text(_strings(msgspec.to_builtins(found)))
    return found


def _strings(value: Any) -> Iterator[str]:
    """Every text in what was sent, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _strings(name)
            yield from _strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)


@cache
def _decoder(takes: type[Body]) -> msgspec.json.Decoder[Body]:
    return msgspec.json.Decoder(takes)


async def _once(context: RequestContext, made: Call, given: dict[str, Any], key: str, raw: bytes) -> Response:
    """Do it, unless this key was answered before: then say the same again.

    A call that fails has changed nothing, so its key can be used again.
    """
    if not key or len(key) > KEY or not key.isascii() or not key.isprintable():
        raise UsageError(f"an Idempotency-Key must have 1 to {KEY} printable ASCII characters")
    db, person, keyring = context.services.db, context.owner().id, context.outside.keyring
    team = context.team.id if context.team else ""
    where = f"{made.method} {context.request.url.path}?{context.request.url.query} {team}\n"
    request = hashlib.sha256(where.encode() + raw).hexdigest()
    known = await idempotency.begin(db, person, key, request, context.now)
    if known is None:
        try:
            done = _answer(context, made, await made.act(context, **given))
        except BaseException:
            await idempotency.forget(db, person, key)
            raise
        sealed = idempotency.seal(keyring, person, key, bytes(done.body))
        await idempotency.answered(db, person, key, done.status_code, sealed)
        return done
    if not known.same:
        raise HTTPException(422, "this Idempotency-Key was used for another request; use a new one")
    if known.status is None or known.sealed is None:
        raise HTTPException(409, "the first request with this Idempotency-Key is still running; try again")
    body = idempotency.opened(keyring, person, key, known.sealed)
    return Response(body, known.status, {"idempotent-replayed": "true"}, media_type=JSON)


def _answer(context: RequestContext, made: Call, result: Any) -> Response:
    """What the call returned, as it is sent."""
    if isinstance(result, Response):
        return result
    if made.gives is None:
        return Response(status_code=204)
    body = encoded(result) + b"\n"
    if made.method != "GET":
        return Response(body, made.status, media_type=JSON)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"etag": tag, "vary": "authorization, cookie"}
    if _matches(context.request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, made.status, headers, media_type=JSON)


def _matches(wanted: str, tag: str) -> bool:
    """Whether If-None-Match names this tag (RFC 9110, 13.1.2: weakly)."""
    return wanted.strip() == "*" or tag in {one.strip().removeprefix("W/") for one in wanted.split(",")}


# What calls have in common.


def cursor(place: object) -> str:
    """Where a page ends, as text that only `begin` reads."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def begin(text: str | None, kind: type[T]) -> T | None:
    """Where a page begins. None: at the start. Raises UsageError where it is not what `cursor` made."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise UsageError("the cursor is not from this list; start without one") from None


def uuid_of(context: RequestContext, name: str, what: str) -> UUID:
    """A part of the path that is an id. Raises NotFound."""
    text = str(context.path[name])
    try:
        if len(text) == 36:
            return UUID(text)
    except ValueError:
        pass
    raise NotFound(f"there is no such {what}")


def summary(act: Act) -> tuple[str, str]:
    """What a function does, in its first line, and all that its words say."""
    words = inspect.cleandoc(act.__doc__ or "")
    return words.partition("\n")[0].rstrip("."), words
