"""A real time-stamping authority on loopback: `openssl ts -reply` behind HTTP, with a CA of its own."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

_CONFIG = """
[tsa]
default_tsa = one
[one]
serial = {home}/serial
crypto_device = builtin
signer_cert = {home}/tsa.pem
signer_key = {home}/tsa.key
signer_digest = sha256
default_policy = 1.3.6.1.4.1.1
digests = sha256
ess_cert_id_alg = sha256
[extensions]
extendedKeyUsage = critical,timeStamping
keyUsage = critical,digitalSignature
basicConstraints = critical,CA:FALSE
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
"""


@dataclass
class Authority:
    """What came, and what the next ones are answered instead of a stamp."""

    home: Path
    url: str = ""
    got: list[bytes] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)

    @property
    def certificates(self) -> Path:
        """The CA's certificate, which the authority publishes."""
        return self.home / "ca.pem"

    async def answer(self, request: web.Request) -> web.Response:
        self.got.append(await request.read())
        if self.answers:
            return self.answers.pop(0)
        stamped = await asyncio.to_thread(self._stamped, self.got[-1])
        return web.Response(body=stamped, content_type="application/timestamp-reply")

    def _stamped(self, query: bytes) -> bytes:
        (self.home / "query").write_bytes(query)
        ran(
            self.home,
            "ts",
            "-reply",
            "-config",
            "conf",
            "-section",
            "one",
            *"-queryfile query -out reply".split(),
        )
        return (self.home / "reply").read_bytes()


def ran(home: Path, *words: str) -> None:
    done = subprocess.run(("openssl", *words), cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def set_up(home: Path) -> Authority:
    """Keys and certificates for ten years."""
    home.mkdir()
    (home / "conf").write_text(_CONFIG.format(home=home))
    (home / "serial").write_text("01\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-days", "3650")
    ran(home, "req", "-x509", *key, *ca, "-config", "conf", "-extensions", "ca")
    ran(
        home,
        "req",
        "-new",
        *key,
        "-keyout",
        "tsa.key",
        "-out",
        "tsa.csr",
        "-subj",
        "/CN=Test TSA",
        "-config",
        "conf",
    )
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "2", "-days", "3650")
    extended = ("-extfile", "conf", "-extensions", "extensions")
    ran(home, "x509", "-req", "-in", "tsa.csr", "-out", "tsa.pem", *signed, *extended)
    return Authority(home)


@asynccontextmanager
async def authority(home: Path) -> AsyncIterator[Authority]:
    """The authority, for as long as this is open."""
    made, app = set_up(home), web.Application()
    app.router.add_post("/tsr", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/tsr"
    try:
        yield made
    finally:
        await runner.cleanup()
