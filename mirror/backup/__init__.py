"""Backing up: from a push to a snapshot in the vault."""
