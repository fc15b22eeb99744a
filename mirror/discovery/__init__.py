"""Discovery: connections to forges, the repositories they list, and webhooks."""
