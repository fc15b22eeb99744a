"""Sending a test to a channel at once, so that whoever set it up sees whether messages arrive.

Who calls: the command line.
"""

from uuid import uuid4

from mirror.core.errors import NotFound, UsageError
from mirror.core.messages import Link, Message
from mirror.notify import post, words
from mirror.services.open import Services
from mirror.store.notify import sendings
from mirror.store.people.teams import TeamId


async def send(services: Services, named: str, team_id: TeamId | None) -> tuple[str, str]:
    """The channel's name, and what the other side answered. Nothing is recorded: it can be done again.

    Raises NotFound, UsageError where several channels have the name, NotDelivered.
    """
    found = await sendings.named(services.db, named, team_id)
    if not found:
        raise NotFound(f"there is no channel {named}; the settings pages list them")
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} channels are called {named}; name its team with --team, or use its id"
        )
    ((channel_id, name),) = found
    message = Message(
        id=uuid4(),
        kind="test",
        urgent=True,
        subject=f"A test of {name}",
        lines=("Messages of Everref arrive here.",),
        at=services.clock(),
        link=Link("Open Everref", words.url(services.settings)),
    )
    return name, await post.sender(services)(channel_id, message)
