"""Messages leave by mail, by webhook and into chats: over real servers, which refuse, hang and lie."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from playwright.async_api import Request, async_playwright
from standardwebhooks.webhooks import WebhookVerificationError

from mirror.channels import chat, mail, webhook
from mirror.channels.send import Address, NotDelivered, Undeliverable, Wire, send
from mirror.core import smtp
from mirror.core.errors import UsageError
from mirror.core.messages import Link, Message
from mirror.core.smtp import Smtp
from tests.parts.browser import ARGUMENTS, PHONE, WANTED, chromium_path
from tests.parts.mail import ENCODED, PASSWORD, USER, Postbox
from tests.parts.receiver import Receiver

MakePostbox = Callable[..., Awaitable[Postbox]]
ID = UUID("3f2b8a34-7f0e-4d8e-9c35-0d6b0e1f5a11")
STOP = f"https://everref.example/unsubscribe/{'Iu-x_' * 30}.y.z"  # longer than a line of a header
MESSAGE = Message(
    ID,
    "failing",
    True,
    "Backups of acme/api fail",
    ("github.com refuses the token. <b>Nothing</b> new is saved.", "Connect the account again."),
    datetime(2026, 3, 2, 9, 14, tzinfo=UTC),
    team="acme",
    repos=("acme/api", "acme/web"),
    many=5,
    link=Link("Connect again", "https://everref.example/acme/-/connect"),
)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a chat begins slowly on a machine that is busy."""
    monkeypatch.setattr(chat, "SECONDS", 250.0)


def server(box: Postbox, tls: smtp.Tls = "starttls", password: str | None = PASSWORD) -> Smtp:
    return Smtp(
        "localhost", box.port, tls, password and USER, password, "backup@acme.example", "Everref", None
    )


# SMTP_URL


def test_smtp_url_says_where_mails_go_and_keeps_its_password_to_itself() -> None:
    url = f"smtp://backup%40acme.example:{ENCODED}@mail.acme.example?from=Acme+<a%2Bb@acme.example>&admin=op@acme.example"
    found = smtp.read(url, allow_private=False)
    assert (found.host, found.port, found.tls) == ("mail.acme.example", 587, "starttls")
    assert (found.user, found.password) == (USER, PASSWORD)
    assert (found.name, found.sender, found.admin) == ("Acme", "a+b@acme.example", "op@acme.example")
    assert PASSWORD not in repr(found) and ENCODED not in repr(found)
    assert smtp.read("smtps://h", False).port == 465 and smtp.read("smtps://h", False).sender == "everref@h"


@pytest.mark.parametrize(
    ("url", "private", "says"),
    [
        ("http://h", False, "must be like smtp://"),
        ("smtp://", False, "must be like smtp://"),
        ("smtp://u:hunter2@h:99999", False, "cannot be read"),
        ("smtp://u:hunter2@h/path", False, "encode"),
        ("smtp://user@h", False, "without a password"),
        ("smtp://u:hunter2@h?tls=none", False, "clear text"),
        ("smtps://h?tls=none", True, "only with smtp://"),
        ("smtp://h?tls=maybe", True, "only value of tls is none"),
        ("smtp://h?form=x", False, "unknown option 'form'"),
        ("smtp://h?from=nobody", False, "from must be like"),
        ("smtp://h?from=a@b.example%0d%0aBcc: c@d.example", False, "from must be like"),
        ("smtp://h?admin=a,b@c.example", False, "one e-mail address"),
    ],
)
def test_a_wrong_smtp_url_gets_a_line_that_says_what_to_do(url: str, private: bool, says: str) -> None:
    with pytest.raises(UsageError, match="SMTP_URL") as refused:
        smtp.read(url, private)
    assert says in str(refused.value) and "hunter2" not in str(refused.value)


def test_a_server_on_this_machine_may_do_without_tls() -> None:
    assert {smtp.read(f"smtp://{host}:25?tls=none", False).tls for host in ("127.0.0.1", "localhost")} == {
        "none"
    }
    assert smtp.read("smtp://mail.lan?tls=none", True).tls == "none"


# Mail


async def test_a_mail_goes_by_starttls_and_auth_and_says_everything_in_text_and_html(
    make_postbox: MakePostbox,
) -> None:
    box = await make_postbox()
    wire = Wire(server(box), tls=box.tls)
    to = Address("mail", "ann@acme.example", unsubscribe=STOP)
    assert (await send(wire, to, MESSAGE)).startswith("250 ")
    await send(wire, to, MESSAGE)
    first, again = box.mails
    assert box.logins == 2 and box.recipients == ["ann@acme.example"] * 2
    assert first["Message-ID"] == again["Message-ID"] == f"<{ID}@acme.example>"
    assert first["List-Unsubscribe"] == f"<{STOP}>"
    assert first["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert (
        f"List-Unsubscribe: <{STOP}>\r\n".encode() in box.raw[0]
    )  # as it is, for programs that decode nothing
    plain, html = first.get_body(("plain",)), first.get_body(("html",))
    assert plain is not None and html is not None
    for said in (plain.get_content(), html.get_content()):
        for word in (
            "Backups of acme/api fail",
            "acme/web",
            "and 3 more",
            "Connect the account again.",
            STOP,
        ):
            assert word in said
    assert "&lt;b&gt;Nothing" in html.get_content() and "<b>Nothing" in plain.get_content()


async def test_nothing_in_a_message_begins_another_header(make_postbox: MakePostbox) -> None:
    box = await make_postbox(tls=False, auth=False)
    wire = Wire(server(box, "none", None))
    said = replace(MESSAGE, subject="fails\r\nBcc: eve@evil.example\r\n\r\n<html>", kind="x\nTo: eve")
    await send(wire, Address("mail", "ann@acme.example"), said)
    assert box.recipients == ["ann@acme.example"] and box.mails[0]["Bcc"] is None
    assert box.mails[0].get_all("To") == ["ann@acme.example"]
    for to in (
        "ann@acme.example\r\nRCPT TO:<eve@evil.example>",
        "a@b.example,c@d.example",
        "<a@b.example>",
        "x",
    ):
        with pytest.raises(Undeliverable):
            await send(wire, Address("mail", to), MESSAGE)
    assert len(box.mails) == 1


@pytest.mark.parametrize(
    ("refusal", "permanent", "waits"),
    [
        ("451 4.7.1 greylisted", False, timedelta(minutes=5)),
        ("550 5.1.1 no such user", True, None),
    ],
)
async def test_a_refusal_for_now_is_tried_again_and_one_for_good_is_not(
    make_postbox: MakePostbox, refusal: str, permanent: bool, waits: timedelta | None
) -> None:
    box = await make_postbox(tls=False, auth=False)
    box.refusals.append(refusal)
    with pytest.raises(NotDelivered, match=refusal[:3]) as refused:
        await send(Wire(server(box, "none", None)), Address("mail", "ann@acme.example"), MESSAGE)
    assert (refused.value.permanent, refused.value.retry_after) == (permanent, waits)


async def test_a_wrong_password_is_told_without_it_and_may_be_put_right(make_postbox: MakePostbox) -> None:
    box = await make_postbox()
    wire = Wire(server(box, password="wrong-hunter2"), tls=box.tls)
    for asked in (partial(send, wire, Address("mail", "a@b.example"), MESSAGE), partial(mail.check, wire)):
        with pytest.raises(NotDelivered, match="535") as refused:
            await asked()
        assert not refused.value.permanent and "hunter2" not in str(refused.value)
    await mail.check(Wire(server(box), tls=box.tls))
    assert not box.mails


async def test_no_password_goes_to_a_server_without_tls_or_with_a_strange_certificate(
    make_postbox: MakePostbox,
) -> None:
    bare, other = await make_postbox(tls=False, auth=False), await make_postbox()
    with pytest.raises(NotDelivered, match="STARTTLS"):
        await mail.check(Wire(server(bare), tls=other.tls))
    with pytest.raises(NotDelivered, match="certificate"):
        await mail.check(Wire(server(other)))
    assert bare.logins == other.logins == 0


async def test_a_mail_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "SECONDS", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as hanging:
        port = hanging.sockets[0].getsockname()[1]
        wire = Wire(Smtp("127.0.0.1", port, "none", None, None, "a@b.example", "Everref", None))
        with pytest.raises(NotDelivered, match="did not answer in time"):
            await send(wire, Address("mail", "ann@acme.example"), MESSAGE)


async def test_without_a_mail_server_a_mail_says_what_to_set() -> None:
    with pytest.raises(NotDelivered, match="SMTP_URL"):
        await send(Wire(None), Address("mail", "a@b.example"), MESSAGE)


# Webhooks


async def test_a_webhook_is_signed_with_each_key_and_is_the_same_at_every_try(receiver: Receiver) -> None:
    keys = (webhook.new_key(), webhook.new_key())
    to = Address("webhook", f"{receiver.url}/hook?a=b", keys)
    assert await send(Wire(None, True), to, MESSAGE) == "200: thanks"
    await send(Wire(None, True), to, MESSAGE)
    for key in keys:
        said = receiver.verified(key)
        assert said["type"] == "failing" and said["timestamp"] == "2026-03-02T09:14:00+00:00"
        assert said["data"]["repos"] == ["acme/api", "acme/web"]
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {str(ID)}
    with pytest.raises(WebhookVerificationError):
        receiver.verified(webhook.new_key())


@pytest.mark.parametrize(
    ("answer", "permanent", "waits", "says"),
    [
        (lambda: web.Response(status=410, text="gone"), True, None, "410"),
        (lambda: web.Response(status=500, text="no such path /hook/s3cret"), False, None, r"500: .* \*\*\*"),
        (lambda: web.Response(status=301, headers={"location": "/other"}), False, None, "301, a redirect"),
        (lambda: web.Response(status=429, headers={"retry-after": "90"}), False, 90, "429"),
        (lambda: web.Response(status=503, body=b"\x1b[31m" + b"x" * 1_000_000), False, None, "503"),
    ],
)
async def test_what_a_receiver_answers_decides_what_comes_next(
    receiver: Receiver, answer: Callable[[], web.Response], permanent: bool, waits: int | None, says: str
) -> None:
    receiver.answers.append(answer())
    with pytest.raises(NotDelivered, match=says) as refused:
        await send(
            Wire(None, True), Address("webhook", f"{receiver.url}/hook/s3cret", (webhook.new_key(),)), MESSAGE
        )
    assert refused.value.permanent is permanent and len(receiver.got) == 1
    told = refused.value.retry_after
    assert (None if told is None else round(told.total_seconds())) == waits
    said = str(refused.value)
    assert "s3cret" not in said and "\x1b" not in said and len(said) < 400


async def test_a_receiver_that_never_answers_is_given_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 0.2)
    receiver.answers.append(None)
    with pytest.raises(NotDelivered, match="did not answer"):
        await send(Wire(None, True), Address("webhook", receiver.url, (webhook.new_key(),)), MESSAGE)


async def test_a_webhook_reaches_nothing_inside_our_network(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    inside = (
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
    )
    said = set()
    for host in inside:
        with pytest.raises(NotDelivered) as refused:
            await send(
                Wire(None), Address("webhook", f"https://{host}:{port}/", (webhook.new_key(),)), MESSAGE
            )
        said.add(str(refused.value).partition(" ")[2])
    assert said == {"cannot be reached from here; check the address and the network"} and not receiver.got


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "https://u:p@example.com/", "https:///x", "ftp://example.com/", "https://a b/"],
)
def test_an_address_that_is_no_webhook_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        webhook.check(url, allow_private=False)
    assert "u:p" not in str(refused.value) and refused.value.field == "to"


# Chats


async def test_a_chat_gets_the_message_and_its_address_is_shown_without_keys(receiver: Receiver) -> None:
    url = f"json://user:s3cretpw@{receiver.url.removeprefix('http://')}/key-in-path"
    assert await send(Wire(None, True), Address("chat", url), MESSAGE) == "JSON took it"
    said = json.loads(receiver.got[0][1])
    assert said["title"] == MESSAGE.subject and "Connect again: https://everref.example" in said["message"]
    receiver.answers.append(web.Response(status=500))
    with pytest.raises(NotDelivered) as refused:
        await send(Wire(None, True), Address("chat", url), MESSAGE)
    assert "s3cretpw" not in str(refused.value) and "key-in-path" not in str(refused.value)


async def test_a_chat_address_is_of_a_service_by_http_and_of_nothing_on_this_machine() -> None:
    slack = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert (await chat.check(slack, False)).shown == "Slack"
    assert (await chat.check("ntfys://ntfy.acme.example/backups", False)).shown == "ntfy at ntfy.acme.example"
    for token in ("pbul://o.gn5kj6nfhv736I7jC3cj3QLRiyhgl98b", "line://hunter2.hunter2/U1234"):
        assert " at " not in (await chat.check(token, False)).shown
    for url in ("mailto://u:hunter2@example.com", "syslog://", "file:///etc/passwd", "nonsense", "slack://"):
        with pytest.raises(UsageError, match="no address of a chat service") as refused:
            await chat.check(url, True)
        assert "hunter2" not in str(refused.value)


_EVERY_SCHEMA = """
import json, sys, time
time.sleep = lambda seconds: None  # services are given pauses between two messages
from mirror.channels import chat
import apprise
port, last, tried = sys.argv[1], chat.confine(False), 0
for plugin in apprise.NotificationManager().plugins(include_disabled=False):
    schemas = [plugin.protocol, plugin.secure_protocol]
    if not any("{host}" in one for one in plugin.templates):
        continue
    for group in schemas:
        for schema in ([group] if isinstance(group, str) else group or ()):
            for host in ("127.0.0.1", "localhost"):
                for rest in ("/a", "/" + "a" * 32):
                    url = f"{schema}://user:password@{host}:{port}{rest}"
                    try:
                        told = chat.tell({"url": url, "title": "t", "body": "b", "urgent": False}, last)
                    except Exception as error:
                        told = {"service": type(error).__name__}
                    tried += bool(told)
                    assert not told.get("sent"), url
refused = 0
import subprocess, os, socket
for act in (
    lambda: open("/etc/passwd"), lambda: open("/tmp/everref-chat", "w"), lambda: subprocess.run(["true"]),
    lambda: os.system("true"), lambda: socket.create_connection(("127.0.0.1", int(port))),
    lambda: socket.socket(socket.AF_UNIX).connect("/run/x"), lambda: os.listdir("/etc"),
):
    try:
        act()
    except PermissionError:
        refused += 1
print(json.dumps({"tried": tried, "refused": refused}))
"""


async def test_no_chat_of_any_kind_reaches_this_machine_or_reads_it(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", "-c", _EVERY_SCHEMA, port],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["tried"] > 100 and told["refused"] == 7
    assert not receiver.got


async def test_a_chat_that_never_answers_is_given_up_with_its_process(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.05)
    with pytest.raises(NotDelivered, match="did not answer"):
        await send(Wire(None, True), Address("chat", receiver.url.replace("http", "json")), MESSAGE)


async def test_an_address_is_checked_while_others_wait_for_a_slow_chat(receiver: Receiver) -> None:
    receiver.answers.extend([None] * chat.AT_ONCE)
    url = receiver.url.replace("http", "json") + "?rto=250"  # or the library waits four seconds for an answer
    waits = [asyncio.create_task(chat.send(Wire(None, True), url, MESSAGE)) for _ in range(chat.AT_ONCE)]
    async with asyncio.timeout(chat.SECONDS):
        for _ in waits:
            await receiver.waiting.acquire()
        assert (await chat.check("ntfys://ntfy.acme.example/backups", False)).name == "ntfy"
    assert not any(one.done() for one in waits)
    receiver.release.set()
    await asyncio.gather(*waits, return_exceptions=True)


def test_an_address_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    said = Address("webhook", "https://h.example/s3cret", ("whsec_s3cret",), "https://e.example/s3cret")
    logging.getLogger("x").warning("%s %r", said, said)
    assert "s3cret" not in caplog.text and "webhook" in caplog.text


async def test_a_mail_is_read_on_a_phone_and_in_the_dark_and_loads_nothing() -> None:
    program = chromium_path()
    if program is None:
        pytest.skip(WANTED)
    mail_ = mail.written(
        Smtp("localhost", 25, "none", None, None, "backup@acme.example", "Everref", None),
        Address("mail", "ann@acme.example", unsubscribe=STOP),
        replace(MESSAGE, lines=("x" * 300, *MESSAGE.lines)),
    )
    html = mail_.get_body(("html",))
    assert html is not None
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS])
        colours, asked = set(), list[Request]()

        def ask(request: Request) -> None:
            asked.append(request)

        for scheme in ("light", "dark"):
            context = await browser.new_context(viewport=PHONE, color_scheme=scheme)
            page = await context.new_page()
            page.on("request", ask)
            await page.set_content(html.get_content())
            wide = await page.evaluate("document.documentElement.scrollWidth")
            colours.add(
                await page.evaluate("getComputedStyle(document.querySelector('.sheet')).backgroundColor")
            )
            assert wide <= PHONE["width"] and asked == [], scheme
            assert await page.get_by_role("link", name="Connect again").is_visible()
        await browser.close()
    assert len(colours) == 2
