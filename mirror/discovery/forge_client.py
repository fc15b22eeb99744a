"""A client for one connection's forge, which listing, choosing, following and hooks use."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from mirror.core.config import App
from mirror.core.errors import NotFound
from mirror.discovery import connections
from mirror.forges.contract import Forge, Purpose
from mirror.services.open import Services
from mirror.store.discovery import connections as rows
from mirror.store.discovery.connections import Connection, ConnectionId

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class ForgeClient:
    """A connection with its forge, ready for requests."""

    services: Services
    connection: Connection
    forge: Forge

    @property
    def app(self) -> App:
        """The app that Everref is at this forge."""
        return self.forge.app

    async def ask(self, question: Callable[[Forge, str], Awaitable[A]]) -> A:
        """The forge's answer, with a token that works. Raises what discovery/connections.asking raises."""
        return await connections.asking(self.services, self.connection.id, question)

    def missing(self, purpose: Purpose) -> tuple[str, ...]:
        """The scopes that this purpose needs and that were not granted; none if the token does not say."""
        return connections.missing_scopes(self.services, self.connection, purpose)


async def client_of(services: Services, connection_id: ConnectionId) -> ForgeClient:
    """A client for this connection; sends no request yet. Raises NotFound."""
    connection = await rows.get(services.db, connection_id)
    if connection is None:
        raise NotFound("the connection was removed; connect again")
    return ForgeClient(services, connection, services.forges.at(connection.forge, connection.host))
