"""Queries on jobs, runs and schedules."""
