"""Restoring: from a moment to a bundle, a directory or a remote, and back again."""
