"""Restore: which moment, what of it, where to, and what will happen ref by ref; then the job is queued."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.responses import Response

from mirror.browse import moments
from mirror.core import words
from mirror.core.errors import BadCredentials, EverrefError, NotFound, Refused, UsageError
from mirror.core.globs import check
from mirror.core.model import RefName, Repo
from mirror.core.rules.plan import check_new_name
from mirror.restore import restore, target
from mirror.restore.target import Authority
from mirror.store.discovery import connections as store
from mirror.store.discovery.connections import Connection
from mirror.store.jobs import jobs
from mirror.web import templating
from mirror.web.dispatch import SAFE, AskAgain, Endpoint, Needs, RequestContext
from mirror.web.drafts import (
    BUNDLES_PER_HOUR,
    Draft,
    limited,
    missing_scopes,
    owners_of,
    queue,
    sealed,
    to_kept,
    to_new,
    to_url,
    unsealed,
)
from mirror.web.pages.repo import ShownMoment, bytes_of, moment_at
from mirror.web.pages.restores import COLOUR, WILL, address_of, counted, groups, row_of, status_of

WHERES: Final = ("new", "kept", "url")
FIELDS: Final = (
    *("where", "ref", "as", "commit", "connection", "owner", "name", "private", "repo"),
    *("url", "username", "force", "archive"),
)  # of a request for a plan, as an address may hold them; a token it may not


# What, and where to


@dataclass(frozen=True, slots=True)
class Chosen:
    """What of a moment is restored: all of it, some refs, or one ref or commit under another name."""

    globs: tuple[str, ...] = ()
    source: str = ""  # the ref or commit to bring back; "": none
    name: str = ""  # the ref that it becomes

    @property
    def query(self) -> dict[str, str]:
        """As the query of an address."""
        if not self.source:
            return {"ref": " ".join(self.globs)}
        return {"ref" if self.source.startswith("refs/") else "commit": self.source, "as": self.name}

    @property
    def asked(self) -> dict[str, Any]:
        """As a job is asked for it."""
        if not self.source:
            return restore.What(self.globs).chosen
        return restore.What(bring={RefName(self.name.encode()): self.source.encode()}).chosen


async def choose(
    context: RequestContext, error: EverrefError | None = None, given: Mapping[str, str] | None = None
) -> Response:
    """Choose what of the moment to restore, and where to."""
    at = await moment_at(context)
    snapshot = at.saved
    db, team = context.services.db, context.of_team()
    given = given if given is not None else context.query
    where, plain = given.get("where", ""), _plain(given)
    at = _from_form(context, at, plain)
    found = await store.of_team(db, team.id)
    chosen = next((one for one in found if str(one.id) == given.get("connection")), None)
    values: dict[str, Any] = {"owners": [], "missing": ()}
    what: Chosen | None = None
    try:
        what = await _chosen(context, at)
        if where == "new" and chosen is not None:
            values["missing"] = missing_scopes(context, chosen)
            if not values["missing"]:
                values["owners"] = await owners_of(context, chosen)
    except EverrefError as failed:
        error = error or failed
    return context.render(
        "restore.html",
        status_of(error),
        at=at,
        tab="restore",
        snapshot=snapshot,
        what=what or Chosen(),
        where=where,
        connections=found,
        chosen=chosen,
        by_consent=bool(chosen and _by_consent(context, chosen)),
        proposed=given.get("name") or f"{at.repo.name.rpartition('/')[2]}-restored",
        given=dict.fromkeys(FIELDS, "") | plain,
        wrong=_wrong(where, error) if error is not None and what is not None else {},
        here=templating.url(context.request.url.path, **dict(context.query)),
        error=error,
        **values,
    )


def _by_consent(context: RequestContext, connection: Connection) -> bool:
    """Whether the connection can be allowed more at its forge by a press of a button."""
    forge = context.services.forges.at(connection.forge, connection.host)
    return connection.grant_kind == "oauth" and forge.app.registered


async def _chosen(context: RequestContext, at: ShownMoment) -> Chosen:
    """What of the moment the query asks for. Raises UsageError, NotFound."""
    ref, commit = bytes_of(context, "ref").strip(), context.query.get("commit", "").strip().lower()
    name = bytes_of(context, "as").decode(errors="replace").strip()
    if not name and not commit:
        chosen = tuple(ref.decode(errors="replace").split())
        check(chosen)
        return Chosen(globs=chosen)
    if commit or not _is_text(ref):  # a ref whose name forms cannot carry is given by its object
        source = commit or (await moments.resolve(context.services, at.repo, at.saved, ref)).decode()
    else:
        source = ref.decode()
    name = name or f"refs/heads/rescue/{source[:10]}"
    name = name if name.startswith("refs/") else f"refs/heads/{name}"
    check_new_name(RefName(name.encode()))
    await moments.commits(context.services, at.repo, at.saved, source.encode(), limit=1)  # it must exist
    return Chosen(source=source, name=name)


def _is_text(raw: bytes) -> bool:
    try:
        return raw.decode().isprintable()
    except UnicodeDecodeError:
        return False


# The plan


async def plan(context: RequestContext) -> Response:
    """What will happen, ref by ref; the target is asked which refs it has, and nothing is written."""
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
        if given.get("draft"):  # it holds the earlier answers
            given["url"] = draft.asked.get("to", "")
            given["username"] = draft.secret.username if draft.secret else ""
            given["archive"] = "yes" if draft.asked["hidden"] == "archive" else ""
        if draft.asked["force"] and not context.is_sure:  # before the plan is made, which would be lost
            raise AskAgain(None if context.request.method in SAFE else _chooser(at, given))
        return await _shown(context, at, draft, given)
    except EverrefError as error:
        return await choose(context, error, given)


def _is_led_here(context: RequestContext) -> bool:
    """Whether another site led here: it must not make us reach an address, which could be shown a key.

    https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
    """
    return context.request.headers.get("sec-fetch-site") in ("cross-site", "same-site")


def _plain(given: Mapping[str, str]) -> dict[str, str]:
    """The fields of a request for a plan, as far as an address may hold them."""
    found = {key: given[key] for key in FIELDS if given.get(key)}
    before, sign, _ = found.get("url", "").partition("@")
    if sign and ("/" in before or ":" in before):  # it may hold a password; git@host:path does not
        del found["url"]
    return found


def _from_form(context: RequestContext, at: ShownMoment, plain: Mapping[str, str]) -> ShownMoment:
    """The moment, with links to other moments that lead back to the form where this page came from one."""
    if context.request.method in SAFE:
        return at
    here = templating.repo_url(at.team, at.repo.name, "restore")
    return replace(at, here=here, kept=tuple((key, value.encode()) for key, value in plain.items()))


def _wrong(where: str, error: EverrefError) -> dict[str, str]:
    """What is wrong, by the field it is about, as far as that is known."""
    said = words.sentence(error)
    if isinstance(error, BadCredentials):
        return {"token": said}
    if isinstance(error, UsageError | NotFound) and where in WHERES:
        return {{"new": "name", "kept": "repo", "url": "url"}[where]: said}
    return {}


def _chooser(at: ShownMoment, given: Mapping[str, str]) -> str:
    """The page on which this was asked for, with all that was given there except the token."""
    return at.url("restore", **(_plain(given) | {"at": at.saved.label}))


async def _drafted(context: RequestContext, at: ShownMoment, given: Mapping[str, str]) -> Draft:
    """The restore that is asked for. Raises UsageError, NotFound, Refused, and the errors of forges."""
    if given.get("draft"):  # a plan that was shown, now with another choice on overwriting
        kept = unsealed(context, at.repo, given["draft"])
        asked = dict(kept.asked) | {"force": bool(given.get("force"))}
        return Draft(jobs.new_id(), asked, kept.name, kept.told, kept.secret)
    what = await _chosen(context, at)
    asked = what.asked | {
        **at.saved.numbers,
        "hidden": "archive" if given.get("archive") else "skip",
        "force": bool(given.get("force")),
    }
    ways = {"new": to_new, "kept": to_kept, "url": to_url}
    return await ways[given["where"]](context, at.repo, given, asked)


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
            raise Refused(f"a repository {draft.name} exists already; choose another name")
        made = await restore.plan(
            services, at.repo, at.saved, restore.What.of(asked), to, new=bool(asked.get("new"))
        )
    counts = counted(made.refs)
    stands = any(ref.result == "refused" and ref.old for ref in made.refs)  # overwriting would help
    blocked = not asked["force"] and bool(counts.get("refused"))
    due = 0 if blocked else sum(counts.get(one, 0) for one in ("created", "updated"))
    held = await target.without_workflows(services, context.of_team().id, asked) if due else None
    plain = _plain(given)
    at = _from_form(context, at, plain)
    return context.render(
        "restore_plan.html",
        200 if wrong is None else 422,
        at=at,
        tab="restore",
        draft=draft,
        sealed=sealed(context, at.repo, draft),
        plan=made,
        counts=counts,
        total=len(made.refs),
        groups=groups([row_of(ref) for ref in made.refs]),
        will=WILL,
        colour=COLOUR,
        due=due,
        held=held,
        by_consent=bool(held and _by_consent(context, held)),
        back=templating.repo_url(at.team, at.repo.name, _page(plain), **(plain | {"at": at.saved.label})),
        blocked=blocked,
        stands=stands,
        what={key: context.query[key] for key in ("ref", "as", "commit") if key in context.query},
        again=plain,
        by_post=context.request.method == "POST",
        where=given.get("where", "url"),
        wrong=wrong,
    )


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
        return await _shown(context, at, draft, context.query, wrong)
    return await _asked(context, at.repo, draft)


async def _asked(context: RequestContext, repo: Repo, draft: Draft) -> Response:
    """Queue the job, once."""
    if await jobs.find(context.services.db, context.of_team().id, draft.job_id) is None:
        await limited(context)
        new = draft.asked.get("new")
        detail = {"to": draft.told, "snapshot": draft.asked["snapshot"], "overwrites": draft.asked["force"]}
        await queue(context, repo, "restore", draft.asked, draft.job_id, draft.secret)
        await context.audit("restore.create" if new else "restore.push", repo.name, repo.id, detail)
    return context.redirect(address_of(context, repo, draft.job_id))


async def bundle(context: RequestContext) -> Response:
    """Queue a bundle to download."""
    at = await moment_at(context)
    what = await _chosen(context, at)
    await limited(context, "bundle", BUNDLES_PER_HOUR)
    job = await queue(context, at.repo, "bundle", what.asked | at.saved.numbers)
    await context.audit("restore.bundle", at.repo.name, at.repo.id, at.saved.numbers)
    return context.redirect(address_of(context, at.repo, job.id))


async def again(context: RequestContext) -> Response:
    """Back to planning, for somebody who had to prove who they are while a plan was shown."""
    repo = await context.repo()
    plain = _plain(context.query) | {"at": context.query.get("at", "")}
    to = templating.repo_url(context.of_team().name, repo.name, _page(plain), **plain)
    return context.redirect(to, None if context.warned else "Plan it again.")


def _page(plain: Mapping[str, str]) -> str:
    """The page that plans this again: an address is given anew, as its token is in no link."""
    return "restore/plan" if plain.get("where") in ("new", "kept") else "restore"


_REPO: Final = "/{team}/{repo:repo}"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", f"{_REPO}/-/restore", choose, Needs.OPERATOR),
    Endpoint("GET", f"{_REPO}/-/restore/plan", plan, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore/plan", plan, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore", begin, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/restore/over", begin_over, Needs.OPERATOR, sure=True),
    Endpoint("GET", f"{_REPO}/-/restore/over", again, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/-/bundles", bundle, Needs.OPERATOR),
)
