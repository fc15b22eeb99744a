"""What is asked of PostgreSQL, the index of what the vault holds: a module a topic, a function a question."""

from mirror.store.database import Db, connect, opened, version
from mirror.store.migrations import migrate, pending

__all__ = ["Db", "connect", "migrate", "opened", "pending", "version"]
