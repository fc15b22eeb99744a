"""Formats of the vault and of git's wire protocol: bytes in, values out, and back."""
