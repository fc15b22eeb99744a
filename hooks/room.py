"""Memory for what is large: who asks for some waits for it in turn, so that all together never have more."""

import asyncio


class Room:
    """So many bytes, shared by those who hold large bodies."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._turn = asyncio.Lock()  # who comes first waits first
        self._given = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait until so much is free, and have it. More than there is at all is had alone."""
        async with self._turn:
            while self._held and self._held + size > self._size:
                self._given.clear()
                await self._given.wait()
            self._held += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._held -= size
        self._given.set()
