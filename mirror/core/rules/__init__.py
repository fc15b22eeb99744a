"""Decisions as pure functions: what to restore, what to keep, who may do what."""
