"""Everything external that Everref uses, opened once and passed on."""
