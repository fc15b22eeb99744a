"""Everref keeps every ref of a git repository, ever, and brings any moment back."""
