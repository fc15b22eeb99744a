"""Queries for pages: overviews, refs, pictures and reports."""
