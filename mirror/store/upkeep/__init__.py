"""Queries on damage, outages, maintenance and the exported state."""
