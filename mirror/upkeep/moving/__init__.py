"""Repos, and whole vaults, to and from other places."""
