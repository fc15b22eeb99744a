"""Restore: which moment, where to, what will happen ref by ref, then the job, its result, and undoing it."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mirror.browse import moments
from mirror.core import words
from mirror.core.errors import BadCredentials, EverrefError, NotAllowed, NotFound, Refused, UsageError
from mirror.core.globs import check
from mirror.core.keyring import BadKey
from mirror.core.model import RefName, Remote, Repo, RepoId, Secret, older_of
from mirror.core.rules.job import SYNC
from mirror.core.rules.plan import check_new_name
from mirror.core.rules.roles import Role
from mirror.discovery import add, connections
from mirror.forges.contract import Owner, Purpose
from mirror.git import address
from mirror.jobs import run as flow
from mirror.restore import export, restore, target, undo
from mirror.restore.restore import RefResult
from mirror.restore.target import Authority
from mirror.store import repos
from mirror.store.discovery import connections as store
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.store.jobs import jobs
from mirror.store.jobs.jobs import ENDED, Job, JobId
from mirror.store.people import attempts
from mirror.store.restore import restores
from mirror.store.upkeep import state
from mirror.web import templating
from mirror.web.dispatch import SAFE, AskAgain, Endpoint, Needs, RequestContext
from mirror.web.live import follow
from mirror.web.pages.download import bundle_name, bundle_of
from mirror.web.pages.repo import ShownMoment, bytes_of, moment_at

PER_HOUR: Final = 5  # restores that one person can begin
BUNDLES_PER_HOUR: Final = 20
HOUR: Final = timedelta(hours=1)
DRAFT_LASTS: Final = timedelta(hours=1)  # a plan that was shown, until it is computed anew
FOLD: Final = 12  # refs of one kind from which on they are folded
ROWS: Final = 200  # of one kind that are shown
LISTED: Final = 100  # restores on a page
WHERES: Final = ("new", "kept", "url")
FIELDS: Final = (
    *("where", "ref", "as", "commit", "connection", "owner", "name", "private", "repo"),
    *("url", "username", "force", "archive"),
)  # what is asked of a plan and may be in an address; a token may not
WILL: Final[Mapping[str, str]] = {
    "refused": "refused",
    "updated": "overwrite",
    "removed": "remove",
    "created": "create",
    "skipped": "skipped",
    "unchanged": "unchanged",
}  # what a plan calls a result, in the order in which they are shown
COLOUR: Final[Mapping[str, str]] = {
    "refused": "lost",
    "updated": "lost",
    "removed": "lost",
    "skipped": "late",
}


# What, and where to


@dataclass(frozen=True, slots=True)
class What:
    """What of a moment is restored: all of it, some refs, or one thing under a name of its own."""

    globs: tuple[str, ...] = ()
    source: str = ""  # the ref or commit that is brought back; "": none is
    name: str = ""  # the ref that it becomes

    @property
    def query(self) -> dict[str, str]:
        """The same as an address has it."""
        if not self.source:
            return {"ref": " ".join(self.globs)}
        return {"ref" if self.source.startswith("refs/") else "commit": self.source, "as": self.name}

    @property
    def asked(self) -> dict[str, Any]:
        """The same as a job has it."""
        if not self.source:
            return restore.What(self.globs).chosen
        return restore.What(bring={RefName(self.name.encode()): self.source.encode()}).chosen


@dataclass(frozen=True, slots=True)
class Draft:
    """A restore as its plan was shown, to be begun by one press: it is sealed into the page."""

    job_id: JobId  # of the job that it becomes: pressed twice, it is begun once
    asked: Mapping[str, Any]
    name: str  # of the target; typed before it is overwritten
    told: str  # the target in words
    secret: Secret | None = field(default=None, repr=False)  # lent for this once


async def choose(
    context: RequestContext, error: EverrefError | None = None, given: Mapping[str, str] | None = None
) -> Response:
    """The moment, what of it, and the places it can go to."""
    at = await moment_at(context)
    snapshot = at.saved
    db, team = context.services.db, context.of_team()
    given = given if given is not None else context.query
    where, plain = given.get("where", ""), _plain(given)
    at = _from_form(context, at, plain)
    found = await store.of_team(db, team.id)
    chosen = next((one for one in found if str(one.id) == given.get("connection")), None)
    values: dict[str, Any] = {"owners": [], "missing": ()}
    what: What | None = None
    try:
        what = await _what(context, at)
        if where == "new" and chosen is not None:
            values["missing"] = _missing(context, chosen)
            if not values["missing"]:
                values["owners"] = await _owners(context, chosen)
    except EverrefError as failed:
        error = error or failed
    forge = context.services.forges.at(chosen.forge, chosen.host) if chosen else None
    return context.render(
        "restore.html",
        _status(error),
        at=at,
        tab="restore",
        snapshot=snapshot,
        what=what or What(),
        where=where,
        connections=found,
        chosen=chosen,
        by_consent=bool(chosen and forge and chosen.grant_kind == "oauth" and forge.app.registered),
        proposed=given.get("name") or f"{at.repo.name.rpartition('/')[2]}-restored",
        given=dict.fromkeys(FIELDS, "") | plain,
        wrong=_wrong(where, error) if error is not None and what is not None else {},
        here=templating.url(context.request.url.path, **dict(context.query)),
        error=error,
        **values,
    )


def _status(error: EverrefError | None) -> int:
    """The status of a page that says what went wrong, if anything did."""
    return 200 if error is None else 403 if isinstance(error, NotAllowed) else 422


async def _what(context: RequestContext, at: ShownMoment) -> What:
    """What of the moment the address asks for. Raises UsageError, NotFound."""
    ref, commit = bytes_of(context, "ref").strip(), context.query.get("commit", "").strip().lower()
    name = bytes_of(context, "as").decode(errors="replace").strip()
    if not name and not commit:
        chosen = tuple(ref.decode(errors="replace").split())
        check(chosen)
        return What(globs=chosen)
    if commit or not _is_text(ref):  # a name that forms cannot carry comes by what it holds
        source = commit or (await moments.resolve(context.services, at.repo, at.saved, ref)).decode()
    else:
        source = ref.decode()
    name = name or f"refs/heads/rescue/{source[:10]}"
    name = name if name.startswith("refs/") else f"refs/heads/{name}"
    check_new_name(RefName(name.encode()))
    await moments.commits(context.services, at.repo, at.saved, source.encode(), limit=1)  # it must be there
    return What(source=source, name=name)


def _is_text(raw: bytes) -> bool:
    try:
        return raw.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _missing(context: RequestContext, connection: Connection) -> tuple[str, ...]:
    """The scopes that making a repository and pushing to it needs and the connection has not."""
    found = [
        scope
        for purpose in (Purpose.CREATE, Purpose.PUSH)
        for scope in connections.missing_scopes(context.services, connection, purpose)
    ]
    return tuple(dict.fromkeys(found))


async def _owners(context: RequestContext, connection: Connection) -> list[Owner]:
    async with context.planning():
        return await connections.asking(
            context.services, connection.id, lambda forge, token: forge.owners(token)
        )


# The plan


async def plan(context: RequestContext) -> Response:
    """What will happen, ref by ref; the target is asked what it has, and nothing is written."""
    at = await moment_at(context)
    given = dict(context.query)
    if context.request.method == "POST":
        given |= {key: str(value) for key, value in (await context.form()).items()}
    if given.get("where") not in WHERES:
        return context.redirect(at.url("restore"))
    if context.request.method in SAFE and given["where"] == "url" and _is_led_here(context):
        return await choose(context, None, given)
    try:
        draft = await _drafted(context, at, given)
        if given.get("draft"):  # which has what was given before
            given["url"] = draft.asked.get("to", "")
            given["username"] = draft.secret.username if draft.secret else ""
            given["archive"] = "yes" if draft.asked["hidden"] == "archive" else ""
        if draft.asked["force"] and not is_sure(context):  # before the plan, which would be lost
            raise AskAgain(None if context.request.method in SAFE else _chooser(at, given))
        return await _shown(context, at, draft, given)
    except EverrefError as error:
        return await choose(context, error, given)


def _is_led_here(context: RequestContext) -> bool:
    """Whether another site led here: it has us reach no address, to which a key could be shown.

    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    """
    return context.request.headers.get("sec-fetch-site") in ("cross-site", "same-site")


def _plain(given: Mapping[str, str]) -> dict[str, str]:
    """What is asked of a plan, as far as an address may hold it."""
    found = {key: given[key] for key in FIELDS if given.get(key)}
    before, sign, _ = found.get("url", "").partition("@")
    if sign and ("/" in before or ":" in before):  # it may hold a password; git@host:path does not
        del found["url"]
    return found


def _from_form(context: RequestContext, at: ShownMoment, plain: Mapping[str, str]) -> ShownMoment:
    """The moment of a page that a form led to: no address has it all, so another is chosen where it began."""
    if context.request.method in SAFE:
        return at
    here = templating.repo_url(at.team, at.repo.name, "restore")
    return replace(at, here=here, kept=tuple((key, value.encode()) for key, value in plain.items()))


def _wrong(where: str, error: EverrefError) -> dict[str, str]:
    """What is wrong with which field, as far as that is known."""
    said = words.sentence(error)
    if isinstance(error, BadCredentials):
        return {"token": said}
    if isinstance(error, UsageError | NotFound) and where in WHERES:
        return {{"new": "name", "kept": "repo", "url": "url"}[where]: said}
    return {}


def _chooser(at: ShownMoment, given: Mapping[str, str]) -> str:
    """The page on which this was asked for, with what was given there but for the token."""
    return at.url("restore", **(_plain(given) | {"at": at.saved.label}))


def is_sure(context: RequestContext) -> bool:
    return context.is_sure


async def _drafted(context: RequestContext, at: ShownMoment, given: Mapping[str, str]) -> Draft:
    """The restore that is asked for. Raises UsageError, NotFound, Refused, and what forges raise."""
    if given.get("draft"):  # one that was shown, with another word on overwriting
        kept = _unsealed(context, at.repo, given["draft"])
        asked = dict(kept.asked) | {"force": bool(given.get("force"))}
        return Draft(jobs.new_id(), asked, kept.name, kept.told, kept.secret)
    what = await _what(context, at)
    asked = what.asked | {
        **at.saved.numbers,
        "hidden": "archive" if given.get("archive") else "skip",
        "force": bool(given.get("force")),
    }
    ways = {"new": to_new, "kept": to_kept, "url": to_url}
    return await ways[given["where"]](context, at.repo, given, asked)


async def to_new(
    context: RequestContext, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]
) -> Draft:
    connection = await _connection(context, given.get("connection", ""))
    missing = _missing(context, connection)
    if missing:
        raise Refused(f"{connection.host} granted no {', '.join(missing)}; allow that first")
    owners = await _owners(context, connection)
    owner = next((one for one in owners if one.id == given.get("owner")), None)
    if owner is None:
        raise UsageError("choose under whose name the repository is to be made")
    private = given.get("private", "yes") != "no"
    new = target.new_repository(connection.id, owner, given.get("name", "").strip(), private)
    name = f"{owner.login}/{new['name']}"
    kind = "private" if private else "public"
    told = (
        f"{name} at {connection.host}, a new {kind} repository, made by the connection of {connection.login}"
    )
    return Draft(jobs.new_id(), asked | {"new": new, "force": False}, name, told)


async def to_kept(
    context: RequestContext, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]
) -> Draft:
    name = given.get("repo", "") or repo.name
    found = await repos.by_name(context.services.db, context.of_team().id, name)
    if found is None:
        raise NotFound(f"there is no repository {name} in {context.of_team().name}")
    kept = await store.of_repo(context.services.db, found.id)
    if kept:
        _check_push(context, kept.connection)
    told = f"{found.name}, at {older_of(found.url) or found.url}"
    return Draft(jobs.new_id(), asked | {"kept": str(found.id)}, found.name, told)


async def to_url(
    context: RequestContext, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]
) -> Draft:
    to = await _address(context, given.get("url", "").strip())
    token, username = given.get("token", "").strip(), given.get("username", "").strip()
    secret = Secret(username or "", token) if token else to.secret
    asked, told = asked | {"to": to.url}, to.url
    if secret is not None:
        asked["lent"] = True
        told = f"{to.url}, with the token that you gave for this once"
    elif connection := await _connection_to(context, to.url):
        _check_push(context, connection)
        asked["connection"] = str(connection.id)
        told = f"{to.url}, with the connection of {connection.login}"
    return Draft(jobs.new_id(), asked, address.name_from_url(to.url), told, secret)


async def _address(context: RequestContext, text: str) -> Remote:
    """The address as this visitor may mean it: a path of this machine is for admins of its own team only."""
    if context.acting.may(Role.ADMIN):
        return await add.remote_meant(context.services, context.of_team().id, text)
    return address.parse_remote(text, context.services.settings.allow_private_remotes, paths=False)


def _check_push(context: RequestContext, connection: Connection) -> None:
    missing = connections.missing_scopes(context.services, connection, Purpose.PUSH)
    if missing:
        raise Refused(
            f"{connection.host} granted {connection.login}'s connection no {', '.join(missing)}, so it cannot"
            " push; allow it under Connect, or give the address with a token that may"
        )


async def _connection(context: RequestContext, text: str) -> Connection:
    try:
        found = await store.find(context.services.db, context.of_team().id, ConnectionId(UUID(text)))
    except ValueError:
        found = None
    if found is None:
        raise NotFound("there is no such connection")
    return found


async def _connection_to(context: RequestContext, url: str) -> Connection | None:
    """A connection of the team to the host of this address: the one that reads it, where it is kept."""
    found: Connection | None = None
    kept = await repos.by_url(context.services.db, context.of_team().id, url)
    reads = await store.of_repo(context.services.db, kept.id) if kept else None
    for one in await store.of_team(context.services.db, context.of_team().id):
        app = context.services.forges.at(one.forge, one.host).app
        if one.state == "works" and url.startswith(f"{app.url.rstrip('/')}/"):
            if reads is not None and reads.connection.id == one.id:
                return one
            found = found or one
    return found


async def _shown(
    context: RequestContext, at: ShownMoment, draft: Draft, given: Mapping[str, str], wrong: str | None = None
) -> Response:
    """The page of a plan."""
    services, asked = context.services, draft.asked
    async with context.planning():
        to = await target.reach(
            services, context.of_team().id, asked, Authority(context.acting, draft.secret)
        )
        if asked.get("new") and not await target.is_free(services, to):
            raise Refused(f"there is a repository {draft.name} already; choose another name")
        made = await restore.plan(
            services, at.repo, at.saved, restore.What.of(asked), to, new=bool(asked.get("new"))
        )
    counts = counted(made.refs)
    stands = any(ref.result == "refused" and ref.old for ref in made.refs)  # overwriting would help
    blocked = not asked["force"] and bool(counts.get("refused"))
    plain = _plain(given)
    at = _from_form(context, at, plain)
    return context.render(
        "restore_plan.html",
        200 if wrong is None else 422,
        at=at,
        tab="restore",
        draft=draft,
        sealed=_sealed(context, at.repo, draft),
        plan=made,
        counts=counts,
        total=len(made.refs),
        groups=groups([_row(ref) for ref in made.refs]),
        will=WILL,
        colour=COLOUR,
        due=0 if blocked else sum(counts.get(one, 0) for one in ("created", "updated")),
        blocked=blocked,
        stands=stands,
        what={key: context.query[key] for key in ("ref", "as", "commit") if key in context.query},
        again=plain,
        by_post=context.request.method == "POST",
        where=given.get("where", "url"),
        wrong=wrong,
    )


def _sealed(context: RequestContext, repo: Repo, draft: Draft) -> str:
    """The draft for a hidden field: only for this person, this repo, and a while."""
    kept = {
        "job": str(draft.job_id),
        "asked": dict(draft.asked),
        "name": draft.name,
        "told": draft.told,
        "secret": [draft.secret.username, draft.secret.password] if draft.secret else None,
        "until": (context.now + DRAFT_LASTS).isoformat(),
    }
    sealed = context.outside.keyring.seal(json.dumps(kept).encode(), _context(context, repo))
    return base64.urlsafe_b64encode(sealed).decode()


def _unsealed(context: RequestContext, repo: Repo, text: str) -> Draft:
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii", "replace"))
        kept = json.loads(context.outside.keyring.open(raw, _context(context, repo)))
    except (ValueError, BadKey):
        raise UsageError("this is not a plan that was shown to you; plan it anew") from None
    if datetime.fromisoformat(kept["until"]) < context.now:
        raise UsageError("this plan was shown more than an hour ago; plan it anew")
    secret = Secret(*kept["secret"]) if kept["secret"] else None
    return Draft(JobId(UUID(kept["job"])), kept["asked"], kept["name"], kept["told"], secret)


def _context(context: RequestContext, repo: Repo) -> str:
    return f"restore/{repo.id}/{context.owner().id}"


# Refs as they are shown


@dataclass(frozen=True, slots=True)
class Row:
    """One ref of a plan or of a result."""

    name: str
    target: str
    result: str
    why: str
    old: str


@dataclass(frozen=True, slots=True)
class Group:
    """Refs that are shown together: many of one folder that come to the same, folded; or a few of any."""

    rows: Sequence[Row]  # the first of them
    total: int
    folder: str = ""  # "": a few of any, which are not folded

    @property
    def result(self) -> str:
        """What they come to, where they are folded."""
        return self.rows[0].result


def _row(ref: RefResult) -> Row:
    name = words.name(ref.name)
    old = "" if ref.old is None or ref.old == ref.target else words.name(ref.old)
    return Row(name, words.name(ref.target), ref.result, ref.why or "", old)


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows by what will become of them, and by folder; what takes something away comes first."""
    found: dict[tuple[int, str], list[Row]] = {}
    order = list(WILL)
    for row in rows:
        folder = "/".join(row.name.split("/")[:2])
        found.setdefault((order.index(row.result), folder), []).append(row)
    shown: list[Group] = []
    for (_, folder), some in sorted(found.items(), key=lambda one: one[0]):
        if len(some) > FOLD:
            shown.append(Group(some[:ROWS], len(some), folder))
        elif shown and not shown[-1].folder:
            few = [*shown[-1].rows, *some]
            shown[-1] = Group(few, len(few))
        else:
            shown.append(Group(some, len(some)))
    return shown


def counted(refs: Sequence[RefResult]) -> dict[str, int]:
    """How many refs come to which result, in the order of WILL."""
    return {one: n for one in WILL if (n := sum(ref.result == one for ref in refs))}


# Doing it


async def begin(context: RequestContext) -> Response:
    """Restore as planned, where nothing is overwritten."""
    repo = await context.repo()
    draft = _unsealed(context, repo, str((await context.form()).get("draft", "")))
    if draft.asked.get("force") or draft.asked.get("undo"):
        raise UsageError("what overwrites is begun by typing the target's name; plan it anew")
    return await _asked(context, repo, draft)


async def begin_over(context: RequestContext) -> Response:
    """Restore as planned over what is there: the name of the target must have been typed."""
    at = await moment_at(context)
    form = await context.form()
    draft = _unsealed(context, at.repo, str(form.get("draft", "")))
    if draft.asked.get("undo"):
        raise UsageError("this is the plan of an undo; begin it on its own page")
    if str(form.get("name", "")).strip() != draft.name:
        wrong = f"Type {draft.name} to overwrite it. Nothing was done."
        return await _shown(context, at, draft, context.query, wrong)
    return await _asked(context, at.repo, draft)


async def _asked(context: RequestContext, repo: Repo, draft: Draft) -> Response:
    """Ask for the job, once."""
    if await jobs.find(context.services.db, context.of_team().id, draft.job_id) is None:
        await limited(context)
        new = draft.asked.get("new")
        detail = {"to": draft.told, "snapshot": draft.asked["snapshot"], "overwrites": draft.asked["force"]}
        await _queue(context, repo, "restore", draft.asked, draft.job_id, draft.secret)
        await context.audit("restore.create" if new else "restore.push", repo.name, repo.id, detail)
    return context.redirect(_page(context, repo, draft.job_id))


async def allow_again(context: RequestContext, job: Job, confirmed: str | None = None) -> None:
    """Let a job be asked for once more only as it would be anew: sure, confirmed and counted.

    Raises AskAgain, UsageError where what is overwritten is not confirmed, and 429.
    """
    if job.kind == "bundle":
        await limited(context, "bundle", BUNDLES_PER_HOUR)
    if job.kind != "restore":
        return
    if (job.asked.get("force") or job.asked.get("undo")) and not is_sure(context):
        raise AskAgain
    if job.asked.get("force"):
        confirm(await _target_name(context, job), confirmed)
    if not job.asked.get("undo"):
        await limited(context)


def confirm(name: str, confirmed: str | None) -> None:
    """Raise UsageError unless the target that is overwritten was named."""
    if confirmed != name:
        raise UsageError(f'what is overwritten must be confirmed: say "confirm": "{name}"')


async def _target_name(context: RequestContext, job: Job) -> str:
    """What is typed before a job overwrites its target."""
    if job.asked.get("to"):
        return address.name_from_url(job.asked["to"])
    return await _destination(context, job)


async def limited(context: RequestContext, key: str = "restore", limit: int = PER_HOUR) -> None:
    """Count a restore of this person. Raises 429 where it is one too many."""
    if not await attempts.take(context.services.db, f"{key} {context.owner().id}", limit, HOUR, context.now):
        raise HTTPException(
            429,
            f"you have begun {limit} of these within an hour, which is as many as one person can; "
            "the next is possible an hour after the first",
            {"retry-after": str(int(HOUR.total_seconds()))},
        )


async def _queue(
    context: RequestContext,
    repo: Repo,
    kind: jobs.Kind,
    asked: Mapping[str, Any],
    job_id: JobId | None = None,
    secret: Secret | None = None,
) -> Job:
    job = await flow.ask(
        context.services,
        repo.id,
        kind,
        asked_in_role(context, kind, asked),
        person_id=context.owner().id,
        secret=secret,
        job_id=job_id,
    )
    await context.hint(SYNC, str(repo.id))
    return job


def asked_in_role(context: RequestContext, kind: jobs.Kind, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a job is asked for, with the role in which it is: a restore uses nothing beyond that."""
    return {**asked, "role": str(context.acting)} if kind == "restore" else asked


async def bundle(context: RequestContext) -> Response:
    """Make a bundle to download."""
    at = await moment_at(context)
    what = await _what(context, at)
    await limited(context, "bundle", BUNDLES_PER_HOUR)
    job = await _queue(context, at.repo, "bundle", what.asked | at.saved.numbers)
    await context.audit("restore.bundle", at.repo.name, at.repo.id, at.saved.numbers)
    return context.redirect(_page(context, at.repo, job.id))


async def download(context: RequestContext) -> Response:
    """The bundle of a job."""
    repo = await context.repo()
    return await bundle_of(context, repo, await _job(context, repo))


# What came of it


async def page(context: RequestContext) -> Response:
    """Every restore of the repo, for ever, and those under way."""
    at = await moment_at(context)
    db, team = context.services.db, context.of_team()
    done = await restores.of(db, at.repo.id, LISTED)
    told = {one.cause.job_id for one in done if one.cause}
    others = await jobs.page(db, team.id, repo_id=at.repo.id, kinds=("restore", "bundle"), limit=LISTED)
    return context.render(
        "restores.html",
        at=at,
        tab="restores",
        done=done,
        others=[job for job in others if job.id not in told],
        rebuilt=await state.taken_up_as_of(db),
    )


async def one(context: RequestContext) -> Response:
    """One restore: how far it is, what became of each ref, and how to undo it."""
    at = await moment_at(context)
    job = await _job(context, at.repo)
    return context.render("restore_one.html", at=at, tab="restores", **await _told(context, at.repo, job))


async def events(context: RequestContext) -> Response:
    """The same while it changes."""
    repo = await context.repo()
    await _job(context, repo)
    template = context.outside.pages.get_template("restore_now.html")

    async def look() -> tuple[str, bool]:
        job = await _job(context, repo)
        told = await _told(context, repo, job)
        return template.render(context=context, now=context.services.clock(), **told), job.state in ENDED

    return await follow(context, look)


async def _told(context: RequestContext, repo: Repo, job: Job) -> dict[str, Any]:
    """What is told of a job that restores."""
    db, result = context.services.db, job.result or {}
    rows = [
        Row(ref["name"], ref["target"], ref["result"], ref["why"] or "", ref.get("old") or "")
        for ref in result.get("refs", ())
    ]
    ended, undoes = job.state in ENDED, job.asked.get("undo")
    return {
        "repo": repo,
        "job": job,
        "result": result,
        "base": _page(context, repo, job.id),
        "groups": groups(rows),
        "colour": COLOUR,
        "rest": result.get("refs_total", 0) - len(rows),
        "to": await _destination(context, job),
        "undoable": job.kind == "restore" and ended and not undoes and await restores.wrote_any(db, job.id),
        "undone": await restores.undone(db, job.id),
        "file": bundle_name(repo, job) if export.of(job, context.now) else None,
        "expires": datetime.fromisoformat(result["expires_at"]) if "expires_at" in result else None,
        "kept": await _kept(context, result),
    }


async def _destination(context: RequestContext, job: Job) -> str:
    """Where a job restores to, in words."""
    asked, result = job.asked, job.result or {}
    if asked.get("new"):
        return f"{asked['new']['owner']['login']}/{asked['new']['name']}"
    if asked.get("kept"):
        found = await repos.find_in(context.services.db, context.of_team().id, RepoId(UUID(asked["kept"])))
        return found.name if found else str(result.get("to", "a repository that is not kept any more"))
    return str(asked.get("to", ""))


async def _kept(context: RequestContext, result: Mapping[str, Any]) -> Repo | None:
    """The repo that has what was overwritten."""
    if "kept" not in result:
        return None
    return await repos.by_name(context.services.db, context.of_team().id, result["kept"])


async def _job(context: RequestContext, repo: Repo) -> Job:
    """The path's job, which restores this repo. Raises NotFound."""
    try:
        found = await jobs.find(
            context.services.db, context.of_team().id, JobId(UUID(str(context.path["job"])))
        )
    except ValueError:
        found = None
    if found is None or found.repo_id != repo.id or found.kind not in ("restore", "bundle"):
        raise NotFound("there is no such restore")
    return found


def _page(context: RequestContext, repo: Repo, job_id: JobId) -> str:
    return templating.repo_url(context.of_team().name, repo.name, f"restores/{job_id}")


# Undoing it


async def undo_plan(context: RequestContext) -> Response:
    """What undoing a restore will do, ref by ref; where a token was lent for it, it is asked for again."""
    at = await moment_at(context)
    job = await _job(context, at.repo)
    secret, error, made = None, None, None
    if context.request.method == "POST":
        form = await context.form()
        token, username = str(form.get("token", "")).strip(), str(form.get("username", "")).strip()
        secret = Secret(username or "", token) if token else None
    await undo.check(context.services, job)
    if not is_sure(context):
        raise AskAgain  # before the plan, which would be lost
    asks = bool(job.asked.get("lent")) and secret is None
    if not asks:
        try:
            async with context.planning():
                made = await undo.plan(context.services, job, Authority(context.acting, secret))
        except (BadCredentials, NotAllowed) as failed:
            if isinstance(failed, BadCredentials) and not job.asked.get("lent"):
                raise
            asks, error = True, failed
    to = await _destination(context, job)
    asked = {"undo": str(job.id), "snapshot": (job.result or {}).get("snapshot"), "force": False}
    draft = Draft(jobs.new_id(), asked, to, to, secret)
    counts = counted(made.refs) if made else {}
    return context.render(
        "restore_undo.html",
        _status(error),
        at=at,
        tab="restores",
        job=job,
        to=to,
        base=_page(context, at.repo, job.id),
        asks=asks,
        error=error,
        plan=made,
        counts=counts,
        due=counts.get("updated", 0) + counts.get("removed", 0),
        groups=groups([_row(ref) for ref in made.refs]) if made else [],
        will=WILL,
        colour=COLOUR,
        sealed=_sealed(context, at.repo, draft),
    )


async def undo_now(context: RequestContext) -> Response:
    """Undo as planned."""
    repo = await context.repo()
    undone = await _job(context, repo)
    draft = _unsealed(context, repo, str((await context.form()).get("draft", "")))
    if draft.asked.get("undo") != str(undone.id):
        raise UsageError("this is the plan of something else; plan it anew")
    if await jobs.find(context.services.db, context.of_team().id, draft.job_id) is None:
        await _queue(context, repo, "restore", draft.asked, draft.job_id, draft.secret)
        await context.audit("restore.undo", repo.name, repo.id, {"to": draft.told})
    return context.redirect(_page(context, repo, draft.job_id))


async def again(context: RequestContext) -> Response:
    """Back to planning, for who had to prove who they are while a plan was shown."""
    repo = await context.repo()
    if "job" in context.path:
        return context.redirect(f"{_page(context, repo, (await _job(context, repo)).id)}/undo")
    plain = _plain(context.query) | {"at": context.query.get("at", "")}
    page = "restore/plan" if plain.get("where") in ("new", "kept") else "restore"
    to = templating.repo_url(context.of_team().name, repo.name, page, **plain)
    return context.redirect(to, None if context.warned else "Plan it once more.")


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", f"{_REPO}/-/restore", choose, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/restore/plan", plan, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore/plan", plan, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore", begin, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore/over", begin_over, Needs.OPERATOR, sure=True),
    Endpoint("GET", f"{_REPO}/-/restore/over", again, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/bundles", bundle, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/bundles/{{job}}", download, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/restores", page, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}", one, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}/events", events, Needs.VIEWER),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}/undo", undo_plan, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restores/{{job}}/undo", undo_plan, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/restores/{{job}}/undo/now", again, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restores/{{job}}/undo/now", undo_now, Needs.OPERATOR, sure=True),
)
