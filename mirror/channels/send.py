"""The one door through which messages leave: by mail, by webhook or into a chat."""

from mirror.channels import chat, mail, webhook
from mirror.channels.wire import Wire
from mirror.core.channels import Address, NotDelivered, Undeliverable
from mirror.core.messages import Message

__all__ = ["Address", "NotDelivered", "Undeliverable", "Wire", "send"]


async def send(wire: Wire, to: Address, message: Message) -> str:
    """Deliver the message; returns what the other side answered, in a line without secrets.

    It takes a minute at most. Nothing is remembered here: sent again, it is the same mail (by its Message-ID)
    and the same webhook (by its `webhook-id`), so that a reader can tell; a chat shows it twice.
    Raises NotDelivered, which may be tried again, in `retry_after` if that is given; Undeliverable, which is
    `permanent`.
    """
    match to.kind:
        case "mail":
            return await mail.send(wire, to, message)
        case "webhook":
            return await webhook.send(wire, to, message)
        case "chat":
            return await chat.send(wire, to.to, message)
