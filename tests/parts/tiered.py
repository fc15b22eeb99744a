"""A double of S3 as far as storage classes go, which no free server has: a bucket whose objects grow old.

It answers as S3 documents: a rule that S3 would refuse is refused (InvalidArgument), an object in an archive
is listed and not read (InvalidObjectState), and a move changes neither bytes nor the time of storing.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketLifecycleConfiguration.html
"""

import base64
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.parts.forges.serve import answering

ARCHIVES: Final = ("GLACIER", "DEEP_ARCHIVE")
_XMLNS: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_NS: Final = f"{{{_XMLNS}}}"
_LEAST: Final = 128 << 10
_DEFAULT: Final = "x-amz-transition-default-minimum-object-size"


@dataclass
class Object:
    """One object as it is stored."""

    data: bytes
    modified: datetime
    kind: str = "STANDARD"


@dataclass
class Tiered:
    """A bucket with lifecycle rules, and a clock that a test moves."""

    url: str = ""
    now: datetime = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
    objects: dict[str, Object] = field(default_factory=dict)
    rules: Element | None = None
    least: str = "all_storage_classes_128K"  # what rules move by default; each PUT says it anew
    loses_rules: bool = False  # it accepts them and shows none
    denies_rules: bool = False  # the key may not read them

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/{bucket}", self.of_bucket, methods=["GET", "PUT", "DELETE"]),
                Route("/{bucket}/{key:path}", self.of_object, methods=["GET", "HEAD", "PUT"]),
            ]
        )

    def age(self, by: timedelta) -> None:
        """Time goes on, and the store moves what its rules say."""
        self.now += by
        for rule in () if self.rules is None else self.rules.iter(f"{_NS}Rule"):
            prefix = next((one.text or "" for one in rule.iter(f"{_NS}Prefix")), "")
            larger = next((int(one.text or 0) for one in rule.iter(f"{_NS}ObjectSizeGreaterThan")), _LEAST)
            for days, kind in _moves(rule):
                for key, one in self.objects.items():
                    old = self.now - one.modified >= timedelta(days=days)
                    if old and key.startswith(prefix) and len(one.data) > larger:
                        one.kind = kind

    async def of_bucket(self, request: Request) -> Response:
        if "lifecycle" in request.query_params:
            return await self._lifecycle(request)
        if "list-type" in request.query_params:
            return self._list(request.query_params.get("prefix", ""))
        return _failed(501, "NotImplemented")

    async def _lifecycle(self, request: Request) -> Response:
        if self.denies_rules:
            return _failed(403, "AccessDenied")
        if request.method == "DELETE":
            self.rules = None
            return Response(status_code=204)
        if request.method == "GET":
            if self.rules is None:
                return _failed(404, "NoSuchLifecycleConfiguration")
            headers = {_DEFAULT: self.least}
            return Response(ElementTree.tostring(self.rules), headers=headers, media_type="application/xml")
        self.least = request.headers.get(_DEFAULT, "all_storage_classes_128K")
        given = ElementTree.fromstring(await request.body())
        ids = [one.text for one in given.iter(f"{_NS}ID")]
        early = any(days < 30 for rule in given for days, kind in _moves(rule) if kind == "STANDARD_IA")
        if early or len(set(ids)) < len(ids) or not list(given.iter(f"{_NS}Rule")):
            return _failed(400, "InvalidArgument")
        self.rules = None if self.loses_rules else given
        return Response()

    def _list(self, prefix: str) -> Response:
        answer = Element("ListBucketResult", xmlns=_XMLNS)
        SubElement(answer, "IsTruncated").text = "false"
        for key in sorted(self.objects):
            if key.startswith(prefix):
                one, listed = self.objects[key], SubElement(answer, "Contents")
                SubElement(listed, "Key").text = key
                SubElement(listed, "Size").text = str(len(one.data))
                SubElement(listed, "LastModified").text = f"{one.modified:%Y-%m-%dT%H:%M:%S.000Z}"
                SubElement(listed, "StorageClass").text = one.kind
        return Response(ElementTree.tostring(answer), media_type="application/xml")

    async def of_object(self, request: Request) -> Response:
        key = request.path_params["key"]
        if request.method == "PUT":
            data = await request.body()
            self.objects[key] = Object(data, self.now)
            return Response(headers={"etag": _etag(data)})
        found = self.objects.get(key)
        if found is None:
            return _failed(404, "NoSuchKey")
        headers = {"etag": _etag(found.data), "last-modified": f"{found.modified:%a, %d %b %Y %H:%M:%S GMT}"}
        if found.kind != "STANDARD":  # S3 names no class where it is the usual one
            headers["x-amz-storage-class"] = found.kind
        if request.method == "HEAD":
            return Response(headers=headers | {"content-length": str(len(found.data))})
        return (
            _failed(403, "InvalidObjectState")
            if found.kind in ARCHIVES
            else Response(found.data, 200, headers)
        )


def _moves(rule: Element) -> Iterator[tuple[int, str]]:
    for move in rule.iter(f"{_NS}Transition"):
        yield int(move.findtext(f"{_NS}Days") or -1), move.findtext(f"{_NS}StorageClass") or ""


def _etag(data: bytes) -> str:
    return f'"{base64.b16encode(hashlib.md5(data).digest()).decode().lower()}"'


def _failed(status: int, code: str) -> Response:
    answer = Element("Error")
    SubElement(answer, "Code").text = code
    return Response(ElementTree.tostring(answer), status, media_type="application/xml")


@asynccontextmanager
async def tiered(prefix: str = "backups") -> AsyncIterator[Tiered]:
    """The double on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    store = Tiered(f"s3://a-bucket/{prefix}?endpoint_url={quote(endpoint, safe='')}&region=us-east-1")
    async with answering(store.app(), listener):
        yield store
