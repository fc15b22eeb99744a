"""Browsing: a repo at any moment, read and never changed."""
