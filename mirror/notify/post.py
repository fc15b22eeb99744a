"""How a message gets from its row to the other side: the channel's address is opened just before.

Who calls: the workers, web processes and the command line hand it to deliver.
"""

from uuid import UUID

from mirror.channels import wire
from mirror.channels.send import send
from mirror.core.channels import Undeliverable
from mirror.core.messages import Message
from mirror.notify import words
from mirror.notify.deliver import Sender
from mirror.services.open import Services
from mirror.store.notify import channels


def sender(services: Services) -> Sender:
    """Sends by mail, webhook or chat, as the settings allow."""
    lines = wire.of(services.settings)

    async def post(channel_id: UUID, message: Message) -> str:
        if services.keyring is None:
            raise Undeliverable("set SECRET_KEYS: the addresses of channels are sealed with it")
        to = await channels.address(
            services.db, services.keyring, channel_id, words.base(services.settings), services.clock()
        )
        if to is None:
            raise Undeliverable("the channel was removed")
        return await send(lines, to, message)

    return post
