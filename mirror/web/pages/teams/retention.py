"""What is kept of a team's repos: policies with a preview, legal holds, kept snapshots."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from starlette.responses import Response

from mirror.core.errors import EverrefError, NotFound, Refused, UsageError
from mirror.core.model import Repo
from mirror.core.rules.keeping import retention as rules
from mirror.core.rules.keeping.pending import Kind
from mirror.people import retention
from mirror.store.backup import epochs
from mirror.store.people import pending as pending_rows
from mirror.store.people.pending import Pending
from mirror.store.upkeep import retention as rows
from mirror.upkeep import retention as upkeep
from mirror.web import templating
from mirror.web.dispatch import Endpoint, Needs, RequestContext

_SHOWN: Final = 200  # snapshots of each list
_REPOS: Final = 20  # of a team, in its preview

LABELS: Final[Mapping[str, str]] = {
    "keep_last": "Newest snapshots to keep",
    "days": "Days of which to keep every snapshot",
    "daily": "Days to keep one snapshot each",
    "weekly": "Weeks to keep one snapshot each",
    "monthly": "Months to keep one snapshot each",
    "yearly": "Years to keep one snapshot each",
}


async def of_repo(context: RequestContext) -> Response:
    """What is kept of this repo, and what other numbers would keep."""
    return await _repo_page(context, await context.repo())


async def _repo_page(
    context: RequestContext,
    repo: Repo,
    error: EverrefError | None = None,
    filled: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """The page of a repo; `filled` are the fields of a form that was refused."""
    db = context.services.db
    own = await rows.of_repo(db, repo.id)
    current = own.policy if own else await retention.policy_of(context.services, context.of_team(), None)
    policy, typed, wrong = _asked(context, current)
    found = await upkeep.preview(context.services, repo, policy)
    return context.render(
        "retention.html",
        200 if (error or wrong) is None else 422,
        repo=repo,
        own=own,
        current=current,
        policy=policy,
        previews=[] if wrong else [found],
        more=False,
        typed=typed,
        filled=filled,
        error=error or wrong,
        wrong=templating.wrong(wrong or error),
        hold=found.hold,
        pins=found.pins,
        rewrites=await epochs.all(db, repo.id),
        asks=rules.keeps_less(policy, current),
        pending=await _pending(context, repo),
        days=await pending_rows.days(db, context.of_team().id),
        labels=LABELS,
        most=_SHOWN,
        base=_base(context, repo),
    )


async def of_team(context: RequestContext) -> Response:
    """What is kept of the team's repos that have no policy of their own."""
    return await _team_page(context)


async def _team_page(
    context: RequestContext,
    error: EverrefError | None = None,
    filled: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    team = context.of_team()
    current = await retention.policy_of(context.services, team, None)
    policy, typed, wrong = _asked(context, current)
    previews: list[upkeep.Preview] = []
    if "preview" in context.query and not wrong:
        previews = await upkeep.of_team(context.services, team.id, policy, _REPOS + 1)
    return context.render(
        "retention.html",
        200 if (error or wrong) is None else 422,
        repo=None,
        own=None,
        current=current,
        policy=policy,
        previews=previews[:_REPOS],
        more=len(previews) > _REPOS,
        typed=typed,
        filled=filled,
        error=error or wrong,
        wrong=templating.wrong(wrong or error),
        hold=None,
        pins=[],
        rewrites=[],
        asks=rules.keeps_less(policy, current),
        pending=await _pending(context, None),
        days=await pending_rows.days(context.services.db, team.id),
        labels=LABELS,
        most=_SHOWN,
        base=_base(context, None),
    )


async def _pending(context: RequestContext, repo: Repo | None) -> list[Pending]:
    """What was asked for about the retention of this repo, or of the team's repos, and is still open."""
    found = await pending_rows.of_team(context.services.db, context.of_team().id, only_open=True)
    kinds = (Kind.SHORTEN_RETENTION, Kind.LIFT_HOLD)
    return [one for one in found if one.kind in kinds and one.repo_id == (repo.id if repo else None)]


def _asked(
    context: RequestContext, current: rules.Policy
) -> tuple[rules.Policy, Mapping[str, Any], UsageError | None]:
    """The policy to preview, what is in its fields, and what is wrong with what was typed."""
    if "preview" not in context.query:
        return current, MappingProxyType(dict(current.numbers)), None
    typed = {name: context.query.get(name, "") for name in rules.NUMBERS}
    try:
        return rules.parse({**typed, "for_ever": context.query.get("for_ever")}), typed, None
    except UsageError as error:
        return current, typed, error


async def save(context: RequestContext) -> Response:
    """Save the policy of the team or a repo, or ask for one that keeps less."""
    repo = await context.repo() if "repo" in context.path else None
    form = await context.form()
    try:
        policy = None
        if repo is None or not form.get("inherit"):
            policy = rules.parse({name: form.get(name) for name in (*rules.NUMBERS, "for_ever")})
        asked = await retention.set_policy(
            context.services, context.by(), context.of_team(), policy, repo, why=str(form.get("why", ""))
        )
    except (UsageError, Refused) as error:
        filled = {"why": str(form.get("why", ""))}
        if repo is None:
            return await _team_page(context, error, filled)
        return await _repo_page(context, repo, error, filled)
    return _done(context, repo, asked, "The policy is saved and in force.")


async def hold(context: RequestContext) -> Response:
    """Put a repo on legal hold."""
    repo, reason = await context.repo(), str((await context.form()).get("reason", ""))
    try:
        await retention.hold(context.services, context.by(), context.of_team(), repo, reason)
    except (UsageError, Refused) as error:
        return await _repo_page(context, repo, error, {"reason": reason})
    return _done(context, repo, None, "The repository is on legal hold: nothing of it goes.")


async def lift(context: RequestContext) -> Response:
    """Ask for a repo's legal hold to be lifted."""
    repo, why = await context.repo(), str((await context.form()).get("why", ""))
    try:
        asked = await retention.lift(context.services, context.by(), context.of_team(), repo, why)
    except (NotFound, UsageError, Refused) as error:
        return await _repo_page(context, repo, error, {"lift": why})
    return _done(context, repo, asked, "")


async def pin(context: RequestContext) -> Response:
    """Keep a snapshot by hand."""
    repo, form = await context.repo(), await context.form()
    filled = {name: str(form.get(name, "")) for name in ("snapshot", "note")}
    try:
        number = _number(filled["snapshot"])
        note = filled["note"]
        await retention.pin(context.services, context.by(), context.of_team(), repo, number, note)
    except (UsageError, Refused) as error:
        return await _repo_page(context, repo, error, filled)
    return _done(context, repo, None, f"#{number} is kept, whatever the policy says.")


async def unpin(context: RequestContext) -> Response:
    """Ask for a kept snapshot to be left to the policy again."""
    repo, form = await context.repo(), await context.form()
    try:
        number = _number(str(form.get("snapshot", "")))
        asked = await retention.unpin(context.services, context.by(), context.of_team(), repo, number)
    except (NotFound, UsageError, Refused) as error:
        return await _repo_page(context, repo, error)
    return _done(context, repo, asked, "")


def _number(text: str) -> int:
    text = text.strip().removeprefix("#")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError("give the number of a snapshot, such as 12", field="snapshot")
    return int(text)


def _done(context: RequestContext, repo: Repo | None, asked: Pending | None, said: str) -> Response:
    told = said
    if asked and asked.takes_effect_at:
        told = "You asked for it. It waits, and everybody who can cancel it is told."
    elif asked:
        told = "You asked for it. Another admin or owner must confirm it; everybody who can is told."
    return context.redirect(_base(context, repo), told)


def _base(context: RequestContext, repo: Repo | None) -> str:
    """The address of the page."""
    name = f"/{quote(repo.name)}" if repo else ""
    return f"/{context.of_team().name}{name}/-/retention"


_TEAM: Final = "/{team}/-/retention"
_REPO: Final = "/{team}/{repo:repo}/-/retention"

ENDPOINTS: Final[Sequence[Endpoint]] = (
    Endpoint("GET", _TEAM, of_team, Needs.VIEWER),
    Endpoint("POST", _TEAM, save, Needs.ADMIN, sure=True),
    Endpoint("GET", _REPO, of_repo, Needs.VIEWER),
    Endpoint("POST", _REPO, save, Needs.ADMIN, sure=True),
    Endpoint("POST", f"{_REPO}/hold", hold, Needs.ADMIN),
    Endpoint("POST", f"{_REPO}/lift", lift, Needs.ADMIN, sure=True),
    Endpoint("POST", f"{_REPO}/keep", pin, Needs.OPERATOR),
    Endpoint("POST", f"{_REPO}/leave", unpin, Needs.ADMIN, sure=True),
)
