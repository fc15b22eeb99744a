"""Clients of the forges' APIs: sign-in, repositories and webhooks."""
