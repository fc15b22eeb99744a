"""Maintaining the hooks that Everref registers: they exist, are enabled, and have our address and secret.

Who calls: discovery/choose when a repo is chosen, a person who asks for a check, and the
sweep: about once an hour for each hook, sooner for a hook that stays silent while its repo changes.
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
from mirror.discovery import webhook
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

EVERY: Final = timedelta(hours=1)  # between two checks of a hook, up to a quarter less to spread them
REFUSED: Final = timedelta(hours=24)  # between two checks of a hook that the forge refused
SILENT: Final = timedelta(hours=1)  # between two checks of a hook that did not report what a sweep found
ENOUGH: Final = 3  # hooks in a row without an answer from the forge; the others then wait
AT_ONCE: Final = 100  # hooks of a connection in one sweep
SWEEPS: Final = timedelta(minutes=5)  # between two sweeps
RECENT: Final = timedelta(days=3)  # older failed deliveries are not requested again; GitHub keeps none

log = logging.getLogger("mirror.hooks")


class Outcome(StrEnum):
    """The result of checking a hook."""

    REGISTERED = "registered"  # it was made
    REUSED = "reused"  # it existed already
    REFUSED = "refused"  # the forge does not allow it; backups continue by the schedule
    WAITING = "waiting"  # the forge could not be asked now; a sweep asks later


@dataclass(frozen=True, slots=True)
class HookCheck:
    """The result of checking a repo's hook, and what is wrong with it."""

    outcome: Outcome
    why: str | None = None


async def ensure(services: Services, client: ForgeClient, remote: RemoteRepository) -> HookCheck:
    """Make the forge report every push to this repo: its hook exists, is enabled, and is our only one.

    1. A lease lets one run at a time in; no database connection is held while the forge is asked.
    2. The row is stored first, so that the forge's ping finds it, and so that the
       next run knows the address if this one dies before the forge has answered.
    3. The forge is asked which hooks exist. One with our row's address is ours; one
       whose address is under our base and that has no row is left over from
       earlier, and is reused or removed.
    4. The forge's number for the hook is stored: from here on it is registered.

    Safe to run twice, also at the same time. A refusal by the forge is recorded as the hook's
    state and is not a failure: the schedule finds the pushes then.
    """
    try:
        async with _leased(services, remote) as lease:
            return await _ensured(services, lease, client, remote)
    except Busy as error:  # the other run takes care of it
        return HookCheck(Outcome.WAITING, str(error))
    except OverLimit as error:
        return HookCheck(Outcome.WAITING, str(error))


def _leased(services: Services, remote: RemoteRepository) -> AbstractAsyncContextManager[ForgeLease]:
    name = forge_leases.of_hook(remote.repo.id)
    return leased_at_forge(services.db, name, f"the hook of {remote.repo.name}")


async def _ensured(
    services: Services, lease: ForgeLease, client: ForgeClient, remote: RemoteRepository
) -> HookCheck:
    """Steps 2 to 4 of `ensure`."""
    keyring = _keyring(services)
    row = await _row(services, keyring, client, remote)
    try:
        await _check(services, client, remote)
        result, there = await _at_forge(services, keyring, client, remote, row)
    except (Refused, Blocked) as error:
        return await _refused(services, lease, row, str(error))
    except RemoteGone:  # a forge also says so to accounts that may not see hooks
        return await _refused(services, lease, row, _not_admin(client, remote))
    except OurFault:
        raise
    except EverrefError as error:  # a sweep checks it again, after those that have waited longer
        why = f"could not be checked: {error}"
        await hooks.set_state(services.db, lease, row.id, row.state, why, services.clock() - EVERY)
        return HookCheck(Outcome.WAITING, str(error))
    failpoints.reached("hook: at the forge")
    state: State = "disabled" if there.state == "disabled" else "registered"
    await hooks.set_state(services.db, lease, row.id, state, result.why, services.clock(), there.id)
    return result


def _not_admin(client: ForgeClient, remote: RemoteRepository) -> str:
    who, host = client.connection.login, client.connection.host
    return f"the account {who} may not make webhooks for {remote.repo.name} at {host}: only admins may"


async def _refused(services: Services, lease: ForgeLease, row: Hook, why: str) -> HookCheck:
    await hooks.set_state(services.db, lease, row.id, "refused", why, services.clock())
    return HookCheck(Outcome.REFUSED, why)


async def check_now(services: Services, repo_id: RepoId) -> HookCheck:
    """Check the repo's hook at the forge because a person asked, and repair what is wrong with it.

    Raises NotFound if the repo has no hook, Refused if no connection reads the repo. Safe to run twice.
    """
    remote, row = await remotes.get(services.db, repo_id), await hooks.of(services.db, repo_id)
    if row is None:
        raise NotFound(f"{remote.repo.name} has no webhook; make one first")
    if remote.connection_id is None or remote.repository_id is None:
        raise Refused(
            f"no connection reads {remote.repo.name}, so Everref cannot ask its host about the webhook; "
            "see the repository's settings there"
        )
    client = await client_of(services, remote.connection_id)
    result = await ensure(services, client, remote)
    if result.outcome is Outcome.REUSED:
        await _again(services, client, remote, row)
    return result


def registered_by(waiting: int, now: datetime) -> datetime:
    """When this many waiting hooks of one connection are expected to be registered at the forge."""
    return now + SWEEPS * -(-waiting // AT_ONCE)


async def announce(services: Services, client: ForgeClient, remote: RemoteRepository) -> None:
    """Leave the repo's hook for the next sweep to register. Safe to run twice."""
    with suppress(OverLimit):  # the schedule finds the pushes then
        await _row(services, _keyring(services), client, remote)


async def _row(services: Services, keyring: Keyring, client: ForgeClient, remote: RemoteRepository) -> Hook:
    """The repo's hook as stored here, made if it has none."""
    for _ in range(2):
        known = await hooks.of(services.db, remote.repo.id)
        if known and known.forge == client.app.forge:
            return known
        if known:  # its address names another forge: a person pasted it before the repo was chosen
            await hooks.remove(services.db, remote.repo.id)
        hook_id = secrets.token_urlsafe(24)
        locks = hooks.lock(keyring, hook_id, webhook.new_secret(client.app.forge))
        now = services.clock()
        async with quotas.within(services.db, remote.team_id, services.settings.limits, now, "hooks") as db:
            made = await hooks.add(
                db, remote.repo.id, client.app.forge, locks, now, remote.repository_id, "missing"
            )
        if made:
            failpoints.reached("hook: row stored")
            return made
    raise OurFault(
        f"the webhook of {remote.repo.name} is removed again and again while it is made; please report this"
    )


async def _at_forge(
    services: Services, keyring: Keyring, client: ForgeClient, remote: RemoteRepository, row: Hook
) -> tuple[HookCheck, RemoteHook]:
    """Step 3 of `ensure`: the hook as it should be, and as the forge has it now."""
    assert remote.repository_id
    number = remote.repository_id
    address = webhook.address(services.settings, row)
    locks = await hooks.locks(services.db, row.forge, row.id, services.clock())
    if locks is None:
        raise NotFound(f"{remote.repo.name} no longer has a webhook")
    secret = locks.secrets(keyring)[0]
    there = await client.ask(lambda forge, token: forge.hooks(token, number))
    own = [one for one in there if one.url == address]
    left = await _left_over(services, row, there)
    if own and _is_well(own[0], row):
        kept, outcome = own[0], Outcome.REUSED
    elif own or left:
        found = (own or left)[0]
        kept = await client.ask(
            lambda forge, token: forge.update_hook(token, number, found.id, address, secret)
        )
        if not kept.enabled:  # GitLab enables a hook that it had disabled again once a delivery arrives
            kept = await _tried(client, number, kept)
        outcome = Outcome.REUSED
    else:
        kept = await client.ask(lambda forge, token: forge.add_hook(token, number, address, secret))
        outcome = Outcome.REGISTERED
    for extra in [*own, *left]:
        if extra.id != kept.id:
            await _drop(client, number, extra.id)
    return HookCheck(outcome, None if kept.state == "works" else kept.why), kept


async def _tried(client: ForgeClient, number: str, hook: RemoteHook) -> RemoteHook:
    """Ask the forge for a test delivery, and see whether the hook works again after it."""
    try:
        await client.ask(lambda forge, token: forge.test_hook(token, number, hook.id))
    except Refused as error:  # GitLab allows a few a minute
        log.warning("could not test a hook: %s", error)
        return hook
    there = await client.ask(lambda forge, token: forge.hooks(token, number))
    return next((one for one in there if one.id == hook.id), hook)


async def _drop(client: ForgeClient, number: str, hook_id: str) -> None:
    await client.ask(lambda forge, token: forge.remove_hook(token, number, hook_id))


def _is_well(found: RemoteHook, row: Hook) -> bool:
    """Whether the hook needs nothing: it is the one that we registered, and it works."""
    return found.id == row.forge_hook_id and row.state == "registered" and found.state == "works"


async def _left_over(services: Services, row: Hook, there: Sequence[RemoteHook]) -> list[RemoteHook]:
    """Hooks whose address is under ours but that have no row. Hooks of other teams' repos have one."""
    base = webhook.address(services.settings, row).removesuffix(row.id)
    ids = {one.url.removeprefix(base): one for one in there if one.url.startswith(base)}
    ours = await hooks.known(services.db, list(ids))
    return [one for hook_id, one in ids.items() if hook_id not in ours]


async def _check(services: Services, client: ForgeClient, remote: RemoteRepository) -> None:
    """Check that asking the forge can succeed. Raises Refused, saying what to do."""
    settings = services.settings
    if settings.base_url is None and not is_loopback(client.app.url):
        raise Refused(
            f"{client.app.host} cannot reach this machine: set BASE_URL to an address that it can reach"
        )
    missing = client.missing(Purpose.HOOKS)
    if missing:
        raise Refused(
            f"the connection to {client.app.host} lacks {' and '.join(missing)}; "
            "connect again and allow webhooks"
        )
    if remote.repository_id:
        seen = await discovered.of(services.db, client.connection.id, [remote.repository_id])
        if seen and not seen[0].admin:  # the listing says so already, and the forge would refuse
            raise Refused(_not_admin(client, remote))


def is_loopback(url: str) -> bool:
    """Whether this address is on this machine, from which Everref is reached without a BASE_URL."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def remove(services: Services, client: ForgeClient | None, remote: RemoteRepository) -> str | None:
    """Remove the repo's hook, at the forge and here; returns what to tell the person if the forge keeps it.

    The forge comes first: the next run finishes what a killed run left undone.
    Safe to run twice. Raises Busy while another run works on the hook.
    """
    async with _leased(services, remote) as lease:
        row = await hooks.of(services.db, remote.repo.id)
        if row is None:
            return None
        left = None
        if row.forge_hook_id is not None and remote.repository_id is not None:
            left = await _removed(client, remote.repository_id, row.forge_hook_id)
            failpoints.reached("hook: removed at the forge")
        await hooks.remove(services.db, remote.repo.id, lease)
        return (
            left
            and f"{remote.repo.name}: the webhook is still in the host's settings ({left}); remove it there"
        )


async def _removed(client: ForgeClient | None, repository_id: str, number: str) -> str | None:
    if client is None:
        return "the connection no longer works"
    try:
        await _drop(client, repository_id, number)
    except RemoteGone:
        return None
    except EverrefError as error:
        return str(error)
    return None


async def due(services: Services) -> None:
    """Check the hooks that are due, connection by connection; a failure of one does not stop the others.

    Safe to run twice, as `ensure` is.
    """
    for remote in await remotes.hookless(services.db, AT_ONCE):  # the run that chose it died
        assert remote.connection_id
        await announce(services, await client_of(services, remote.connection_id), remote)
    now = services.clock()
    by_connection: dict[ConnectionId, list[tuple[RemoteRepository, Hook]]] = {}
    for row in await hooks.due(services.db, now - EVERY, now - REFUSED, now - SILENT, AT_ONCE):
        found = await remotes.of(services.db, row.repo_id)
        if found and found.connection_id and found.repository_id:
            by_connection.setdefault(found.connection_id, []).append((found, row))
    for connection_id, pairs in by_connection.items():
        try:
            client, waits = await client_of(services, connection_id), 0
            for remote, row in pairs:
                waits = 0 if await _check_one(services, client, remote, row) else waits + 1
                if waits == ENOUGH:
                    break
        except EverrefError as error:
            log.warning("the hooks of connection %s: %s", connection_id, error)


async def _check_one(services: Services, client: ForgeClient, remote: RemoteRepository, row: Hook) -> bool:
    """Check one hook. False: the forge did not answer."""
    try:
        result = await ensure(services, client, remote)
        if result.outcome is Outcome.REUSED:
            await _again(services, client, remote, row)
    except LimitReached:
        return False
    except EverrefError as error:
        log.warning("the hook of %s: %s", remote.repo.name, error)
        return True
    return result.outcome is not Outcome.WAITING


async def _again(services: Services, client: ForgeClient, remote: RemoteRepository, row: Hook) -> None:
    """Request recent failed deliveries again, where the forge does not retry them by itself.

    The schedule finds those pushes too, but without the name of the person who pushed.
    """
    if row.forge_hook_id is None or remote.repository_id is None:
        return
    since = max(filter(None, (row.checked_at, services.clock() - RECENT)))
    number, hook_id = remote.repository_id, row.forge_hook_id
    for one in await client.ask(lambda forge, token: forge.deliveries(token, number, hook_id)):
        if not one.ok and one.at is not None and one.at >= since:
            await _redelivered(client, number, hook_id, one.id)


async def _redelivered(client: ForgeClient, number: str, hook_id: str, sent_id: str) -> None:
    await client.ask(lambda forge, token: forge.redeliver(token, number, hook_id, sent_id))


def _keyring(services: Services) -> Keyring:
    if services.keyring is None:
        raise OurFault("secrets cannot be stored: set SECRET_KEYS (32 random characters or more)")
    return services.keyring
