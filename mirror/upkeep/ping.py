"""The dead man's switch at work: every five minutes a monitor outside is told that all is well, or nothing.

Who calls: the sweep, every five minutes; the settings page and the command `ping`, to send one now.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast, get_args

from mirror.channels import ping as edge
from mirror.channels import webhook, wire
from mirror.core.channels import NotDelivered
from mirror.core.config import Settings
from mirror.core.errors import EverrefError, NotFound, OurFault, UsageError
from mirror.core.keyring import BadKey
from mirror.core.rules.health import deadman
from mirror.core.rules.health.deadman import Style
from mirror.services.open import Services
from mirror.store.people import notices
from mirror.store.people.teams import TeamId
from mirror.store.upkeep import pings
from mirror.store.upkeep.pings import Ping, Wanted

MOST_DAYS: Final = 366  # that a drill or a verification may be old
AT_ONCE: Final = 20  # that are sent side by side; each takes 15 s at most
WELL: Final = "Every repository is within its recovery point objective."

log = logging.getLogger("mirror.ping")


@dataclass(frozen=True, slots=True)
class Standing:
    """A team's dead man's switch as it stands."""

    ping: Ping
    reasons: list[str]  # why it is silent; empty: it is not


async def due(services: Services) -> None:
    """Ping for every team that is well, and for the installation; tell once where one is not.

    Safe to run twice: a monitor may hear twice that all is well; it hears of trouble until it has answered.
    """
    whole = await _of_installation(services)
    found = [*([whole] if whole else []), *await pings.all(services.db)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(ping: Ping) -> None:
        async with slots:
            try:
                await _send(services, ping)
            except EverrefError as error:
                log.warning("the ping of %s: %s", ping.team or "PING_URL", error)

    await asyncio.gather(*map(one, found))


async def send_now(services: Services, team: TeamId | None) -> Standing:
    """Do now what the sweep does every five minutes. Raises NotFound where no monitor is set up, BadKey."""
    ping = await _of_installation(services) if team is None else await pings.of_team(services.db, team)
    if ping is None:
        raise NotFound(
            "PING_URL is not set; set it to the address that a monitor gave you"
            if team is None
            else "no monitor is set up; enter its address in the settings, or by everref ping --url-file"
        )
    return await _send(services, ping)


async def standing(services: Services, team: TeamId | None) -> Standing | None:
    """How it stands, by the same facts, with nothing sent. None: there is none."""
    ping = await _of_installation(services) if team is None else await pings.of_team(services.db, team)
    if ping is None:
        return None
    now = services.clock()
    return Standing(ping, deadman.reasons(await pings.facts(services.db, ping, now), now))


async def _of_installation(services: Services) -> Ping | None:
    url = services.settings.ping_url
    return (
        None if url is None else await pings.of_installation(services.db, webhook.host(url), services.clock())
    )


async def _send(services: Services, ping: Ping) -> Standing:
    now = services.clock()
    why = deadman.reasons(await pings.facts(services.db, ping, now), now)
    await pings.judged(services.db, ping.id, not why, now)
    what = deadman.what_to_send(why, ping.style, bool(why) and ping.told)
    if what is None:
        return Standing(ping, why)
    url = _url(services, ping)
    try:
        answer, taken = (
            await edge.send(
                wire.of(services.settings),
                edge.failing(url) if what == "fail" else url,
                deadman.line(why) if why else WELL,
            ),
            True,
        )
    except NotDelivered as error:
        answer, taken = str(error), False
    known = await pings.sent(services.db, ping.id, taken, what == "fail", answer, now)
    await _tell(services, ping, known)
    return Standing(known or ping, why)


async def _tell(services: Services, before: Ping, now: Ping | None) -> None:
    """A monitor that takes no ping raises its own alarm; the team should know that it is a false one."""
    if before.team_id is None or now is None or now.asked_at is None:
        return
    key = f"ping/{now.id}/"
    if now.failing_since is None:
        if before.failing_since is not None:
            await notices.answered(services.db, key, now.asked_at)
    elif now.asked_at - now.failing_since >= deadman.EVERY:  # the second time in a row
        await notices.add(
            services.db,
            before.team_id,
            None,
            "channel",
            f"the monitor of the dead man's switch took no ping: {now.answer}; "
            "see the team's settings, as the monitor will report backups that stopped",
            now.asked_at,
            f"{key}{now.failing_since.isoformat()}",
        )


def _url(services: Services, ping: Ping) -> str:
    if ping.sealed is None:
        if services.settings.ping_url is None:
            raise OurFault("PING_URL is no longer set")
        return services.settings.ping_url
    if services.keyring is None:
        raise BadKey("SECRET_KEYS is empty, so the address of the monitor cannot be opened")
    url = ping.url(services.keyring)
    assert url is not None
    return url


def told(done: Standing) -> str:
    """What was sent now, or why nothing was, as a clause."""
    if done.reasons:
        return f"no ping was sent to {done.ping.shown}: {'; '.join(done.reasons)}"
    if done.ping.failing_since is not None:
        return f"{done.ping.shown} took no ping: {done.ping.answer}"
    return f"the ping was sent, and {done.ping.shown} answered {done.ping.answer}"


def wanted(settings: Settings, url: str, style: str, drill_days: str, read_days: str) -> Wanted:
    """A team's monitor as a form or a program names it. Raises UsageError, without the address."""
    try:
        address = webhook.check(url, settings.allow_private_remotes)
    except UsageError as error:
        said = str(error).replace("of a webhook", "to ping").replace(": Everref signs each message", "")
        raise UsageError(said, field="ping") from None
    if style not in get_args(Style):
        raise UsageError(f"the style of a ping is one of {', '.join(get_args(Style))}", field="style")
    return Wanted(
        address,
        webhook.host(address),
        cast(Style, style),
        _days(drill_days, "drill_days"),
        _days(read_days, "read_days"),
    )


def _days(text: str, field: str) -> timedelta:
    if not text.isdecimal() or not 0 < int(text[:6]) <= MOST_DAYS:
        raise UsageError(f"a number of days is between 1 and {MOST_DAYS}", field=field)
    return timedelta(days=int(text))
