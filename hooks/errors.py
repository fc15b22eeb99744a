"""Why a delivery is refused: one class for each answer of hooks/app.

Until its signature is verified the request may come from anybody, so no message quotes
a header, the body or a secret.
"""

from mirror.core.errors import EverrefError


class BadSignature(EverrefError):
    """Nothing proves that the forge sent this: no signature, a wrong one, or one of another time."""

    kind = "credentials"


class BadPayload(EverrefError):
    """The forge signed it, but we cannot read it as a delivery."""

    kind = "refused"
