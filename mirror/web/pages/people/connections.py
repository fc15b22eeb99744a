"""The connection that a page's address names."""

from uuid import UUID

from mirror.core.errors import NotFound
from mirror.store.discovery import connections
from mirror.store.discovery.connections import Connection, ConnectionId
from mirror.web.dispatch import RequestContext


async def connection_of(context: RequestContext) -> Connection:
    """The path's connection, of this team. Raises NotFound."""
    try:
        chosen = ConnectionId(UUID(str(context.path["connection"])))
    except ValueError:
        raise NotFound("there is no such connection") from None
    found = await connections.find(context.services.db, context.of_team().id, chosen)
    if found is None:
        raise NotFound("there is no such connection")
    return found


def address_of(context: RequestContext, connection: Connection) -> str:
    """The address of its page."""
    return f"/{context.of_team().name}/-/connect/{connection.id}"
