"""Why a delivery is not taken, in the classes that hooks/app answers by.

The request is a stranger's until its signature is proven, so no message quotes
a header, the body or a secret.
"""

from mirror.core.errors import EverrefError


class BadSignature(EverrefError):
    """Nothing proves that the forge sent this: no signature, a wrong one, or one of another time."""

    kind = "credentials"


class BadPayload(EverrefError):
    """The forge signed it, but it is no delivery that we can read."""

    kind = "refused"
