"""How many statements are asked of PostgreSQL, transactions and resets of connections included."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg

_ASKING: Final = ("execute", "fetch", "fetchrow", "fetchval", "executemany")


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements that this process asks while this is open, each on a line, in their order."""
    asked: list[str] = []

    def noting(real: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def ask(connection: asyncpg.Connection, query: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(" ".join(query.split()))
            return await real(connection, query, *args, **kwargs)

        return ask

    before = {name: getattr(asyncpg.Connection, name) for name in _ASKING}
    try:
        for name, real in before.items():
            setattr(asyncpg.Connection, name, noting(real))
        yield asked
    finally:
        for name, real in before.items():
            setattr(asyncpg.Connection, name, real)
