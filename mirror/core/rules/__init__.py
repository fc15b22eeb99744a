"""Decisions, made of values alone: what to restore, what to keep, who may do what."""
