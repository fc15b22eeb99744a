"""Upkeep of the vault and the database: verify, compact, prune, rebuild, export."""
