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

from mirror import words
from mirror.errors import BadCredentials, EverrefError, NotAllowed, NotFound, Refused, UsageError
from mirror.flows import browse, connections, export, request, restore, target, undo
from mirror.flows import jobs as flow
from mirror.flows.entitled import Means
from mirror.flows.restore import RefResult
from mirror.forges.contract import Owner, Purpose
from mirror.git import address
from mirror.globs import check
from mirror.job import SYNC
from mirror.keyring import BadKey
from mirror.model import RefName, Remote, Repo, RepoId, Secret, older_of
from mirror.people import Role
from mirror.plan import check_new_name
from mirror.store import connections as store
from mirror.store import jobs, limits, repos, restores, state
from mirror.store.connections import Connection, ConnectionId
from mirror.store.jobs import ENDED, Job, JobId
from mirror.web import pages
from mirror.web.download import bundle_name, bundle_of
from mirror.web.frame import SAFE, AskAgain, Needs, Visit, Way
from mirror.web.live import follow
from mirror.web.repo import Moment, bytes_of, moment_at

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
            return {"globs": list(self.globs)} if self.globs else {}
        return {"bring": flow.shown_bring({RefName(self.name.encode()): self.source.encode()})}


@dataclass(frozen=True, slots=True)
class Draft:
    """A restore as its plan was shown, to be begun by one press: it is sealed into the page."""

    job_id: JobId  # of the job that it becomes: pressed twice, it is begun once
    asked: Mapping[str, Any]
    name: str  # of the target; typed before it is overwritten
    told: str  # the target in words
    secret: Secret | None = field(default=None, repr=False)  # lent for this once


async def choose(
    visit: Visit, error: EverrefError | None = None, given: Mapping[str, str] | None = None
) -> Response:
    """The moment, what of it, and the places it can go to."""
    at = await moment_at(visit)
    snapshot = at.saved
    db, team = visit.edges.db, visit.of_team()
    given = given if given is not None else visit.query
    where, plain = given.get("where", ""), _plain(given)
    at = _from_form(visit, at, plain)
    found = await store.of_team(db, team.id)
    chosen = next((one for one in found if str(one.id) == given.get("connection")), None)
    values: dict[str, Any] = {"owners": [], "missing": ()}
    what: What | None = None
    try:
        what = await _what(visit, at)
        if where == "new" and chosen is not None:
            values["missing"] = _missing(visit, chosen)
            if not values["missing"]:
                values["owners"] = await _owners(visit, chosen)
    except EverrefError as failed:
        error = error or failed
    forge = visit.edges.forges.at(chosen.forge, chosen.host) if chosen else None
    return visit.render(
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
        here=pages.url(visit.request.url.path, **dict(visit.query)),
        error=error,
        **values,
    )


def _status(error: EverrefError | None) -> int:
    """The status of a page that says what went wrong, if anything did."""
    return 200 if error is None else 403 if isinstance(error, NotAllowed) else 422


async def _what(visit: Visit, at: Moment) -> What:
    """What of the moment the address asks for. Raises UsageError, NotFound."""
    ref, commit = bytes_of(visit, "ref").strip(), visit.query.get("commit", "").strip().lower()
    name = bytes_of(visit, "as").decode(errors="replace").strip()
    if not name and not commit:
        chosen = tuple(ref.decode(errors="replace").split())
        check(chosen)
        return What(globs=chosen)
    if commit or not _is_text(ref):  # a name that forms cannot carry comes by what it holds
        source = commit or (await browse.resolve(visit.edges, at.repo, at.saved, ref)).decode()
    else:
        source = ref.decode()
    name = name or f"refs/heads/rescue/{source[:10]}"
    name = name if name.startswith("refs/") else f"refs/heads/{name}"
    check_new_name(RefName(name.encode()))
    await browse.commits(visit.edges, at.repo, at.saved, source.encode(), limit=1)  # it must be there
    return What(source=source, name=name)


def _is_text(raw: bytes) -> bool:
    try:
        return raw.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _missing(visit: Visit, connection: Connection) -> tuple[str, ...]:
    """The scopes that making a repository and pushing to it needs and the connection has not."""
    found = [
        scope
        for purpose in (Purpose.CREATE, Purpose.PUSH)
        for scope in connections.missing_scopes(visit.edges, connection, purpose)
    ]
    return tuple(dict.fromkeys(found))


async def _owners(visit: Visit, connection: Connection) -> list[Owner]:
    async with visit.planning():
        return await connections.asking(visit.edges, connection.id, lambda forge, token: forge.owners(token))


# The plan


async def plan(visit: Visit) -> Response:
    """What will happen, ref by ref; the target is asked what it has, and nothing is written."""
    at = await moment_at(visit)
    given = dict(visit.query)
    if visit.request.method == "POST":
        given |= {key: str(value) for key, value in (await visit.form()).items()}
    if given.get("where") not in WHERES:
        return visit.redirect(at.url("restore"))
    if visit.request.method in SAFE and given["where"] == "url" and _is_led_here(visit):
        return await choose(visit, None, given)
    try:
        draft = await _drafted(visit, at, given)
        if given.get("draft"):  # which has what was given before
            given["url"] = draft.asked.get("to", "")
            given["username"] = draft.secret.username if draft.secret else ""
            given["archive"] = "yes" if draft.asked["hidden"] == "archive" else ""
        if draft.asked["force"] and not is_sure(visit):  # before the plan, which would be lost
            raise AskAgain(None if visit.request.method in SAFE else _chooser(at, given))
        return await _shown(visit, at, draft, given)
    except EverrefError as error:
        return await choose(visit, error, given)


def _is_led_here(visit: Visit) -> bool:
    """Whether another site led here: it has us reach no address, to which a key could be shown.

    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    """
    return visit.request.headers.get("sec-fetch-site") in ("cross-site", "same-site")


def _plain(given: Mapping[str, str]) -> dict[str, str]:
    """What is asked of a plan, as far as an address may hold it."""
    found = {key: given[key] for key in FIELDS if given.get(key)}
    before, sign, _ = found.get("url", "").partition("@")
    if sign and ("/" in before or ":" in before):  # it may hold a password; git@host:path does not
        del found["url"]
    return found


def _from_form(visit: Visit, at: Moment, plain: Mapping[str, str]) -> Moment:
    """The moment of a page that a form led to: no address has it all, so another is chosen where it began."""
    if visit.request.method in SAFE:
        return at
    here = pages.repo_url(at.team, at.repo.name, "restore")
    return replace(at, here=here, kept=tuple((key, value.encode()) for key, value in plain.items()))


def _wrong(where: str, error: EverrefError) -> dict[str, str]:
    """What is wrong with which field, as far as that is known."""
    said = words.sentence(error)
    if isinstance(error, BadCredentials):
        return {"token": said}
    if isinstance(error, UsageError | NotFound) and where in WHERES:
        return {{"new": "name", "kept": "repo", "url": "url"}[where]: said}
    return {}


def _chooser(at: Moment, given: Mapping[str, str]) -> str:
    """The page on which this was asked for, with what was given there but for the token."""
    return at.url("restore", **(_plain(given) | {"at": at.saved.label}))


def is_sure(visit: Visit) -> bool:
    return visit.is_sure


async def _drafted(visit: Visit, at: Moment, given: Mapping[str, str]) -> Draft:
    """The restore that is asked for. Raises UsageError, NotFound, Refused, and what forges raise."""
    if given.get("draft"):  # one that was shown, with another word on overwriting
        kept = _unsealed(visit, at.repo, given["draft"])
        asked = dict(kept.asked) | {"force": bool(given.get("force"))}
        return Draft(jobs.new_id(), asked, kept.name, kept.told, kept.secret)
    what = await _what(visit, at)
    asked = what.asked | {
        **at.saved.numbers,
        "hidden": "archive" if given.get("archive") else "skip",
        "force": bool(given.get("force")),
    }
    ways = {"new": to_new, "kept": to_kept, "url": to_url}
    return await ways[given["where"]](visit, at.repo, given, asked)


async def to_new(visit: Visit, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]) -> Draft:
    connection = await _connection(visit, given.get("connection", ""))
    missing = _missing(visit, connection)
    if missing:
        raise Refused(f"{connection.host} granted no {', '.join(missing)}; allow that first")
    owners = await _owners(visit, connection)
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


async def to_kept(visit: Visit, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]) -> Draft:
    name = given.get("repo", "") or repo.name
    found = await repos.by_name(visit.edges.db, visit.of_team().id, name)
    if found is None:
        raise NotFound(f"there is no repository {name} in {visit.of_team().name}")
    kept = await store.of_repo(visit.edges.db, found.id)
    if kept:
        _check_push(visit, kept.connection)
    told = f"{found.name}, at {older_of(found.url) or found.url}"
    return Draft(jobs.new_id(), asked | {"kept": str(found.id)}, found.name, told)


async def to_url(visit: Visit, repo: Repo, given: Mapping[str, str], asked: dict[str, Any]) -> Draft:
    to = await _address(visit, given.get("url", "").strip())
    token, username = given.get("token", "").strip(), given.get("username", "").strip()
    secret = Secret(username or "", token) if token else to.secret
    asked, told = asked | {"to": to.url}, to.url
    if secret is not None:
        asked["lent"] = True
        told = f"{to.url}, with the token that you gave for this once"
    elif connection := await _connection_to(visit, to.url):
        _check_push(visit, connection)
        asked["connection"] = str(connection.id)
        told = f"{to.url}, with the connection of {connection.login}"
    return Draft(jobs.new_id(), asked, address.name_from_url(to.url), told, secret)


async def _address(visit: Visit, text: str) -> Remote:
    """The address as this visitor may mean it: a path of this machine is for admins of its own team only."""
    if visit.acting.may(Role.ADMIN):
        return await request.remote_meant(visit.edges, visit.of_team().id, text)
    return address.parse_remote(text, visit.edges.settings.allow_private_remotes, paths=False)


def _check_push(visit: Visit, connection: Connection) -> None:
    missing = connections.missing_scopes(visit.edges, connection, Purpose.PUSH)
    if missing:
        raise Refused(
            f"{connection.host} granted {connection.login}'s connection no {', '.join(missing)}, so it cannot"
            " push; allow it under Connect, or give the address with a token that may"
        )


async def _connection(visit: Visit, text: str) -> Connection:
    try:
        found = await store.find(visit.edges.db, visit.of_team().id, ConnectionId(UUID(text)))
    except ValueError:
        found = None
    if found is None:
        raise NotFound("there is no such connection")
    return found


async def _connection_to(visit: Visit, url: str) -> Connection | None:
    """A connection of the team to the host of this address: the one that reads it, where it is kept."""
    found: Connection | None = None
    kept = await repos.by_url(visit.edges.db, visit.of_team().id, url)
    reads = await store.of_repo(visit.edges.db, kept.id) if kept else None
    for one in await store.of_team(visit.edges.db, visit.of_team().id):
        app = visit.edges.forges.at(one.forge, one.host).app
        if one.state == "works" and url.startswith(f"{app.url.rstrip('/')}/"):
            if reads is not None and reads.connection.id == one.id:
                return one
            found = found or one
    return found


async def _shown(
    visit: Visit, at: Moment, draft: Draft, given: Mapping[str, str], wrong: str | None = None
) -> Response:
    """The page of a plan."""
    edges, asked = visit.edges, draft.asked
    async with visit.planning():
        to = await target.reach(edges, visit.of_team().id, asked, Means(visit.acting, draft.secret))
        if asked.get("new") and not await target.is_free(edges, to):
            raise Refused(f"there is a repository {draft.name} already; choose another name")
        made = await restore.plan(
            edges,
            at.repo,
            at.saved,
            globs=asked.get("globs", ()),
            bring=flow.brought(asked),
            to=to,
            new=bool(asked.get("new")),
            hidden=asked["hidden"],
            force=asked["force"],
        )
    counts = counted(made.refs)
    stands = any(ref.result == "refused" and ref.old for ref in made.refs)  # overwriting would help
    blocked = not asked["force"] and bool(counts.get("refused"))
    plain = _plain(given)
    at = _from_form(visit, at, plain)
    return visit.render(
        "restore_plan.html",
        200 if wrong is None else 422,
        at=at,
        tab="restore",
        draft=draft,
        sealed=_sealed(visit, at.repo, draft),
        plan=made,
        counts=counts,
        total=len(made.refs),
        groups=groups([_row(ref) for ref in made.refs]),
        will=WILL,
        colour=COLOUR,
        due=0 if blocked else sum(counts.get(one, 0) for one in ("created", "updated")),
        blocked=blocked,
        stands=stands,
        what={key: visit.query[key] for key in ("ref", "as", "commit") if key in visit.query},
        again=plain,
        by_post=visit.request.method == "POST",
        where=given.get("where", "url"),
        wrong=wrong,
    )


def _sealed(visit: Visit, repo: Repo, draft: Draft) -> str:
    """The draft for a hidden field: only for this person, this repo, and a while."""
    kept = {
        "job": str(draft.job_id),
        "asked": dict(draft.asked),
        "name": draft.name,
        "told": draft.told,
        "secret": [draft.secret.username, draft.secret.password] if draft.secret else None,
        "until": (visit.now + DRAFT_LASTS).isoformat(),
    }
    sealed = visit.outside.keyring.seal(json.dumps(kept).encode(), _context(visit, repo))
    return base64.urlsafe_b64encode(sealed).decode()


def _unsealed(visit: Visit, repo: Repo, text: str) -> Draft:
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii", "replace"))
        kept = json.loads(visit.outside.keyring.open(raw, _context(visit, repo)))
    except (ValueError, BadKey):
        raise UsageError("this is not a plan that was shown to you; plan it anew") from None
    if datetime.fromisoformat(kept["until"]) < visit.now:
        raise UsageError("this plan was shown more than an hour ago; plan it anew")
    secret = Secret(*kept["secret"]) if kept["secret"] else None
    return Draft(JobId(UUID(kept["job"])), kept["asked"], kept["name"], kept["told"], secret)


def _context(visit: Visit, repo: Repo) -> str:
    return f"restore/{repo.id}/{visit.owner().id}"


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


async def begin(visit: Visit) -> Response:
    """Restore as planned, where nothing is overwritten."""
    repo = await visit.repo()
    draft = _unsealed(visit, repo, str((await visit.form()).get("draft", "")))
    if draft.asked.get("force") or draft.asked.get("undo"):
        raise UsageError("what overwrites is begun by typing the target's name; plan it anew")
    return await _asked(visit, repo, draft)


async def begin_over(visit: Visit) -> Response:
    """Restore as planned over what is there: the name of the target must have been typed."""
    at = await moment_at(visit)
    form = await visit.form()
    draft = _unsealed(visit, at.repo, str(form.get("draft", "")))
    if draft.asked.get("undo"):
        raise UsageError("this is the plan of an undo; begin it on its own page")
    if str(form.get("name", "")).strip() != draft.name:
        wrong = f"Type {draft.name} to overwrite it. Nothing was done."
        return await _shown(visit, at, draft, visit.query, wrong)
    return await _asked(visit, at.repo, draft)


async def _asked(visit: Visit, repo: Repo, draft: Draft) -> Response:
    """Ask for the job, once."""
    if await jobs.find(visit.edges.db, visit.of_team().id, draft.job_id) is None:
        await limited(visit)
        new = draft.asked.get("new")
        detail = {"to": draft.told, "snapshot": draft.asked["snapshot"], "overwrites": draft.asked["force"]}
        await _queue(visit, repo, "restore", draft.asked, draft.job_id, draft.secret)
        await visit.audit("restore.create" if new else "restore.push", repo.name, repo.id, detail)
    return visit.redirect(_page(visit, repo, draft.job_id))


async def allow_again(visit: Visit, job: Job, confirmed: str | None = None) -> None:
    """Let a job be asked for once more only as it would be anew: sure, confirmed and counted.

    Raises AskAgain, UsageError where what is overwritten is not confirmed, and 429.
    """
    if job.kind == "bundle":
        await limited(visit, "bundle", BUNDLES_PER_HOUR)
    if job.kind != "restore":
        return
    if (job.asked.get("force") or job.asked.get("undo")) and not is_sure(visit):
        raise AskAgain
    if job.asked.get("force"):
        confirm(await _target_name(visit, job), confirmed)
    if not job.asked.get("undo"):
        await limited(visit)


def confirm(name: str, confirmed: str | None) -> None:
    """Raise UsageError unless the target that is overwritten was named."""
    if confirmed != name:
        raise UsageError(f'what is overwritten must be confirmed: say "confirm": "{name}"')


async def _target_name(visit: Visit, job: Job) -> str:
    """What is typed before a job overwrites its target."""
    if job.asked.get("to"):
        return address.name_from_url(job.asked["to"])
    return await _destination(visit, job)


async def limited(visit: Visit, key: str = "restore", limit: int = PER_HOUR) -> None:
    """Count a restore of this person. Raises 429 where it is one too many."""
    if not await limits.take(visit.edges.db, f"{key} {visit.owner().id}", limit, HOUR, visit.now):
        raise HTTPException(
            429,
            f"you have begun {limit} of these within an hour, which is as many as one person can; "
            "the next is possible an hour after the first",
            {"retry-after": str(int(HOUR.total_seconds()))},
        )


async def _queue(
    visit: Visit,
    repo: Repo,
    kind: jobs.Kind,
    asked: Mapping[str, Any],
    job_id: JobId | None = None,
    secret: Secret | None = None,
) -> Job:
    job = await flow.ask(
        visit.edges,
        repo.id,
        kind,
        asked_in_role(visit, kind, asked),
        person_id=visit.owner().id,
        secret=secret,
        job_id=job_id,
    )
    await visit.hint(SYNC, str(repo.id))
    return job


def asked_in_role(visit: Visit, kind: jobs.Kind, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a job is asked for, with the role in which it is: a restore uses nothing beyond that."""
    return {**asked, "role": str(visit.acting)} if kind == "restore" else asked


async def bundle(visit: Visit) -> Response:
    """Make a bundle to download."""
    at = await moment_at(visit)
    what = await _what(visit, at)
    await limited(visit, "bundle", BUNDLES_PER_HOUR)
    job = await _queue(visit, at.repo, "bundle", what.asked | at.saved.numbers)
    await visit.audit("restore.bundle", at.repo.name, at.repo.id, at.saved.numbers)
    return visit.redirect(_page(visit, at.repo, job.id))


async def download(visit: Visit) -> Response:
    """The bundle of a job."""
    repo = await visit.repo()
    return await bundle_of(visit, repo, await _job(visit, repo))


# What came of it


async def page(visit: Visit) -> Response:
    """Every restore of the repo, for ever, and those under way."""
    at = await moment_at(visit)
    db, team = visit.edges.db, visit.of_team()
    done = await restores.of(db, at.repo.id, LISTED)
    told = {one.cause.job_id for one in done if one.cause}
    others = await jobs.page(db, team.id, repo_id=at.repo.id, kinds=("restore", "bundle"), limit=LISTED)
    return visit.render(
        "restores.html",
        at=at,
        tab="restores",
        done=done,
        others=[job for job in others if job.id not in told],
        rebuilt=await state.taken_up_as_of(db),
    )


async def one(visit: Visit) -> Response:
    """One restore: how far it is, what became of each ref, and how to undo it."""
    at = await moment_at(visit)
    job = await _job(visit, at.repo)
    return visit.render("restore_one.html", at=at, tab="restores", **await _told(visit, at.repo, job))


async def events(visit: Visit) -> Response:
    """The same while it changes."""
    repo = await visit.repo()
    await _job(visit, repo)
    template = visit.outside.pages.get_template("restore_now.html")

    async def look() -> tuple[str, bool]:
        job = await _job(visit, repo)
        told = await _told(visit, repo, job)
        return template.render(visit=visit, now=visit.edges.clock(), **told), job.state in ENDED

    return await follow(visit, look)


async def _told(visit: Visit, repo: Repo, job: Job) -> dict[str, Any]:
    """What is told of a job that restores."""
    db, result = visit.edges.db, job.result or {}
    rows = [
        Row(ref["name"], ref["target"], ref["result"], ref["why"] or "", ref.get("old") or "")
        for ref in result.get("refs", ())
    ]
    ended, undoes = job.state in ENDED, job.asked.get("undo")
    return {
        "repo": repo,
        "job": job,
        "result": result,
        "base": _page(visit, repo, job.id),
        "groups": groups(rows),
        "colour": COLOUR,
        "rest": result.get("refs_total", 0) - len(rows),
        "to": await _destination(visit, job),
        "undoable": job.kind == "restore" and ended and not undoes and await restores.wrote_any(db, job.id),
        "undone": await restores.undone(db, job.id),
        "file": bundle_name(repo, job) if export.of(job, visit.now) else None,
        "expires": datetime.fromisoformat(result["expires_at"]) if "expires_at" in result else None,
        "kept": await _kept(visit, result),
    }


async def _destination(visit: Visit, job: Job) -> str:
    """Where a job restores to, in words."""
    asked, result = job.asked, job.result or {}
    if asked.get("new"):
        return f"{asked['new']['owner']['login']}/{asked['new']['name']}"
    if asked.get("kept"):
        found = await repos.find_in(visit.edges.db, visit.of_team().id, RepoId(UUID(asked["kept"])))
        return found.name if found else str(result.get("to", "a repository that is not kept any more"))
    return str(asked.get("to", ""))


async def _kept(visit: Visit, result: Mapping[str, Any]) -> Repo | None:
    """The repo that has what was overwritten."""
    if "kept" not in result:
        return None
    return await repos.by_name(visit.edges.db, visit.of_team().id, result["kept"])


async def _job(visit: Visit, repo: Repo) -> Job:
    """The path's job, which restores this repo. Raises NotFound."""
    try:
        found = await jobs.find(visit.edges.db, visit.of_team().id, JobId(UUID(str(visit.path["job"]))))
    except ValueError:
        found = None
    if found is None or found.repo_id != repo.id or found.kind not in ("restore", "bundle"):
        raise NotFound("there is no such restore")
    return found


def _page(visit: Visit, repo: Repo, job_id: JobId) -> str:
    return pages.repo_url(visit.of_team().name, repo.name, f"restores/{job_id}")


# Undoing it


async def undo_plan(visit: Visit) -> Response:
    """What undoing a restore will do, ref by ref; where a token was lent for it, it is asked for again."""
    at = await moment_at(visit)
    job = await _job(visit, at.repo)
    secret, error, made = None, None, None
    if visit.request.method == "POST":
        form = await visit.form()
        token, username = str(form.get("token", "")).strip(), str(form.get("username", "")).strip()
        secret = Secret(username or "", token) if token else None
    await undo.check(visit.edges, job)
    if not is_sure(visit):
        raise AskAgain  # before the plan, which would be lost
    asks = bool(job.asked.get("lent")) and secret is None
    if not asks:
        try:
            async with visit.planning():
                made = await undo.plan(visit.edges, job, Means(visit.acting, secret))
        except (BadCredentials, NotAllowed) as failed:
            if isinstance(failed, BadCredentials) and not job.asked.get("lent"):
                raise
            asks, error = True, failed
    to = await _destination(visit, job)
    asked = {"undo": str(job.id), "snapshot": (job.result or {}).get("snapshot"), "force": False}
    draft = Draft(jobs.new_id(), asked, to, to, secret)
    counts = counted(made.refs) if made else {}
    return visit.render(
        "restore_undo.html",
        _status(error),
        at=at,
        tab="restores",
        job=job,
        to=to,
        base=_page(visit, at.repo, job.id),
        asks=asks,
        error=error,
        plan=made,
        counts=counts,
        due=counts.get("updated", 0) + counts.get("removed", 0),
        groups=groups([_row(ref) for ref in made.refs]) if made else [],
        will=WILL,
        colour=COLOUR,
        sealed=_sealed(visit, at.repo, draft),
    )


async def undo_now(visit: Visit) -> Response:
    """Undo as planned."""
    repo = await visit.repo()
    undone = await _job(visit, repo)
    draft = _unsealed(visit, repo, str((await visit.form()).get("draft", "")))
    if draft.asked.get("undo") != str(undone.id):
        raise UsageError("this is the plan of something else; plan it anew")
    if await jobs.find(visit.edges.db, visit.of_team().id, draft.job_id) is None:
        await _queue(visit, repo, "restore", draft.asked, draft.job_id, draft.secret)
        await visit.audit("restore.undo", repo.name, repo.id, {"to": draft.told})
    return visit.redirect(_page(visit, repo, draft.job_id))


async def again(visit: Visit) -> Response:
    """Back to planning, for who had to prove who they are while a plan was shown."""
    repo = await visit.repo()
    if "job" in visit.path:
        return visit.redirect(f"{_page(visit, repo, (await _job(visit, repo)).id)}/undo")
    plain = _plain(visit.query) | {"at": visit.query.get("at", "")}
    page = "restore/plan" if plain.get("where") in ("new", "kept") else "restore"
    to = pages.repo_url(visit.of_team().name, repo.name, page, **plain)
    return visit.redirect(to, None if visit.warned else "Plan it once more.")


_REPO: Final = "/{team}/{repo:repo}"

WAYS: Final[Sequence[Way]] = (
    Way("GET", f"{_REPO}/-/restore", choose, Needs.OPERATOR),
    Way("GET", f"{_REPO}/-/restore/plan", plan, Needs.OPERATOR),
    Way("POST", f"{_REPO}/-/restore/plan", plan, Needs.OPERATOR),
    Way("POST", f"{_REPO}/-/restore", begin, Needs.OPERATOR),
    Way("POST", f"{_REPO}/-/restore/over", begin_over, Needs.OPERATOR, sure=True),
    Way("GET", f"{_REPO}/-/restore/over", again, Needs.OPERATOR),
    Way("POST", f"{_REPO}/-/bundles", bundle, Needs.OPERATOR),
    Way("GET", f"{_REPO}/-/bundles/{{job}}", download, Needs.OPERATOR),
    Way("GET", f"{_REPO}/-/restores", page, Needs.VIEWER),
    Way("GET", f"{_REPO}/-/restores/{{job}}", one, Needs.VIEWER),
    Way("GET", f"{_REPO}/-/restores/{{job}}/events", events, Needs.VIEWER),
    Way("GET", f"{_REPO}/-/restores/{{job}}/undo", undo_plan, Needs.OPERATOR),
    Way("POST", f"{_REPO}/-/restores/{{job}}/undo", undo_plan, Needs.OPERATOR),
    Way("GET", f"{_REPO}/-/restores/{{job}}/undo/now", again, Needs.OPERATOR),
    Way("POST", f"{_REPO}/-/restores/{{job}}/undo/now", undo_now, Needs.OPERATOR, sure=True),
)
