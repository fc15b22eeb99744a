"""Whether a forge signed a body with a hook's secret: asked once it was read whole, before it is parsed.

Several secrets are accepted, so that one can be changed while deliveries are on
their way. Each is tried, whatever the others gave, and compared in constant
time. Headers come with lower-case names; the body is the raw bytes.
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

from hooks.errors import BadSignature

TOLERANCE: Final = 300  # seconds between a signed time and ours

Verifier = Callable[[Sequence[str], bytes, Mapping[str, str], datetime], None]

_SIGNING: Final = "whsec_"  # before the base64 of a Standard Webhooks key
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


def github(secrets: Sequence[str], body: bytes, headers: Mapping[str, str]) -> None:
    """Raise BadSignature unless X-Hub-Signature-256 is the HMAC-SHA256 of the body.

    X-Hub-Signature, which is SHA-1, is ignored.
    https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    """
    _prove([headers.get("x-hub-signature-256", "")], ["sha256=" + mac for mac in _macs(secrets, body)])


def gitea(secrets: Sequence[str], body: bytes, headers: Mapping[str, str]) -> None:
    """Raise BadSignature unless the first of the signatures that Forgejo and Gitea send is correct.

    All of them are the same HMAC-SHA256 of the payload; a hook without a secret
    sends them empty. https://docs.gitea.com/usage/webhooks
    """
    given = headers.get("x-forgejo-signature") or headers.get("x-gitea-signature")
    hub = headers.get("x-hub-signature-256", "").removeprefix("sha256=")
    _prove([given or hub], _macs(secrets, body))


def gitlab(secrets: Sequence[str], body: bytes, headers: Mapping[str, str], now: datetime) -> None:
    """Raise BadSignature unless GitLab's signing token signed this, or the older X-Gitlab-Token is a secret.

    A delivery with a signature is judged by that alone. The older token covers
    neither the body nor the time.
    https://docs.gitlab.com/user/project/integrations/webhooks/
    """
    if "webhook-signature" in headers:
        _standard(secrets, body, headers, now)
    else:
        _prove([headers.get("x-gitlab-token", "")], [secret for secret in secrets if secret])


def _standard(secrets: Sequence[str], body: bytes, headers: Mapping[str, str], now: datetime) -> None:
    """Standard Webhooks: "v1,<base64>" of the HMAC-SHA256 over id, seconds and body; several may be given.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    name, seconds = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not name or "." in name:  # a dot would let the same bytes be signed for another id
        raise BadSignature("a signature without a webhook-id")
    if not _SECONDS.fullmatch(seconds) or abs(now.timestamp() - int(seconds)) > TOLERANCE:
        raise BadSignature(f"a signature whose webhook-timestamp is not within {TOLERANCE} s of now")
    start = f"{name}.{seconds}.".encode(errors="backslashreplace")
    expected = []
    for secret in filter(None, secrets):
        mac = hmac.new(_key(secret), start, sha256)
        mac.update(body)
        expected.append("v1," + b64encode(mac.digest()).decode())
    _prove(headers["webhook-signature"].split(" "), expected)


def _key(secret: str) -> bytes:
    """The bytes of a signing token. Any other secret, which GitLab never signs with, costs the same work."""
    try:
        key = b64decode(secret.removeprefix(_SIGNING), validate=True) if secret.startswith(_SIGNING) else b""
    except ValueError:
        key = b""
    return key or secret.encode()


def _macs(secrets: Sequence[str], body: bytes) -> list[str]:
    """HMAC-SHA256 of the body by every secret, hex."""
    return [hmac.new(secret.encode(), body, sha256).hexdigest() for secret in secrets if secret]


def _prove(given: Iterable[str], expected: Sequence[str]) -> None:
    """Raise BadSignature unless a given value is one of the expected ones; all are compared."""
    equal = [
        hmac.compare_digest(one.encode(errors="backslashreplace"), other.encode())
        for one in given
        for other in expected
    ]
    if not any(equal):
        raise BadSignature("no signature by a secret of this hook")


def _timeless(verify: Callable[[Sequence[str], bytes, Mapping[str, str]], None]) -> Verifier:
    return lambda secrets, body, headers, now: verify(secrets, body, headers)


VERIFIERS: Final[Mapping[str, Verifier]] = {
    "github": _timeless(github),
    "gitlab": gitlab,
    "gitea": _timeless(gitea),
}
