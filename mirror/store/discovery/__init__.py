"""Queries on connections, discovered repositories, remotes and webhooks."""
