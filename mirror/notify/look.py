"""Looking what is so now and what happened, and writing down what is said of it, to whom and when.

Who calls: the workers, every few seconds, and a web process while no worker is alive. One looks for all.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from mirror.core import words
from mirror.core.errors import Origin
from mirror.core.messages import Link, Message
from mirror.core.rules.health import alarms as rules
from mirror.core.rules.health import telling
from mirror.core.rules.health.alarms import Seen
from mirror.notify import happened, reports
from mirror.notify import words as said
from mirror.notify.words import Turn
from mirror.services.open import Services
from mirror.store.database import Db, transaction
from mirror.store.jobs import runs
from mirror.store.notify import alarms, events, messages, sendings
from mirror.store.notify.alarms import Kept, Trouble
from mirror.store.notify.messages import About, Planned
from mirror.store.notify.sendings import Listening
from mirror.store.people import teams
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import copies, outages, vaults
from mirror.store.upkeep.copies import Copy

EVERY: Final = timedelta(seconds=15)
KEPT: Final = timedelta(days=90)  # of what was said, and where it went
GAP: Final = timedelta(minutes=10)  # without a look: Everref was not running, or its database was away
_OURS: Final = "everref"  # whose alarms are the installation's, in their keys
_OVER: Final = frozenset({"late", "behind"})  # which a limit that is reached explains

_GOES_ON: Final = "Nothing is lost: the first vault has everything, and the copy gets the rest later."
_HEALED: Final = "It is replaced from the first vault where its sum proves it."
_ASKED: Final = "The first vault did not give what was asked for; see whether it works."

log = logging.getLogger("mirror.notify")


async def look(services: Services) -> None:
    """Compare everything with what people were told, and write what is new, in one transaction.

    1. Lasting states, of teams and of the installation. 2. What happened once. 3. Weekly reports.
    Safe to run twice, also at once: somebody else who looks meanwhile leaves it to this one, and what
    is said is written together with the fact that it was. A crash before that loses nothing.
    """
    now = services.clock()
    async with transaction(services.db) as db:
        free, before = await alarms.begin(db)
        if not free:
            return
        teller = Teller(services, db, now, await sendings.listening(db, now), await teams.default(db))
        await sendings.give_up(db, now, telling.GIVEN_UP)
        await _states(teller, await _wrong(db, services, now))
        if before is not None and now - before > GAP:
            await teller.installation(_gap(services, before, now), f"gap/{before.isoformat()}")
        waiting = await events.waiting(db)
        for team_id, message in happened.messages(services.settings, waiting, now):
            await teller.team(team_id, message)
        await events.remove(db, waiting.ids)
        for one in await reports.due(services, db, teller.listening, now):
            await teller.say(one.message, one.readers, About(team_id=one.team_id), one.told_key)
        await alarms.looked(db, now)


async def forget(services: Services) -> None:
    """Forget what was said long ago. Safe to run twice."""
    await messages.forget_before(services.db, services.clock() - KEPT)


class Teller:
    """Writes messages, each with the channels that it goes to and when."""

    def __init__(
        self, services: Services, db: Db, now: datetime, listening: Sequence[Listening], operators: TeamId
    ) -> None:
        self.services, self.db, self.now = services, db, now
        self.listening = list(listening)
        self._operators = operators  # the command line's own team, for an installation without channels

    async def team(self, team_id: TeamId, message: Message, told_key: str | None = None) -> None:
        """Say it to the channels of the team and of its members."""
        to = [one for one in self.listening if team_id in one.teams]
        await self.say(message, to, About(team_id=team_id), told_key)

    async def installation(self, message: Message, told_key: str | None = None) -> None:
        """Say it to whoever runs the installation.

        Where they set no channel up, it goes to those of the command line's own team.
        """
        to = [one for one in self.listening if one.about == About()]
        to = to or [one for one in self.listening if one.about.team_id == self._operators]
        await self.say(message, to, About(), told_key)

    async def say(
        self, message: Message, to: Sequence[Listening], about: About, told_key: str | None = None
    ) -> None:
        """Say it to those of these channels that want it. Nothing is written if it was said before."""
        ids = {one.channel.id for one in to}
        to = [one for one in self.listening if one.channel.id in ids]  # with what goes there by now
        plan = telling.plan(message, [one.channel for one in to], self.now)
        planned = [Planned(one.channel_id, one.at, one.held) for one in plan]
        if await messages.add(self.db, message, planned, about, told_key):
            self._count(message.urgent, {one.channel_id: one.at for one in plan})

    def _count(self, urgent: bool, at: Mapping[UUID, datetime]) -> None:
        """Remember what goes where, for the messages after this one."""
        for index, one in enumerate(self.listening):
            if (then := at.get(one.channel.id)) is None:
                continue
            if urgent:
                channel = replace(one.channel, urgent_at=(*one.channel.urgent_at, then))
            else:
                channel = replace(one.channel, calm_at=max(then, one.channel.calm_at or then))
            self.listening[index] = replace(one, channel=channel)


# Lasting states.


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong with the installation itself."""

    cause: str
    title: str
    lines: Sequence[str]
    since: datetime | None  # None: it is not known


async def _wrong(db: Db, services: Services, now: datetime) -> list[Wrong]:
    """What is wrong with the installation now."""
    found = [_of_outage(one) for one in await outages.now(db)]
    if names := [place.name for place in services.copies.copies]:
        found += [wrong for one in await copies.standing(db, names) for wrong in _of_copy(one, now)]
    if not await runs.is_anyone_alive(db):
        lines = ("Nothing new is being saved. Start a worker: it saves what was pushed meanwhile.",)
        found.append(Wrong("worker", "No worker of Everref is running", lines, None))
    if number := await vaults.unknown(db):
        lines = (f"{words.sentence(words.not_known(number))} Until then nobody finds them here.",)
        found.append(Wrong("unknown", "The vault has repositories that the database lost", lines, None))
    return found


def _of_outage(one: outages.Outage) -> Wrong:
    if one.origin is Origin.VAULT:
        lines = (
            words.sentence(one.message),
            "Nothing is saved meanwhile: pushes wait, and are backed up when it is back.",
        )
        return Wrong("vault", "The vault of Everref does not answer", lines, one.since)
    lines = (words.sentence(one.message), "The worker there does nothing until there is room again.")
    return Wrong(f"disk:{one.place}", f"The disk of {one.place} is full or broken", lines, one.since)


def _of_copy(one: Copy, now: datetime) -> Iterator[Wrong]:
    """What is wrong with a copy of the vault, and that it was read instead of the first."""
    where, called = f"It is in {one.place}.", f"The copy {one.name} of the vault"
    if one.away_since is not None and now - one.away_since >= copies.LATE:
        why = words.sentence(one.away or "it does not answer")
        yield Wrong(f"copy-away:{one.name}", f"{called} is away", (why, where, _GOES_ON), one.away_since)
    elif one.listed_at is not None and one.lag(now) >= copies.LATE:
        why = words.sentence(one.problem or "nobody brings it up to date; see whether a worker runs")
        yield Wrong(f"copy-late:{one.name}", f"{called} is behind", (why, where, _GOES_ON), one.oldest)
    if one.damaged:
        lines = (words.sentence(one.damage or ""), where, _HEALED)
        yield Wrong(f"copy-damaged:{one.name}", f"{called} is damaged", lines, None)
    if one.read_from_at is not None and now - one.read_from_at < copies.LATE:
        title = f"Everref reads from the copy {one.name} of the vault"
        lines = (words.sentence(one.read_from or ""), where, _ASKED)
        yield Wrong(f"copy-read:{one.name}", title, lines, one.read_from_at)


async def _states(teller: Teller, wrong: Sequence[Wrong]) -> None:
    """Compare lasting states with what people know of them."""
    db, now = teller.db, teller.now
    kept = await alarms.kept(db)
    names = await alarms.team_names(db)
    found = {one.key: one for one in await alarms.troubles(db, now)}
    ours = {f"{_OURS}/{one.cause}": one for one in wrong}
    over = {one.team_id for one in found.values() if one.cause == "over"}
    stopped = any(not one.cause.startswith(("unknown", "copy-")) for one in wrong)  # these stop no repo
    gone = list[str]()
    for key in sorted({*kept, *found, *ours}):
        was, trouble, problem = kept.get(key), found.get(key), ours.get(key)
        cause = trouble.cause if trouble else problem.cause if problem else kept[key].cause
        team_id = trouble.team_id if trouble else was.team_id if was else None
        if stopped and team_id and rules.kind_of(cause) in rules.OF_INSTALLATION:
            continue  # whoever runs Everref is told; it is looked at again when that is over
        if team_id in over and rules.kind_of(cause) in _OVER:
            continue
        step = rules.step(cause, was.alarm if was else None, _seen(trouble, problem), now)
        if step.alarm is None:
            gone.append(key)
            continue
        title = said.title(trouble) if trouble else problem.title if problem else kept[key].title
        after = Kept(key, team_id, cause, title, step.alarm)
        if was != after:
            await alarms.keep(db, after)
        if step.say is None:
            continue
        turn = Turn(step.say, was.alarm if was else None, step.alarm)
        told_key = f"{key}/{step.alarm.turned_at.isoformat()}/{step.say}/{step.alarm.told_many}"
        if team_id is None:
            await teller.installation(_of_installation(teller.services, after, problem, turn, now), told_key)
        elif trouble is not None:
            message = said.of_trouble(teller.services.settings, trouble, turn, now)
            await teller.team(team_id, message, told_key)
        else:
            message = said.resolved(
                teller.services.settings, after.title, cause, names.get(team_id), turn, now
            )
            await teller.team(team_id, message, told_key)
    if forgotten := [key for key in gone if key in kept]:
        await alarms.forget(db, forgotten)


def _seen(trouble: Trouble | None, problem: Wrong | None) -> Seen | None:
    if trouble is not None:
        return Seen(trouble.since, trouble.many)
    return None if problem is None else Seen(problem.since, 0)


def _of_installation(
    services: Services, kept: Kept, problem: Wrong | None, turn: Turn, now: datetime
) -> Message:
    if problem is None:
        return said.resolved(services.settings, kept.title, kept.cause, None, turn, now)
    since = f"This started at {said.minute(turn.now.since)}."
    lines = [*problem.lines, since]
    if turn.word == "flaps":
        lines.insert(0, said.flapping(turn.now))
    return said.new(
        "installation",
        problem.title,
        lines,
        now,
        link=Link("See what is wrong", said.url(services.settings, "status")),
        facts=said.facts(kept.cause, turn),
    )


def _gap(services: Services, before: datetime, now: datetime) -> Message:
    lines = [
        f"From {said.minute(before)} to {said.minute(now)} nothing was saved and nobody was told of "
        "anything: Everref was not running, or its database did not answer.",
        "What was pushed meanwhile is being backed up now, as far as it is still there.",
    ]
    return said.new(
        "installation",
        f"Everref was away for {words.lasted((now - before).total_seconds())}",
        lines,
        now,
        link=Link("See whether everything works", said.url(services.settings, "status")),
    )
