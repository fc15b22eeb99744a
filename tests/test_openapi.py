"""The OpenAPI document, its page for people, and the calls as schemathesis finds them described."""

import re
from collections.abc import Iterator
from typing import Any, Final, cast

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import openapi
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from mirror.core import signed
from mirror.store.people import sessions
from mirror.web.api import CALLS
from mirror.web.openapi import document
from tests.parts.api import program, with_token
from tests.parts.web import ORIGIN, Site
from tests.test_api import Kept, kept

__all__ = ["kept"]  # the fixture

# Positive data can still be refused: no schema says that a password is weak or a moment is before the first.
JUDGED: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
FORGES: Final = {"connect", "list_owners", "list_anew"}  # ask a forge, which is not there
TAKEN: Final = {"method", "url", "headers", "params", "json", "data", "content"}
EACH: Final = 8  # requests of each kind for each call


def test_every_call_is_described_once() -> None:
    paths = document()["paths"]
    told = [(method.upper(), path) for path, calls in paths.items() for method in calls]
    assert sorted(told) == sorted((call.method, call.path) for call in CALLS)
    ids = [one["operationId"] for calls in paths.values() for one in calls.values()]
    assert len(ids) == len(set(ids))
    assert all(one["summary"] for calls in paths.values() for one in calls.values())


def test_every_reference_leads_somewhere() -> None:
    text = repr(document())
    names = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert names <= document()["components"]["schemas"].keys()


async def test_it_is_served_with_a_page_for_people(site: Site) -> None:
    guest = (await program(site)).client
    answer = await guest.get("/api/openapi.json")
    assert (answer.status_code, answer.json()["openapi"]) == (200, "3.1.0")
    page = await guest.get("/api/docs")
    assert page.status_code == 200
    for call in CALLS:
        assert call.path in page.text
    assert '<script src="/static/' in page.text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)


def cases(operation: Any, mode: GenerationMode, parts: dict[str, Any]) -> Iterator[Any]:
    """Requests as the description of a call has them, or as it does not; the same ones in every run."""
    found: list[Any] = []
    names = {one.name for one in operation.path_parameters}
    known = {name: value for name, value in parts.items() if name in names}
    strategy = operation.as_strategy(mode, path_parameters=known if mode is GenerationMode.POSITIVE else None)

    @seed(1)
    @settings(
        max_examples=EACH,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    yield from found


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
async def test_schemathesis_finds_nothing(kept: Kept, mode: GenerationMode) -> None:
    site, db = kept.site, kept.site.mirror.services.db
    done, wrong = 0, list[str]()
    load_all_checks()
    checks = CHECKS.get_by_names(JUDGED)
    job = await kept.program.post(f"{kept.at}/drills")
    parts = {"team": "alice", "repo": str(kept.repo.id), "job": job["id"], "number": 1, "notice": "1"}
    token = (await with_token(site, kept.alice, kept.team)).bearer
    client = (await site.browser()).client
    for result in openapi.from_dict(dict(document())).get_all_operations():
        operation = cast(Any, result).ok()
        told = operation.definition.raw
        if told["operationId"] in FORGES or told["operationId"].endswith("events"):
            continue
        for case in cases(operation, mode, parts):
            bearer = token
            if "API tokens cannot" in told["description"]:
                raw, _ = await sessions.start(
                    db, kept.alice.id, site.mirror.clock.now, "a program", "192.0.2.1", program=True
                )
                bearer = signed.sign(site.outside.keyring, "access", raw, site.mirror.clock.now)
            request = case.as_transport_kwargs(base_url=ORIGIN)
            request = {key: value for key, value in request.items() if key in TAKEN}
            if isinstance(request.get("data"), str | bytes):
                request["content"] = request.pop("data")
            request["headers"] = dict(request.get("headers") or {}) | {"authorization": f"Bearer {bearer}"}
            answer = await client.request(**request)
            done += answer.is_success
            try:
                case.validate_response(answer, checks=checks)
            except BaseExceptionGroup as group:
                wrong += [f"{operation.label}: {error!r}"[:600] for error in group.exceptions]
    assert wrong == []
    assert (done > 100) is (mode is GenerationMode.POSITIVE), done
