"""Connecting an account at a forge and keeping its tokens usable; every request to a forge starts here.

Each row holds one pair of tokens, and a refresh token works only once: it is used under a lease on the
tokens, and the new pair is committed before anybody works with it. A run that dies in between leaves a used
token behind, which the forge refuses at the next run: the connection then asks its person to connect again
and sends the forge no more requests.
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
from mirror.services.open import Hint, Services, nobody, unbroken
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

EARLY: Final = timedelta(minutes=10)  # a token that expires within this time is renewed before use
HINTED: Final = 20  # repos whose backup is hinted at; workers find the others in the database within seconds
SAVING: Final = (0.5, 1, 2, 4, 8)  # seconds between two tries to store a new pair while the database is away

A = TypeVar("A")


def callback(settings: Settings, app: App) -> str:
    """The address to which a forge sends browsers back; it must be registered there."""
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
    """Connect the account that these tokens belong to, or store them in its existing connection.

    The same account with the same kind of grant is the same connection, whoever connects it, so its
    repos continue. Raises BadCredentials, Refused naming the missing scopes, or the reason why the
    forge did not answer; nothing is changed then. Safe to run twice.
    """
    keyring = _keyring(services)
    forge = services.forges.of(app)
    known = services.forges.at(app.forge, app.host).app.url
    if known != app.url:  # the row keeps the host alone
        raise Refused(
            f"{app.host} is already configured at {known}; set {app.forge.upper()}_URL to use another address"
        )
    account = await forge.account(tokens.access, personal=grant_kind == "token")
    missing = missing_for(forge, account, Purpose.READ)
    if missing:
        needed = ", ".join(forge.scopes(Purpose.READ))
        raise Refused(
            f"{app.host} did not grant {', '.join(missing)}; connect again with the scopes {needed}"
        )
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
            return kept  # else another run has just connected the same account: store the tokens in its row


async def connect_again(
    services: Services, known: Connection, person_id: UUID | None, token: str
) -> Connection:
    """Give a connection another personal access token of its account.

    Raises BadCredentials, or Refused where the token is another account's; nothing is changed then.
    """
    forge = services.forges.at(known.forge, known.host)
    account = await forge.account(token, personal=True)
    if account.id != known.account_id:
        raise Refused(
            f"this token belongs to {account.login}, not to {known.login}; "
            f"paste a token of {known.login}, or connect {account.login} as another account"
        )
    return await connect(services, known.team_id, person_id, forge.app, Tokens(token), "token")


async def request_refused(services: Services, connection_id: ConnectionId, hint: Hint = nobody) -> int:
    """Start the backups that failed as this connection's token was refused; how many. Safe to run twice."""
    asked = await connections.request_refused(services.db, connection_id, services.clock())
    for repo_id in asked[:HINTED]:
        await hint(repo_id)
    return len(asked)


async def signed_in(services: Services, app: App, account: Account, tokens: Tokens) -> Connection | None:
    """Give the tokens of a sign-in to a connection that needs them, or revoke them.

    GitHub allows one account ten tokens for the same scopes and revokes the oldest, so that signing in
    could revoke a connection's tokens: the connection with the oldest gets the new ones, or first one that
    has stopped working. GitLab's tokens last until they are refreshed, so only a stopped one gets them there.
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
    """The connection's forge, and a token that stays valid for a while. Raises what `token_for` raises."""
    valid = await _valid(services, connection_id)
    return valid.forge, valid.token


async def token_for(services: Services, connection_id: ConnectionId, refused: str | None = None) -> str:
    """An access token that is valid for at least ten more minutes, refreshed if necessary.

    `refused` is a token that the forge refused although it should be valid: it is not returned again.
    Raises BadCredentials if the person must connect again (the row then says so, one notice is sent, and
    the forge gets no more requests), NetworkError if the forge cannot be reached; nothing is changed then.
    """
    return (await _valid(services, connection_id, refused)).token


@dataclass(frozen=True, slots=True)
class _ValidToken:
    """A token that can be used, and the connection it belongs to."""

    forge: Forge
    token: str = field(repr=False)
    of: Connection


async def _valid(services: Services, connection_id: ConnectionId, refused: str | None = None) -> _ValidToken:
    kept = await connections.kept(services.db, connection_id)
    if kept is None:
        raise NotFound("the connection was removed")
    return await _valid_of(services, kept, refused)


async def _valid_of(services: Services, kept: StoredConnection, refused: str | None = None) -> _ValidToken:
    keyring, found = _keyring(services), kept.connection
    _check_works(found)
    token, _ = kept.opened(keyring)
    if not _is_due(services, found) and token != refused:
        return _ValidToken(services.forges.at(found.forge, found.host), token, found)
    return await unbroken(_renewed(services, keyring, found.id, refused))


@met_by(Origin.FORGE)
async def _renewed(
    services: Services, keyring: Keyring, connection_id: ConnectionId, refused: str | None
) -> _ValidToken:
    """Renew a token that expires soon; the run that gets the lease on the connection's tokens does it.

    No database connection is held while the forge is asked. A run that loses its lease
    meanwhile finds another pair stored, and uses that.
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
            return _ValidToken(forge, token, found)  # another run was first
        stopped: BadCredentials | None = None
        if refresh is None:
            if not _has_ended(services, found) and (token != refused or await _is_taken(forge, token, found)):
                return _ValidToken(forge, token, found)
            stopped = BadCredentials(f"{found.host} refuses the token of {found.login}; connect again")
        else:
            try:
                new = await forge.refresh(refresh, callback(services.settings, forge.app))
            except SpentGrant:
                stopped = SpentGrant(
                    f"{found.host} no longer renews the access of {found.login}; connect again"
                )
            else:
                sealed = connections.seal(keyring, found.id, new.access, new.refresh or refresh)
                if await _saved(services, found, sealed, new):
                    return _ValidToken(forge, new.access, replace(found, version=found.version + 1))
        if stopped and await _stop(services, found, str(stopped)):
            raise stopped
    return await _valid(services, connection_id, refused)  # another run stored a new pair meanwhile


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
    valid = await _valid(services, connection_id)
    try:
        return await ask(valid.forge, valid.token)
    except BadCredentials:
        valid = await _valid(services, connection_id, refused=valid.token)
    try:
        return await ask(valid.forge, valid.token)
    except BadCredentials as error:
        await _stop(services, valid.of, str(error))
        raise


async def _stop(services: Services, found: Connection, why: str) -> bool:
    """Say that a connection is of no use, and tell its team once. False: it has another pair by now."""
    async with transaction(services.db) as db:
        stopped = await connections.stop(db, found.id, found.version, why, services.clock())
        if stopped:
            key = f"stopped/{found.id}/{found.version}"
            await notices.add(db, found.team_id, None, "connection", why, services.clock(), key)
    return stopped


async def check(services: Services, connection_id: ConnectionId) -> Connection:
    """Ask the forge which account the token belongs to and what it may do, and store that. Safe to run twice.

    Raises BadCredentials if the forge refuses the token, or if it belongs to another account now: the
    connection has stopped then. If the forge cannot be reached, nothing is changed.
    """
    found = await _get(services, connection_id)
    account = await asking(
        services,
        connection_id,
        lambda forge, token: forge.account(token, personal=found.grant_kind == "token"),
    )
    now = await _get(services, connection_id)
    if account.id != found.account_id:
        why = f"the token belongs to another account at {found.host} now; connect again"
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
    """The scopes that this purpose needs and the token lacks; unknown, so none, for a fine-grained token."""
    return () if account.fine_grained else forge.missing_scopes(account.scopes, purpose)


def missing_scopes(services: Services, connection: Connection, purpose: Purpose) -> tuple[str, ...]:
    """The scopes that this purpose needs and the connection lacks."""
    if not connection.scopes:
        return ()
    forge = services.forges.at(connection.forge, connection.host)
    return forge.missing_scopes(connection.scopes, purpose)


async def disconnect(services: Services, connection_id: ConnectionId) -> None:
    """Revoke the grant at the forge and forget the connection; its repos keep all their backups.

    Safe to run twice. The order matters:

    1. The caller has removed the hooks of its repos, because that needs the token.
    2. The grant is revoked if the forge can be reached; a token that a person made is left to them.
    3. The row is deleted, with what it had discovered. Its repos have no connection from then on, and say so
       at the next sync if their forge asks for credentials.
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
    """The credentials git sends for a repo of a connection. None: no connection, or an address elsewhere."""
    kept = await connections.of_repo(services.db, repo_id)
    return None if kept is None else await credential_from(services, kept, url)


async def credential_from(services: Services, kept: StoredConnection, url: str) -> Secret | None:
    """The credentials git sends for a repo of this connection. None: the address is not at its forge."""
    forge = services.forges.at(kept.connection.forge, kept.connection.host)
    ours, theirs = urlsplit(forge.app.url), urlsplit(url)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        return None
    return forge.credential((await _valid_of(services, kept)).token)


async def can_retry_credentials(services: Services, repo: Repo) -> bool:
    """Whether a fetch whose credentials were refused is worth one more try.

    A token may have expired on the way: the forge is asked about it, and it is renewed if necessary.
    Raises BadCredentials if the connection has stopped.
    """
    kept = await connections.of_repo(services.db, repo.id)
    if kept is None or services.keyring is None or await credential_of(services, repo.id, repo.url) is None:
        return False
    if await credentials.of(services.db, services.keyring, repo.id, repo.url):
        return False  # the repo uses credentials of its own, which only a person can replace
    await check(services, kept.connection.id)
    return True


async def _is_taken(forge: Forge, token: str, of: Connection) -> bool:
    """Whether the forge accepts a token that it has just refused; forges have refused all for a while."""
    try:
        await forge.account(token, personal=of.grant_kind == "token")
    except BadCredentials:
        return False
    return True


async def _revoked(forge: Forge, token: str) -> None:
    """Revoke a token if the forge answers; otherwise it expires by itself or its owner revokes it."""
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
        raise OurFault("tokens cannot be stored: set SECRET_KEYS (32 random characters or more)")
    return services.keyring
