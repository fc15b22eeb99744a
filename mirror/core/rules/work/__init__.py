"""What is done next, and when it is tried again."""
