"""The token of a session's forms, masked anew for each answer, so that no page repeats a secret.

Pages are compressed, and how long a compressed page is tells what in it repeats. A
page shows what strangers chose (names of refs, messages of commits, a search) beside
this token, so a token that were the same in every answer could be guessed by them,
letter by letter (BREACH, https://breachattack.com). What is masked by a fresh pad is
different in every answer.
"""

import base64
import binascii
import hmac
import secrets


def masked(token: str) -> str:
    """The token under a fresh pad, with the pad before it."""
    plain = token.encode()
    pad = secrets.token_bytes(len(plain))
    return base64.urlsafe_b64encode(pad + _xor(pad, plain)).decode()


def is_right(given: str, token: str) -> bool:
    """Whether this is the token, masked or, as a program that got it otherwise sends it, as it is."""
    plain = token.encode()
    try:
        both = base64.b64decode(given.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        both = b""
    bare = _xor(both[: len(plain)], both[len(plain) :]) if len(both) == 2 * len(plain) else b""
    masked_right = hmac.compare_digest(bare, plain)
    return hmac.compare_digest(given.encode(), plain) or masked_right


def _xor(pad: bytes, text: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(pad, text, strict=True))
