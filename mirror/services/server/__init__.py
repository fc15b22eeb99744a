"""Serving HTTP, whatever is served: the pages and the API (mirror/web), and webhooks (hooks/)."""
