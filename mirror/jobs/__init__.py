"""Jobs: what is due, who runs it, and what becomes of it."""
