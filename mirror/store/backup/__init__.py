"""Queries on snapshots, refs, parts and reported updates."""
