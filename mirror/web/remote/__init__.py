"""A repo as a git remote: what clones and fetches read, and what pushes bring."""
