"""Any moment as a git remote: read-only smart HTTP at /git/{team}/{repo}[@WHEN], for stock git.

Format: gitprotocol-http(5). Who asks is told by Basic authentication: the password is an API token with the
scope read, under any user name, or a person's own under their e-mail address.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.core import words
from mirror.core.errors import BadCredentials, EverrefError, NotFound, UsageError
from mirror.core.formats import gzipped, receive_pack
from mirror.core.formats import upload_pack as protocol
from mirror.core.formats.upload_pack import Reader, Request, Version
from mirror.core.model import ObjectFormat, Repo, Snapshot, has_remote
from mirror.core.times import when
from mirror.git.disk import finish
from mirror.git.reader.slots import Requester
from mirror.people import accounts
from mirror.restore import moment, serving
from mirror.store import repos
from mirror.store.backup import snapshots
from mirror.store.people import attempts, people, tokens
from mirror.web.asked import Asked
from mirror.web.dispatch import BASIC, Endpoint, Needs, RequestContext
from mirror.web.pages.repos.download import Stream
from mirror.web.remote import clone_bundles, receive

UPLOAD: Final = "git-upload-pack"
RECEIVE: Final = receive_pack.SERVICE
BODY_PATIENCE: Final = 8.0  # seconds for a large request to find room in memory
SURE: Final = timedelta(minutes=5)  # for which a password that was right is not hashed again
HOUR: Final = timedelta(hours=1)  # in which fetches of a moment by one person are one audit entry
PIECE: Final = 1 << 18  # bytes of a pack that are sent at once: four times fewer turns than for a download
LARGE: Final = 1 << 18  # bytes of a request that are read at once
_KNOWN: Final = 1000  # passwords that are remembered so
_LONGEST: Final = 100  # characters of a WHEN
_MEANT: Final = 3  # repos that are named to somebody who left out the first part of a name
_EXAMPLES: Final = "12, 2026-03-02, 2026-03-02T09:14Z or 2h%20ago"  # in an address: `#` would end it
_NO_PUSH: Final = (
    "a moment is read-only, for clones and fetches; to push, leave out the @ and what follows it"
)

T = TypeVar("T")


# Who asks.


async def recognise(context: RequestContext) -> None:
    """Find out who asks, by Basic authentication or a bearer token; no cookie counts, so no page asks.

    Raises 401 where what was given is wrong, TooOften as a sign-in does.
    """
    if context.query.get("service") == RECEIVE:
        context.other_scope = receive.SCOPE  # a machine that backs itself up need not read anything
    kind, _, given = context.request.headers.get("authorization", "").partition(" ")
    if not kind:
        return  # a stranger: git asks without anything first, and is told to sign in
    if kind.lower() == "bearer":
        user, password = "", given.strip()
    else:
        user, password = _basic(kind, given)
    context.bearer = True
    for raw in (password, user):  # some programs have the token as the user name
        if raw.startswith(tokens.PREFIX):
            context.token = await tokens.of(context.services.db, raw, context.now)
            if context.token is None:
                raise HTTPException(401, "the token is unknown, revoked or expired", BASIC)
            context.person = context.token.person
            return
    if not user or not password:
        raise HTTPException(401, "give an API token as the password", BASIC)
    try:
        context.person = await _by_password(context, user, password)
    except BadCredentials:
        raise HTTPException(
            401, "wrong e-mail address or password; an API token works as the password too", BASIC
        ) from None


def _basic(kind: str, given: str) -> tuple[str, str]:
    """The user name and password of RFC 7617."""
    try:
        if kind.lower() != "basic":
            raise ValueError
        user, colon, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
        if not colon or "\0" in user + password:
            raise ValueError
    except (binascii.Error, ValueError):
        raise HTTPException(401, "sign in with Basic authentication and an API token", BASIC) from None
    return user, password


_KEY: Final = secrets.token_bytes(32)  # of this process, so that what is remembered tells nothing elsewhere
_sure: OrderedDict[bytes, tuple[str, datetime]] = OrderedDict()  # by who and password: the hash, until when


async def _by_password(context: RequestContext, email: str, password: str) -> people.Person:
    """The person with this e-mail and password, limited as a sign-in. Raises BadCredentials, TooOften.

    A clone is three requests and a partial one a hundred; the slow hash is paid once in SURE. What is
    remembered is a keyed digest with the hash that was right, which a new password replaces.
    """
    db, now, email = context.services.db, context.now, email.strip().lower()
    told = (hashlib.sha256(one.encode()).digest() for one in (email, password))
    key = hmac.digest(_KEY, b"".join(told), "sha256")
    known = _sure.get(key)
    if known and known[1] > now:
        found = await people.password_of(db, email)
        if found and found[1] == known[0]:
            return found[0]
    _sure.pop(key, None)
    person = await accounts.sign_in_with_password(db, email, password, now, context.address)
    stored = await people.password_hash(db, person.id)
    if stored is not None:
        _sure[key] = stored, now + SURE
        while len(_sure) > _KNOWN:
            _sure.popitem(last=False)
    return person


# What they ask for.


@dataclass(frozen=True, slots=True)
class Remote:
    """What is served at one address."""

    repo: Repo
    snapshot: Snapshot
    globs: Sequence[str] = ()  # the refs that are served; empty: all
    as_of: datetime | None = None  # when its host last showed this; None: it has no host, or at the snapshot

    def headers(self) -> dict[str, str]:
        """Which moment it is and how old, for programs."""
        return {
            "everref-snapshot": self.snapshot.label.removeprefix("#"),
            "everref-moment": words.rfc3339(self.snapshot.taken_at),
            "everref-as-of": words.rfc3339(self.as_of or self.snapshot.taken_at),
        }

    def note(self, now: datetime) -> str:
        """The same for people: `acme/api as of #12, 2026-03-02 09:14:03 UTC (3 h ago)`."""
        taken = self.snapshot.taken_at.astimezone(UTC)
        told = f"Everref: {self.repo.name} as of {self.snapshot.label}, {taken:%Y-%m-%d %H:%M:%S} UTC"
        if self.as_of is None:
            return f"{told} ({words.ago(taken, now)})"
        return f"{told}; the latest when its host was last checked, {words.ago(self.as_of, now)}"


async def asked_for(context: RequestContext) -> tuple[Repo, Asked]:
    """The repo of the path, with or without `.git`, and the moment after its `@`.

    Raises NotFound, and UsageError for what is no moment. A repo whose name has an @ goes before a moment.
    """
    text, team = str(context.path["repo"]), context.of_team()
    name, sign, after = text.rpartition("@")
    for whole, typed in ((text, ""), (name, after)) if sign else ((text, ""),):
        for one in dict.fromkeys((whole, whole.removesuffix(".git"))):
            found = await repos.by_name(context.services.db, team.id, one) if one else None
            if found is not None:
                context.found = found
                return found, _moment(typed.removesuffix(".git"), context.now)
    name = (name if sign else text)[:200]
    meant = await repos.ending_in(context.services.db, team.id, name.removesuffix(".git"), _MEANT)
    hint = f"; do you mean {' or '.join(f'/git/{team.name}/{one}' for one in meant)}?" if meant else ""
    raise NotFound(f"there is no repository {name} in {team.name}{hint}")


def _moment(typed: str, now: datetime) -> Asked:
    """What stands after the @, in UTC where it names no zone; a number alone is a snapshot's."""
    if not typed:
        return Asked()
    if len(typed) > _LONGEST:
        raise UsageError(f"that is too long for a moment; write it like {_EXAMPLES}")
    try:
        meant = when.understood(f"#{typed}" if typed.replace(".", "", 1).isdecimal() else typed, now)
    except UsageError as error:
        raise UsageError(str(error).replace(when.EXAMPLES, _EXAMPLES)) from None
    return Asked(typed, meant.when, meant.note)


async def remote(context: RequestContext) -> Remote:
    """What the path names. Raises NotFound, Dropped, UsageError."""
    repo, asked = await asked_for(context)
    db = context.services.db
    snapshot = await moment.snapshot_at(context.services, repo, asked.up_to)
    latest = snapshot if asked.when is None else await snapshots.latest(db, repo.id)
    is_latest = latest is not None and (latest.number, 0) == (snapshot.number, snapshot.moment)
    is_checked = is_latest and has_remote(repo.url)
    as_of = await repos.protected_as_of(db, repo.id) if is_checked else None
    return Remote(repo, snapshot, (), as_of if as_of and as_of >= snapshot.taken_at else None)


# The answers.


async def info_refs(context: RequestContext) -> Response:
    """What git asks first."""
    if context.query.get("service") == RECEIVE:
        return await receive.advertised(context, await _to_push_to(context))
    check_service(context, _NO_PUSH)
    return await advertised(context, await remote(context), bundles=True)


async def fetch(context: RequestContext) -> Response:
    """What git asks then: which refs there are, and a pack."""
    try:
        there = await remote(context)
    except EverrefError as error:
        return refused(error)
    return await answered(context, there)


async def push(context: RequestContext) -> Response:
    """A push to a repo without a remote."""
    return await receive.received(context, await _to_push_to(context))


async def _to_push_to(context: RequestContext) -> Repo:
    """The repo of the path. Raises NotFound, and 403 for a moment of one."""
    repo, asked = await asked_for(context)
    if asked.typed:
        raise HTTPException(403, _NO_PUSH)
    return repo


def check_service(context: RequestContext, no_push: str) -> None:
    """Raise 403 unless git-upload-pack is asked for, in words that git shows; `no_push` to one who pushes."""
    service = context.query.get("service", "")
    if service == RECEIVE:
        raise HTTPException(403, no_push)
    if service != UPLOAD:
        raise HTTPException(403, "only git's smart protocol is served here; use a git of this century")


async def advertised(context: RequestContext, there: Remote, *, bundles: bool = False) -> Response:
    """The first answer to a client, in the version that it asks for; `bundles`: it may ask for them."""
    told = await serving.advertised(
        context.services, there.repo, there.snapshot, version_of(context), there.globs, bundles=bundles
    )
    return Response(told, 200, there.headers(), media_type=f"application/x-{UPLOAD}-advertisement")


async def answered(context: RequestContext, there: Remote) -> Response:
    """The answer to ls-refs or a fetch; errors come in it, where git shows them."""
    try:
        request = await read_request(context, there.snapshot.object_format)
    except EverrefError as error:
        return refused(error)
    if request is None:
        return _result(b"", there.headers())
    if request.command == "bundle-uri":
        return _result(clone_bundles.in_protocol(await _bundles(context, there)), there.headers())
    services, note = context.services, there.note(context.now)
    if request.command == "fetch" and context.person is not None:
        await _write_down(context, there)
    chunks = serving.answered(services, there.repo, there.snapshot, request, there.globs, note=note)
    headers = there.headers() | {"content-type": f"application/x-{UPLOAD}-result"}
    return Stream(chunks, 200, headers, PIECE)


async def _bundles(context: RequestContext, there: Remote) -> Sequence[clone_bundles.Listed]:
    """The bundles with which a clone of this can begin; none of chosen refs, as bundles have all."""
    found = () if there.globs else await clone_bundles.listed(context, there.repo, there.snapshot)
    if found:
        await _write_down(context, there)
    return found


async def bundle_list(context: RequestContext) -> Response:
    """The same as a file, for `git clone --bundle-uri`."""
    there = await remote(context)
    text = clone_bundles.as_list(await _bundles(context, there))
    return Response(text, 200, there.headers(), media_type="text/plain")


async def _write_down(context: RequestContext, there: Remote) -> None:
    """Write an audit entry: one an hour for each moment that somebody fetches: a clone is many requests."""
    repo, snapshot = there.repo, there.snapshot
    key = f"clone {context.owner().id} {repo.id} {snapshot.label}"
    if await attempts.take(context.services.db, key, 1, HOUR, context.now):
        await context.audit("repo.clone", repo.name, repo.id, snapshot.numbers)


def refused(error: EverrefError) -> Response:
    """An error in the answer to a POST: of any other status git shows a number only."""
    return _result(protocol.refusal(str(error)), {})


def _result(body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, 200, headers, media_type=f"application/x-{UPLOAD}-result")


def version_of(context: RequestContext) -> Version:
    """The version of the protocol: 2 if the client knows it, else 0, as version 1 adds nothing."""
    told = context.request.headers.get("git-protocol", "").split(":")
    return 2 if "version=2" in told else 0


async def read_request(
    context: RequestContext, object_format: ObjectFormat, who: Requester | None = None
) -> Request | None:
    """The request in the body, unpacked and read as it arrives. None: it asks for nothing.

    What is larger than LARGE is read by a thread and, as that takes seconds of a processor, in a slot of
    `who`'s (None: of the person's), so that pages and other clones go on; no slot is held while bytes come.
    Raises UsageError for what is none, TooOften, Crowded, 413, 415 and 503.
    """
    request, who = context.request, who or context.services.who

    async def work(step: Callable[[], T]) -> T:
        if size <= LARGE:
            return step()
        async with context.outside.requests.slot(who):
            return await finish(step)

    if request.headers.get("content-type", "") != f"application/x-{UPLOAD}-request":
        raise HTTPException(415, f"send application/x-{UPLOAD}-request")
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise HTTPException(415, "send the request as it is, or with gzip")
    reader = Reader(version_of(context), object_format)
    unpacking = gzipped.Unpacking("request") if "gzip" in coding else None
    size = 0
    room = context.outside.room.body(protocol.BODY, BODY_PATIENCE)
    try:
        async for chunk in request.stream():
            for piece in unpacking.feed(chunk, LARGE) if unpacking else (chunk,):
                size += len(piece)
                await room.reach(size)
                await work(partial(reader.feed, piece))
        if unpacking:
            unpacking.end()
    except TimeoutError:
        raise HTTPException(
            503, "the server is receiving too much at once; try again in a few seconds", {"retry-after": "5"}
        ) from None
    finally:
        room.end()
    return await work(reader.end)


_REPO: Final = "/git/{team}/{repo:repo}"

ENDPOINTS: Final = (
    Endpoint("GET", f"{_REPO}/info/refs", info_refs, Needs.VIEWER, git=recognise),
    Endpoint("GET", f"{_REPO}/bundles", bundle_list, Needs.VIEWER, git=recognise),
    Endpoint("POST", f"{_REPO}/{UPLOAD}", fetch, Needs.VIEWER, git=recognise),
    Endpoint(
        "POST",
        f"{_REPO}/{RECEIVE}",
        push,
        Needs.OPERATOR,
        receive.SCOPE,
        streams=True,
        git=recognise,
    ),
)
