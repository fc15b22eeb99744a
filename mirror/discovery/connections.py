"""Connecting an account at a forge, and keeping its tokens of use; every question to a forge begins here.

A pair of tokens belongs to one row, and a refresh token is good for one use: it is used under a lease on the
tokens, and what came for it is committed before anybody works with it. Whoever dies in between leaves a spent
token behind, which the next run finds refused: the connection then says that its person must connect again,
and asks the forge no more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from mirror.core.config import App, Settings
from mirror.core.errors import (
    BadCredentials,
    EverrefError,
    NotFound,
    Origin,
    OurFault,
    Refused,
    met_by,
    whose,
)
from mirror.core.keyring import Keyring
from mirror.core.model import Repo, RepoId, Secret
from mirror.forges.contract import Account, Forge, Purpose, SpentGrant, Tokens
from mirror.services.lease import leased_at_forge
from mirror.services.open import Services, unbroken
from mirror.store import forge_leases
from mirror.store.database import transaction
from mirror.store.discovery import connections, credentials
from mirror.store.discovery.connections import (
    Connection,
    ConnectionId,
    GrantKind,
    NewConnection,
    StoredConnection,
)
from mirror.store.people import notices
from mirror.store.people.teams import TeamId

EARLY: Final = timedelta(minutes=10)  # before its end from which on a token is not given out any more
SAVING: Final = (0.5, 1, 2, 4, 8)  # seconds between two tries to keep a new pair while the database is away

A = TypeVar("A")


def callback(settings: Settings, app: App) -> str:
    """Where a forge sends browsers back to; it is what is registered there."""
    base = settings.base_url or f"http://127.0.0.1:{settings.port}"
    return f"{base.rstrip('/')}/auth/{app.forge}/callback"


async def connect(
    services: Services,
    team_id: TeamId,
    person_id: UUID | None,
    app: App,
    tokens: Tokens,
    grant_kind: GrantKind = "oauth",
) -> Connection:
    """Connect the account whose tokens these are, or give its connection these tokens.

    The same account by the same kind of grant is the same connection, whoever connects it: its repos
    go on. Raises BadCredentials, Refused naming the scopes that are missing, or what kept the forge from
    answering; nothing was changed then. Safe to run twice.
    """
    keyring = _keyring(services)
    forge = services.forges.of(app)
    known = services.forges.at(app.forge, app.host).app.url
    if known != app.url:  # the row keeps the host alone
        raise Refused(f"{app.host} is reached at {known}; name another address in {app.forge.upper()}_URL")
    account = await forge.account(tokens.access, personal=grant_kind == "token")
    missing = missing_for(forge, account, Purpose.READ)
    if missing:
        needed = ", ".join(forge.scopes(Purpose.READ))
        raise Refused(f"{app.host} granted no {', '.join(missing)}; connect with the scopes {needed}")
    wanted = NewConnection(
        team_id,
        person_id,
        app.forge,
        app.host,
        account.id,
        account.login,
        grant_kind,
        account.scopes,
        tokens.expires_at or account.expires_at,
    )
    while True:
        connection_id = await connections.id_of(services.db, wanted) or ConnectionId(uuid4())
        sealed = connections.seal(keyring, connection_id, tokens.access, tokens.refresh)
        kept = await connections.keep(services.db, connection_id, wanted, sealed, services.clock())
        if kept:
            return kept  # else another run connected the same account just now: give its row these tokens


async def signed_in(services: Services, app: App, account: Account, tokens: Tokens) -> Connection | None:
    """What becomes of the tokens of a sign-in: they go to a connection that needs them, or end.

    GitHub gives one account no more than ten tokens for the same scopes and revokes the oldest, so that
    signing in could end the tokens of a connection: the one with the oldest gets the new ones, one that
    stopped before all others. GitLab's last until they are refreshed, so there only one that stopped does.
    https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps
    """
    forge, keyring = services.forges.of(app), services.keyring
    now = services.clock()
    for known in await connections.of_account(services.db, app.forge, app.host, account.id):
        enough = not forge.missing_scopes(account.scopes, Purpose.READ) and not set(known.scopes).difference(
            account.scopes
        )
        if keyring and enough and (app.forge == "github" or known.state != "works"):
            sealed = connections.seal(keyring, known.id, tokens.access, tokens.refresh)
            if await connections.renew(
                services.db, known.id, known.version, sealed, account.scopes, tokens.expires_at, now
            ):
                return await connections.get(services.db, known.id)
    await _revoked(forge, tokens.access)
    return None


async def forge_of(services: Services, connection_id: ConnectionId) -> tuple[Forge, str]:
    """The connection's forge, and a token for it that is good for a while. Raises what `token_for` does."""
    good = await _good(services, connection_id)
    return good.forge, good.token


async def token_for(services: Services, connection_id: ConnectionId, refused: str | None = None) -> str:
    """An access token with ten minutes or more before it, refreshed if need be.

    `refused` is a token that the forge did not take although it should have: it is not given out again.
    Raises BadCredentials where the person must connect again (the row says so from then on, a notice does
    once, and the forge is not asked any more), NetworkError where the forge cannot be reached and nothing
    was changed.
    """
    return (await _good(services, connection_id, refused)).token


@dataclass(frozen=True, slots=True)
class _Good:
    """A token that can be used, and which one of its connection it is."""

    forge: Forge
    token: str = field(repr=False)
    of: Connection


async def _good(services: Services, connection_id: ConnectionId, refused: str | None = None) -> _Good:
    kept = await connections.kept(services.db, connection_id)
    if kept is None:
        raise NotFound("the connection was removed")
    return await _good_of(services, kept, refused)


async def _good_of(services: Services, kept: StoredConnection, refused: str | None = None) -> _Good:
    keyring, found = _keyring(services), kept.connection
    _check_works(found)
    token, _ = kept.opened(keyring)
    if not _is_due(services, found) and token != refused:
        return _Good(services.forges.at(found.forge, found.host), token, found)
    return await unbroken(_renewed(services, keyring, found.id, refused))


@met_by(Origin.FORGE)
async def _renewed(
    services: Services, keyring: Keyring, connection_id: ConnectionId, refused: str | None
) -> _Good:
    """The token after the one that is due, by whichever run gets the lease on the connection's tokens first.

    Nothing of the database is held while the forge is asked. A run that lost its lease
    meanwhile finds another pair there, and uses that.
    """
    name = forge_leases.of_tokens(connection_id)
    async with leased_at_forge(services.db, name, "the tokens of this connection"):
        kept = await connections.kept(services.db, connection_id)
        if kept is None:
            raise NotFound("the connection was removed")
        found = kept.connection
        _check_works(found)
        token, refresh = kept.opened(keyring)
        forge = services.forges.at(found.forge, found.host)
        if not _is_due(services, found) and token != refused:
            return _Good(forge, token, found)  # another run was first
        stopped: BadCredentials | None = None
        if refresh is None:
            if not _has_ended(services, found) and (token != refused or await _is_taken(forge, token, found)):
                return _Good(forge, token, found)
            stopped = BadCredentials(f"{found.host} refuses the token of {found.login}; connect again")
        else:
            try:
                new = await forge.refresh(refresh, callback(services.settings, forge.app))
            except SpentGrant:
                stopped = SpentGrant(
                    f"{found.host} does not renew the grant of {found.login} any more; connect again"
                )
            else:
                sealed = connections.seal(keyring, found.id, new.access, new.refresh or refresh)
                if await _saved(services, found, sealed, new):
                    return _Good(forge, new.access, replace(found, version=found.version + 1))
        if stopped and await _stop(services, found, str(stopped)):
            raise stopped
    return await _good(services, connection_id, refused)  # somebody gave it another pair meanwhile


async def _saved(
    services: Services, found: Connection, sealed: connections.SealedTokens, new: Tokens
) -> bool:
    """Keep the new pair, which no forge gives twice: a database that is away for a while is waited for.

    False: another pair is there already.
    """
    scopes = new.scopes or found.scopes
    for pause in (*SAVING, None):
        try:
            return await connections.renew(
                services.db, found.id, found.version, sealed, scopes, new.expires_at, services.clock()
            )
        except EverrefError as error:
            if pause is None or error.permanent:
                raise
            await asyncio.sleep(pause)
    raise AssertionError("the last try returns or raises")


async def asking(
    services: Services, connection_id: ConnectionId, ask: Callable[[Forge, str], Awaitable[A]]
) -> A:
    """The answer to a question to the connection's forge; asked once more where a token is refused.

    Raises BadCredentials where that one is refused too: the connection has stopped then.
    """
    good = await _good(services, connection_id)
    try:
        return await ask(good.forge, good.token)
    except BadCredentials:
        good = await _good(services, connection_id, refused=good.token)
    try:
        return await ask(good.forge, good.token)
    except BadCredentials as error:
        await _stop(services, good.of, str(error))
        raise


async def _stop(services: Services, found: Connection, why: str) -> bool:
    """Say that a connection is of no use, and tell its team once. False: it has another pair by now."""
    async with transaction(services.db) as db:
        stopped = await connections.stop(db, found.id, found.version, why)
        if stopped:
            key = f"stopped/{found.id}/{found.version}"
            await notices.add(db, found.team_id, None, "connection", why, services.clock(), key)
    return stopped


async def check(services: Services, connection_id: ConnectionId) -> Connection:
    """Ask the forge whose token it is and what it may do, and keep that. Safe to run twice.

    Raises BadCredentials where the forge refuses it, or where it is another account's now: the connection
    has stopped then. Where the forge cannot be reached nothing is changed.
    """
    found = await _get(services, connection_id)
    account = await asking(
        services,
        connection_id,
        lambda forge, token: forge.account(token, personal=found.grant_kind == "token"),
    )
    now = await _get(services, connection_id)
    if account.id != found.account_id:
        why = f"the token is of another account at {found.host} now; connect again"
        await _stop(services, now, why)
        raise BadCredentials(why)
    await connections.checked(
        services.db,
        connection_id,
        now.version,
        account.login,
        account.scopes,
        account.expires_at,
        services.clock(),
    )
    return await _get(services, connection_id)


def missing_for(forge: Forge, account: Account, purpose: Purpose) -> tuple[str, ...]:
    """The scopes that this needs and the token has not; of a fine-grained one nobody can tell."""
    return () if account.fine_grained else forge.missing_scopes(account.scopes, purpose)


def missing_scopes(services: Services, connection: Connection, purpose: Purpose) -> tuple[str, ...]:
    """The scopes that this needs and the connection has not."""
    if not connection.scopes:
        return ()
    forge = services.forges.at(connection.forge, connection.host)
    return forge.missing_scopes(connection.scopes, purpose)


async def disconnect(services: Services, connection_id: ConnectionId) -> None:
    """End the grant at the forge and forget the connection; its repos keep all that was backed up.

    Safe to run twice. The order matters:

    1. The hooks of its repos are removed before this is called, as that needs the token.
    2. The grant ends at the forge, as far as that can be reached: a token that a person made stays theirs.
    3. The row goes, and with it what was listed. Its repos have no connection from then on, and say so
       at the next sync if their forge wants credentials.
    """
    kept = await connections.kept(services.db, connection_id)
    if kept is None:
        return
    found = kept.connection
    if found.grant_kind == "oauth" and services.keyring:
        token, _ = kept.opened(services.keyring)
        await _revoked(services.forges.at(found.forge, found.host), token)
    await connections.remove(services.db, connection_id)


async def credential_of(services: Services, repo_id: RepoId, url: str) -> Secret | None:
    """What git sends for a repo of a connection. None: it has none, or its address is elsewhere."""
    kept = await connections.of_repo(services.db, repo_id)
    return None if kept is None else await credential_from(services, kept, url)


async def credential_from(services: Services, kept: StoredConnection, url: str) -> Secret | None:
    """What git sends there for a repo of this connection. None: the address is elsewhere."""
    forge = services.forges.at(kept.connection.forge, kept.connection.host)
    ours, theirs = urlsplit(forge.app.url), urlsplit(url)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        return None
    return forge.credential((await _good_of(services, kept)).token)


async def is_mended(services: Services, repo: Repo) -> bool:
    """Whether a fetch whose credentials were refused is worth one more try.

    A token may have run out on its way: the forge is asked about it, and it is renewed if need be.
    Raises BadCredentials where the connection has stopped.
    """
    kept = await connections.of_repo(services.db, repo.id)
    if kept is None or services.keyring is None or await credential_of(services, repo.id, repo.url) is None:
        return False
    if await credentials.of(services.db, services.keyring, repo.id, repo.url):
        return False  # its own ones are used, and only a person can mend them
    await check(services, kept.connection.id)
    return True


async def _is_taken(forge: Forge, token: str, of: Connection) -> bool:
    """Whether the forge takes a token that it refused a moment ago; some have refused all for a while."""
    try:
        await forge.account(token, personal=of.grant_kind == "token")
    except BadCredentials:
        return False
    return True


async def _revoked(forge: Forge, token: str) -> None:
    """End a token, if the forge is there; where it is not, the token ends by itself or its owner ends it."""
    try:
        await forge.revoke(token)
    except EverrefError:
        return


async def _get(services: Services, connection_id: ConnectionId) -> Connection:
    found = await connections.get(services.db, connection_id)
    if found is None:
        raise NotFound("the connection was removed")
    _check_works(found)
    return found


@whose(Origin.FORGE)
def _check_works(found: Connection) -> None:
    if found.state != "works":
        raise BadCredentials(found.why or f"{found.host} must be connected again")


def _is_due(services: Services, found: Connection) -> bool:
    return found.expires_at is not None and found.expires_at - services.clock() < EARLY


def _has_ended(services: Services, found: Connection) -> bool:
    return found.expires_at is not None and found.expires_at <= services.clock()


def _keyring(services: Services) -> Keyring:
    if services.keyring is None:
        raise OurFault("tokens cannot be kept: set SECRET_KEYS (32 random characters or more)")
    return services.keyring
