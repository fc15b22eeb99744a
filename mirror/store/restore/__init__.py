"""Queries on restores and drills."""
