"""The pages of a repo: its moments, files, restores and settings."""
