"""Queries on people, teams, sessions, tokens and limits."""
