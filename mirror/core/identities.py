"""Age identities: the private halves of keys, which open what was sealed to their recipients."""

from dataclasses import dataclass, field

from pyrage import x25519


@dataclass(frozen=True, slots=True)
class Identity:
    """An age identity (X25519). Neither its repr nor its str shows the secret."""

    recipient: str  # age1...
    text: str = field(repr=False)  # AGE-SECRET-KEY-1...


def made() -> Identity:
    """A new identity, of 32 bytes of the system's random numbers."""
    new = x25519.Identity.generate()
    return Identity(str(new.to_public()), str(new))
