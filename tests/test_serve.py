"""How an application listens."""

import socket

from mirror.core.config import Settings
from mirror.services.server import serve
from mirror.services.startup import Ties


def test_an_answer_in_two_writes_waits_for_no_acknowledgement() -> None:
    with serve._listening(Settings("/data", port=0), Ties()) as listener:
        address = ("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(address), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
