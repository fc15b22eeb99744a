"""Telling people: what is worth a message, whom it concerns, and what became of it."""
