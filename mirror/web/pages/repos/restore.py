"""Restore, on one page: what comes back of a moment, in which way, what that means commit by commit, and go.

The page shows the plan of what is chosen beneath the choices: at once where that is a repository the team
backs up or a connected host, else when an address was given. A script asks for the same page as choices
change; without one, the form does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from starlette.responses import Response

from mirror.browse import moments, plan_commits
from mirror.browse.plan_commits import RefCommits
from mirror.core import words
from mirror.core.errors import BadCredentials, EverrefError, NotFound, Refused, UsageError
from mirror.core.globs import check
from mirror.core.model import HEAD, RefName, Repo, Target
from mirror.core.refs import is_symbolic, symbolic_target
from mirror.core.rules.history.plan import PLACES, check_new_name
from mirror.forges.contract import Owner
from mirror.restore import restore, target
from mirror.restore.target import Authority
from mirror.store.backup import snapshots
from mirror.store.browse import refs_shown
from mirror.store.discovery import connections as store
from mirror.store.discovery.connections import Connection
from mirror.store.jobs import jobs
from mirror.web import rescue, templating
from mirror.web.dispatch import SAFE, AskAgain, Endpoint, Needs, RequestContext
from mirror.web.drafts import (
    BUNDLES_PER_HOUR,
    Draft,
    limited,
    missing_scopes,
    owners_of,
    queue,
    queue_once,
    sealed,
    to_kept,
    to_new,
    to_url,
    unsealed,
)
from mirror.web.pages.repos.repo import ShownMoment, bytes_of, moment_at
from mirror.web.pages.repos.restores import COLOUR, WILL, address_of, counted, groups, row_of, status_of
from mirror.web.rescue import HERE, Subject, Way

FIELDS: Final = (
    *("where", "ref", "as", "commit", "connection", "host", "owner", "name", "private", "repo"),
    *("url", "username", "force", "archive"),
)  # of a request for a plan, as an address may hold them; a token it may not
NAMES: Final = 20  # that are tried for a branch
TRIED: Final = 4  # names of a new repository
KINDS: Final[Sequence[jobs.Kind]] = ("restore",)
STATES: Final[Sequence[jobs.State]] = ("done",)
EARLIER: Final = 5  # restores by which the time of another is told


# What comes back


async def _subject(context: RequestContext, at: ShownMoment) -> Subject:
    """What of the moment the query asks for. Raises UsageError, NotFound."""
    ref, commit = bytes_of(context, "ref").strip(), context.query.get("commit", "").strip().lower()
    given = bytes_of(context, "as").decode(errors="replace").strip()
    if not commit and not given and not _is_one(ref):
        globs = tuple(ref.decode(errors="replace").split())
        check(globs)
        return Subject(globs=globs)
    name = given and (given if given.startswith("refs/") else f"refs/heads/{given}")
    if name:
        check_new_name(RefName(name.encode()))
    if commit or not _is_text(ref):  # a ref whose name forms cannot carry is given by its object
        source = commit or (await moments.resolve(context.services, at.repo, at.saved, ref)).decode()
        await moments.commits(context.services, at.repo, at.saved, source.encode(), limit=1)  # it must exist
        proposed = name or f"refs/heads/rescue/{source[:10]}"
        return Subject("commit", source, name=proposed, named=bool(name), then=Target(source.encode()))
    return await _ref_subject(context, at, RefName(ref), name)


def _is_one(ref: bytes) -> bool:
    """Whether this is the full name of one ref, and no pattern."""
    return ref.startswith(b"refs/") and not any(char in ref for char in b" *?[")


def _is_text(raw: bytes) -> bool:
    try:
        return raw.decode().isprintable()
    except UnicodeDecodeError:
        return False


async def _ref_subject(context: RequestContext, at: ShownMoment, ref: RefName, name: str) -> Subject:
    """One ref as it was, and where it is now."""
    db, snapshot = context.services.db, at.saved
    then = await moments.resolve(context.services, at.repo, snapshot, ref)
    latest = await snapshots.latest(db, at.repo.id) or snapshot
    taken = f"{snapshot.taken_at.astimezone(context.zone):%m%d-%H%M}"
    base = f"{_place(ref)}restored/{templating.refname(ref)}-{taken}"
    free = [base, *(f"{base}-{number}" for number in range(2, NAMES))]
    found = await refs_shown.targets_at(
        db, at.repo.id, [ref, *(RefName(one.encode()) for one in free)], latest.number, latest.moment
    )
    now = found.get(ref)
    if now is not None and is_symbolic(now):
        now = await moments.resolve(context.services, at.repo, latest, ref)
    proposed = next((one for one in free if RefName(one.encode()) not in found), base)
    return Subject("ref", ref.decode(), (), name or proposed, bool(name) and name != proposed, then, now)


def _place(ref: RefName) -> str:
    """Where a ref of this kind is brought back under another name: tags as tags, all else as branches."""
    return (PLACES[1] if ref.startswith(PLACES[1]) else PLACES[0]).decode()


@dataclass(frozen=True, slots=True)
class Sides:
    """A ref now and before, in commits."""

    commits: RefCommits | None = None  # None: they were not read
    why: str = ""  # there are none, in words


async def _sides(context: RequestContext, at: ShownMoment, subject: Subject) -> Sides:
    """What a ref has lost and would get back. Nobody waits long for it: the restore does not need it."""
    if subject.kind != "ref" or subject.then is None:
        return Sides()
    held: Sequence[Target] = ()
    if subject.is_gone:
        latest = await snapshots.latest(context.services.db, at.repo.id) or at.saved
        held = await refs_shown.held_at(context.services.db, at.repo.id, latest.number, latest.moment)
    name = RefName(subject.source.encode())
    move = (name, subject.now, subject.then)
    found = await plan_commits.of_plan_or_none(context.services, at.repo, [move], held)
    if name not in found.by_name:
        return Sides(None, "The commits could not be read just now. The restore does not depend on it.")
    return Sides(found.by_name[name])


# Where a new repository is made


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The hosts where a new repository can be made, and what is known of the chosen one."""

    connections: Sequence[Connection] = ()  # that work
    chosen: Connection | None = None
    owners: Sequence[Owner] = ()
    owner: str = ""  # the id of the one who will own it
    missing: tuple[str, ...] = ()  # scopes
    by_consent: bool = False  # whether a press of a button can allow them
    others: Sequence[Any] = ()  # the hosts that can be connected here
    error: EverrefError | None = None


async def _elsewhere(
    context: RequestContext, at: ShownMoment, given: Mapping[str, str], way: Way
) -> Elsewhere:
    """The hosts; where a new repository is what is chosen, who can own it, as the host says."""
    every = await store.of_team(context.services.db, context.of_team().id)
    working = [one for one in every if one.state == "works"]
    known = {one.host for one in working}
    apps = context.services.settings.apps
    others = [app for app in apps if app.registered and app.host not in known]
    chosen = _connection_of(at, given, working)
    if chosen is None or way != "new":
        return Elsewhere(working, chosen, others=others)
    missing = missing_scopes(context, chosen)
    owners: Sequence[Owner] = ()
    error = None
    if not missing:
        try:
            owners = await owners_of(context, chosen)
        except EverrefError as failed:
            error = failed
    return Elsewhere(
        working,
        chosen,
        owners,
        _owner_of(at, given, owners),
        missing,
        _by_consent(context, chosen),
        others,
        error,
    )


def _connection_of(
    at: ShownMoment, given: Mapping[str, str], working: Sequence[Connection]
) -> Connection | None:
    """The connection that was chosen, else the one to the host just connected or that the repo is at."""
    for one in working:
        if str(one.id) == given.get("connection"):
            return one
    wanted = given.get("host") or at.host.partition("/")[0]
    at_host = [one for one in working if one.host.partition(":")[0] == wanted.partition(":")[0]]
    found = at_host or working
    return found[-1] if found else None


def _owner_of(at: ShownMoment, given: Mapping[str, str], owners: Sequence[Owner]) -> str:
    """Who was chosen to own it, else the owner of the repo, else the person."""
    before = at.repo.name.partition("/")[0]
    for fits in (
        lambda one: one.id == given.get("owner"),
        lambda one: not given.get("owner") and one.login == before,
        lambda one: not given.get("owner") and one.personal,
        lambda one: not given.get("owner"),
    ):
        for one in owners:
            if fits(one):
                return one.id
    return given.get("owner", "")


def _by_consent(context: RequestContext, connection: Connection) -> bool:
    """Whether the connection can be allowed more at its forge by a press of a button."""
    forge = context.services.forges.at(connection.forge, connection.host)
    return connection.grant_kind == "oauth" and forge.app.registered


# The page


class NameTaken(Refused):
    """A repository that is to be made exists already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a repository {name} exists already; choose another name")


async def page(context: RequestContext) -> Response:
    """What comes back, in which way, and the plan of it. Nothing is written."""
    at = await moment_at(context)
    given = dict(context.query)
    if context.request.method == "POST":
        given |= {key: str(value) for key, value in (await context.form()).items()}
    return await _shown(context, at, given)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the page is asked for."""

    subject: Subject
    way: Way
    chosen: bool  # whether somebody chose the way; else it is the one at first
    given: Mapping[str, str] = field(repr=False)  # with a token, where one was typed

    @property
    def plain(self) -> dict[str, str]:
        """What of it an address may hold."""
        return _plain(self.given)


def _way(subject: Subject, given: Mapping[str, str]) -> tuple[Way, bool]:
    """The way that is asked for, if any; `kept` is what three of them were called together."""
    where = given.get("where", "")
    if where == "kept":
        if subject.kind != "all" and subject.named:
            where = "branch"
        else:
            where = "back" if given.get("force") or subject.kind == "ref" else "missing"
    if where in subject.ways:
        return cast(Way, where), True
    return subject.ways[0], False


async def _shown(
    context: RequestContext,
    at: ShownMoment,
    given: Mapping[str, str],
    draft: Draft | None = None,
    wrong: str | None = None,
) -> Response:
    """The page; `draft` is a plan that was shown before, `wrong` what was not right with its button."""
    at.saved  # noqa: B018 - raises NotFound where nothing was saved yet
    try:
        subject = await _subject(context, at)
    except EverrefError as failed:
        return context.render(
            "restore.html", status_of(failed), at=at, tab="restore", subject=None, error=failed, plan=None
        )
    way, chosen = _way(subject, given)
    wish = Wish(subject, way, chosen, given)
    where = await _elsewhere(context, at, given, way)
    sides = await _sides(context, at, subject)
    error = where.error if way == "new" else None
    planned: dict[str, Any] = {}
    try:
        if draft is None and error is None:
            draft = await _drafted(context, at, wish, where)
        if draft is not None:
            if draft.asked["force"] and not context.is_sure:  # before the plan is made, which would be lost
                raise AskAgain(None if context.request.method in SAFE else _back(at, wish))
            draft, planned = await _planned_freely(context, at, draft, wish)
    except EverrefError as failed:
        error, draft = failed, None
    repo = given.get("repo") or at.repo.name
    return context.render(
        "restore.html",
        422 if wrong is not None else status_of(error) if chosen else 200,
        at=at,
        tab="restore",
        subject=subject,
        way=way,
        choices=rescue.choices(subject, way, repo, sides.commits),
        sides=sides,
        elsewhere=where,
        written=rescue.written,
        repo=repo,
        proposed=given.get("name") or _name_of(draft) or _proposed(at),
        given=dict.fromkeys(FIELDS, "") | _of_draft(draft, wish.plain),
        fields=wish.plain | {"at": at.saved.label},
        back=_back(at, wish),
        wrong_at=_wrong(way, error) if error is not None else {},
        error=error,
        wrong=wrong,
        draft=draft,
        sealed=sealed(context, at.repo, draft) if draft else "",
        **({"plan": None} | planned),
    )


def _name_of(draft: Draft | None) -> str:
    """The name of the repository that is to be made, if one is."""
    return str((draft.asked.get("new") or {}).get("name", "")) if draft else ""


def _of_draft(draft: Draft | None, plain: dict[str, str]) -> dict[str, str]:
    """What was typed, of a plan that was shown before as its draft has it."""
    if draft is None or not draft.asked.get("to"):
        return plain
    archive = {"archive": "yes"} if draft.asked.get("hidden") == "archive" else {}
    username = {"username": draft.secret.username} if draft.secret else {}
    return plain | {"url": draft.asked["to"]} | archive | username


def _may_reach(context: RequestContext, given: Mapping[str, str]) -> bool:
    """Whether an address was given to be reached now, which only a form of ours asks for.

    Another site can lead to a link, also by way of our sign-in, after which a browser says that we did:
    it must not make us reach an address, which could be shown a key.
    """
    return bool(given.get("url")) and context.request.method not in SAFE


def _plain(given: Mapping[str, str]) -> dict[str, str]:
    """The fields of a request for a plan, as far as an address may hold them."""
    found = {key: given[key] for key in FIELDS if given.get(key)}
    before, sign, _ = found.get("url", "").removeprefix("ssh://").partition("@")
    if sign and ("/" in before or ":" in before):  # it may hold a password; git@host does not
        del found["url"]
    return found


def _wrong(way: Way, error: EverrefError) -> dict[str, str]:
    """What is wrong, by the field it is about, as far as that is known."""
    said = words.sentence(error)
    if isinstance(error, BadCredentials) and way == "url":
        return {"token": said}
    if isinstance(error, UsageError | NotFound | Refused) and way in ("new", "url"):
        return {{"new": "name", "url": "url"}[way]: said}
    return {}


def _back(at: ShownMoment, wish: Wish) -> str:
    """This page with all that was given to it except a token."""
    where = {"where": wish.way} if wish.chosen else {}
    return at.url("restore", **(wish.plain | where | {"at": at.saved.label}))


async def _drafted(context: RequestContext, at: ShownMoment, wish: Wish, where: Elsewhere) -> Draft | None:
    """The restore that is asked for; None: something is still to be said first.

    Raises UsageError, NotFound, Refused, and the errors of forges.
    """
    given, subject, way = dict(wish.given), wish.subject, wish.way
    if given.get("draft"):  # a plan that was shown, now with another choice on overwriting
        kept = unsealed(context, at.repo, given["draft"])
        asked = dict(kept.asked) | {"force": bool(given.get("force"))}
        return Draft(jobs.new_id(), asked, kept.name, kept.told, kept.secret)
    if way == "new" and (where.chosen is None or where.missing):
        return None
    if way == "url" and not _may_reach(context, given):
        return None
    force = subject.overwrites(way) or (way == "url" and bool(given.get("force")))
    archive = way not in HERE and bool(given.get("archive"))
    if way == "new" and not given.get("owner"):  # the box was not shown yet, and is ticked at first
        archive = subject.kind == "all"
    asked = subject.asked(way) | {
        **at.saved.numbers,
        "hidden": "archive" if archive else "skip",
        "force": force,
    }
    if way == "url":
        return await to_url(context, at.repo, given, asked)
    if way == "new" and where.chosen is not None:
        given |= {"connection": str(where.chosen.id), "owner": where.owner}
        given["name"] = given.get("name") or _proposed(at)
        return await to_new(context, at.repo, given, asked)
    return await to_kept(context, at.repo, given, asked)


async def _planned_freely(
    context: RequestContext, at: ShownMoment, draft: Draft, wish: Wish
) -> tuple[Draft, dict[str, Any]]:
    """The plan; where nobody chose the name of a new repository, one that is free."""
    for number in range(2, TRIED + 2):
        try:
            return draft, await _planned(context, at, draft, wish)
        except NameTaken:
            if wish.given.get("name") or number > TRIED:
                raise
            name = f"{_proposed(at)}-{number}"
            new = draft.asked["new"] | {"name": name}
            told = draft.told.replace(draft.name, f"{new['owner']['login']}/{name}", 1)
            asked = {**draft.asked, "new": new}
            draft = replace(draft, asked=asked, name=f"{new['owner']['login']}/{name}", told=told)
    raise AssertionError("the last try returns or raises")


def _proposed(at: ShownMoment) -> str:
    """The name of a new repository, unless somebody chooses another."""
    return f"{at.repo.name.rpartition('/')[2]}-restored"


async def _planned(context: RequestContext, at: ShownMoment, draft: Draft, wish: Wish) -> dict[str, Any]:
    """What the page tells of a plan; the target is asked which refs it has."""
    services, asked, team = context.services, draft.asked, context.of_team().id
    async with context.planning():
        to = await target.reach(services, team, asked, Authority(context.acting, draft.secret))
        if asked.get("new") and not await target.is_free(services, to):
            raise NameTaken(draft.name)
        made = await restore.plan(
            services, at.repo, at.saved, restore.What.of(asked), to, new=bool(asked.get("new"))
        )
    commits = await plan_commits.of_plan_or_none(services, at.repo, made.moves, made.held)
    counts = counted(made.refs)
    stands = any(ref.result == "refused" and ref.old for ref in made.refs)  # overwriting would help
    blocked = not asked["force"] and bool(counts.get("refused"))
    due = 0 if blocked else sum(counts.get(one, 0) for one in ("created", "updated"))
    held = await target.without_workflows(services, team, asked) if due else None
    earlier: Sequence[jobs.Job] = ()
    if made.bytes > rescue.SMALL:
        earlier = await jobs.page(
            services.db, team, repo_id=at.repo.id, kinds=KINDS, states=STATES, limit=EARLIER
        )
    overwritten = {ref.name for ref in made.refs if ref.result == "updated"}
    came_for = await _came_for(context, at, wish.subject, overwritten)
    return {
        "plan": made,
        "counts": counts,
        "total": len(made.refs),
        "groups": groups([row_of(ref, commits.by_name.get(ref.name)) for ref in made.refs]),
        "uncounted": commits.uncounted,
        "rewinds": rescue.rewinds(made.refs, commits, came_for),
        "came_for": words.name(came_for) if came_for else "",
        "will": WILL,
        "colour": COLOUR,
        "due": due,
        "held": held,
        "by_consent": bool(held and _by_consent(context, held)),
        "blocked": blocked,
        "stands": stands,
        "expected": rescue.expected(made.bytes, earlier),
        "label": rescue.label(wish.subject, wish.way, draft.name, due),
    }


async def _came_for(
    context: RequestContext, at: ShownMoment, subject: Subject, overwritten: Collection[RefName]
) -> RefName | None:
    """The ref that somebody wants back: the one they named, that was lost next, or that HEAD names."""
    if subject.kind == "ref":
        return RefName(subject.source.encode())
    if at.around and at.around.took and at.around.took.name in overwritten:
        return at.around.took.name
    snapshot = at.saved
    found = await refs_shown.targets_at(
        context.services.db, at.repo.id, [HEAD], snapshot.number, snapshot.moment
    )
    head = found.get(HEAD)
    return symbolic_target(head) if head and is_symbolic(head) else None


# Doing it


async def begin(context: RequestContext) -> Response:
    """Start a restore that overwrites nothing."""
    repo = await context.repo()
    draft = unsealed(context, repo, str((await context.form()).get("draft", "")))
    if draft.asked.get("force") or draft.asked.get("undo"):
        raise UsageError("a restore that overwrites needs the target's name typed; plan it again")
    return await _asked(context, repo, draft)


async def begin_over(context: RequestContext) -> Response:
    """Start a restore that may overwrite refs: the name of the target must have been typed."""
    at = await moment_at(context)
    form = await context.form()
    draft = unsealed(context, at.repo, str(form.get("draft", "")))
    if draft.asked.get("undo"):
        raise UsageError("this is the plan of an undo; start it on its own page")
    if str(form.get("name", "")).strip() != draft.name:
        wrong = f"Type {draft.name} to overwrite it. Nothing was done."
        return await _shown(context, at, context.query, draft, wrong)
    return await _asked(context, at.repo, draft)


async def _asked(context: RequestContext, repo: Repo, draft: Draft) -> Response:
    """Queue the job, once."""
    if await jobs.find(context.services.db, context.of_team().id, draft.job_id) is None:
        await limited(context)
        new = draft.asked.get("new")
        detail = {"to": draft.told, "snapshot": draft.asked["snapshot"], "overwrites": draft.asked["force"]}
        if await queue_once(context, repo, draft):
            await context.audit("restore.create" if new else "restore.push", repo.name, repo.id, detail)
    return context.redirect(address_of(context, repo, draft.job_id))


async def bundle(context: RequestContext) -> Response:
    """Queue a bundle to download."""
    at = await moment_at(context)
    subject = await _subject(context, at)
    await limited(context, "bundle", BUNDLES_PER_HOUR)
    way: Way = "branch" if subject.named or subject.kind == "commit" else "back"
    job = await queue(context, at.repo, "bundle", subject.asked(way) | at.saved.numbers)
    await context.audit("restore.bundle", at.repo.name, at.repo.id, at.saved.numbers)
    return context.redirect(address_of(context, at.repo, job.id))


async def again(context: RequestContext) -> Response:
    """Back to planning, for somebody who had to prove who they are while a plan was shown."""
    repo = await context.repo()
    plain = _plain(context.query) | {"at": context.query.get("at", "")}
    to = templating.repo_url(context.of_team().name, repo.name, "restore", **plain)
    return context.redirect(to, None if context.warned else "Plan it again.")


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", f"{_REPO}/-/restore", page, Needs.OPERATOR, reads=True),
    Endpoint("GET", f"{_REPO}/-/restore/plan", page, Needs.OPERATOR, reads=True),
    Endpoint("POST", f"{_REPO}/-/restore/plan", page, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore", begin, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore/over", begin_over, Needs.OPERATOR, sure=True),
    Endpoint("GET", f"{_REPO}/-/restore/over", again, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/bundles", bundle, Needs.OPERATOR),
)
