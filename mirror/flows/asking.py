"""A connection, ready to be asked: how listing, choosing, following and hooks speak to a forge."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from mirror.config import App
from mirror.errors import NotFound
from mirror.flows import connections
from mirror.flows.edges import Edges
from mirror.forges.contract import Forge, Purpose
from mirror.store import connections as rows
from mirror.store.connections import Connection, ConnectionId

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Asked:
    """A connection and its forge."""

    edges: Edges
    connection: Connection
    forge: Forge

    @property
    def app(self) -> App:
        """Which forge it is."""
        return self.forge.app

    async def ask(self, question: Callable[[Forge, str], Awaitable[A]]) -> A:
        """The forge's answer, with a token that works. Raises what flows/connections.asking raises."""
        return await connections.asking(self.edges, self.connection.id, question)

    def missing(self, purpose: Purpose) -> tuple[str, ...]:
        """The scopes that this needs and that were not granted; none where the token does not tell."""
        return connections.missing_scopes(self.edges, self.connection, purpose)


async def asked_of(edges: Edges, connection_id: ConnectionId) -> Asked:
    """The connection of this id; nothing is asked yet. Raises NotFound."""
    connection = await rows.get(edges.db, connection_id)
    if connection is None:
        raise NotFound("the connection was removed; connect again")
    return Asked(edges, connection, edges.forges.at(connection.forge, connection.host))
