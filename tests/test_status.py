"""Whether every part answers: said soon, also when one of them says nothing at all."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirror.web.pages import status
from tests.parts.postgres import Server
from tests.parts.web import Site


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """A server that takes connections and says nothing, as on a machine whose disk hangs."""
    parent = server.process.pid
    os.kill(parent, signal.SIGSTOP)  # first, and last to go on: till then no pid of a child is another's
    pids = [*map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()), parent]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_a_frozen_database_is_told_at_once_and_again_when_asked_again(
    site: Site, postgres: Server
) -> None:
    """It took 18 s, which is longer than whoever asks waits for an answer: each question was waited for."""
    browser = await site.browser()
    while (await browser.get("/readyz")).status_code != 200:
        pass
    with frozen(postgres):
        answers = [await browser.get("/readyz")]
        assert status._given_up, "it is said while the database is asked still"
        *more, page = await asyncio.gather(*(browser.get(path) for path in ["/readyz"] * 4 + ["/status"]))
    answers += more
    assert [answer.status_code for answer in answers] == [503] * 5
    assert page.status_code == 503
    assert answers[0].json() == {
        "ready": False,
        "database": False,
        "queue": True,
        "worker": None,  # nobody knows, as the database would
        "vault": None,
        "disk": None,
    }
    assert page.text.count(">not known</span>") == 3 and page.text.count(">not working</span>") == 1
    while (await browser.get("/readyz")).status_code == 503 or status._given_up:  # noqa: ASYNC110 - it thaws
        await asyncio.sleep(0.05)
