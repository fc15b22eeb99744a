"""Upkeep of the vault and the database: prove, compact, prune, rebuild, export."""
