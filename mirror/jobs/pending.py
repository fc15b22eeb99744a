"""Carrying out what was asked for and confirmed, once its days have passed; telling people before and after.

Who calls: the sweep, as a maintenance task. What is said and who may do what: people/pending.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from mirror.channels import wire as wires
from mirror.channels.send import send
from mirror.core.channels import Address, NotDelivered
from mirror.core.errors import EverrefError, NotFound, Refused, UsageError
from mirror.core.messages import Link
from mirror.core.rules.keeping import pending as rules
from mirror.core.rules.keeping import retention as retention_rules
from mirror.core.rules.keeping.pending import Kind
from mirror.people import keys, mails, retention
from mirror.people import pending as asking
from mirror.services import failpoints
from mirror.services.open import Services
from mirror.store import repos
from mirror.store.database import transaction
from mirror.store.people import audit
from mirror.store.people import pending as rows
from mirror.store.people.pending import Pending, Stage
from mirror.upkeep.erasure import erase, erase_person, erase_team, forget

EVERY: Final = timedelta(minutes=1)
MAILED_FOR: Final = timedelta(days=1)  # for which a mail that is not accepted is tried again
_SUBJECTS: Final[Mapping[Stage, str]] = {
    "asked": "{who} asked to {does}",
    "confirmed": "{who}'s request to {does} is confirmed",
    "cancelled": "{who}'s request to {does} is cancelled",
    "lapsed": "{who}'s request to {does} was not confirmed",
    "soon": "Tomorrow Everref will {does}",
    "done": "Done, as {who} asked: {does}",
    "failed": "Everref could not do what {who} asked: {does}",
}

log = logging.getLogger("mirror.pending")

CarryOut = Callable[[Services, Pending], Awaitable[Mapping[str, Any]]]


async def _shorten_delay(services: Services, one: Pending) -> Mapping[str, Any]:
    """Set fewer days. Safe to run twice."""
    if one.team_id is not None:
        await rows.set_days(services.db, one.team_id, int(one.wanted["days"]))
    return {"days": one.wanted["days"]}


async def _forget_repo(services: Services, one: Pending) -> Mapping[str, Any]:
    """Delete all backups of the repo."""
    if one.repo_id is None:
        raise UsageError("no repo was named")
    return await forget.forget(services, one.repo_id, one.id)


async def _erase(services: Services, one: Pending) -> Mapping[str, Any]:
    """Erase an account, a team, or objects out of a repo's history."""
    if "team" in one.wanted:
        return await erase_team.erase(services, one)
    if "person" in one.wanted:
        return await erase_person.erase(services, erase_person.person_of(one))
    if one.repo_id is None:
        raise UsageError("no repo was named")
    repo = await repos.get(services.db, one.repo_id)
    return await erase.objects(services, repo, erase.objects_of(repo, one.wanted["objects"]), one)


# What each kind does when its time has come. Each is safe to run twice and after a run that was killed, and
# returns what it did, in JSON without secrets. Refused, NotFound, UsageError end it; others are tried again.
CARRY_OUT: Final[Mapping[Kind, CarryOut]] = {
    Kind.FORGET_REPO: _forget_repo,
    Kind.ERASE: _erase,
    Kind.SHORTEN_DELAY: _shorten_delay,
    Kind.EXPORT_KEYS: keys.let_out,
    Kind.REMOVE_RECOVERY_KEY: keys.remove_as_asked,
    Kind.SHORTEN_RETENTION: retention.shorten,
    Kind.LIFT_HOLD: retention.lift_now,
}


async def due(services: Services) -> None:
    """Carry out what is due, end what nobody confirmed, and tell people.

    Safe to run twice, and after a run that was killed: what had begun goes on; what was cancelled
    never begins. Nothing begins of which people were not told a day before: after a time in which nothing ran
    they are told first, and it begins a day later. Where the clock is ahead of the vault's, or the vault does
    not say, nothing begins and nothing is told to come: days in which it can be cancelled would be left out.
    """
    now = services.clock()
    for one in await rows.lapse(services.db, now - rules.LAPSES, now):
        await asking.say(services.db, one, "lapsed", now)
    found = [one for one in await rows.due(services.db, now) if one.kind in CARRY_OUT]
    if any(one.begun_at is None for one in found) and (why := await _clock_problem(services)):
        log.warning("nothing that was asked for begins: %s", why)
        found = [one for one in found if one.begun_at is not None]
    for one in found:
        if await rows.begin(services.db, one.id, services.clock()):
            failpoints.reached("pending: begun")
            await _carry_out(services, one)
    await _announce(services)
    await tell(services)


async def _announce(services: Services) -> None:
    """Tell the team what comes within a day, and put off what it is told of too late. Safe to run twice."""
    coming = await rows.to_announce(services.db, services.clock() + rules.SOON + rules.EARLIER)
    coming = [one for one in coming if one.kind in CARRY_OUT]
    if coming and (why := await _clock_problem(services)):
        log.warning("nobody is told what comes soon: %s", why)
        return
    for one in coming:
        assert one.takes_effect_at is not None  # or it would not come
        now = services.clock()
        async with transaction(services.db) as db:
            at = rules.after_warning(one.takes_effect_at, now)
            if told := await rows.announce(db, one.id, now, at):
                await asking.say(db, told, "soon", now)


async def _clock_problem(services: Services) -> str | None:
    try:
        return retention_rules.ahead_of_vault(await services.vault.now(), services.clock())
    except EverrefError as error:
        return str(error)


async def _carry_out(services: Services, one: Pending) -> None:
    try:
        result = await CARRY_OUT[one.kind](services, one)
    except EverrefError as error:
        now = services.clock()
        ended = isinstance(error, Refused | NotFound | UsageError)
        log.warning("pending %s of team %s: %s", one.kind, one.team_id, error)
        await rows.fail(services.db, one.id, str(error), now, None if ended else now + rules.RETRY)
        if ended:
            await _ended(services, one, "failed", now)
        return
    failpoints.reached("pending: carried out")
    now = services.clock()
    await rows.end(services.db, one.id, result, now)
    await _ended(services, one, "done", now)


async def _ended(services: Services, one: Pending, stage: Stage, now: datetime) -> None:
    """Write down and tell how it ended, once."""
    known = await rows.find(services.db, one.id)
    if known is None or known.team_id is None:
        return
    entry = audit.Entry(
        person_id=None,
        actor="Everref",
        action=f"pending.{one.kind}.done",
        subject=one.subject,
        repo_id=one.repo_id,
        detail={"asked_by": known.asked_name, "confirmed_by": known.confirmed_name, "why": known.why},
        result=stage,
    )
    async with transaction(services.db) as db:
        await audit.add(db, known.team_id, entry, now)
        await asking.say(db, known, stage, now)


def stages(one: Pending, now: datetime) -> list[Stage]:
    """What people are told of by now, of what lies less than a day back, or is still to come."""
    found: list[Stage] = []
    if one.asked.at > now - MAILED_FOR:
        found.append("asked")
    if one.confirmed_at is not None and one.confirmed_at > now - MAILED_FOR:
        found.append("confirmed")
    state = one.state(now)
    if state == "agreed" and one.soon_told_at is not None:
        found.append("soon")
    if state in ("cancelled", "lapsed", "done", "failed"):
        found.append(state)
    return found


async def tell(services: Services) -> None:
    """Mail each owner what they were not mailed yet.

    The mails go past the channels, which a thief could switch off, to addresses that were confirmed. Safe to
    run twice: who was mailed is written down after each; a mail that a killed run had sent is sent once more.
    """
    now = services.clock()
    for one in await rows.to_tell(services.db, now - MAILED_FOR):
        for stage in stages(one, now):
            if one.team_id is not None:
                await _mail(services, one, stage, now)


async def _mail(services: Services, one: Pending, stage: Stage, now: datetime) -> None:
    assert one.team_id is not None
    told = await rows.were_told(services.db, one.id, stage)
    wanted = [
        person
        for person in rules.told(await rows.admins(services.db, one.team_id), one.asked.at)
        if person not in told
    ]
    if not wanted or services.settings.smtp is None:
        return
    addresses = await rows.confirmed_addresses(services.db, wanted)
    for person in wanted:
        if person not in addresses or await _sent(services, one, stage, addresses[person], now):
            await rows.tell(services.db, one.id, stage, person, now)


async def _sent(services: Services, one: Pending, stage: Stage, address: str, now: datetime) -> bool:
    """Mail it. False: the server refused it for now."""
    subject = _SUBJECTS[stage].format(who=one.asked_name, does=one.does)
    lines = [asking.told(one, stage)]
    link = None
    if stage in ("asked", "confirmed", "soon"):
        lines.append("If this is not right, cancel it now: nothing has been changed yet.")
        link = Link("See it, and cancel it", f"{mails.origin(services)}/account/pending")
    try:
        await send(
            wires.of(services.settings),
            Address("mail", address),
            mails.personal("pending", subject, lines, now, link),
        )
    except NotDelivered as error:
        log.warning("a mail about pending %s did not arrive: %s", one.id, error)
        return error.permanent
    return True
