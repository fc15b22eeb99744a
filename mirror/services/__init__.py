"""Everything outside that the rest of Everref uses, opened once and handed on."""
