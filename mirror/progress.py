"""How long work tells the person waiting how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Phases of one piece of work; every call is cheap enough to make per chunk."""

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None:
        """A new phase begins; `unit` is "bytes" or a plural noun, `total` None when it cannot be known."""

    def advance(self, amount: int) -> None:
        """So much more of the phase is done."""

    def note(self, text: str) -> None:
        """Something the person should see now, one line."""


class Silent:
    """Tells nobody."""

    def phase(self, name: str, total: int | None = None, unit: str = "") -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None: ...
