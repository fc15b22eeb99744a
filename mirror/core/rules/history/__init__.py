"""What happened to refs, read from snapshots and reports; and what puts it back."""
