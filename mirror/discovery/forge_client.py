"""A connection, ready to be asked: how listing, choosing, following and hooks speak to a forge."""

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
    """A connection and its forge."""

    services: Services
    connection: Connection
    forge: Forge

    @property
    def app(self) -> App:
        """Which forge it is."""
        return self.forge.app

    async def ask(self, question: Callable[[Forge, str], Awaitable[A]]) -> A:
        """The forge's answer, with a token that works. Raises what discovery/connections.asking raises."""
        return await connections.asking(self.services, self.connection.id, question)

    def missing(self, purpose: Purpose) -> tuple[str, ...]:
        """The scopes that this needs and that were not granted; none where the token does not tell."""
        return connections.missing_scopes(self.services, self.connection, purpose)


async def client_of(services: Services, connection_id: ConnectionId) -> ForgeClient:
    """The connection of this id; nothing is asked yet. Raises NotFound."""
    connection = await rows.get(services.db, connection_id)
    if connection is None:
        raise NotFound("the connection was removed; connect again")
    return ForgeClient(services, connection, services.forges.at(connection.forge, connection.host))
