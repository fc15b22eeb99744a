"""Times as people write and read them, on the clocks of a zone."""
