"""The OpenAPI document, and its page for people, both made from the table of calls."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import msgspec
from starlette.responses import Response

from mirror.web.api import CALLS
from mirror.web.api.call import A_MINUTE, BODY, JSON, KEY, Call, NoParameters, summary
from mirror.web.api.shapes import Problem
from mirror.web.dispatch import Endpoint, Needs, RequestContext

PROBLEM: Final = "application/problem+json"
REFS: Final = "#/components/schemas/{name}"
TOPICS: Final[Mapping[str, str]] = {
    "entry": "Signing in",
    "account": "Your account",
    "team": "Teams",
    "channels": "Where people are told",
    "protection": "Objectives and the dead man's switch",
    "served": "Serving clones",
    "keys": "Encryption keys",
    "retention": "Retention",
    "mirrors": "Mirrors",
    "repos": "Repositories",
    "moments": "Any moment",
    "work": "Backups, restores and jobs",
    "shares": "Share links",
    "incident": "Pushes of a team, and rollbacks",
    "uploads": "Bringing repositories in",
    "evidence": "Evidence and badges",
    "costs": "Costs",
    "pending": "What is pending, and deleting backups",
    "forges": "Connections",
}
ABOUT: Final = " ".join(
    f"""
    Everything that Everref's pages do, for programs. Send an API token, or the access token from
    /api/v1/login, as `Authorization: Bearer`. Errors are problem+json (RFC 9457). Lists have `next`:
    send it as `cursor` to get the next page. Calls that create something accept an `Idempotency-Key`: the
    same request sent again within 24 hours gets the same answer. Answers to GET have an ETag. The limits are
    {A_MINUTE} calls a minute and bodies of {BODY >> 20} MiB.
    """.split()
)
_UUID: Final = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_PARTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "team": {"type": "string", "description": "a team's name"},
    "number": {"type": "integer", "minimum": 1, "maximum": (1 << 31) - 1},
    "notice": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    "session": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "oid": {"type": "string", "minLength": 1, "description": "a whole object id, or a ref's name"},
    "forge": {"type": "string", "enum": ["github", "gitlab"]},
    "host": {"type": "string", "minLength": 1},
    "name": {"type": "string", "pattern": r"^[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{16}\.json$"},
    "account": {"type": "string", "minLength": 1},
}
_ID: Final[Mapping[str, Any]] = {"type": "string", "format": "uuid", "pattern": _UUID}
_CODE: Final[Mapping[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 2000}


@cache
def document() -> Mapping[str, Any]:
    """The whole API as OpenAPI 3.1."""
    kinds = [one for call in CALLS for one in (call.asks, call.takes, call.gives) if _is_shape(one)]
    _, components = msgspec.json.schema_components([*kinds, Problem], ref_template=REFS)
    schemas: dict[str, Any] = dict(components)
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, schemas)
    asked = {call.asks.__name__ for call in CALLS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Everref", "version": version("everref"), "description": ABOUT},
        "tags": [{"name": name} for name in TOPICS.values()],
        "paths": paths,
        "security": [{"bearer": []}, {"session": [], "csrf": []}],
        "components": {
            "schemas": {name: told for name, told in schemas.items() if name not in asked},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "__Host-sid"},
                "csrf": {"type": "apiKey", "in": "header", "name": "x-csrf-token"},
            },
        },
    }


def _is_shape(kind: Any) -> bool:
    return kind is not None and not (isinstance(kind, type) and issubclass(kind, Response))


def _operation(call: Call, schemas: Mapping[str, Any]) -> dict[str, Any]:
    first, words = summary(call.act)
    told: dict[str, Any] = {
        "operationId": operation_id(call),
        "summary": first,
        "description": f"{words}\n\n{needed(call)}",
        "tags": [topic(call)],
        "parameters": [*_of_path(call), *_of_query(call, schemas), *_of_headers(call)],
        "responses": _responses(call),
    }
    if call.needs is Needs.NOTHING:
        told["security"] = []
    if call.takes is not None:
        required = bool(schemas[call.takes.__name__].get("required"))
        told["requestBody"] = {"required": required, "content": {JSON: {"schema": _schema(call.takes)}}}
    elif call.sends != JSON:
        told["requestBody"] = {"required": True, "content": {call.sends: {}}}
    return told


def operation_id(call: Call) -> str:
    """A name of its own: the function's, with the path's where several calls share one."""
    same = [one for one in CALLS if one.act is call.act]
    name: str = call.act.__name__
    if len(same) == 1 or same[0] is call:
        return name
    return f"{name}_{re.sub('[^a-z]+', '_', call.path.removeprefix('/api/v1/')).strip('_')}"


def topic(call: Call) -> str:
    """Under which heading it stands."""
    return TOPICS[call.act.__module__.rpartition(".")[2]]


def needed(call: Call) -> str:
    """What the call needs, in words."""
    if call.needs is Needs.NOTHING:
        return "Needs no sign-in."
    who = "anybody who is signed in" if call.needs is Needs.PERSON else f"the role {call.needs} or more"
    sure = " A sign-in must not be older than ten minutes." if call.sure else ""
    by = f"an API token with the scope {call.scope}"
    if call.scope == "account":
        return f"Needs {who}; API tokens cannot do this.{sure}"
    return f"Needs {who}; {by}, or being signed in.{sure}"


def _of_path(call: Call) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"{(\w+)}", call.path):
        schema = dict(_PARTS.get(name, _ID))
        if name == "invitation" and call.path.startswith("/api/v1/invitations/"):
            schema = dict(_CODE)
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _of_query(call: Call, schemas: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    if call.meant:
        about = "a team's name; default: the token's team, or your own"
        found.append({"name": "team", "in": "query", "description": about, "schema": {"type": "string"}})
    if call.asks is NoParameters:
        return found
    told = schemas[call.asks.__name__]
    for name, schema in told["properties"].items():
        made: dict[str, Any] = {"name": name, "in": "query", "schema": _without_null(schema)}
        if name in told.get("required", ()):
            made["required"] = True
        found.append(made)
    return found


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a parameter: one that is left out is not null, it is not there."""
    options = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    told = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    if schema.get("default") not in (None, []):
        told["default"] = schema["default"]
    return told | (options[0] if options else {})


def _of_headers(call: Call) -> list[dict[str, Any]]:
    if not call.creates:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": KEY, "pattern": "^[ -~]+$"}
    about = "any text of yours; the same request sent again with it gets the same answer"
    return [{"name": "Idempotency-Key", "in": "header", "description": about, "schema": schema}]


def _responses(call: Call) -> dict[str, Any]:
    done: dict[str, Any] = {"description": HTTPStatus(call.status).phrase}
    if call.media != JSON:
        done["content"] = {"*/*" if call.media.endswith("octet-stream") else call.media: {}}
    elif call.gives is not None:
        done["content"] = {JSON: {"schema": _schema(call.gives)}}
    if call.method == "GET" and call.media == JSON:
        done["headers"] = {"ETag": {"schema": {"type": "string"}}}
    found = {str(call.status): done}
    if call.method == "GET" and call.media == JSON:
        found["304"] = {"description": "not changed since the version in If-None-Match"}
    if call.elsewhere:
        headers = {"Location": {"schema": {"type": "string", "format": "uri"}}}
        about = "the store serves it directly at this address for 15 minutes"
        found["303"] = {"description": about, "headers": headers}
    for status in errors(call):
        found[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM: {"schema": _schema(Problem)}},
        }
    found["default"] = {
        "description": "another error",
        "content": {PROBLEM: {"schema": _schema(Problem)}},
    }
    return found


def errors(call: Call) -> Sequence[int]:
    """The statuses with which the call can be refused, by what it takes and needs."""
    found = {400, 429}
    if call.needs is not Needs.NOTHING:
        found |= {401, 403}
    if "{" in call.path or call.meant:
        found.add(404)
    if call.method != "GET":
        found |= {403, 409, 422}
    if call.takes is not None or call.sends != JSON:
        found |= {413, 415}
    if call.path in ("/api/v1/login", "/api/v1/refresh"):
        found.add(401)
    return sorted(found)


def _schema(kind: Any) -> Any:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFS)
    return schema


async def openapi(context: RequestContext) -> Response:
    """The document itself."""
    return Response(msgspec.json.encode(document()) + b"\n", media_type=JSON)


async def docs(context: RequestContext) -> Response:
    """The same for people."""
    return context.render(
        "api_docs.html", document=document(), groups=_groups(), schemas=_fields(), in_words=in_words
    )


def _groups() -> list[tuple[str, list[tuple[Call, Any]]]]:
    """The calls under their headings."""
    paths = document()["paths"]
    return [
        (name, [(call, paths[call.path][call.method.lower()]) for call in CALLS if topic(call) == name])
        for name in TOPICS.values()
    ]


def _fields() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Every kind of object, in words: its fields with their types and what they mean."""
    found = []
    for name, told in sorted(document()["components"]["schemas"].items()):
        fields = [
            (field, in_words(schema), schema.get("description", ""))
            for field, schema in told.get("properties", {}).items()
        ]
        found.append((name, told.get("description", ""), fields))
    return found


def in_words(schema: Mapping[str, Any]) -> str:
    """A type as people read it."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(in_words(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(one) for one in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {in_words(schema.get('items', {}))}"
    if kind == "string" and "format" in schema:
        return "time" if schema["format"] == "date-time" else str(schema["format"])
    return str(kind)


ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", "/api/openapi.json", openapi, Needs.NOTHING),
    Endpoint("GET", "/api/docs", docs, Needs.NOTHING),
)
