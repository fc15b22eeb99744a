"""Looking after the hooks that Everref registers itself: there, switched on, with our address and secret.

Who calls: discovery/choose when a repo is chosen, a person who wants to know now, and the
sweep: about once an hour for each hook, sooner for one that is silent while its repo moves.
"""

import ipaddress
import logging
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from mirror.core.errors import (
    Blocked,
    Busy,
    EverrefError,
    LimitReached,
    NotFound,
    OurFault,
    OverLimit,
    Refused,
    RemoteGone,
)
from mirror.core.keyring import Keyring
from mirror.core.model import RepoId
from mirror.discovery import webhook as giving
from mirror.discovery.forge_client import ForgeClient, client_of
from mirror.forges.contract import Purpose, RemoteHook
from mirror.services import failpoints
from mirror.services.lease import leased_at_forge
from mirror.services.open import Services
from mirror.store import forge_leases
from mirror.store.discovery import discovered, hooks, remotes
from mirror.store.discovery.connections import ConnectionId
from mirror.store.discovery.hooks import Hook, State
from mirror.store.discovery.remotes import RemoteRepository
from mirror.store.forge_leases import ForgeLease
from mirror.store.people import quotas

EVERY: Final = timedelta(
    hours=1
)  # a hook is looked at, or a quarter sooner, so that they don't come together
REFUSED: Final = timedelta(hours=24)  # one that the forge did not allow: that changes seldom
SILENT: Final = timedelta(hours=1)  # between two looks at one that does not deliver what a sweep finds
ENOUGH: Final = 3  # hooks in a row about which the forge does not answer: the others can wait as well
AT_ONCE: Final = 100  # hooks of a connection in one sweep
SWEEPS: Final = timedelta(minutes=5)  # between two of them
RECENT: Final = timedelta(
    days=3
)  # how old failed deliveries are that are sent again; GitHub keeps no older ones

log = logging.getLogger("mirror.hooks")


class Outcome(StrEnum):
    """What became of a hook."""

    REGISTERED = "registered"  # it was made
    REUSED = "reused"  # it was there
    REFUSED = "refused"  # the forge does not let us; backups go on by the schedule
    WAITING = "waiting"  # the forge could not be asked now; a sweep does


@dataclass(frozen=True, slots=True)
class Care:
    """What became of a repo's hook, and why it is not as it should be."""

    outcome: Outcome
    why: str | None = None


async def ensure(services: Services, asked: ForgeClient, origin: RemoteRepository) -> Care:
    """Have the forge tell of every push to this repo: its hook is there, on, and the only one of ours.

    1. One run at a time per repo, by a lease: nothing of the database is held while the forge is asked.
    2. The row comes first, so that the forge's ping finds it, and so that the
       next run knows the address when this one dies before the forge has answered.
    3. The forge is asked which hooks there are. One with our row's address is
       ours; one whose address is under our base and that no row knows is what is
       left of an earlier time, and is taken over or removed.
    4. The forge's number is stored: from here on it is registered.

    Safe to run twice, also at once. What the forge refuses is the hook's state and
    no failure: the schedule finds the pushes then.
    """
    try:
        async with _turn(services, origin) as lease:
            return await _ensured(services, lease, asked, origin)
    except Busy as error:  # that one looks after it
        return Care(Outcome.WAITING, str(error))
    except OverLimit as error:
        return Care(Outcome.WAITING, str(error))


def _turn(services: Services, origin: RemoteRepository) -> AbstractAsyncContextManager[ForgeLease]:
    name = forge_leases.of_hook(origin.repo.id)
    return leased_at_forge(services.db, name, f"the hook of {origin.repo.name}")


async def _ensured(
    services: Services, lease: ForgeLease, asked: ForgeClient, origin: RemoteRepository
) -> Care:
    """Steps 2 to 4 of `ensure`."""
    keyring = _keyring(services)
    row = await _row(services, keyring, asked, origin)
    try:
        await _check(services, asked, origin)
        care, there = await _at_forge(services, keyring, asked, origin, row)
    except (Refused, Blocked) as error:
        return await _refused(services, lease, row, str(error))
    except RemoteGone:  # which is also what a forge says to those who may not see hooks
        return await _refused(services, lease, row, _not_admin(asked, origin))
    except OurFault:
        raise
    except EverrefError as error:  # a sweep comes to it again, after those that are due for longer
        why = f"could not be looked at: {error}"
        await hooks.set_state(services.db, lease, row.id, row.state, why, services.clock() - EVERY)
        return Care(Outcome.WAITING, str(error))
    failpoints.reached("hook: at the forge")
    state: State = "disabled" if there.state == "disabled" else "registered"
    await hooks.set_state(services.db, lease, row.id, state, care.why, services.clock(), there.id)
    return care


def _not_admin(asked: ForgeClient, origin: RemoteRepository) -> str:
    who, host = asked.connection.login, asked.connection.host
    return f"the account {who} may not register hooks for {origin.repo.name} at {host}: admins may"


async def _refused(services: Services, lease: ForgeLease, row: Hook, why: str) -> Care:
    await hooks.set_state(services.db, lease, row.id, "refused", why, services.clock())
    return Care(Outcome.REFUSED, why)


async def check_now(services: Services, repo_id: RepoId) -> Care:
    """Ask the forge about the repo's hook because somebody wants to know, and mend what is wrong with it.

    Raises NotFound where the repo has no hook, Refused where no connection reads it. Safe to run twice.
    """
    origin, row = await remotes.get(services.db, repo_id), await hooks.of(services.db, repo_id)
    if row is None:
        raise NotFound(f"{origin.repo.name} has no webhook; make one first")
    if origin.connection_id is None or origin.repository_id is None:
        raise Refused(
            f"no connection reads {origin.repo.name}, so its host cannot be asked about the webhook; "
            "look at it in the repository's settings there"
        )
    asked = await client_of(services, origin.connection_id)
    care = await ensure(services, asked, origin)
    if care.outcome is Outcome.REUSED:
        await _again(services, asked, origin, row)
    return care


def registered_by(waiting: int, now: datetime) -> datetime:
    """When so many hooks of one connection that wait to be registered are at the forge, as it looks now."""
    return now + SWEEPS * -(-waiting // AT_ONCE)


async def announce(services: Services, asked: ForgeClient, origin: RemoteRepository) -> None:
    """Let the next sweep register the repo's hook. Safe to run twice."""
    with suppress(OverLimit):  # the schedule finds the pushes
        await _row(services, _keyring(services), asked, origin)


async def _row(services: Services, keyring: Keyring, asked: ForgeClient, origin: RemoteRepository) -> Hook:
    """The repo's hook as we know it, made if it has none."""
    for _ in range(2):
        known = await hooks.of(services.db, origin.repo.id)
        if known and known.forge == asked.app.forge:
            return known
        if known:  # its address says another forge: it was pasted in before the repo was chosen
            await hooks.remove(services.db, origin.repo.id)
        hook_id = secrets.token_urlsafe(24)
        locks = hooks.lock(keyring, hook_id, giving.new_secret(asked.app.forge))
        now = services.clock()
        async with quotas.within(services.db, origin.team_id, services.settings.limits, now, "hooks") as db:
            made = await hooks.add(
                db, origin.repo.id, asked.app.forge, locks, now, origin.repository_id, "missing"
            )
        if made:
            failpoints.reached("hook: row stored")
            return made
    raise OurFault(f"{origin.repo.name}: its hook is made and removed again and again; report this")


async def _at_forge(
    services: Services, keyring: Keyring, asked: ForgeClient, origin: RemoteRepository, row: Hook
) -> tuple[Care, RemoteHook]:
    """Step 3 of `ensure`: the hook as it should be, and as the forge has it now."""
    assert origin.repository_id
    number = origin.repository_id
    address = giving.address(services.settings, row)
    locks = await hooks.locks(services.db, row.forge, row.id, services.clock())
    if locks is None:
        raise NotFound(f"{origin.repo.name} has no hook any more")
    secret = locks.secrets(keyring)[0]
    there = await asked.ask(lambda forge, token: forge.hooks(token, number))
    own = [one for one in there if one.url == address]
    left = await _left_over(services, row, there)
    if own and _is_well(own[0], row):
        kept, outcome = own[0], Outcome.REUSED
    elif own or left:
        found = (own or left)[0]
        kept = await asked.ask(
            lambda forge, token: forge.update_hook(token, number, found.id, address, secret)
        )
        if not kept.enabled:  # GitLab goes on with one that it gave up when a delivery arrives
            kept = await _tried(asked, number, kept)
        outcome = Outcome.REUSED
    else:
        kept = await asked.ask(lambda forge, token: forge.add_hook(token, number, address, secret))
        outcome = Outcome.REGISTERED
    for extra in [*own, *left]:
        if extra.id != kept.id:
            await _drop(asked, number, extra.id)
    return Care(outcome, None if kept.state == "works" else kept.why), kept


async def _tried(asked: ForgeClient, number: str, hook: RemoteHook) -> RemoteHook:
    """Let the forge send something, and see whether that made the hook work again."""
    try:
        await asked.ask(lambda forge, token: forge.test_hook(token, number, hook.id))
    except Refused as error:  # GitLab allows a few a minute
        log.warning("a hook could not be tried: %s", error)
        return hook
    there = await asked.ask(lambda forge, token: forge.hooks(token, number))
    return next((one for one in there if one.id == hook.id), hook)


async def _drop(asked: ForgeClient, number: str, hook_id: str) -> None:
    await asked.ask(lambda forge, token: forge.remove_hook(token, number, hook_id))


def _is_well(found: RemoteHook, row: Hook) -> bool:
    """Whether it needs nothing: it is the one that we registered, and it works."""
    return found.id == row.forge_hook_id and row.state == "registered" and found.state == "works"


async def _left_over(services: Services, row: Hook, there: Sequence[RemoteHook]) -> list[RemoteHook]:
    """Hooks with an address under ours that no row knows. Those of other teams' repos have a row."""
    base = giving.address(services.settings, row).removesuffix(row.id)
    ids = {one.url.removeprefix(base): one for one in there if one.url.startswith(base)}
    ours = await hooks.known(services.db, list(ids))
    return [one for hook_id, one in ids.items() if hook_id not in ours]


async def _check(services: Services, asked: ForgeClient, origin: RemoteRepository) -> None:
    """Whether it makes sense to ask at all. Raises Refused, saying what to do."""
    settings = services.settings
    if settings.base_url is None and not is_loopback(asked.app.url):
        raise Refused(f"{asked.app.host} cannot reach this machine: set BASE_URL to an address that it can")
    missing = asked.missing(Purpose.HOOKS)
    if missing:
        raise Refused(
            f"the connection to {asked.app.host} lacks {' and '.join(missing)}; connect again and allow hooks"
        )
    if origin.repository_id:
        seen = await discovered.of(services.db, asked.connection.id, [origin.repository_id])
        if seen and not seen[0].admin:  # the forge would refuse: it has said so in the listing
            raise Refused(_not_admin(asked, origin))


def is_loopback(url: str) -> bool:
    """Whether this address is one of this machine, from where it needs no BASE_URL to reach us."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def remove(services: Services, asked: ForgeClient | None, origin: RemoteRepository) -> str | None:
    """Take the repo's hook away, at the forge and here; what a person should know where the forge keeps it.

    The forge comes first: a run that dies in between is finished by the next one.
    Safe to run twice. Raises Busy while another run is at work on it.
    """
    async with _turn(services, origin) as lease:
        row = await hooks.of(services.db, origin.repo.id)
        if row is None:
            return None
        left = None
        if row.forge_hook_id is not None and origin.repository_id is not None:
            left = await _removed(asked, origin.repository_id, row.forge_hook_id)
            failpoints.reached("hook: removed at the forge")
        await hooks.remove(services.db, origin.repo.id, lease)
        return (
            left and f"{origin.repo.name}: its hook stays in the forge's settings ({left}); remove it there"
        )


async def _removed(asked: ForgeClient | None, repository_id: str, number: str) -> str | None:
    if asked is None:
        return "the connection does not work any more"
    try:
        await _drop(asked, repository_id, number)
    except RemoteGone:
        return None
    except EverrefError as error:
        return str(error)
    return None


async def due(services: Services) -> None:
    """Look at the hooks whose time has come, connection by connection; one that fails stops no other.

    Safe to run twice, as `ensure` is.
    """
    for origin in await remotes.hookless(services.db, AT_ONCE):  # the run that chose it died
        assert origin.connection_id
        await announce(services, await client_of(services, origin.connection_id), origin)
    now = services.clock()
    by_connection: dict[ConnectionId, list[tuple[RemoteRepository, Hook]]] = {}
    for row in await hooks.due(services.db, now - EVERY, now - REFUSED, now - SILENT, AT_ONCE):
        found = await remotes.of(services.db, row.repo_id)
        if found and found.connection_id and found.repository_id:
            by_connection.setdefault(found.connection_id, []).append((found, row))
    for connection_id, pairs in by_connection.items():
        try:
            asked, waits = await client_of(services, connection_id), 0
            for origin, row in pairs:
                waits = 0 if await _looked_at(services, asked, origin, row) else waits + 1
                if waits == ENOUGH:
                    break
        except EverrefError as error:
            log.warning("the hooks of connection %s: %s", connection_id, error)


async def _looked_at(services: Services, asked: ForgeClient, origin: RemoteRepository, row: Hook) -> bool:
    """Look at one hook. False: the forge did not answer."""
    try:
        care = await ensure(services, asked, origin)
        if care.outcome is Outcome.REUSED:
            await _again(services, asked, origin, row)
    except LimitReached:
        return False
    except EverrefError as error:
        log.warning("the hook of %s: %s", origin.repo.name, error)
        return True
    return care.outcome is not Outcome.WAITING


async def _again(services: Services, asked: ForgeClient, origin: RemoteRepository, row: Hook) -> None:
    """Ask for the deliveries that failed lately once more, where the forge does not by itself.

    What they tell is found by the schedule as well, but without the name of who pushed.
    """
    if row.forge_hook_id is None or origin.repository_id is None:
        return
    since = max(filter(None, (row.checked_at, services.clock() - RECENT)))
    number, hook_id = origin.repository_id, row.forge_hook_id
    for one in await asked.ask(lambda forge, token: forge.deliveries(token, number, hook_id)):
        if not one.ok and one.at is not None and one.at >= since:
            await _redelivered(asked, number, hook_id, one.id)


async def _redelivered(asked: ForgeClient, number: str, hook_id: str, sent_id: str) -> None:
    await asked.ask(lambda forge, token: forge.redeliver(token, number, hook_id, sent_id))


def _keyring(services: Services) -> Keyring:
    if services.keyring is None:
        raise OurFault("secrets cannot be kept: set SECRET_KEYS (32 random characters or more)")
    return services.keyring
