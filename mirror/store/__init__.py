"""Queries on PostgreSQL, the index of what the vault holds: a module for a topic, a function for a query."""

from mirror.store.database import Db, connect, opened, version
from mirror.store.migrations import migrate, pending

__all__ = ["Db", "connect", "migrate", "opened", "pending", "version"]
