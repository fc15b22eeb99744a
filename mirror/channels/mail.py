"""A message as a mail: plain text and HTML, with everything in it, so that nothing is loaded to read it.

The server is the operator's own (SMTP_URL), so its address is not judged as a stranger's is.
"""

import asyncio
import ssl
from datetime import timedelta
from email.headerregistry import Address as Mailbox
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from typing import Final

import aiosmtplib
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mirror.channels.wire import Wire
from mirror.core.channels import Address, NotDelivered, Undeliverable
from mirror.core.messages import Message
from mirror.core.smtp import Smtp, is_address

SECONDS: Final = 40.0  # for a whole delivery
SILENCE: Final = 15.0  # seconds for one answer of the server
_CHECKED: Final = 10.0  # seconds for a server that is asked whether it would take mail
_GREYLISTED: Final = timedelta(minutes=5)  # the wait after a refusal for now: RFC 6647, 2.1
_REPOS: Final = 10  # names that a mail lists
_LONG_LINES: Final = SMTP.clone(max_line_length=990, cte_type="7bit")  # a folded address would be encoded


async def send(wire: Wire, to: Address, message: Message) -> str:
    """Hand the mail to the server; returns its answer. Raises NotDelivered, Undeliverable.

    A refusal with 4xx is for now, as greylisting is, and one with 5xx for good. Sent again it is the
    same mail, by its Message-ID.
    """
    server = _server(wire)
    mail = written(server, to, message)
    try:
        async with asyncio.timeout(SECONDS):
            client = await _connected(wire, server)
            try:
                refused, answer = await client.sendmail(server.sender, [to.to], mail.as_bytes())
            finally:
                client.close()
    except TimeoutError:
        raise NotDelivered(f"the mail server {server.host} did not answer in time") from None
    except aiosmtplib.SMTPRecipientsRefused as error:
        one = error.recipients[0]
        raise _refusal(server, one.code, one.message) from None
    except aiosmtplib.SMTPResponseException as error:
        raise _refusal(server, error.code, error.message) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise _unreached(server, error) from None
    if refused:
        code, said = next(iter(refused.values()))
        raise _refusal(server, code, said)
    return _line(f"250 {answer}")


async def check(wire: Wire) -> None:
    """Ask the server whether it is there and lets us in, without sending anything. Raises NotDelivered."""
    server = _server(wire)
    try:
        async with asyncio.timeout(_CHECKED):
            client = await _connected(wire, server)
            client.close()
    except TimeoutError:
        raise NotDelivered(f"the mail server {server.host} did not answer within {_CHECKED:g} s") from None
    except aiosmtplib.SMTPResponseException as error:
        raise _refusal(server, error.code, error.message) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise _unreached(server, error) from None


def written(server: Smtp, to: Address, message: Message) -> EmailMessage:
    """The mail. Nothing in a message can begin another header: a line break in one becomes a space.

    Raises Undeliverable where `to` is no mail address.
    """
    if not is_address(to.to):
        raise Undeliverable("this is not an e-mail address")
    mail = EmailMessage(_LONG_LINES)
    mail["From"] = Mailbox(_one_line(server.name), addr_spec=server.sender)
    mail["To"] = Mailbox(addr_spec=to.to)
    mail["Subject"] = _one_line(message.subject)
    mail["Date"] = format_datetime(message.at)
    mail["Message-ID"] = f"<{message.id}@{server.sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Everref-Kind"] = _one_line(message.kind)
    if to.unsubscribe:
        mail["List-Unsubscribe"] = f"<{to.unsubscribe}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"  # RFC 8058
    more = max(message.many, len(message.repos)) - len(message.repos[:_REPOS])
    said = {"message": message, "repos": message.repos[:_REPOS], "more": more, "unsubscribe": to.unsubscribe}
    mail.set_content(_pages().get_template("mail.txt").render(said))
    mail.add_alternative(_pages().get_template("mail.html").render(said), subtype="html")
    return mail


async def _connected(wire: Wire, server: Smtp) -> aiosmtplib.SMTP:
    """A connection on which the server knows us; the caller closes it. Never in clear unless told so."""
    tls = None if server.tls == "none" else wire.tls or _authorities()
    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=server.tls == "implicit",
        start_tls=server.tls == "starttls",
        tls_context=tls,
        timeout=SILENCE,
        local_hostname="everref",
    )
    try:
        await client.connect()
        await client.ehlo()
        if server.user and server.password:
            await client.login(server.user, server.password)
    except BaseException:
        client.close()
        raise
    return client


def _server(wire: Wire) -> Smtp:
    if wire.smtp is None:
        raise NotDelivered("no mail server is set; set SMTP_URL and restart Everref")
    return wire.smtp


def _refusal(server: Smtp, code: int, said: str) -> NotDelivered:
    line = _line(f"the mail server {server.host} answered {code} {said}")
    if isinstance(code, int) and 500 <= code < 600 and code not in (530, 534, 535, 538):
        return Undeliverable(line)
    return NotDelivered(line, _GREYLISTED if 400 <= code < 500 else None)  # AUTH refused: settings change


def _unreached(server: Smtp, error: Exception) -> NotDelivered:
    if isinstance(error, aiosmtplib.SMTPTimeoutError):
        return NotDelivered(f"the mail server {server.host} did not answer in time")
    if isinstance(error.__cause__ or error, ssl.SSLError) or "certificate" in str(error).lower():
        return NotDelivered(f"the TLS certificate of the mail server {server.host} cannot be verified")
    if "STARTTLS" in str(error):
        return NotDelivered(f"the mail server {server.host} offers no STARTTLS; use smtps:// or another port")
    return NotDelivered(f"the mail server {server.host} cannot be reached; check SMTP_URL and the network")


def _line(text: str) -> str:
    return _one_line(text)[:200]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@cache
def _pages() -> Environment:
    """The two templates of a mail: HTML escapes what is written into it, text does not need to."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _authorities() -> ssl.SSLContext:
    """Who is trusted on this machine; SSL_CERT_FILE adds to it."""
    return ssl.create_default_context()
