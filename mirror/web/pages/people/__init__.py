"""A person's own pages: signing in, their account, what they connected."""
