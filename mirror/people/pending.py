"""Asking for what takes something away for ever, confirming it as the second person, and cancelling it.

Who calls: the pages, the API and the command line, and whoever else has something of the kinds in
core/rules/keeping/pending; jobs/pending carries it out. Nobody is above it: whoever runs the installation
only asks, too, at its command line.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mirror.core import words
from mirror.core.errors import NotAllowed, NotFound, Refused, UsageError
from mirror.core.model import Repo
from mirror.core.rules.keeping import pending as rules
from mirror.core.rules.keeping.pending import Admin, Asked, Kind
from mirror.core.rules.roles import PersonId, Role
from mirror.people import operator
from mirror.people.acting import By, audit_entry, check_let_in
from mirror.services.open import Services
from mirror.store.database import Db, transaction, translating
from mirror.store.people import audit, notices, teams
from mirror.store.people import pending as rows
from mirror.store.people.pending import New, Pending, PendingId, Stage
from mirror.store.people.teams import Team

NOTICE = "pending"  # the kind of the notices, which no channel can switch off
_WHY = 1000  # characters of a reason
_NO_TOKEN = "an API token cannot ask for this or confirm it; a person who signs in can"


@translating
async def ask(
    services: Services,
    by: By | None,
    team: Team,
    kind: Kind,
    wanted: Mapping[str, Any],
    repo: Repo | None = None,
    *,
    subject: str = "",
    why: str = "",
) -> Pending:
    """Ask for this; it takes effect days after another admin or owner has confirmed it.

    `by` None: whoever runs the installation. `wanted` has what the kind needs to be carried out, in JSON,
    and no secret; `subject` says what it is done to: by default the repo, else the team. Where nobody else
    is, or lately was, an admin or owner of the team, it takes effect after a longer delay instead.
    Every owner is told at once. The same asked for again is the open one, whose delay goes on: so this is
    safe to run twice. Raises NotAllowed for a role that may not ask, and for an API token; NotFound, Refused,
    UsageError.
    """
    if len(why) > _WHY:
        raise UsageError(f"the reason is too long; use {_WHY} characters at most", field="why")
    subject = subject or (repo.name if repo else team.name)
    operator.check_signed_in(by, _NO_TOKEN)
    async with operator.acting_as(services, by, team, rules.ASKS[kind], f"pending.{kind}", subject) as (
        db,
        at,
    ):
        admins = await rows.admins(db, team.id)
        asker = by.person.id if by else None
        alone = not rules.others(admins, asker, at)
        days = await rows.days(db, team.id)
        new = New(
            team.id,
            team.name,
            repo.id if repo else None,
            kind,
            wanted,
            subject,
            why.strip(),
            Asked(asker, by is None, at),
            operator.name_of(by),
            alone,
            rules.takes_effect(at, days, alone=True) if alone else None,
        )
        made = await rows.add(db, new)
        if made is None:
            known = await rows.same(db, new)
            if known is None:
                raise Refused("somebody has just asked for this or cancelled it; look at what is pending")
            return known
        await say(db, made, "asked", at)
    return made


@translating
async def confirm(
    services: Services, by: By | None, pending_id: PendingId, team: Team | None = None
) -> Pending:
    """Confirm it as the second person; from now its days run. Raises NotFound, Refused, NotAllowed.

    `team`: in which it must be. Whoever runs the installation can confirm what a person asked for.
    """
    found = await get(services, pending_id, team)
    whose = await _team(services, found)
    subject = found.subject
    operator.check_signed_in(by, _NO_TOKEN)
    async with operator.acting_as(
        services, by, whose, rules.CONFIRMS, "pending.confirm", subject, kind=found.kind
    ) as (db, at):
        days = await rows.days(db, whose.id)
        if by is None:
            if found.asked.by_operator:
                raise Refused("you asked for this yourself; an admin or owner of the team must confirm it")
            name = operator.ACTOR
        else:
            me = _me(await rows.admins(db, whose.id), by.person.id)
            if me is None:
                raise NotAllowed("only an admin or owner of the team can confirm this")
            if refusal := rules.may_confirm(found.asked, me, at, days):
                raise NotAllowed(refusal)
            name = me.name
        effect = rules.takes_effect(at, days, alone=False)
        if not await rows.confirm(db, found.id, by.person.id if by else None, name, at, effect):
            raise Refused(f"this can no longer be confirmed: {await _now(db, found, at)}")
        done = await _again(db, found)
        await say(db, done, "confirmed", at)
    return done


@translating
async def cancel(
    services: Services, by: By | None, pending_id: PendingId, team: Team | None = None
) -> Pending:
    """Cancel it, until the last moment: one that arrives as it begins either wins or is refused.

    Any admin or owner can, and who was one within the 30 days before it was asked for.
    Raises NotFound, Refused.
    """
    found = await get(services, pending_id, team)
    whose = await _team(services, found)
    subject, at = found.subject, by.at if by else services.clock()
    async with transaction(services.db) as db:
        if by is not None:
            await check_let_in(db, by)
        await teams.lock(db, whose.id)
        if by is not None and not rules.may_cancel(
            found.asked, _me(await rows.admins(db, whose.id), by.person.id)
        ):
            raise NotAllowed("only an admin or owner of the team can cancel this")
        if not await rows.cancel(db, found.id, by.person.id if by else None, operator.name_of(by), at):
            raise Refused(f"this can no longer be cancelled: {await _now(db, found, at)}")
        if by is None:
            await operator.did(db, whose.id, "pending.cancel", subject, {"kind": found.kind}, at)
        else:
            await audit.add(db, whose.id, audit_entry(by, "pending.cancel", subject, kind=found.kind), at)
        done = await _again(db, found)
        await say(db, done, "cancelled", at)
    return done


@translating
async def set_days(services: Services, by: By | None, team: Team, days: int) -> Pending | None:
    """Set how many days the team's actions wait: more at once; fewer are asked for, and that is returned.

    Raises UsageError, NotAllowed.
    """
    if not rules.DAYS <= days <= rules.MOST_DAYS:
        raise UsageError(
            f"the delay is {rules.DAYS} to {rules.MOST_DAYS} days; enter a number of these", field="days"
        )
    if days < await rows.days(services.db, team.id):
        return await ask(services, by, team, Kind.SHORTEN_DELAY, {"days": days})
    operator.check_signed_in(by, _NO_TOKEN)
    async with operator.acting_as(
        services, by, team, Role.OWNER, "team.pending-days", team.name, days=days
    ) as (db, _):
        await rows.set_days(db, team.id, days)
    return None


async def get(services: Services, pending_id: PendingId, team: Team | None = None) -> Pending:
    """The one of this id; in this team, if it is given. Raises NotFound."""
    found = await rows.find(services.db, pending_id)
    if found is None or (team is not None and found.team_id != team.id):
        raise NotFound(f"nothing with the id {pending_id} is pending; `everref pending` lists what is")
    return found


async def say(db: Db, one: Pending, stage: Stage, at: datetime) -> None:
    """Tell the team, once, in the caller's transaction; mails to each owner follow (jobs/pending)."""
    if one.team_id is not None:
        key = f"pending {one.id} {stage}"
        await notices.answered(db, f"pending {one.id} ", at)
        await notices.add(db, one.team_id, None, NOTICE, told(one, stage), at, key)


def told(one: Pending, stage: Stage) -> str:
    """What is said at this stage, in a sentence or a few."""
    who, does = one.asked_name, one.does
    why = f" The reason given: {one.why}" if one.why else ""
    at = words.minute(one.takes_effect_at) if one.takes_effect_at else ""
    match stage:
        case "asked" if one.is_alone:
            return (
                f"{who} asked to {does}. Nobody else in {one.team} can confirm it, so it takes effect "
                f"at {at}, unless it is cancelled before.{why}"
            )
        case "asked":
            return (
                f"{who} asked to {does}. It needs a second person: confirm it if it is right, "
                f"cancel it if not.{why}"
            )
        case "confirmed":
            return (
                f"{one.confirmed_name} confirmed the request of {who} to {does}. It takes effect at {at}, "
                f"unless an admin or owner cancels it before.{why}"
            )
        case "cancelled":
            return f"{one.cancelled_name} cancelled the request of {who} to {does}. Nothing was changed."
        case "lapsed":
            return (
                f"Nobody confirmed the request of {who} to {does} within {rules.LAPSES.days} days. "
                "Nothing was changed."
            )
        case "soon":
            return f"At {at} Everref will {does}, as {who} asked. This is the last day to cancel it.{why}"
        case "done":
            return f"Everref carried out the request of {who} to {does}.{why}"
        case "failed":
            return f"Everref could not carry out the request of {who} to {does}: {one.failed}"
    raise AssertionError(stage)


async def _now(db: Db, one: Pending, at: datetime) -> str:
    """Why it cannot be changed any more, in words."""
    known = await rows.find(db, one.id)
    state = "cancelled" if known is None else known.state(at)
    return {
        "asked": "nobody has confirmed it yet",
        "agreed": "it is confirmed already",
        "under-way": "it has begun",
        "done": "it is done",
        "failed": "it has ended",
        "cancelled": "it was cancelled",
        "lapsed": "nobody confirmed it in time",
    }[state]


async def _again(db: Db, one: Pending) -> Pending:
    found = await rows.find(db, one.id)
    assert found is not None  # no row of these is ever deleted
    return found


async def _team(services: Services, one: Pending) -> Team:
    found = None if one.team_id is None else await teams.find(services.db, one.team_id)
    if found is None:
        raise Refused(f"the team {one.team} is gone, so this can no longer be changed")
    return found


def _me(admins: list[Admin], person_id: PersonId) -> Admin | None:
    return next((one for one in admins if one.person_id == person_id), None)
