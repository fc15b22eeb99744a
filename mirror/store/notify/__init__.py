"""Rows about channels, messages and what became of them."""
