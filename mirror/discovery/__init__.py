"""Discovery: connections to forges, the repositories that they list, and their webhooks."""
