"""What a share link gives to whoever has it: a page, a bundle, an archive, and an address that git clones.

The token in the path lets in, with the link's password where it has one. Whether the link still works is
asked of its row at each request, and again and again while bytes are sent. Nothing here is for search
engines, and no address of another page is told to anybody.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from mirror.core import peer, signed
from mirror.core.errors import Crowded, Dropped, EverrefError, NotFound, TooOften, UsageError
from mirror.core.formats.upload_pack import Request
from mirror.core.rules.shares import Form
from mirror.git.reader.slots import Requester
from mirror.jobs import run as flow
from mirror.restore import archive, export, serving, shares
from mirror.restore.shares import Sending, Shared
from mirror.services.open import Services, ended, unbroken
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import ENDED, Job, JobId
from mirror.store.people import attempts
from mirror.store.restore import shares as rows
from mirror.store.restore.shares import Share
from mirror.web.compression import as_it_is
from mirror.web.dispatch import BASIC, Endpoint, Handler, Needs, RequestContext
from mirror.web.pages.repos.archive import TYPES, begun
from mirror.web.pages.repos.download import Stream, asked_part, bundle_name, tag_of
from mirror.web.pages.repos.repo import bytes_of
from mirror.web.problems import STATUS
from mirror.web.remote import smart_http

UNLOCKED: Final = timedelta(hours=12)  # for which a browser need not give the password again
BUNDLES: Final = 4  # that are begun for one link in an hour
REFS: Final = 50  # that the page names
HOUR: Final = timedelta(hours=1)
COOKIE: Final = "shared"
HEADERS: Final = {"x-robots-tag": "noindex, nofollow, noarchive", "referrer-policy": "no-referrer"}
_AWAY: Final = "this cannot be served at the moment; try again later, or ask who shared it"


def _kept_apart(handler: Handler, *, git: bool = False) -> Handler:
    """The handler with errors as strangers may read them, and headers that keep it out of search engines."""

    async def handled(context: RequestContext) -> Response:
        try:
            answer = await handler(context)
        except EverrefError as error:
            answer = _failed(context, error, git)
        except HTTPException as error:  # a browser is not sent to sign in: it would help nobody here
            answer = PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
        answer.headers.update(HEADERS)
        return as_it_is(answer)  # its address is a secret

    return handled


def _failed(context: RequestContext, error: EverrefError, git: bool) -> Response:
    """The error in words that tell nothing of the inside."""
    status, said = STATUS.get(error.kind, 500), str(error)
    if isinstance(error, TooOften | Crowded):
        status = 429
    elif isinstance(error, Dropped):
        status, said = 410, "this moment is no longer kept, so the link has nothing left to give"
    elif status not in (400, 404, 409):
        said = _AWAY
    wait = {"retry-after": str(error.seconds)} if isinstance(error, TooOften | Crowded) else {}
    if (
        git
        or context.request.method == "HEAD"
        or "text/html" not in context.request.headers.get("accept", "")
    ):
        return PlainTextResponse(f"{said}\n", status, wait)
    later = status == 429 or status >= 500  # the link itself may be good
    answer = context.render("shared_problem.html", status, said=said, later=later)
    answer.headers.update(wait)
    return answer


# Who asks.


async def _nobody(context: RequestContext) -> None:
    """The token in the path is all that counts: git has no cookie, and no other name matters."""


async def _entered(context: RequestContext, form: Form | None = None) -> Share:
    """The link, its password still to be asked for. Raises NotFound, also where it gives no such form."""
    raw = str(context.path["link"])
    now = asyncio.get_running_loop().time()
    context.outside.strangers.check(peer.network(context.address), raw, now)
    found = await shares.opened(context.services, raw)
    if form is not None and form not in found.forms:
        raise NotFound(f"this link gives {' and '.join(found.forms)}, and nothing else")
    return found


async def _let_in(context: RequestContext, form: Form) -> Share:
    """The link, its password given: by the page's cookie, or by Basic authentication under any user name.

    Raises 401, NotFound, TooOften.
    """
    found = await _entered(context, form)
    if _is_unlocked(context, found):
        return found
    given = _password(context)
    if given is None or not await _is_right(context, found, given):
        raise HTTPException(401, "give the password of this link; any user name will do", BASIC)
    return found


async def _is_right(context: RequestContext, share: Share, password: str) -> bool:
    stored, strangers = share.password_hash or "", context.outside.strangers
    now = asyncio.get_running_loop().time()
    if strangers.is_sure(stored, password, now):
        return True
    right = await shares.is_right(context.services, share, password, context.address)
    if right:
        strangers.remember(stored, password, now)
    return right


def _password(context: RequestContext) -> str | None:
    """The password of RFC 7617. None: there is none."""
    kind, _, given = context.request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return None


def _mark(share: Share) -> str:
    """What a browser keeps once the password was right; it tells nothing of it, and is for this link."""
    return hashlib.sha256(f"{share.id} {share.password_hash}".encode()).hexdigest()


def _is_unlocked(context: RequestContext, share: Share) -> bool:
    if share.password_hash is None:
        return True
    kept = context.request.cookies.get(COOKIE, "")
    said = signed.read(context.outside.keyring, "shared", kept, UNLOCKED, context.now) if kept else None
    return isinstance(said, str) and hmac.compare_digest(said, _mark(share))


# The page.


async def page(context: RequestContext) -> Response:
    """What is shared, and how to get it; before that, the password."""
    share = await _entered(context)
    if not _is_unlocked(context, share):
        return context.render("shared_password.html", share=share, wrong="")
    there = await shares.covered(context.services, share)
    await shares.begin(context.services, share, "page", context.address)
    covers = await shares.refs_of(context.services, there.repo, there.snapshot, share.globs)
    job = await _job(context, share)
    branches = shares.branches(covers)
    short = there.repo.name.rpartition("/")[2]
    user = "share@" if share.password_hash else ""
    scheme, _, host = context.outside.origin.partition("://")
    names = sorted(name for name in covers if name != b"HEAD")
    return context.render(
        "shared.html",
        share=share,
        there=there,
        job=job,
        made=bool(job and export.of(job, context.now)),
        ended=bool(job and job.state in ENDED),
        file=bundle_name(there.repo, job) if job and job.result else f"{short}.bundle",
        names=names[:REFS],
        count=len(names),
        branches=branches[:REFS],
        here=_here(context),
        clone=f"git clone {scheme}://{user}{host}{_here(context)} {short}",
    )


async def unlock(context: RequestContext) -> Response:
    """Take the password; a browser keeps that it was right, for this link alone."""
    share = await _entered(context)
    given = str((await context.form()).get("password", ""))
    if not await _is_right(context, share, given):
        return context.render("shared_password.html", 422, share=share, wrong="That is not the password.")
    answer = RedirectResponse(_here(context), 303)
    answer.set_cookie(
        COOKIE,
        signed.sign(context.outside.keyring, "shared", _mark(share), context.now),
        int(UNLOCKED.total_seconds()),
        path=_here(context),
        secure=context.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


def _here(context: RequestContext) -> str:
    return f"/s/{quote(str(context.path['link']), safe='')}"


# The bundle: made by a worker, kept in the vault for a day, and made again when somebody wants it later.


async def make_bundle(context: RequestContext) -> Response:
    """Have the bundle made, unless it is there or under way."""
    share = await _let_in(context, "bundle")
    await queue_bundle(context, share)
    return RedirectResponse(_here(context), 303)


async def queue_bundle(context: RequestContext, share: Share) -> None:
    """Have a worker make the link's bundle. Safe to run twice: the same one is handed out again."""
    db = context.services.db
    there = await shares.covered(context.services, share)
    if (job := await _job(context, share)) and (job.state not in ENDED or export.of(job, context.now)):
        return
    if not await attempts.take(db, f"share {share.id} bundle", BUNDLES, HOUR, context.now):
        raise TooOften("the bundle was begun too often; wait an hour, then try again", 3600)
    chosen = {"globs": list(share.globs)} if share.globs else {}
    made = await flow.ask(context.services, share.repo_id, "bundle", chosen | there.snapshot.numbers)
    await rows.set_job(db, share.id, made.id)
    await context.hint(share.repo_id)


async def _job(context: RequestContext, share: Share) -> Job | None:
    """The job that makes, or made, the link's bundle."""
    if share.job_id is None:
        return None
    return await jobs.find(context.services.db, share.team.id, JobId(share.job_id))


async def bundle(context: RequestContext) -> Response:
    """The bundle, whole or any part of it, as a download that broke off goes on.

    It is always read through us: an address of the store would go on working after the link was revoked.
    """
    share = await _let_in(context, "bundle")
    there = await shares.covered(context.services, share)
    job = await _job(context, share)
    found = None if job is None else export.of(job, context.now)
    if job is None or found is None or not await export.is_there(context.services, found):
        await queue_bundle(context, share)
        said = "the bundle is being made; try again in a few seconds"
        return PlainTextResponse(f"{said}\n", 503, {"retry-after": "5"})
    name = bundle_name(there.repo, job)
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "content-type": "application/octet-stream",
    }
    part = asked_part(context.request, found.bytes, tag_of(found.key), headers)
    if part.answer is not None:
        return part.answer
    sending = Sending(context.services, share, "bundle", context.address, completes=part.end == found.bytes)
    chunks = export.read(context.services, found, part.start, part.end)
    return await _sent(context, sending, chunks, part.status, part.headers, not part.start)


# Archives.


async def archived(context: RequestContext) -> Response:
    """The files of one ref that the link covers, as a tar or zip, made while it is sent."""
    share = await _let_in(context, "archive")
    there = await shares.covered(context.services, share)
    wanted = archive.Wanted(archive.format_of(str(context.path["file"])), bytes_of(context, "ref"))
    name = archive.name_of(there.repo, there.snapshot, wanted.format)
    headers = {
        "content-type": TYPES[wanted.format],
        "content-disposition": f'attachment; filename="{name}"',
    }
    if context.request.method == "HEAD":
        return Response(headers=headers)
    sending = Sending(context.services, share, "archive", context.address)
    chunks = archive.made(_in_slots(context, share), there.repo, there.snapshot, wanted, share.globs)
    async with AsyncExitStack() as held:
        await held.enter_async_context(_slot(context, share))  # before git has one
        held.push_async_callback(chunks.aclose)
        first = await anext(chunks, b"")  # what is wrong with it is told before it begins
        return await _sent(context, sending, begun(first, chunks), 200, headers, held=held.pop_all())
    raise AssertionError("the block returns or raises")


def _slot(context: RequestContext, share: Share) -> AbstractAsyncContextManager[None]:
    """One of the slots that strangers have."""
    who = Requester(share.id, peer.network(context.address))
    return context.outside.strangers.slots.slot(who)


def _in_slots(context: RequestContext, share: Share) -> Services:
    """The services, with git in slots for all links of the team, which so take none from the team itself."""
    who = Requester(("shares", share.team.id), f"share {peer.network(context.address)}")
    return replace(context.services, who=who)


# Streams.


class Watched(Stream):
    """A stream that ends where the link does, within a second, and whose bytes are counted."""

    def __init__(
        self,
        sending: Sending,
        chunks: AsyncGenerator[bytes, None],
        status: int,
        headers: dict[str, str],
        held: AsyncExitStack,
    ) -> None:
        super().__init__(sending.counted(chunks), status, headers)
        self._sending = sending
        self._held = held  # until the last byte: the slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            answer = asyncio.ensure_future(super().__call__(scope, receive, send))
            ends = asyncio.ensure_future(self._sending.link_ends())
            try:
                await asyncio.wait([answer, ends], return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    answer.result()
            finally:  # what was sent is cut short, so that the client knows that it has not all
                await ended(answer, ends)
                await unbroken(self._sending.finish())


async def _sent(
    context: RequestContext,
    sending: Sending,
    chunks: AsyncGenerator[bytes, None],
    status: int,
    headers: dict[str, str],
    begins: bool = True,
    held: AsyncExitStack | None = None,
) -> Response:
    """These bytes, within the slots that strangers have; `held`: one of them. `begins`: it counts as a use;
    else it goes on, or git's answer tells (`Sending.begun`)."""
    share = sending.share
    async with held or AsyncExitStack() as stack:
        stack.push_async_callback(chunks.aclose)
        if held is None:
            await stack.enter_async_context(_slot(context, share))
        if begins:
            await shares.begin(context.services, share, sending.what, context.address)
        elif sending.begun:
            await shares.go_on(context.services, share, sending.what, context.address)
        else:
            await shares.hold(context.services, share, context.address)
        return Watched(sending, chunks, status, headers, stack.pop_all())
    raise AssertionError("the block returns or raises")


# git.


async def info_refs(context: RequestContext) -> Response:
    """What git asks first."""
    smart_http.check_service(context, "a share link is for clones and fetches; nothing can be pushed to it")
    share = await _let_in(context, "clone")
    return await smart_http.advertised(context, _remote(await shares.covered(context.services, share)))


async def fetch(context: RequestContext) -> Response:
    """What git asks then. It is a use where git answers with a pack, and that is not the client's to say."""
    share = await _let_in(context, "clone")
    there = await shares.covered(context.services, share)
    remote = _remote(there)
    try:
        request = await smart_http.read_request(
            context, there.snapshot.object_format, _in_slots(context, share).who
        )
        if request is None:
            raise UsageError("the request asks for nothing")
        sure = request.command == "fetch" and (request.done or not request.haves)  # that there is a pack
        sending = Sending(context.services, share, "clone", context.address, completes=False, begun=sure)
        headers = remote.headers() | {"content-type": f"application/x-{smart_http.UPLOAD}-result"}
        chunks = _answered(context, there, request, sending)
        return await _sent(context, sending, chunks, 200, headers, sure)
    except EverrefError as error:  # of any other status git shows a number only
        return smart_http.refused(error)


def _remote(there: Shared) -> smart_http.Remote:
    return smart_http.Remote(there.repo, there.snapshot, there.share.globs)


def _answered(
    context: RequestContext, there: Shared, request: Request, sending: Sending
) -> AsyncGenerator[bytes, None]:
    """git's answer, in a slot of the team's; an error is in it, and uses nothing up."""

    def packed() -> None:
        sending.packed = True

    def whole() -> None:
        sending.completes = True

    return serving.answered(
        _in_slots(context, there.share),
        there.repo,
        there.snapshot,
        request,
        there.share.globs,
        note=_remote(there).note(context.now),
        packed=packed,
        whole=whole,
    )


_S: Final = "/s/{link}"

ENDPOINTS: Final = (
    Endpoint("GET", _S, _kept_apart(page), Needs.NOTHING),
    Endpoint("POST", _S, _kept_apart(unlock), Needs.NOTHING, foreign=True),
    Endpoint("POST", f"{_S}/bundle", _kept_apart(make_bundle), Needs.NOTHING, foreign=True),
    Endpoint("GET", f"{_S}/bundle", _kept_apart(bundle), Needs.NOTHING),
    Endpoint("GET", f"{_S}/archive/{{file}}", _kept_apart(archived), Needs.NOTHING),
    Endpoint("GET", f"{_S}/info/refs", _kept_apart(info_refs, git=True), Needs.NOTHING, git=_nobody),
    Endpoint("POST", f"{_S}/{smart_http.UPLOAD}", _kept_apart(fetch, git=True), Needs.NOTHING, git=_nobody),
)
